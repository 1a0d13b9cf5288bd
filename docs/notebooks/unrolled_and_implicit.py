# %% [markdown]
# # One loop, two gradients: unrolled and implicit
#
# A loop can be differentiated in two ways. *Unrolled*: back-propagate through all n iterations,
# which is exact for the finite loop and keeps something of every iteration in memory. *Implicit*:
# solve one linear system at the fixed point, which is exact for the limit and needs no memory of
# the way. This notebook computes both on the same weights and the same batch, and asks
#
# - how many iterations it takes until they agree (cosine),
# - what they cost in memory and time,
# - how to see, from the backward report, when an implicit gradient cannot be trusted.
#
# The first cell installs the checkout that this notebook is in.

# %% tags=["skip-execution"]
# %pip install "../..[plot]"
# Once the package is published: %pip install "eqloop[plot]"

# %%
# %matplotlib inline
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from jax.flatten_util import ravel_pytree

import eqloop

# %% [markdown]
# ## A model and a batch
#
# A small looped transformer with random weights, and four strings of 16 bits with their prefix
# sums. Untrained is enough: the two gradients are properties of the map, not of the training. The
# norm outside of the residual sum (`norm="post"`) keeps the state bounded, and this loop settles.

# %%
model = eqloop.LoopedTransformer(
    (16,), 1, 2, 16, 2, recall="internal", norm="post", attention=5, key=jax.random.key(2)
)
task = eqloop.tasks.make_task("prefix-sums", {"length": 16})
batch = task.generate(4, seed=0)
inputs, targets = jax.vmap(task.encode)(batch.inputs), jnp.asarray(batch.targets)
# One report per example: zeros, in whose place the backward pass puts its numbers.
no_report = jax.tree.map(lambda leaf: jnp.zeros(4, leaf.dtype), eqloop.BackwardReport.zeros())


@eqx.filter_jit
def gradients(model, steps, solver, gradient):
    """The gradient by the weights and the backward report; how each loop ended."""

    def loss(differentiated):
        model, probes = differentiated

        def one(x, target, probe):
            out = model(x, solver=solver, gradient=gradient, max_steps=steps, probe=probe)
            wanted = jax.nn.one_hot(target, 2)
            return -jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(out.logits), -1)), out

        losses, out = jax.vmap(one)(inputs, targets, probes)
        return jnp.mean(losses), (out.steps, out.residual)

    return eqx.filter_grad(loss, has_aux=True)((model, no_report))


# %% [markdown]
# ## Does the loop settle?
#
# Ask this first: without a fixed point there is nothing for an implicit gradient to
# differentiate. The reference is solved to a tolerance of 1e-6 forward and 1e-5 backward.

# %%
many = jnp.asarray(400)
exact = eqloop.FixedPoint(rtol=1e-6), eqloop.Implicit(rtol=1e-5)
(implicit_gradient, report), (steps, residual) = gradients(model, many, *exact)
wanted = ravel_pytree(implicit_gradient)[0]
print("iterations:", *steps)
print(f"largest relative residual: {residual.max():.1e}")

# %% [markdown]
# ## Cosine, memory and time over iterations
#
# For n from 2 to 128 two gradients are computed: back-propagation through n iterations, and the
# implicit gradient at the state after n iterations. Each is compared with the reference. Memory
# is what the compiler plans for intermediate values. Times are the best of three, on whatever
# else your machine does now.
#
# Unrolling is compiled for each n. The solver of the implicit gradient has its number of steps as
# an argument, so that one program serves all n. Its tolerance of zero is never met: it makes all
# steps but one, and the gradient makes the last.


# %%
def cosine(gradient):
    g = ravel_pytree(gradient)[0]
    return float(g @ wanted / jnp.linalg.norm(g) / jnp.linalg.norm(wanted))


def measured(program, *arguments):
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        (gradient, _), _ = jax.block_until_ready(program(model, *arguments))
        seconds.append(time.perf_counter() - began)
    memory = program.compiled.memory_analysis().temp_size_in_bytes / 2**20
    return cosine(gradient), memory, 1e3 * min(seconds)


counts = [2, 8, 32, 128]
unrolled = []
for n in counts:
    arguments = many, eqloop.Unroll(n), eqloop.Backprop()
    program = gradients.lower(model, *arguments).compile()
    unrolled.append(measured(program, *arguments))

never_met = eqloop.FixedPoint(rtol=0.0), eqloop.Implicit(rtol=1e-3)
program = gradients.lower(model, many, *never_met).compile()
implicit = [measured(program, jnp.asarray(n), *never_met) for n in counts]

print("                unrolled                      implicit")
print("  n   cosine      MiB       ms      cosine      MiB       ms")
for n, a, b in zip(counts, unrolled, implicit, strict=True):
    print(f"{n:3}" + "".join(f" {c:8.4f} {m:8.2f} {s:8.1f}   " for c, m, s in (a, b)))

# %% [markdown]
# The cosine of both goes to 1 as the loop settles: they are two ways to the same vector. The
# memory of back-propagation grows with n, since it keeps a state for each iteration; that of the
# implicit gradient is flat. At few iterations it is the larger one, because the linear solve has
# its own vectors. So implicit gradients are for loops that are long and settle. For a short loop
# that does not settle, unrolling is right and the implicit gradient is not.

# %%
names = ("cosine to the converged gradient", "memory, MiB", "time, ms")
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for number, (axes, name) in enumerate(zip(panels, names, strict=True)):
    axes.plot(counts, [row[number] for row in unrolled], "o-", label="unrolled")
    axes.plot(counts, [row[number] for row in implicit], "s--", label="implicit")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set(title=name, xlabel="iterations", ylim=(0, None))
panels[0].set_ylim(-0.5, 1.05)
panels[0].legend(frameon=False)
for axes in panels:
    axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## What the backward report says
#
# The backward pass has no outputs, so it reports by a trick: `probe` is an argument whose
# *gradient* is the report. For each example it has
#
# - `products`: how many vector-Jacobian products the linear solve made (its cost),
# - `residual`: how well the linear system is solved,
# - `gain`: |u| / |g|, how much the loop amplifies the gradient; large near a loss of stability,
# - `fallback`: 1 if the solution was not used; `untrusted`, `missed` and `oversized` say why.


# %%
def show(name, report):
    print(
        f"{name:28} products {report.products.mean():5.1f}, residual {report.residual.max():.0e}, "
        f"gain {report.gain.max():5.2f}, fallback {report.fallback.mean():4.0%} (untrusted "
        f"{report.untrusted.mean():.0%}, missed {report.missed.mean():.0%})"
    )


show("converged", report)

# %% [markdown]
# Now two ways to fail, which training meets early. In the first the loop is stopped after three
# steps; with `trust=1e-3` the gradient refuses to solve a system at a state that is no fixed
# point, and uses a few terms of the series instead. In the second GMRES may make two products
# only and misses its tolerance.

# %%
cases = {
    "stopped after 3 steps": (jnp.asarray(3), exact[0], eqloop.Implicit(trust=1e-3)),
    "two products": (many, exact[0], eqloop.Implicit(rtol=1e-5, restart=2, cycles=1)),
}
failures = {}
for name, arguments in cases.items():
    (gradient, failures[name]), _ = gradients(model, *arguments)
    show(name, failures[name])
    print(f"{'':28} cosine to the converged gradient {cosine(gradient):.3f}")

# %% [markdown]
# In training the same numbers stand in `metrics.jsonl` for every step: watch `converged` and
# `fallback`. Where `fallback` is above zero for long, allow the loop more steps (`untrusted`), or
# the linear solve a longer `restart` (`missed`). `eqloop gradients RUN` compares many gradients
# of a trained model in this way.
