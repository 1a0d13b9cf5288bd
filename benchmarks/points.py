"""Does `stability.find_points` find the fixed points that fixed-point-finder's way finds, and what
does each cost?

Fixed-point-finder (Golub and Sussillo 2018) minimises `q(z) = |f(z) - z|^2 / 2` by Adam from noisy
states along orbits, and takes eigenvalues of dense Jacobians; here that way is written in JAX. The
maps are a GRU with random weights, and a loop of many numbers that is cheap to evaluate. Above
2,000 numbers the dense Jacobian of each point is made, but its eigenvalues are left out. Each
method runs in a process of its own; times include compiling.

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
from pathlib import Path
from typing import Any

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


def ring(numbers: int):
    """Neighbours and the mean; 0 is a saddle, and two uniform states attract."""

    def f(z, x):
        return jnp.tanh(0.3 * z + 0.3 * jnp.roll(z, 1) + jnp.mean(z)) + 0 * x

    return f, jnp.full((1, numbers), 0.1)


MAPS = {"gru": gru, "ring": ring}


def krylov(f, z0s, candidates: int, steps: int) -> list[dict[str, Any]]:
    del steps
    xs = jnp.zeros((1, 1))
    found = stability.find_points(f, z0s, xs, key=jr.key(2), candidates=candidates)
    return [
        {"z": p.z.tolist(), "kind": p.kind, "unstable": p.unstable, "residual": p.residual}
        for p in found
    ]


def adam(f, z0s, candidates: int, steps: int) -> list[dict[str, Any]]:
    """Fixed-point-finder's way, from as many noisy states of the same orbit."""

    def q(z):
        return jnp.sum((f(z, jnp.zeros(1)) - z) ** 2) / 2

    def orbit(z, _):
        z = f(z, jnp.zeros(1))
        return z, z

    states = jax.lax.scan(orbit, z0s[0], length=2 * candidates)[1]
    size = jnp.sqrt(jnp.mean(states**2))
    levels = jnp.linspace(0, 1, 2 * candidates)[:, None]
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
        if any(np.linalg.norm(ends[row] - p["z"]) <= SAME * scale for p in points):
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
    size = options.units if options.map == "gru" else options.numbers
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
    parser.add_argument("--candidates", type=int, default=32, help="States to search from.")
    parser.add_argument("--steps", type=int, default=2_000, help="Steps of Adam.")
    parser.add_argument("--map", choices=MAPS, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        work(options)
        return
    print(f"{processor()}, jax {jax.__version__}")
    for name in MAPS:
        results = {}
        for method in METHODS:
            command = [sys.executable, __file__, *sys.argv[1:], "--map", name, "--method", method]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[method] = json.loads(answer.splitlines()[-1])
        sets = [[np.array(p["z"]) for p in results[method]["points"]] for method in METHODS]
        for (method, result), mine, other in zip(results.items(), sets, sets[::-1], strict=True):
            largest = max(np.linalg.norm(z) for z in [*mine, *other, np.ones(1)])
            shared = sum(any(np.linalg.norm(a - b) <= SAME * largest for b in other) for a in mine)
            kinds = [(point["kind"], point["unstable"]) for point in result["points"]]
            residuals = [float(f"{point['residual']:.0e}") for point in result["points"]]
            print(
                f"{name:5} {method:12} {len(mine):3} points, {shared} of them found by the other; "
                f"{result['seconds']:.0f} s, {result['cpu']:.0f} s of CPU, "
                f"{result['megabytes']:.0f} MB; kinds {kinds}; residuals {residuals}"
            )


if __name__ == "__main__":
    main()
