# %% [markdown]
# # Any map: solve it, differentiate it, see whether it is stable
#
# The solvers, the gradients and the stability measurements of eqloop see only a function
# `f(z, x)`, the map that a loop iterates: z is the state, x an input that stays the same. It does
# not matter where f comes from. This notebook does the same three things with
#
# 1. a plain function of JAX,
# 2. a module of Equinox, a GRU cell,
# 3. a module of Flax NNX, a residual block with an outer norm.
#
# You would do this with a model of your own to find out whether more iterations help it, which
# gradient you can train it with, and what its loops end at. The first cell installs the checkout
# that this notebook is in.

# %% tags=["skip-execution"]
# %pip install "../..[plot]" "flax>=0.12"
# Once the package is published: %pip install "eqloop[plot]" "flax>=0.12"

# %%
# %matplotlib inline
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
from flax import nnx

import eqloop

size = 8  # numbers in a state, and in an input
xs = jr.normal(jr.key(0), (6, size))  # six inputs
key = jr.key(1)


def report_on(f):
    """The stability of the loop of f, from a state of zeros, for all inputs."""
    return eqloop.stability.analyse(f, jnp.zeros_like(xs), xs, key=key, iterations=64, detail=3)


# %% [markdown]
# ## A plain function
#
# Four pairs of units that turn and shrink the state, with a tanh around:
# `z <- tanh(W z + 0.3 x)`. The eigenvalues of W have the modulus `strength`. Below 1 the loop
# contracts; well above 1 it may turn for ever.


# %%
def rotations(strength):
    angles = jnp.array([1.0, 1.5, 2.0, 2.5])
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return strength * (
        jnp.kron(jnp.diag(cos), jnp.eye(2))
        + jnp.kron(jnp.diag(sin), jnp.array([[0.0, -1.0], [1.0, 0.0]]))
    )


def turning(weights):
    def f(z, x):
        return jnp.tanh(weights @ z + 0.3 * x)

    return f


def end_of_loop(weights, x, solver):
    return eqloop.equilibrium(turning(weights), jnp.zeros(size), x, solver=solver)


# %% [markdown]
# ### Solve
#
# A solver never raises when it fails: `result` says how it ended, `residual` how far the state
# still was from a fixed point, `evaluations` what it cost. Always look at them. For the first map
# plain iteration is enough. On the second it follows the rotation and never arrives. Yet there is
# a fixed point: damped iteration ends there, and so does Newton's method. That a fixed point
# exists and that iteration reaches it are two different statements.

# %%
x = xs[0]
solvers = {
    "plain iteration": eqloop.FixedPoint(rtol=1e-5),
    "half steps": eqloop.FixedPoint(rtol=1e-5, damping=0.5),
    "Newton-Krylov": eqloop.NewtonKrylov(rtol=1e-5),
}
ends = {}
for strength in (0.8, 1.2):
    for name, solver in solvers.items():
        end = ends[strength, name] = end_of_loop(rotations(strength), x, solver)
        message = eqloop.RESULTS[end.result].split(".")[0] or "converged"
        print(
            f"strength {strength}, {name:15} {int(end.evaluations):4} evaluations, "
            f"residual {float(end.residual):.0e}: {message}"
        )

# %% [markdown]
# ### Differentiate
#
# The end of a loop is a function of its weights, so `jax.grad` works. The default gradient of a
# solver that converges is `Implicit`, the derivative of the fixed point itself, which needs no
# memory of the way there. It is only right at a fixed point. So check a gradient once, against a
# finite difference in a random direction.


# %%
def loss(weights):
    end = end_of_loop(weights, x, eqloop.FixedPoint(rtol=1e-6))
    return jnp.mean((end.state - 1) ** 2)


weights = rotations(0.8)
direction = jr.normal(key, weights.shape)
by_gradient = jnp.sum(jax.grad(loss)(weights) * direction)
ahead, behind = loss(weights + 1e-2 * direction), loss(weights - 1e-2 * direction)
by_difference = (ahead - behind) / 2e-2
print(f"implicit gradient {by_gradient:.4f}, finite difference {by_difference:.4f}")

# %% [markdown]
# ### Is it stable?
#
# `analyse` follows the loops of all inputs, starts them from other states as well, and
# differentiates them. It makes three statements, each with its reasons: does iteration *reach* a
# fixed point, does that *depend on the input*, and what does the *geometry* there mean for
# gradients. There is no overall score. The second map shows what the report says where a loop
# does not settle: not reached, and so nothing to measure on the input. Its exponent of zero is
# that of a loop that turns for ever, and neither contracts nor explodes.

# %%
reports = {
    f"strength {strength}": report_on(turning(rotations(strength))) for strength in (0.8, 1.2)
}
for name, report in reports.items():
    print(f"=== {name}\n{report}\n")

# %% [markdown]
# ## A module of Equinox
#
# An Equinox module is a pytree whose leaves are its weights. `eqx.nn.GRUCell` takes the input
# first, so a lambda swaps the arguments; everything else is as before. `eqx.filter_grad` returns
# a gradient with the structure of the cell.

# %%
cell = eqx.nn.GRUCell(size, size, key=jr.key(2))


def cell_loss(cell):
    def end(x):
        solver = eqloop.FixedPoint(rtol=1e-6)
        return eqloop.equilibrium(lambda z, x: cell(x, z), jnp.zeros(size), x, solver=solver)

    ends = jax.vmap(end)(xs)  # each input has its own steps and residual
    return jnp.mean((ends.state - 1) ** 2), ends


gradient, cell_ends = eqx.filter_grad(cell_loss, has_aux=True)(cell)
print("steps of the six inputs:", *cell_ends.steps)
print("gradient of the recurrent weights:", gradient.weight_hh.shape)

reports["Equinox GRU"] = report_on(lambda z, x: cell(x, z))
print(reports["Equinox GRU"])

# %% [markdown]
# ## A module of Flax NNX
#
# An NNX module is an object with state, so `nnx.split` takes it apart into its structure and its
# weights, a pytree; `nnx.merge` puts it together inside the map. The block is residual with a
# norm around the sum, which keeps the state bounded whatever the weights are.


# %%
class Block(nnx.Module):
    def __init__(self, size, rngs):
        self.norm = nnx.LayerNorm(size, rngs=rngs)
        self.inner = nnx.Linear(size, 2 * size, rngs=rngs)
        self.outer = nnx.Linear(2 * size, size, rngs=rngs)

    def __call__(self, z, x):
        return self.norm(z + x + self.outer(nnx.gelu(self.inner(z))))


structure, block_weights = nnx.split(Block(size, nnx.Rngs(0)))


def block_loss(weights):
    def end(x):
        def f(z, x):
            return nnx.merge(structure, weights)(z, x)

        return eqloop.equilibrium(f, jnp.zeros(size), x, solver=eqloop.FixedPoint(rtol=1e-6))

    ends = jax.vmap(end)(xs)
    return jnp.mean((ends.state - 1) ** 2), ends


gradient, block_ends = jax.grad(block_loss, has_aux=True)(block_weights)
print("steps of the six inputs:", *block_ends.steps)
print("gradient of the inner weights:", gradient["inner"]["kernel"][...].shape)

reports["Flax NNX block"] = report_on(lambda z, x: nnx.merge(structure, block_weights)(z, x))
print(reports["Flax NNX block"])

# %% [markdown]
# ## All of them in one picture
#
# Left: the relative residual over iterations, the median of the six inputs. A straight line
# downwards is a contraction, and its slope is the rate; the curve ends on a floor, the rounding
# of float32. Right: the leading eigenvalues of the Jacobian df/dz at the end of the loop. If all
# are inside the unit circle, small disturbances die out there; the closer to it, the slower the
# loop, and the worse the one-step and truncated gradients. For strength 1.2 they say little: its
# loops did not end at a fixed point, so these are eigenvalues at some place on the way.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9.5, 4), width_ratios=[1.35, 1], layout="constrained"
)
for number, (name, report) in enumerate(reports.items()):
    reach = report.reachability
    left.semilogy(reach.iterations, reach.residual.median, color=f"C{number}", label=name)
    values = [value for example in report.spectrum.eigenvalues for value in example]
    real, imaginary, _ = zip(*values, strict=True)
    right.scatter(real, imaginary, s=22, color=f"C{number}", alpha=0.7, linewidths=0)
left.set(xlabel="iteration", ylabel="relative residual", title="does the state settle?")
left.set_ylim(3e-8, 4)
left.legend(frameon=False)
right.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.5", linestyle="--"))
right.set(xlabel="real part", ylabel="imaginary part", title="eigenvalues of the Jacobian")
right.set_aspect("equal", adjustable="datalim")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
