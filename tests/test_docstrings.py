"""The examples in the docstrings of the library run and print what they say."""

import doctest
import inspect

import pytest

import eqloop

PUBLIC = [
    eqloop.equilibrium,
    eqloop.trajectory,
    eqloop.LoopedTransformer,
    eqloop.PathNoise,
    eqloop.starts.Normal,
    eqloop.starts.Solved,
    eqloop.starts.Mixture,
    eqloop.BackwardReport,
    eqloop.two_norm,
    eqloop.largest_cell_norm,
    eqloop.Unroll,
    eqloop.FixedPoint,
    eqloop.Anderson,
    eqloop.Broyden,
    eqloop.NewtonKrylov,
    eqloop.Chord,
    eqloop.SteadyState,
    eqloop.Backprop,
    eqloop.Truncated,
    eqloop.OneStep,
    eqloop.Phantom,
    eqloop.Neumann,
    eqloop.Implicit,
    eqloop.gradient_audit,
    eqloop.default_gradients,
    pytest.param(eqloop.GradientAuditor, marks=pytest.mark.slow),
    eqloop.Task,
    eqloop.Split.of,
    eqloop.tasks.Layout,
    eqloop.tasks.Tally,
    eqloop.tasks.make_task,
    eqloop.tasks.named,
    eqloop.tasks.partition,
    eqloop.tasks.refuse,
    eqloop.tasks.register,
    eqloop.tasks.task_of_run,
    eqloop.claims.predict,
    eqloop.claims.compare,
    eqloop.claims.planned,
    eqloop.claims.weight_figures,
    eqloop.claims.make_problem,
    eqloop.evaluate.geometric,
    eqloop.report.Table,
    eqloop.report.correlations,
    eqloop.run.presets,
    eqloop.run.parse_setting,
    eqloop.run.resolve,
    eqloop.run.finite,
    eqloop.stability.follow_orbits,
    eqloop.stability.leading_eigenvalues,
    eqloop.stability.lyapunov_exponents,
    eqloop.stability.anisotropy,
    eqloop.stability.project_external,
    eqloop.stability.project_internal,
    eqloop.stability.scalar_experiment,
    eqloop.stability.stable_external,
    eqloop.stability.stable_internal,
    pytest.param(eqloop.stability.analyse, marks=pytest.mark.slow),
    pytest.param(eqloop.stability.reachability, marks=pytest.mark.slow),
    pytest.param(eqloop.stability.input_dependence, marks=pytest.mark.slow),
    pytest.param(eqloop.stability.geometry, marks=pytest.mark.slow),
    pytest.param(eqloop.stability.spectrum, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("item", PUBLIC, ids=lambda item: item.__name__)
def test_the_example_of_a_public_name_runs(item, monkeypatch):
    # An example may register a task, which other tests must not see.
    monkeypatch.setattr(eqloop.tasks.TASKS, "registered", {})
    docstring = inspect.getdoc(item)
    assert docstring is not None
    example = doctest.DocTestParser().get_doctest(docstring, {}, item.__name__, None, None)
    assert example.examples, f"the docstring of {item.__name__} has no example"
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    failures = runner.run(example, out=report.append).failed
    assert not failures, "".join(report)
