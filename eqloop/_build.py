"""From a spec to the objects that it names: model, solver, gradient."""

import dataclasses
import pkgutil
from collections.abc import Iterable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from ._adjoint import AbstractGradient
from ._arrays import named_arrays
from ._errors import InputError
from ._fields import field_types, typed
from ._model import LoopedTransformer
from ._norms import largest_cell_norm, two_norm
from ._plugins import entry_point_classes, import_class, is_reference, load_class, origin
from ._solver import AbstractSolver, Solver
from ._text import one_line
from .nn import GRU
from .run import (
    GRADIENTS,
    SOLVERS,
    Call,
    ModelSpec,
    Run,
    SolverSpec,
    Which,
    gradient_facts,
    is_outside,
    solver_facts,
)


def make_model(spec: ModelSpec, key: PRNGKeyArray) -> LoopedTransformer:
    """A new model. `spec` is a resolved one (see `resolve`): it says what the grid is."""
    return LoopedTransformer(
        grid=spec.grid,
        channels=spec.channels,
        classes=spec.classes,
        width=spec.width,
        heads=spec.heads,
        recall=spec.recall,
        norm=spec.norm,
        residual=spec.residual,
        blocks=spec.blocks,
        attention=spec.attention,  # pyright: ignore[reportArgumentType] (resolved: not "task")
        mlp_ratio=spec.mlp_ratio,
        dtype=jnp.dtype(spec.precision),
        key=key,
    )


def model_spec(model: LoopedTransformer) -> ModelSpec:
    """The settings of a model: `make_model(model_spec(model), key)` makes one of the same shapes.

    **Raises** `InputError` for a model that computes in another precision than a spec can name.
    """
    block = model.blocks[0]
    return ModelSpec(
        width=model.prelude.weight.shape[0],
        heads=block.attention.heads,
        recall=block.recall_kind,
        norm=block.norms.kind,
        residual="gru" if isinstance(block.residual, GRU) else "add",
        blocks=len(model.blocks),
        mlp_ratio=block.feedforward.hidden.weight.shape[0] // model.prelude.weight.shape[0],
        attention=block.attention.window,
        precision=typed("model.precision", str(model.dtype), field_types(ModelSpec)["precision"]),
        grid=model.grid,
        channels=model.prelude.weight.shape[1],
        classes=model.coda.output.weight.shape[0],
    )


def _common(spec: SolverSpec) -> dict[str, Any]:
    """The settings of every solver that stops by itself."""
    norm = two_norm if spec.norm == "two" else largest_cell_norm
    return {"rtol": spec.rtol, "atol": spec.atol, "norm": norm, "min_steps": spec.min_steps}


def construct(call: Call, **arguments: Any) -> Any:
    """The object that a row of `eqloop.run.SOLVERS` or `GRADIENTS` describes, with `arguments`
    besides its own."""

    def made(value: Any) -> Any:
        if isinstance(value, Call):
            return construct(value)
        return jnp.asarray(value) if isinstance(value, np.generic) else value

    own = {name: made(value) for name, value in call.arguments.items()}
    return pkgutil.resolve_name(call.place)(**arguments, **own)


def make_solver(spec: SolverSpec) -> Solver:
    """The solver that a spec names. **Raises** `InputError` for one from outside the package."""
    facts = solver_facts(spec.name)
    return construct(facts.make(spec), **(_common(spec) if facts.converges else {}))


def make_gradient(spec: SolverSpec) -> AbstractGradient:
    """The gradient that a spec names. **Raises** `InputError` for one from outside the package."""
    return construct(gradient_facts(spec.gradient).make(spec))


def outside_class(option: Literal["solver", "gradient"], text: str | None) -> type | None:
    """The class from outside the package that the value of an option names, its file run or its
    distribution imported; None where it names none.

    **Arguments:**

    - `option`: what the class is for.
    - `text`: `path/to/file.py:Class`, a name of the entry-point group `eqloop.solvers` or
      `eqloop.gradients`, or `module:Class`, as the spec of a run has it for a class that was
      imported. The package's own names come first.

    **Raises** `InputError` where the class cannot be loaded, or is none for that option.
    """
    if text is None or text in (SOLVERS if option == "solver" else GRADIENTS):
        return None
    if is_reference(text):
        cls = load_class(text, option)
    elif text in (offered := entry_point_classes(f"eqloop.{option}s")):
        cls = offered[text]()
    elif is_outside(text):
        cls = import_class(text, option)
    else:
        return None
    wanted = AbstractSolver if option == "solver" else AbstractGradient
    if not issubclass(cls, wanted):
        raise InputError(f"{option} {text}: the class must be an eqloop.{wanted.__name__}")
    return cls


def outside_classes(option: Literal["solver", "gradient"], texts: Iterable[str]) -> dict[str, type]:
    """What an option that can be repeated names -> its class. **Raises** `InputError` as
    `outside_class`, and for a name of the package's own."""
    classes = {}
    for text in texts:
        if (cls := outside_class(option, text)) is None:
            raise InputError(f"--{option} {text}: is no FILE.py:CLASS from outside eqloop")
        classes[text] = cls
    return classes


def reference_of(cls: type) -> str:
    """How a class from outside the package is written in a spec: `/path/to/file.py:Class`, or
    `module:Class` where it was imported."""
    placed = origin(cls)
    return placed[0] if placed else f"{cls.__module__}:{cls.__qualname__}"


def described(made: object) -> str:
    """An object as text: its fields, and the SHA-256 of its file where it was loaded from one."""
    placed = origin(type(made))
    text = eqx.tree_pformat(made, width=10**6, short_arrays=False)
    return f"{text} sha256:{placed[1]}" if placed else text


def make_outside(cls: type, spec: SolverSpec) -> Any:
    """A solver or gradient from outside the package, with those of the settings `rtol`, `atol` and
    `norm` of the spec that a solver has, and its own defaults for all else.

    **Raises** `InputError` where the class cannot be made from these.
    """
    common = _common(spec) if issubclass(cls, AbstractSolver) else {}
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    try:
        return cls(**{name: value for name, value in common.items() if name in known})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{reference_of(cls)} cannot be made with its default settings ({one_line(str(error))})"
        ) from None


def named_solver(spec: SolverSpec, name: str | None = None) -> tuple[str, AbstractSolver]:
    """A solver that stops by itself, with the settings of `spec`, and what it is called: `name`,
    or by default that of `spec`, or `fixed-point` where that does not stop. **Raises**
    `InputError` for another name, and for a class whose file has changed since it trained."""
    if (cls := outside_class("solver", name)) is not None:
        made, called = make_outside(cls, spec), reference_of(cls)
        check_file("solver", spec.name, spec.object, made)
        return called, made
    if name is None:
        name = spec.name if spec.converges else "fixed-point"
    known = field_types(SolverSpec)["name"]
    # The gradient, which is not asked for here, must be one that goes with every solver.
    named = dataclasses.replace(spec, name=typed("solver", name, known), gradient="implicit")
    made = make_solver(named)
    if not isinstance(made, AbstractSolver):
        raise InputError(f"solver must be one that stops by itself, got {name!r}")
    return name, made


def named_gradient(spec: SolverSpec, name: str) -> tuple[str, AbstractGradient]:
    """The gradient of `name` with the settings of `spec`, or the class from outside the package
    that `name` says, and what it is called. **Raises** `InputError` as `named_solver`."""
    if (cls := outside_class("gradient", name)) is not None:
        made = make_outside(cls, spec)
        check_file("gradient", spec.gradient, spec.gradient_object, made)
        return cls.__name__, made
    known = field_types(SolverSpec)["gradient"]
    # The solver, which is not asked for here, must be one that goes with every gradient.
    named = dataclasses.replace(spec, name="unroll", gradient=typed("gradient", name, known))
    return name, make_gradient(named)


def check_file(option: str, reference: str, recorded: str, made: object) -> None:
    """**Raises** `InputError` where `made` is of the class that a run recorded, by the names of
    file and class, and its file now has another content."""
    placed = origin(type(made))
    if placed is None or "sha256:" not in recorded or not same_name(reference, placed[0]):
        return
    then = recorded.rpartition("sha256:")[2]
    if then != placed[1]:
        raise InputError(
            f"{option} {placed[0]}: the file has changed since the run began (its SHA-256 was "
            f"{then[:12]}..., now {placed[1][:12]}...): restore it, or rename the new one"
        )


def same_name(one: str, other: str) -> bool:
    """Whether two references name one class, wherever its file lies."""
    return one.replace("\\", "/").rpartition("/")[2] == other.replace("\\", "/").rpartition("/")[2]


def restore(run: Run, which: Which = "best", *, raw: bool = False) -> tuple[LoopedTransformer, int]:
    """The weights of a run to evaluate: the average, where the run keeps one.

    **Arguments:**

    - `run`: an opened run folder.
    - `which`: `"best"` (on validation), `"last"`, or a step.
    - `raw`: whether to take the weights in training, even where there is an average.

    **Returns** the model and the step that it is of. The state of the optimiser is not kept.

    **Raises** `InputError` as `Run.load`, and for weights that are not finite.
    """
    part = "ema" if run.spec.train.ema and not raw else "model"
    model = eqx.filter_eval_shape(make_model, run.spec.model, jr.key(0))
    loaded, header = run.load(which, {part: model}, part=True)
    for name, array in named_arrays(loaded).items():
        if not np.isfinite(array).all():
            raise InputError(
                f"{run.checkpoint(header.step)}: {name} holds NaN or infinities: such a model "
                "has no answers; name another step with --checkpoint"
            )
    return loaded[part], header.step
