"""How fast are solvers with implicit gradients beside torchdeq, and how little memory do they take?

    python -m venv .torch && .torch/bin/pip install -e . -r benchmarks/requirements.txt
    .torch/bin/python benchmarks/solvers.py                     # solve and gradient
    .torch/bin/python benchmarks/solvers.py --memory            # memory over iterations
    .torch/bin/python benchmarks/solvers.py --backprop          # back-propagation, 64 iterations

**Question:** A model of width 256, 8 heads, 81 cells, batch 32, internal recall, outer
normalisation, float32. Solve and gradient of a loss by Anderson and `Implicit`: at least 1.5 times
as fast as torchdeq's fastest setting at equal final residual? Is the memory of implicit gradients
the same within 5 % from 16 to 256 iterations? Does `Backprop` take at most 1/8 of the memory of
plain back-propagation at 64 iterations, in at most 1.35 times its time?

The weights contract after `FIT_STEPS` steps of Adam (rate 2e-4, batches of 8) on the mean log
relative residual after 13 iterations plus the cross-entropy of a toy target: plain iteration then
converges at rates of 0.83 (iterations 10 to 20) to 0.89 (30 to 40). The tolerance is on the
relative residual of each example, forwards and backwards; `residual` is that of the state
returned, measured afterwards by one more evaluation in each framework, and `cosine` that of the
gradient with one solved to 1e-6. `f` and `products` are evaluations and vector-Jacobian products
that the solvers made (for torchdeq the calls of f counted, and its own number of backward steps).

Contenders are processes of their own, in turn (A B C A B C ...). Medians of wall time; `cpu` is
the time of all threads. `--cores 1` pins all of them to one core, which is steadier where the
machine is busy. `peak` is the resident memory that the runs added after compilation.

**Machine:** 2 cores of an AMD EPYC (Zen 4), jax 0.10.2, torch 2.13.0+cpu, torchdeq 0.1.0,
2026-11-24.

**Last numbers:** `rtol` 1e-3, machine nearly idle (load 0.5 before), 3 rounds on two cores,
milliseconds (cpu): eqloop Anderson and `Implicit(solver=Anderson())` 948 (1751), folded 867
(1594), with GMRES 1285 (2306), Broyden 1055 (1911); torchdeq anderson with backward broyden 1696
(3333), compiled 1639 (3227), with backward anderson 1686 (3348); broyden 2245 (4419) and more.
Final residuals 8.5e-4 (eqloop) and 6.2e-4 (torchdeq), cosines 0.99994 and 0.99990. So 1.73 times
as fast as the fastest torchdeq with Anderson backwards, but 1.28 times with GMRES. Broyden against
Broyden: 2.13 times.

Again on 2026-11-28, since GMRES ends inside its cycle (14 products in place of 26), on another AMD
EPYC (Zen 4) on which an iteration without gradient takes 31.5 ms in place of 12.8, and PyTorch 34.5
in place of 24.7; other jobs stopped, 4 rounds: Anderson and GMRES, the default, 1950 (3585),
Anderson and Anderson 1987 (3722), Broyden and Anderson 2098 (3864); torchdeq anderson with backward
broyden compiled 2528 (4966), with backward anderson m = 4 2441 (4780). So the default costs what
Anderson backwards costs, and is 1.25 times as fast as the fastest torchdeq. eqloop makes 29
evaluations and 14 products, this torchdeq 24 and 23. With memory 3, since then the default of
`Anderson`, it makes 24 and 14: Anderson and GMRES 1488 (2824), torchdeq anderson with backward
anderson m = 4 2098 (4173), 4 rounds: 1.41 times as fast.

Since internal recall is folded by default with these gradients (same day and machine, nothing else
running, 5 rounds in turn): Anderson and GMRES, the default, 1485 (2807), not folded 1770 (3273);
torchdeq anderson compiled with backward anderson m = 4 2443 (4850), with backward broyden 2465
(4864). So the default is 1.65 times as fast as the fastest torchdeq (1.54 by the least of each),
and the aim of 1.5 is reached there. Broyden and GMRES, not folded, 2075 (3900).

On a busy machine, pinned to one core, one contender after the other (not in turn), 3 runs, cpu:
Anderson 1525, with `memory=3` 1389, both solves with `memory=3` 1468; torchdeq compiled 3131 and,
with backward anderson, m = 4, 3132.

The following were also taken one contender after the other, with two cores on a busy machine: the
memory stands, the times are cpu seconds of two runs each. `--memory`: temporary 218 MiB for
`Unroll` and 215 for `FixedPoint`, the same to the byte at 16, 64 and 256 iterations; peaks 244.6
to 246.2 and 230.9 to 234.7 MiB. PyTorch's plain back-propagation at 16, 32 and 64: 1338, 2558 and
5193 MiB. `--backprop`: plain scan 6522 MiB (temporary), 10.6 and 10.7 s; PyTorch 5042 MiB (peak),
27.9 and 31.9 s; `Backprop()` 590 MiB (1/11 of plain; peak 608, 1/8.3 of PyTorch's), 7.8 and 8.4 s;
`Backprop(checkpoints=8)` 191 MiB (1/34), 9.1 and 9.3 s.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
# PyTorch is not a dependency of the package: see benchmarks/requirements.txt.

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _timing import answer, in_turn, start, stop
from rich.console import Console
from rich.table import Table

GRID, CHANNELS, CLASSES, WIDTH, BATCH = (9, 9), 10, 10, 256, 32
FIT_STEPS, FIT_BATCH = 4, 8
DEPTH = 64
"""Iterations of `--backprop`."""


class Contender(NamedTuple):
    """`run` is one unit of work; `check` returns figures, and gradients by name; `temporary` is
    the scratch memory of the compiled program in bytes, where there is one."""

    run: Callable[[], Any]
    check: Callable[[], dict[str, Any]]
    temporary: int | None = None


def make_problem(folder: Path, width: int = WIDTH, heads: int = 8) -> None:
    """Return weights that contract, inputs and targets, the same for all contenders."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    import eqloop

    model = eqloop.LoopedTransformer(GRID, CHANNELS, CLASSES, width, heads, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    eye = np.eye(CHANNELS, dtype=np.float32)
    digits = rng.integers(0, CHANNELS, (BATCH, *GRID))
    fit_digits = rng.integers(0, CHANNELS, (FIT_STEPS, FIT_BATCH, *GRID))

    def target(digits):
        return ((digits + np.roll(digits, 1, -1)) % CHANNELS).astype(np.int32)

    def loss(model, x, y):
        def one(x):
            out = model(x, solver=eqloop.Unroll(12), gradient=eqloop.Truncated(4))
            f = model.loop()
            after = f(out.state, f.inject(model.embed(x)))
            error = jnp.sum(jnp.square(after - out.state)) / jnp.sum(jnp.square(after))
            return jnp.log(error) / 2, model.coda(after)

        errors, logits = jax.vmap(one)(x)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(errors) + jnp.mean(entropy)

    optimiser = optax.adam(2e-4)
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    for fit in fit_digits:
        grads = gradient(model, jnp.asarray(eye[fit]), jnp.asarray(target(fit)))
        updates, state = optimiser.update(grads, state)
        model = eqx.apply_updates(model, updates)
    np.savez(
        folder / "problem.npz",
        inputs=eye[digits],
        targets=target(digits),
        **eqloop.interop.to_paper_state_dict(model),  # pyright: ignore[reportArgumentType]
    )


# ------------------------------------------------------------------------------------- eqloop


def eqloop_contender(
    folder: Path, rtol: float, solver, gradient, max_steps: int = 256
) -> Contender:
    """`solver`, `gradient`: of the module `eqloop` and rtol, what to solve and differentiate by."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    import eqloop

    arrays = dict(np.load(folder / "problem.npz"))
    x, y = jnp.asarray(arrays.pop("inputs")), jnp.asarray(arrays.pop("targets"))
    model = eqloop.interop.from_paper_state_dict(
        arrays, recall="internal", norm="post", spatial_dims=2
    )
    weights, static = eqx.partition(model, eqx.is_array)
    solver, gradient = solver(eqloop, rtol), gradient(eqloop, rtol)

    def loss(weights, probe, x, y):
        model = eqx.combine(weights, static)

        def one(x, probe):
            return model(
                x,
                solver=solver,
                gradient=gradient,
                max_steps=max_steps,
                probe=probe,
            )

        out = jax.vmap(one)(x, probe)
        total = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(out.logits, y))
        return total, (out.state, out.evaluations)

    probe = jax.tree.map(lambda a: jnp.zeros(BATCH), eqloop.BackwardReport.zeros())
    step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    step = step.lower(weights, probe, x, y).compile()

    def run():
        return jax.block_until_ready(step(weights, probe, x, y))

    def check():
        (grads, report), (state, evaluations) = run()
        f = model.loop()
        value = jax.vmap(lambda z, x: f(z, f.inject(model.embed(x))))(state, x)
        weights = eqloop.interop.to_paper_state_dict(grads)
        return {
            "residual": relative(np.asarray(value), np.asarray(state)),
            "f": int(evaluations.max()),
            "products": int(report.products.max()),
            "fallbacks": float(report.fallback.sum()),
            **weights,
        }

    return Contender(run, check, temporary_bytes(step))


def temporary_bytes(compiled) -> int | None:
    """Return the scratch memory in bytes, if the backend reports it."""
    memory = compiled.memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes


def jax_plain(folder: Path, rtol: float, steps: int) -> Contender:
    """Back-propagate through a scan that keeps whatever it likes."""
    del rtol
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    import eqloop

    arrays = dict(np.load(folder / "problem.npz"))
    x, y = jnp.asarray(arrays.pop("inputs")), jnp.asarray(arrays.pop("targets"))
    model = eqloop.interop.from_paper_state_dict(
        arrays, recall="internal", norm="post", spatial_dims=2
    )
    weights, static = eqx.partition(model, eqx.is_array)

    def loss(weights, x, y):
        model = eqx.combine(weights, static)
        f = model.loop()

        def one(x):
            e = model.embed(x)
            r = f.inject(e)
            z, _ = jax.lax.scan(lambda z, _: (f(z, r), None), e, length=steps)
            return model.coda(z)

        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(one)(x), y))

    step = jax.jit(jax.grad(loss)).lower(weights, x, y).compile()

    def run():
        return jax.block_until_ready(step(weights, x, y))

    def check():
        return eqloop.interop.to_paper_state_dict(run())

    return Contender(run, check, temporary_bytes(step))


# ------------------------------------------------------------------------------------ PyTorch


def load_torch(folder: Path):
    import torch
    from torch_port import LoopedTransformer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    arrays = dict(np.load(folder / "problem.npz"))
    x = torch.tensor(arrays.pop("inputs")).flatten(1, -2)
    y = torch.tensor(arrays.pop("targets")).flatten(1).long()
    model = LoopedTransformer(GRID, CHANNELS, CLASSES, WIDTH)
    model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return model, x, y


def torchdeq_contender(
    folder: Path,
    rtol: float,
    forward: str,
    backward: str,
    compiled: bool = False,
    hook: bool = True,
    **settings: Any,
) -> Contender:
    """`compiled`: the evaluations of the forward solve (compiling those that are differentiated
    makes the vector-Jacobian products slower)."""
    import torch
    import torch.nn.functional as F
    from torchdeq import get_deq
    from torchdeq.solver import register_solver
    from torchdeq.solver.anderson import anderson_solver

    # The backward solver takes no settings of its own.
    register_solver("anderson, m = 4", partial(anderson_solver, m=4))
    model, x, y = load_torch(folder)
    block = model.recur_blocks[0]
    fast = torch.compile(block) if compiled else block
    deq = get_deq(
        f_solver=forward,
        b_solver=backward,
        f_tol=rtol,
        b_tol=rtol,
        f_stop_mode="rel",
        b_stop_mode="rel",
        f_max_iter=100,
        b_max_iter=100,
        ift=not hook,
        hook_ift=hook,
    )
    deq.train()
    calls, reports = [0], []

    def run():
        model.zero_grad(set_to_none=True)
        calls[0] = 0
        e = model.projection(x)
        r = block.inject(e)

        def f(z):
            calls[0] += 1
            return (block if torch.is_grad_enabled() else fast)(z, r)

        out, _ = deq(f, e, solver_kwargs=settings, backward_writer=reports.append)
        F.cross_entropy(model.head(out[-1]).flatten(0, 1), y.flatten(), reduction="sum").backward()
        return out[-1].detach(), r.detach()

    def check():
        reports.clear()
        state, r = run()
        with torch.no_grad():
            value = block(state, r)
        return {
            "residual": relative(value.numpy(), state.numpy()),
            "f": calls[0],
            "products": int(reports[-1]["nstep"].max()),
            **{name: p.grad.numpy() for name, p in model.named_parameters()},
        }

    return Contender(run, check)


def torch_plain(folder: Path, rtol: float, steps: int) -> Contender:
    del rtol
    import torch.nn.functional as F

    model, x, y = load_torch(folder)

    def run():
        model.zero_grad(set_to_none=True)
        logits = model(x, steps)
        F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").backward()

    def check():
        run()
        return {name: p.grad.numpy() for name, p in model.named_parameters()}

    return Contender(run, check)


def relative(value: np.ndarray, state: np.ndarray) -> float:
    """Return the largest relative residual of an example."""
    value, state = (a.reshape(BATCH, -1) for a in (value, state))
    return float((np.linalg.norm(value - state, axis=1) / np.linalg.norm(value, axis=1)).max())


# ----------------------------------------------------------------------------- the contenders


def by_gmres(eqloop, rtol):
    return eqloop.Implicit(rtol=rtol)


def by_anderson(eqloop, rtol):
    return eqloop.Implicit(rtol=rtol, solver=eqloop.Anderson())


def anderson(eqloop, rtol):
    return eqloop.Anderson(rtol=rtol)


def broyden(eqloop, rtol):
    return eqloop.Broyden(rtol=rtol)


SOLVE = {
    "eqloop Anderson, Anderson": partial(eqloop_contender, solver=anderson, gradient=by_anderson),
    "eqloop Anderson, GMRES": partial(eqloop_contender, solver=anderson, gradient=by_gmres),
    "eqloop Broyden, GMRES": partial(eqloop_contender, solver=broyden, gradient=by_gmres),
    "eqloop Broyden, Anderson": partial(eqloop_contender, solver=broyden, gradient=by_anderson),
    **{
        f"torchdeq {forward}, {backward}": partial(
            torchdeq_contender, forward=forward, backward=backward, **settings
        )
        # m = 4 takes the fewest evaluations among 4, 6 and 9, lam = 1e-4 and 1e-6 alike.
        for forward, settings in (("anderson", {"m": 4}), ("broyden", {}))
        for backward in ("anderson", "broyden", "fixed_point_iter")
    },
    "torchdeq anderson, broyden, compiled": partial(
        torchdeq_contender, forward="anderson", backward="broyden", compiled=True, m=4
    ),
    "torchdeq anderson, anderson m = 4, compiled": partial(
        torchdeq_contender, forward="anderson", backward="anderson, m = 4", compiled=True, m=4
    ),
    "torchdeq anderson, broyden, no hook": partial(
        torchdeq_contender, forward="anderson", backward="broyden", hook=False, m=4
    ),
}


def unrolled(eqloop, rtol, steps):
    del rtol
    return eqloop.Unroll(steps)


def endless(eqloop, rtol):
    del rtol
    return eqloop.FixedPoint(rtol=0.0)


def backprop(eqloop, rtol, **settings):
    del rtol
    return eqloop.Backprop(**settings)


MEMORY = {
    **{
        f"eqloop Unroll({n}), GMRES": partial(
            eqloop_contender, solver=partial(unrolled, steps=n), gradient=by_gmres
        )
        for n in (16, 64, 256)
    },
    **{
        f"eqloop FixedPoint, {n} steps, Anderson": partial(
            eqloop_contender, solver=endless, gradient=by_anderson, max_steps=n
        )
        for n in (16, 64, 256)
    },
    **{f"torch plain backprop, {n}": partial(torch_plain, steps=n) for n in (16, 32, 64)},
}
BACKPROP = {
    "jax plain scan": partial(jax_plain, steps=DEPTH),
    "torch autograd": partial(torch_plain, steps=DEPTH),
    "eqloop Backprop()": partial(
        eqloop_contender, solver=partial(unrolled, steps=DEPTH), gradient=backprop
    ),
    "eqloop Backprop(checkpoints=8)": partial(
        eqloop_contender,
        solver=partial(unrolled, steps=DEPTH),
        gradient=partial(backprop, checkpoints=8),
    ),
}
SETS = {"solve": SOLVE, "memory": MEMORY, "backprop": BACKPROP}
REFERENCE = partial(
    eqloop_contender,
    solver=lambda eqloop, rtol: eqloop.Broyden(rtol=rtol),
    gradient=lambda eqloop, rtol: eqloop.Implicit(rtol=rtol),
)


# ------------------------------------------------------------------------- driver and workers


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def work(kind: str, name: str, folder: Path, rtol: float) -> None:
    """Serve as a worker: print figures first, then make one timed run for each line of input."""
    out, sys.stdout = sys.stdout, sys.stderr  # only answers may reach the driver
    if name == "reference":
        grads = REFERENCE(folder, 1e-6).check()
        np.savez(folder / "reference.npz", **{k: v for k, v in grads.items() if np.ndim(v)})
        return
    contender = SETS[kind][name](folder, rtol)
    before = peak()
    contender.run()
    figures = {"temporary": contender.temporary, "peak": peak() - before}
    # Other kinds compare no gradients, and a run may take half a minute.
    answers = contender.check() if kind == "solve" else {}
    grads = {key: value for key, value in answers.items() if np.ndim(value)}
    figures |= {key: value for key, value in answers.items() if not np.ndim(value)}
    if kind == "solve":
        expected = dict(np.load(folder / "reference.npz"))
        a, b = (np.concatenate([g[k].ravel() for k in sorted(expected)]) for g in (grads, expected))
        figures["cosine"] = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    print(json.dumps(figures), file=out, flush=True)
    answer(contender.run, out)


def drive(
    kind: str, names: list[str], rounds: int, rtol: float, console: Console
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Return wall and CPU seconds, (rounds, 2), and figures, per contender."""
    with tempfile.TemporaryDirectory() as folder:

        def begin(name):
            console.print(f"[dim]starting {name}")
            return start(__file__, kind, name, folder, str(rtol))

        make_problem(Path(folder))
        if kind == "solve":
            begin("reference").communicate()
        workers, figures = {}, {}
        try:
            for name in names:
                workers[name] = begin(name)
                line = workers[name].stdout.readline()
                if not line:
                    raise SystemExit(f"{name} did not start")
                figures[name] = json.loads(line)
                if not rounds:
                    workers.pop(name).communicate()
            return in_turn(workers, rounds), figures
        finally:
            stop(workers)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        kind, name, folder, rtol = sys.argv[2:]
        work(kind, name, Path(folder), float(rtol))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    for kind in ("memory", "backprop"):
        parser.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind)
    parser.add_argument("--rounds", type=int, help="default 7; 0 for --memory")
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--cores", type=int, help="pin to so many cores")
    parser.add_argument("--only", action="append", help="a contender by name; repeat for more")
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.cores :])
    kind = arguments.kind or "solve"
    rounds = (0 if kind == "memory" else 7) if arguments.rounds is None else arguments.rounds
    names = arguments.only or list(SETS[kind])
    console = Console(width=140)
    times, figures = drive(kind, names, rounds, arguments.rtol, console)
    title = f"{kind}: milliseconds, {rounds} rounds in turn; rtol {arguments.rtol:g}"
    table = Table(title=title)
    columns = ["median", "least", "cpu median"] if rounds else []
    quantities = ("f", "products", "fallbacks", "residual", "cosine") if kind == "solve" else ()
    for heading in ["", *columns, *quantities, "temporary MiB", "peak MiB"]:
        table.add_column(heading, justify="left" if not heading else "right")
    for name in names:
        row = [name]
        if rounds:
            wall, cpu = times[name].T * 1e3
            row += [f"{x:.0f}" for x in (np.median(wall), wall.min(), np.median(cpu))]
        of = figures[name]
        spell = {"residual": ".1e", "cosine": ".6f"}
        row += [format(of[k], spell.get(k, ".0f")) if k in of else "" for k in quantities]
        row += ["" if of[k] is None else f"{of[k] / 2**20:.0f}" for k in ("temporary", "peak")]
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
