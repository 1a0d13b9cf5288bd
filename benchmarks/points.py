"""Does `stability.find_points` find the fixed points that fixed-point-finder's way finds, and what
does each cost?

Fixed-point-finder (Golub and Sussillo 2018) minimises `q(z) = |f(z) - z|^2 / 2` by Adam from noisy
states along orbits, and takes eigenvalues of dense Jacobians; here that way is written in JAX. The
maps are a GRU with random weights, one that was trained to remember two bits (about the first 20
seconds), and a loop of many numbers that is cheap to evaluate. Both methods search from the same
starts. Above 2,000 numbers the dense Jacobian of each point is made, but its eigenvalues are left
out. Each method runs in a process of its own; times include compiling. Last numbers: LOG.md.

    python benchmarks/points.py
    python benchmarks/points.py --units 16 --numbers 500 --steps 200 --candidates 8      # quick
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from eqloop import stability

LARGEST_DENSE = 2_000
SAME = 1e-2


def gru(units: int):
    """A GRU without input; 0 is a fixed point of it."""
    keys = jr.split(jr.key(0), 3)
    update, reset, new = (1.5 * jr.normal(key, (units, units)) / units**0.5 for key in keys)

    def f(z, x):
        u, r = jax.nn.sigmoid(update @ z), jax.nn.sigmoid(reset @ z)
        return u * z + (1 - u) * jnp.tanh(new @ (r * z)) + 0 * x

    return f, 0.5 * jr.normal(jr.key(1), (1, units))


def flip_flop(units: int):
    """A GRU that was trained to remember the sign of the last pulse on each of two lines, between
    pulses; 8 of its states are starts."""
    length, batch = 40, 64
    cell_key, read_key, key = jr.split(jr.key(0), 3)
    model = (eqx.nn.GRUCell(2, units, key=cell_key), eqx.nn.Linear(units, 2, key=read_key))

    def pulses(key):
        """Pulses of -1 and 1 at a tenth of the times, and the sign of the last of each line."""
        sign_key, time_key = jr.split(key)
        signs = jr.rademacher(sign_key, (length, 2), dtype=jnp.float32)
        inputs = signs * jr.bernoulli(time_key, 0.1, (length, 2)).at[0].set(True)
        last = jax.lax.associative_scan(lambda a, b: jnp.where(b == 0, a, b), inputs)
        return inputs, last

    def run(cell, inputs):
        def advance(z, x):
            z = cell(x, z)
            return z, z

        return jax.lax.scan(advance, jnp.zeros(units), inputs)[1]

    def loss(model, inputs, targets):
        states = jax.vmap(partial(run, model[0]))(inputs)
        return jnp.mean((jax.vmap(jax.vmap(model[1]))(states) - targets) ** 2)

    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

    @eqx.filter_jit
    def step(model, state, key):
        inputs, targets = jax.vmap(pulses)(jr.split(key, batch))
        gradient = eqx.filter_grad(loss)(model, inputs, targets)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state

    state = optimiser.init(eqx.filter(model, eqx.is_array))
    for number in range(1_500):
        model, state = step(model, state, jr.fold_in(key, number))
    inputs, targets = jax.vmap(pulses)(jr.split(jr.key(1), 8))
    states = jax.vmap(partial(run, model[0]))(inputs)
    right = (jax.vmap(jax.vmap(model[1]))(states) * targets > 0).mean()
    print(f"flip-flop: {100 * right:.1f} % of the bits right", file=sys.stderr)
    return lambda z, x: model[0](jnp.zeros(2), z) + 0 * x, states[:, -1]


def ring(numbers: int):
    """Neighbours and the mean; 0 is a saddle, and two uniform states attract."""

    def f(z, x):
        return jnp.tanh(0.3 * z + 0.3 * jnp.roll(z, 1) + jnp.mean(z)) + 0 * x

    return f, jnp.full((1, numbers), 0.1)


MAPS = {"gru": gru, "flip-flop": flip_flop, "ring": ring}


def near(z, other, scale) -> bool:
    return bool(np.linalg.norm(np.asarray(z) - np.asarray(other)) <= SAME * scale)


def krylov(f, z0s, candidates: int, steps: int) -> list[dict[str, Any]]:
    del steps
    xs = jnp.zeros((len(z0s), 1))
    found = stability.find_points(f, z0s, xs, key=jr.key(2), candidates=candidates)
    points: list[dict[str, Any]] = []
    for p in sorted(found, key=lambda point: point.residual):
        # A point is listed once for each start whose search ended there.
        if not any(near(p.z, other["z"], np.linalg.norm(p.z)) for other in points):
            points.append(
                {"z": p.z.tolist(), "kind": p.kind, "unstable": p.unstable, "residual": p.residual}
            )
    return points


def adam(f, z0s, candidates: int, steps: int) -> list[dict[str, Any]]:
    """Fixed-point-finder's way, from as many noisy states of the same orbits."""

    def q(z):
        return jnp.sum((f(z, jnp.zeros(1)) - z) ** 2) / 2

    def orbit(z, _):
        z = f(z, jnp.zeros(1))
        return z, z

    each = 2 * candidates
    states = jax.vmap(lambda z: jax.lax.scan(orbit, z, length=each)[1])(z0s)
    states = states.transpose(1, 0, 2).reshape(each * len(z0s), -1)
    size = jnp.sqrt(jnp.mean(states**2))
    levels = jnp.linspace(0, 1, len(states))[:, None]
    zs = states + levels * size * jr.normal(jr.key(2), states.shape)
    optimiser = optax.adam(optax.exponential_decay(0.1, steps // 10, 0.5))

    @jax.jit
    def minimise(zs):
        def step(carry, _):
            zs, state = carry
            gradient = jax.vmap(jax.grad(q))(zs)
            updates, state = optimiser.update(gradient, state)
            return (zs + updates, state), None

        return jax.lax.scan(step, (zs, optimiser.init(zs)), length=steps)[0][0]

    ends = np.asarray(minimise(zs))
    residuals = np.sqrt(2 * np.asarray(jax.vmap(q)(ends)))
    scale = float(np.linalg.norm(np.asarray(states), axis=1).mean())
    points: list[dict[str, Any]] = []
    for row in np.argsort(residuals):
        # Adam does not reach rounding; this is fixed-point-finder's usual q of 1e-9 and less.
        if residuals[row] > 1e-4 * scale:
            continue
        if any(near(ends[row], point["z"], scale) for point in points):
            continue
        jacobian = np.asarray(jax.jacrev(lambda z: f(z, jnp.zeros(1)))(ends[row]))
        unstable = None
        if len(jacobian) <= LARGEST_DENSE:
            unstable = int((np.abs(np.linalg.eigvals(jacobian)) > 1).sum())
        kind = {None: "unknown", 0: "stable"}.get(unstable, "saddle")
        points.append(
            {
                "z": ends[row].tolist(),
                "kind": kind,
                "unstable": unstable,
                "residual": float(residuals[row] / scale),
            }
        )
    return points


METHODS = {"find_points": krylov, "adam": adam}


def work(options: argparse.Namespace) -> None:
    size = options.numbers if options.map == "ring" else options.units
    f, z0s = MAPS[options.map](size)
    began, cpu = time.perf_counter(), time.process_time()
    points = METHODS[options.method](f, z0s, options.candidates, options.steps)
    print(
        json.dumps(
            {
                "points": points,
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two searches for fixed points.")
    parser.add_argument("--units", type=int, default=64, help="Units of the GRU.")
    parser.add_argument("--numbers", type=int, default=10_000, help="Numbers of the loop.")
    parser.add_argument(
        "--candidates", type=int, default=32, help="States per start to search from."
    )
    parser.add_argument("--steps", type=int, default=2_000, help="Steps of Adam.")
    parser.add_argument("--map", choices=MAPS, help="Take this map alone.")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        work(options)
        return
    print(f"{processor()}, jax {jax.__version__}")
    for name in [options.map] if options.map else MAPS:
        results = {}
        for method in METHODS:
            command = [sys.executable, __file__, *sys.argv[1:], "--map", name, "--method", method]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[method] = json.loads(answer.splitlines()[-1])
        sets = [[np.array(p["z"]) for p in results[method]["points"]] for method in METHODS]
        for (method, result), mine, other in zip(results.items(), sets, sets[::-1], strict=True):
            largest = max(np.linalg.norm(z) for z in [*mine, *other, np.ones(1)])
            shared = sum(any(near(a, b, largest) for b in other) for a in mine)
            kinds = [(point["kind"], point["unstable"]) for point in result["points"]]
            residuals = [float(f"{point['residual']:.0e}") for point in result["points"]]
            print(
                f"{name:9} {method:12} {len(mine):3} points, {shared} of them found by the other; "
                f"{result['seconds']:.0f} s, {result['cpu']:.0f} s of CPU, "
                f"{result['megabytes']:.0f} MB; kinds {kinds}; residuals {residuals}"
            )


if __name__ == "__main__":
    main()
