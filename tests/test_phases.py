"""Phases: specs that change at an optimiser step."""

import dataclasses
import re
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_task import Tiny, tiny_spec

from eqloop import InputError
from eqloop.run import Spec, read_metrics, trained_iterations
from eqloop.run._spec import from_tables
from eqloop.sweep import count
from eqloop.train import train
from eqloop.train._state import make_schedule
from eqloop.train._step import Order

SETTINGS = (
    "phases.1.until=3",
    "phases.1.solver.name=unroll",
    "phases.1.train.lr=1e-2",
    "phases.2.until=5",
    "phases.2.train.warmup=1",
    "phases.2.solver.max_steps=5",
)


def phased(*settings: str) -> Spec:
    return tiny_spec("train.steps=8", *SETTINGS, *settings, solver="fixed-point")


def test_a_phase_changes_fields_and_what_follows_from_them():
    spec = phased()
    assert spec.phases[0].solver == {"name": "unroll", "gradient": "backprop"}
    stages = spec.stages
    assert [(stage.begin, stage.end) for stage in stages] == [(0, 3), (3, 5), (5, 8)]
    names = [(stage.spec.solver.name, stage.spec.solver.gradient) for stage in stages]
    assert names == [
        ("unroll", "backprop"),
        ("fixed-point", "implicit"),
        ("fixed-point", "implicit"),
    ]
    assert [stage.spec.train.lr for stage in stages] == [1e-2, spec.train.lr, spec.train.lr]
    assert [stage.spec.solver.max_steps for stage in stages][1:] == [5, spec.solver.max_steps]
    assert stages[2].spec == dataclasses.replace(spec, phases=())
    assert [stage.end for stage in spec.with_steps(4).stages] == [3, 4]
    assert tiny_spec().stages[0].spec == tiny_spec()


def test_phases_survive_toml_and_are_told_apart():
    spec = phased()
    assert Spec.from_text(spec.to_toml(), "the spec") == spec
    assert "phases = [" in spec.to_toml()
    assert "phases" not in tiny_spec().to_toml()
    assert spec.differences(phased("phases.2.until=6")) == ["phases"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("phases.3.solver.steps=2", "phases.3.until is missing"),
        ("phases.4.until=7", "the next phase to set is phases.3"),
        ("phases.2.until=3", "phases.2.until must be at least 4, got 3"),
        ("phases.2.until=soon", "phases.2.until must be a whole number"),
        ("phases.one.until=3", "write phases.N.until"),
        ("phases.1.model.width=3", "write phases.N.until"),
        ("phases.2.untill=3", "unknown field phases.2.untill; did you mean until"),
        ("phases.1.train.batch=3", "phases.1.train.batch: this field is that of all phases"),
        ("phases.1.solver.stepps=3", "phases.1: unknown field solver.stepps; did you mean"),
        ("phases.1.train.lr=-1", "phases.1: train.lr must be above 0"),
        ("phases.2.train.loss=mean", "phases.2: train.loss = 'mean' draws or averages"),
    ],
)
def test_each_mistake_gets_one_line(setting, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        phased(setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("phases", [3, [3], [{"until": 1, "solver": 2}], "none"])
def test_a_table_of_phases_that_is_none_is_refused(phases):
    with pytest.raises(InputError, match=r"phases.* must be a"):
        from_tables({"task": {"name": "tiny"}, "phases": phases})


def test_the_iterations_of_training_are_those_of_all_phases_at_any_number_of_steps():
    """In this way a lengthened run is validated as before."""
    spec = tiny_spec(
        "train.steps=4",
        "train.loss=last",
        "solver.steps=2",
        "phases.1.until=2",
        "phases.1.solver.steps=30",
        "phases.2.until=6",
        "phases.2.solver.steps=5",
        "phases.2.train.carry_steps=8",
    )
    assert trained_iterations(spec) == trained_iterations(spec.with_steps(9)) == (2, 40)
    assert trained_iterations(dataclasses.replace(spec, phases=())) == (2, 2)


def test_the_cost_is_that_of_the_stages():
    spec = phased()
    cost = count(spec.model)
    step_costs = [cost.training(stage.spec.with_steps(1)) for stage in spec.stages]
    assert cost.training(spec) == 3 * step_costs[0] + 2 * step_costs[1] + 3 * step_costs[2]


def rates(run) -> list[float]:
    return [row["lr"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "train"]


def test_training_changes_with_the_phase_and_resumes_bit_for_bit_across_its_border(
    tmp_path, monkeypatch
):
    """The run is interrupted before, at and after a border, in turn."""
    spec = phased("train.schedule_per_phase=true", "train.checkpoint_every=100", "train.ema=0.9")
    whole = train(spec, Tiny(), tmp_path / "whole")
    rows = [row for row in read_metrics(tmp_path / "whole/metrics.jsonl") if row["kind"] == "train"]
    assert [row["backward_products"] > 0 for row in rows] == [False] * 3 + [True] * 5
    assert all(row["iterations"] <= 6 for row in rows[3:5])
    expected = [
        jnp.asarray(make_schedule(stage.spec.train)(jnp.asarray(step)))
        for stage in spec.stages
        for step in range(stage.end - stage.begin)
    ]
    np.testing.assert_allclose(rates(tmp_path / "whole"), expected, rtol=1e-6)

    stopped, order = tmp_path / "stopped", Order.__call__
    for number, stop in enumerate((2, 3, 6)):

        def signalled(self, step, stop=stop):
            if step == stop - 1:
                signal.raise_signal(signal.SIGINT)
            return order(self, step)

        monkeypatch.setattr(Order, "__call__", signalled)
        outcome = train(None if number else spec, Tiny(), stopped, resume=bool(number))
        assert (outcome.status, outcome.step) == ("interrupted", stop)
    train(None, Tiny(), stopped, resume=True)
    assert rates(stopped) == rates(tmp_path / "whole")
    path = whole.run.checkpoint(8).relative_to(whole.run.path)
    assert (stopped / path).read_bytes() == (whole.run.path / path).read_bytes()


def test_the_schedule_goes_over_the_whole_run_unless_it_is_one_per_phase(tmp_path):
    spec = tiny_spec("train.steps=8", "phases.1.until=5", "phases.1.train.lr=1e-2")
    train(spec, Tiny(), tmp_path / "run")
    schedule = make_schedule(spec.train)
    expected = [jnp.asarray(schedule(jnp.asarray(step))) for step in range(5, 8)]
    np.testing.assert_allclose(rates(tmp_path / "run")[5:], expected, rtol=1e-6)
