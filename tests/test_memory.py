"""A run that does not fit into memory is refused from its spec, at once and in one line."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from eqloop import InputError
from eqloop._model import parameter_count
from eqloop.run import resolve
from eqloop.tasks import TASKS, make_task
from eqloop.train import check_memory, init_state
from eqloop.train._memory import VARIABLE, _parameters, _size, memory_needed
from eqloop.train._method import make_method
from eqloop.train._state import skeleton
from eqloop.train._step import Data, _Fixed, _step

SMALL = ("model.width=32", "model.heads=4", "train.batch=16", "solver.steps=4")


def small(*settings: str, **shortcuts: str):
    return resolve("prefix-sums", "quick", (*SMALL, *settings), make_task=make_task, **shortcuts)


@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("recall", ["none", "external", "internal"])
def test_parameters_are_counted_without_making_the_blocks(blocks, recall):
    spec = small(f"model.blocks={blocks}", recall=recall)
    assert _parameters(spec.model) == parameter_count(skeleton(spec).model)


@pytest.mark.usefixtures("compiled_anew")
def test_the_estimate_is_below_what_xla_reserves():
    """The estimate is within an order of magnitude of what XLA reserves."""
    spec = small("train.loss=last", gradient="one-step")
    task = make_task(spec.task_name, spec.task_fields)
    shape: Any = jax.ShapeDtypeStruct
    rows = shape((100, *task.grid), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rate, begin = shape((), jnp.float32), shape((), jnp.int32)
    fixed = _Fixed(Data(rows, rows), shape((16,), jnp.int32), key, rate, begin)
    state = eqx.filter_eval_shape(init_state, spec)
    dynamic, static = eqx.partition(state, lambda leaf: isinstance(leaf, shape))

    def step(fixed, dynamic):
        new, metrics = _step(spec, task, make_method(spec), fixed, eqx.combine(dynamic, static))
        return eqx.filter(new, eqx.is_array), metrics

    analysis = jax.jit(step, donate_argnums=1).lower(fixed, dynamic).compile().memory_analysis()
    assert analysis is not None
    reserved = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    needed = memory_needed(spec)
    assert reserved / 5 < needed["weights and optimiser"] + needed["one step"] <= reserved


def test_states_that_a_gradient_keeps():
    """The step grows with each setting that stores more states, by the size of these states."""
    state = 3 * 4 * 16 * 32 * 32 // 2  # bytes, batch, cells, width

    def step(*settings: str, **shortcuts: str) -> int:
        return memory_needed(small(*settings, **shortcuts))["one step"]

    implicit = {"solver": "fixed-point", "gradient": "implicit"}
    restart = [step(f"solver.gradient_restart={n}", **implicit) for n in (10, 30)]
    assert restart[1] - restart[0] == 20 * state
    on_the_way = ("train.correction=0.5", "train.loss=last")
    corrected = [step(f"train.correction_states={n}", *on_the_way, **implicit) for n in (1, 3)]
    assert corrected[1] - corrected[0] == 2 * state
    history = [step(f"solver.memory={n}", solver="anderson") for n in (50, 60)]
    assert history[1] - history[0] == 20 * state
    tail = {"solver": "anderson", "gradient": "last-steps"}
    last = [step(f"solver.gradient_steps={n}", "solver.memory=1", **tail) for n in (10, 30)]
    assert last[1] - last[0] == 20 * (3 + 2) * state
    # Both states of every fifth step are stored; with a small share, those of the first step alone.
    back = {"solver": "reversible", "gradient": "backprop"}
    reversed_ = [step(f"solver.max_steps={n}", **back) for n in (50, 100)]
    assert reversed_[1] - reversed_[0] == 2 * 10 * state
    constant = {step(f"solver.max_steps={n}", "solver.mix=0.01", **back) for n in (16, 64, 256)}
    assert len(constant) == 1
    unrolled = [step(f"solver.steps={n}", "train.loss=last") for n in (10, 20)]
    assert unrolled[1] - unrolled[0] == 30 * state
    spread = memory_needed(small(), 4)["one step"]
    assert memory_needed(small())["one step"] == 4 * spread


HUGE = [
    "model.width=1000000000",
    "model.width=4096 model.blocks=1000",
    "model.mlp_ratio=1000000000",
    "task.length=1000000000",
    "task.hard_length=1000000000",
    "task.test_rows=1000000000000",
    "train.batch=800 solver.steps=100000",
    "solver.steps=1000000000",
    "solver.name=anderson solver.memory=1000000000",
    "solver.name=fixed-point solver.gradient_restart=1000000000",
]


@pytest.mark.parametrize("settings", HUGE)
def test_huge_values_are_refused_before_anything_is_made(settings, cli, tmp_path):
    began = time.process_time()
    sets = [f"--set={setting}" for setting in settings.split()]
    code, out, err = cli("train", *sets, "--out", tmp_path / "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: training needs at least ")
    assert f"{VARIABLE}=off" in err
    assert not (tmp_path / "run").exists()
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "command",
    [
        ("data", "make", "-t", "prefix-sums", "-n", 10**9, "--set=task.length=1000"),
        ("data", "make", "-t", "sudoku", "-n", 10**15),
        ("data", "show", "-t", "prefix-sums", "-i", 9999, "--set=task.length=1000000000"),
    ],
)
def test_sets_too_large_to_make_are_refused(command, cli, tmp_path):
    out = () if command[1] == "show" else ("--out", tmp_path / "set.csv")
    code, _, err = cli(*command, *out)
    assert code == 2
    assert err.startswith("error: making this set needs at least ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_check_can_be_turned_off(monkeypatch):
    spec = small("model.width=65536")
    with pytest.raises(InputError, match="TiB for weights and optimiser"):
        check_memory(spec)
    monkeypatch.setenv(VARIABLE, "off")
    check_memory(spec)


def test_usual_runs_pass():
    for task in TASKS:
        check_memory(resolve(task, "quick", make_task=make_task))


def test_sizes():
    assert [_size(n) for n in (0, 1023, 1024, 3 << 29, 1 << 70)] == [
        "0 B", "1.02e+03 B", "1 KiB", "1.5 GiB", "1.02e+03 EiB",
    ]  # fmt: skip


def test_gradients_through_too_many_iterations(tiny_run, cli):
    code, out, err = cli("gradients", tiny_run, "--iterations", 10**9)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: backpropagation through 1000000000 iterations needs at least ")
    assert "lower --iterations or --examples" in err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes"),
    ],
)
def test_what_does_not_fit_after_all_is_one_line(error, cli, tmp_path, monkeypatch):
    def generate(*arguments, **options):
        raise error

    monkeypatch.setattr("eqloop.tasks.prefix_sums.PrefixSums.generate", generate)
    code, out, err = cli("data", "make", "-t", "prefix-sums", "-n", 9, "-o", tmp_path / "a.csv")
    assert (code, out) == (2, "")
    assert err == f"error: there is not enough memory ({error}); ask for less\n"
    assert not list(tmp_path.iterdir())
