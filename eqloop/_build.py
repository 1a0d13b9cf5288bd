"""From a spec to the objects that it names: model, solver, gradient."""

import dataclasses
import pkgutil
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from ._adjoint import AbstractGradient
from ._arrays import named_arrays
from ._errors import InputError
from ._fields import field_types, typed
from ._model import AbstractLoopedModel, LoopedTransformer
from ._norms import largest_cell_norm, two_norm
from ._outside import outside_class, reference_of, same_name
from ._plugins import origin
from ._solver import AbstractSolver, Solver
from ._text import one_line
from .nn import GRU, Attention
from .recursive import NestedTransformer, Recursion
from .run import (
    Call,
    ModelSpec,
    Run,
    SolverSpec,
    Which,
    gradient_facts,
    solver_facts,
)
from .starts import TruncatedNormal, Vector


def make_model(spec: ModelSpec, key: PRNGKeyArray) -> AbstractLoopedModel:
    """A new model.

    **Raises** `InputError` for a spec without the choices of a task; see `resolve`.
    """
    spec.check_resolved()
    if spec.family != "looped":
        return NestedTransformer(
            spec.family,
            spec.grid,
            spec.channels,
            spec.classes,
            spec.width,
            spec.heads,
            layers=spec.blocks,
            high_layers=spec.high_blocks,
            cycles=spec.cycles,
            mix=spec.mix,
            mixer=spec.mixer,
            mlp_ratio=spec.mlp_ratio,
            positions=spec.positions,
            rotary_base=spec.rotary_base,
            extra=spec.extra,
            causal=spec.causal,
            begin=spec.begin,
            begin_std=spec.begin_std,
            conv=spec.conv,
            conv_width=spec.conv_width,
            end_norm=spec.end_norm,
            outputs=spec.outputs,
            q_head=spec.q_head,
            dtype=jnp.dtype(spec.precision),
            key=key,
        )
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
        rotary_base=spec.rotary_base,
        causal=spec.causal,
        dtype=jnp.dtype(spec.precision),
        key=key,
    )


def model_spec(model: AbstractLoopedModel) -> ModelSpec:
    """The settings of a model: `make_model(model_spec(model), key)` makes one of the same shapes.

    **Raises** `InputError` for a model that computes in another precision than a spec can name or
    has weights of fewer than 32 bits, and for one of a class that no spec describes.
    """
    for name, weight in named_arrays(model).items():
        if weight.dtype not in (jnp.float32, jnp.float64):
            raise InputError(
                f"{name} is {weight.dtype}: no spec describes a model whose weights are not "
                "float32 or float64; cast them"
            )
    precision = typed("model.precision", str(model.dtype), field_types(ModelSpec)["precision"])
    if isinstance(model, NestedTransformer):
        return _nested_spec(model, precision)
    if not isinstance(model, LoopedTransformer):
        raise InputError(f"no spec describes a {type(model).__name__}")
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
        rotary_base=block.attention.rotary_base,
        causal=block.attention.causal,
        precision=precision,
        grid=model.grid,
        channels=model.prelude.weight.shape[1],
        classes=model.coda.output.weight.shape[0],
    )


def _nested_spec(model: NestedTransformer, precision: Any) -> ModelSpec:
    nested, laws = model.map, model.begin.laws
    fields: dict[str, Any] = {}
    if isinstance(nested, Recursion):
        fields |= {"cycles": nested.cycles}
        fields |= {"mix": nested.mix} if model.family == "eqr" else {}
        fields |= {"high_blocks": len(model.high_layers)} if model.family == "hrm" else {}
    else:
        window = () if nested.conv is None else nested.conv.weight.shape[2:]
        conv = "grid" if len(window) == len(model.grid) else "line"
        fields |= {"conv": conv if window else "none", "end_norm": nested.norm}
        fields |= {"conv_width": window[0]} if window else {}
    if isinstance(laws[0], Vector):
        fields["begin"] = "vectors"
    elif isinstance(laws[0], TruncatedNormal):
        stds = tuple(law.std for law in laws if isinstance(law, TruncatedNormal))
        fields |= {"begin": "normal", "begin_std": stds}
    mixer = model.layers[0].mixer
    return ModelSpec(
        width=len(model.prelude.weight),
        heads=model.heads,
        blocks=len(model.layers),
        mlp_ratio=model.mlp_ratio,
        attention="full",
        positions=model.positions,
        rotary_base=model.rotary_base,
        extra=model.extra,
        causal=isinstance(mixer, Attention) and mixer.causal,
        family=model.family,
        mixer=model.mixer,
        precision=precision,
        grid=model.grid,
        channels=model.prelude.weight.shape[1],
        classes=len(model.coda.outputs) or len(model.coda.head.weight),
        outputs=model.coda.outputs,
        q_head=model.q_head is not None,
        **fields,
    )


def _common(spec: SolverSpec) -> dict[str, Any]:
    """The settings of every solver that stops by itself."""
    norm = two_norm if spec.norm == "two" else largest_cell_norm
    return {"rtol": spec.rtol, "atol": spec.atol, "norm": norm, "min_steps": spec.min_steps}


def construct(call: Call, **arguments: Any) -> Any:
    """The object that a row of `eqloop.run.SOLVERS`, `GRADIENTS` or `LOSSES` describes, with
    `arguments` besides its own."""

    def made(value: Any) -> Any:
        if isinstance(value, Call):
            return construct(value)
        if isinstance(value, tuple):
            return tuple(map(made, value))
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


def described(item: object) -> str:
    """An object as text: its fields, and the SHA-256 of its file if it was loaded from one."""
    placed = origin(type(item))
    text = eqx.tree_pformat(item, width=10**6, short_arrays=False)
    return f"{text} sha256:{placed[1]}" if placed else text


def make_outside(cls: type, spec: SolverSpec) -> Any:
    """Make a solver or gradient from outside the package. A solver gets the settings `rtol`, `atol`
    and `norm` of the spec if it has these fields; all other fields have their defaults.

    **Raises** `InputError` if the class cannot be instantiated with these.
    """
    common = _common(spec) if issubclass(cls, AbstractSolver) else {}
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    try:
        return cls(**{name: value for name, value in common.items() if name in names})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{reference_of(cls)} cannot be made with its default settings ({one_line(str(error))})"
        ) from None


def named_solver(spec: SolverSpec, name: str | None = None) -> tuple[str, AbstractSolver]:
    """Make a solver that stops by itself, with the settings of `spec`.

    **Returns** its name and the solver. The name is `name`, by default that of `spec`, or
    `fixed-point` if the solver of `spec` does not stop.

    **Raises** `InputError` for another name, and for a class whose file has changed since training.
    """
    if (cls := outside_class("solver", name)) is not None:
        solver, label = make_outside(cls, spec), reference_of(cls)
        check_file("solver", spec.name, spec.object, solver)
        return label, solver
    if name is None:
        name = spec.name if spec.converges else "fixed-point"
    names = field_types(SolverSpec)["name"]
    # The gradient is not used here; it must be one that works with every solver.
    solver_spec = dataclasses.replace(spec, name=typed("solver", name, names), gradient="implicit")
    solver = make_solver(solver_spec)
    if not isinstance(solver, AbstractSolver):
        raise InputError(f"solver must be one that stops by itself, got {name!r}")
    return name, solver


def named_gradient(spec: SolverSpec, name: str) -> tuple[str, AbstractGradient]:
    """Make the gradient `name` with the settings of `spec`, or an object of the class from outside
    the package that `name` denotes.

    **Returns** its name and the gradient.

    **Raises** `InputError` as `named_solver` does.
    """
    if (cls := outside_class("gradient", name)) is not None:
        gradient = make_outside(cls, spec)
        check_file("gradient", spec.gradient, spec.gradient_object, gradient)
        return cls.__name__, gradient
    names = field_types(SolverSpec)["gradient"]
    # The solver is not used here; it must be one that works with every gradient.
    solver_spec = dataclasses.replace(spec, name="unroll", gradient=typed("gradient", name, names))
    return name, make_gradient(solver_spec)


def check_file(option: str, reference: str, recorded: str, item: object) -> None:
    """**Raises** `InputError` if `item` has the class that a run recorded, by the names of file and
    class, but the content of its file has changed."""
    placed = origin(type(item))
    if placed is None or "sha256:" not in recorded or not same_name(reference, placed[0]):
        return
    recorded_hash = recorded.rpartition("sha256:")[2]
    if recorded_hash != placed[1]:
        raise InputError(
            f"{option} {placed[0]}: the file has changed since the run began (its SHA-256 was "
            f"{recorded_hash[:12]}..., now {placed[1][:12]}...): restore it, or rename the new one"
        )


def restore(
    run: Run, which: Which = "best", *, raw: bool = False
) -> tuple[AbstractLoopedModel, int]:
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
