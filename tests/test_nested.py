"""The loops of TRM, HRM, EqR and FPRM in models that commands train, evaluate and solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import InputError
from eqloop._build import make_model, model_spec
from eqloop.claims import make_problem
from eqloop.evaluate import evaluate
from eqloop.recursive import NestedTransformer
from eqloop.train import init_state, make_step
from eqloop.train._step import put

FAMILIES = ("trm", "hrm", "eqr", "fprm")


def small(family, *, grid=(2, 3), **options: Any) -> NestedTransformer:
    sizes: dict[str, Any] = {"width": 8, "heads": 2, "layers": 1, "cycles": 2} | options
    return NestedTransformer(family, grid, 3, 4, **sizes, key=jr.key(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_iteration_is_the_map_of_named_parts(family):
    """A state of one array has the parts one after another; the coda reads the first."""
    model, x = small(family), jr.normal(jr.key(1), (2, 3, 3))
    e, loop = model.embed(x), model.loop()
    np.testing.assert_allclose(e, np.sqrt(8.0) * (x @ model.prelude.weight.T), rtol=1e-5)
    z0, levels = model.first_state(e), 1 if family == "fprm" else 2
    np.testing.assert_array_equal(z0, np.concatenate([e] * levels, -1))
    kind: Any = eqloop.recursive.OneState if levels == 1 else eqloop.recursive.TwoLevels
    loop_map: Any = model.map
    wanted = loop_map(kind(*[e] * levels), loop_map.inject(e))
    z = loop(z0, loop.inject(e))
    np.testing.assert_allclose(z, jnp.concatenate(wanted, -1), rtol=1e-4, atol=1e-5)
    out = model(x, solver=eqloop.Unroll(1))
    np.testing.assert_allclose(out.logits, model.coda.head(wanted[0]), atol=1e-4)


def test_a_model_is_made_again_from_its_spec():
    cases: list[tuple[str, dict[str, Any]]] = [
        ("hrm", {"rotary_base": 10.0, "high_layers": 2, "positions": "line", "extra": 2}),
        ("eqr", {"mixer": "mlp", "mix": 0.5, "begin": "normal", "begin_std": (1.0, 0.125)}),
        ("fprm", {"positions": "none", "conv": "line", "conv_width": 2, "end_norm": "output"}),
        ("trm", {"positions": "learned", "extra": 1, "begin": "vectors", "q_head": True}),
        ("fprm", {"grid": (6,), "causal": True, "begin": "normal", "begin_std": (6.0,)}),
    ]
    for family, options in cases:
        model = small(family, **options)
        again = eqx.filter_eval_shape(make_model, model_spec(model), jr.key(0))
        assert eqx.filter_eval_shape(lambda m=model: m) == again
        state = model.first_state(model.embed(jnp.ones((*model.grid, 3))))
        assert state.shape == model_spec(model).state_shape
        r = model.loop().inject(model.embed(jnp.ones((*model.grid, 3))))
        assert jnp.isfinite(model.coda(model.loop()(state, r))).all()


def test_an_mlp_over_cells_refuses_another_grid():
    model = small("trm", mixer="mlp")
    model.check_grid((2, 3))
    with pytest.raises(InputError, match="a puzzle of 4 cells is not of the size of this model"):
        model.check_grid((4,))


@pytest.mark.parametrize("family", ["trm", "fprm"])
def test_training_lowers_the_loss(family):
    """With carried states, through the last cycle."""
    settings = [
        *(f"model.family={family}", "model.recall=internal", "model.attention=full"),
        *("model.width=16", "train.loss=last", "train.carry_steps=4", "solver.steps=2"),
        *("solver.gradient=truncated", "solver.gradient_steps=1", "train.schedule=constant"),
    ]
    spec = tiny_spec(*settings)
    task = Tiny()
    data = put(task.load().splits["train"])
    step, state, losses = make_step(spec, task), init_state(spec), []
    rows = np.arange(spec.train.batch)
    for _ in range(24):
        state, metrics = step(data, state, rows)
        losses.append(metrics["loss"].item())
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_instruments_take_its_map():
    task, model = Tiny(), NestedTransformer("eqr", (6,), 1, 2, 8, 2, cycles=1, key=jr.key(0))
    problem = make_problem(model, task, task.generate(2, seed=0))
    e = problem.inputs[0]
    z = problem.start(e)
    slope = jax.jvp(lambda z: problem.f(z, e), (z,), (jnp.ones_like(z),))[1]
    assert jnp.abs(slope).max() > 0
    solver = eqloop.Anderson(rtol=1e-4)
    solved = eqloop.equilibrium(problem.f, z, e, solver=solver, max_steps=256)
    assert bool(solved.result == eqloop.RESULTS.successful)


def test_an_evaluation_knows_the_depth_of_a_cycle():
    """A cycle of TRM applies its net to the low level twice here, and once to the high level: its
    cells see all others in each of three blocks."""
    task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 8, "test_rows": 4})
    model = NestedTransformer(
        "trm", task.grid, task.channels, 2, 8, 2, layers=1, cycles=2, key=jr.key(0)
    )
    result = evaluate(model, task, task.load().splits["test"], iterations=2)
    assert result.overall.known_depth == pytest.approx(np.log2(8) / 3)
