"""The docstrings of the library are complete, and their examples run and print what they say."""

import ast
import doctest
import enum
import importlib
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import eqloop

COMPLETE = (
    *("eqloop", "eqloop.interop", "eqloop.nn", "eqloop.starts", "eqloop.stability"),
    *("eqloop.audit", "eqloop.evaluate", "eqloop.tasks"),
)
"""Rooms of which every exported class and function says all that a user needs; see `lacking`. Their
examples need no line in `EXAMPLES`."""

SLOW = (
    eqloop.GradientAuditor,
    *(eqloop.stability.analyse, eqloop.stability.judge),
    *(eqloop.stability.geometry, eqloop.stability.input_dependence),
    *(eqloop.stability.reachability, eqloop.stability.spectrum),
)

EXAMPLES = [
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
    eqloop.tasks.Bad,
    eqloop.tasks.Dataset,
    eqloop.tasks.Split,
    eqloop.tasks.dataset,
    eqloop.tasks.describe,
    eqloop.tasks.glyphs,
    eqloop.tasks.picture,
    eqloop.tasks.struck,
    eqloop.tasks.read_records,
    eqloop.tasks.write_text,
    eqloop.tasks.TASKS["prefix-sums"],
    eqloop.tasks.TASKS["sudoku"],
    eqloop.tasks.TASKS["chess"],
    eqloop.claims.predict,
    eqloop.claims.compare,
    eqloop.claims.planned,
    eqloop.claims.weight_figures,
    eqloop.claims.make_problem,
    eqloop.claims.Problem,
    eqloop.claims.Subject,
    eqloop.claims.Check,
    eqloop.claims.random_subjects,
    eqloop.claims.four_tests,
    eqloop.report.Table,
    eqloop.report.correlations,
    eqloop.report.Correlation,
    eqloop.report.correlation_table,
    eqloop.report.Results,
    eqloop.report.read_results,
    eqloop.report.value_at,
    eqloop.report.write_results,
    eqloop.report.results_tables,
    eqloop.report.accuracy_figure,
    eqloop.report.check_figure,
    eqloop.report.gradients_figure,
    eqloop.report.scalar_figure,
    eqloop.report.counts,
    eqloop.report.short_table,
    eqloop.report.markdown,
    eqloop.run.presets,
    eqloop.run.parse_setting,
    eqloop.run.resolve,
    eqloop.run.finite,
    eqloop.run.share,
    eqloop.run.Curve,
    eqloop.run.Evaluation,
    eqloop.run.Cost,
    eqloop.run.Solved,
    eqloop.run.Sample,
    eqloop.run.evaluation_path,
    eqloop.run.save_evaluation,
    eqloop.run.save_cost,
    eqloop.run.read_evaluation,
    eqloop.run.read_cost,
    eqloop.run.Run,
    eqloop.run.owned,
    eqloop.run.make_folder,
    eqloop.run.make_next_folder,
    eqloop.run.create_run,
    eqloop.run.open_run,
    eqloop.run.same_content,
    eqloop.run.Origin,
    eqloop.run.History,
    eqloop.run.checkpoint_path,
    eqloop.run.checkpoint_steps,
    eqloop.run.parts_of,
    eqloop.run.NoLog,
    eqloop.run.MetricsLog,
    eqloop.run.read_metrics,
    eqloop.run.last_training_line,
    eqloop.run.trained_seconds,
    eqloop.run.Likeness,
    eqloop.run.Comparison,
    eqloop.run.AuditedGradient,
    eqloop.run.GradientAudit,
    eqloop.run.GradientsRecord,
    eqloop.run.save_gradients,
    eqloop.run.read_gradients,
    eqloop.run.Call,
    eqloop.run.refuse_outside,
    eqloop.run.is_outside,
    eqloop.run.solver_facts,
    eqloop.run.gradient_facts,
    eqloop.run.meanings,
    eqloop.run.Phase,
    eqloop.run.understood,
    eqloop.run.read_run,
    eqloop.run.read_spec,
    eqloop.run.say_steps,
    eqloop.run.spec_axes,
    eqloop.run.read_stability,
    eqloop.run.read_player,
    eqloop.run.save_stability,
    eqloop.run.load_preset,
    eqloop.run.overlay,
    eqloop.run.ModelSpec,
    eqloop.run.SolverSpec,
    eqloop.run.TrainSpec,
    eqloop.run.Spec,
    eqloop.run.Stage,
    eqloop.run.trained_iterations,
    eqloop.run.CellResult,
    eqloop.run.SweepRecord,
    eqloop.run.state_path,
    eqloop.run.is_sweep,
    eqloop.run.save_sweep,
    eqloop.run.read_sweep,
    eqloop.run.save_cell_result,
    eqloop.run.read_cell_result,
    eqloop.run.Header,
    eqloop.run.save_arrays,
    eqloop.run.load_header,
    eqloop.run.load_arrays,
    eqloop.train.Budget,
    eqloop.train.train,
    eqloop.train.same_spec,
    eqloop.train.AbstractLoss,
    eqloop.train.Last,
    eqloop.train.Progressive,
    eqloop.train.Mean,
    eqloop.train.check_memory,
    eqloop.train.check_examples,
    eqloop.train.Objects,
    eqloop.train.AbstractPenalty,
    eqloop.train.TerminalResidual,
    eqloop.train.JacobianNorm,
    eqloop.train.is_main_process,
    eqloop.train.join_processes,
    eqloop.train.shutdown,
    eqloop.train.raise_on_all,
    eqloop.train.broadcast_json,
    eqloop.train.Start,
    eqloop.train.TrainState,
    eqloop.train.init_state,
    eqloop.train.put,
    eqloop.train.Order,
    eqloop.train.make_order,
    eqloop.train.make_step,
    eqloop.sweep.Cost,
    eqloop.sweep.count,
    eqloop.sweep.Rate,
    eqloop.sweep.flops,
    eqloop.sweep.measure_rate,
    eqloop.sweep.Sweep,
    eqloop.sweep.is_up_to_date,
    eqloop.sweep.plan_sweep,
    eqloop.sweep.create_sweep,
    eqloop.sweep.open_sweep,
    eqloop.sweep.EvaluateSpec,
    eqloop.sweep.Cell,
    eqloop.sweep.Grid,
    eqloop.sweep.grids,
    eqloop.sweep.read_grid,
    eqloop.sweep.run_local,
    eqloop.sweep.work,
]
"""Items of other rooms that have an example."""


def exported(room: str) -> list[Any]:
    """The classes and functions that a room exports, without those that it has from other rooms.

    What `eqloop` exports is defined in its private modules; those of the tasks are `eqloop.tasks`.
    """
    module = importlib.import_module(room)
    items = [getattr(module, name) for name in dir(module) if not name.startswith("_")]
    home = r"eqloop\._(?!task)" if room == "eqloop" else re.escape(room)
    if room == "eqloop.nn":
        home += r"|eqloop\._places"
    return [item for item in items if callable(item) and re.match(home, item.__module__)]


def lacking(item: Any) -> Iterator[str]:
    """What the docstring of a class or function does not say.

    - Every argument has a bullet; every field has one, or a docstring below it.
    - A function that returns something says what, under Returns.
    - Code that raises says when, under Raises.
    - Every function has an example, and every class but a record, which has Attributes instead of
      Arguments, or is a dictionary: a user does not make one.
    - Every public method has a docstring, its own or that of the interface.
    """
    is_class, is_dict = inspect.isclass(item), typing.is_typeddict(item)
    text = inspect.cleandoc((vars(item).get("__doc__") if is_class else item.__doc__) or "")
    source = inspect.getsource(item)
    if not (is_class and issubclass(item, enum.Enum | BaseException)):
        bullets = re.findall(r"^- ((?:`\w+`(?:, )?)+):", text, re.MULTILINE)
        described = {name for bullet in bullets for name in re.findall(r"\w+", bullet)}
        described |= set(described_fields(source)) if is_class else set()
        names = vars(item)["__annotations__"] if is_dict else inspect.signature(item).parameters
        yield from (f"bullet {name}" for name in names if name not in described)
    returned = None if is_class else inspect.signature(item).return_annotation
    if returned not in (None, typing.NoReturn) and "**Returns" not in text:
        yield "Returns"
    if "raise " in source and "**Raises" not in source:
        yield "Raises"
    is_record = is_dict or (is_class and "**Attributes:**" in text)
    if ">>>" not in text and not is_record:
        yield "example"
    for name, member in vars(item).items() if is_class else ():
        is_method = isinstance(member, property | classmethod) or inspect.isfunction(member)
        if is_method and not name.startswith("_") and not inspect.getdoc(getattr(item, name)):
            yield f"docstring of {name}"


def described_fields(source: str) -> Iterator[str]:
    """The fields of a class that have a docstring below them."""
    (cls,) = ast.parse(textwrap.dedent(source)).body
    for field, below in itertools.pairwise(typing.cast(ast.ClassDef, cls).body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            yield ast.unparse(field.target)


def has_example(item: Any) -> bool:
    return ">>>" in (inspect.getdoc(item) or "")


def cases() -> list[Any]:
    items = [item for room in COMPLETE for item in exported(room) if has_example(item)]
    marked = [pytest.param(item, marks=pytest.mark.slow) for item in SLOW]
    return [*marked, *(item for item in [*items, *EXAMPLES] if item not in SLOW)]


@pytest.mark.parametrize("room", COMPLETE)
def test_every_exported_name_says_what_a_user_needs(room):
    items = exported(room)
    assert items
    assert {i.__name__: lacks for i in items if (lacks := list(lacking(i)))} == {}


def test_a_docstring_that_lacks_something_is_recognised():
    class Bare:
        """Says nothing.

        - `made`, `ready`: in one bullet.
        """

        field: int
        """Below it."""

        def __init__(self, made: int, ready: int, other: int, field: int):
            raise ValueError

        def method(self): ...

    def silent(argument: int) -> int:
        return argument

    assert list(lacking(Bare)) == ["bullet other", "Raises", "example", "docstring of method"]
    assert list(lacking(silent)) == ["bullet argument", "Returns", "example"]


@pytest.mark.parametrize("item", cases(), ids=lambda item: item.__name__)
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
