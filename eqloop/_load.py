"""Trained models in one line: `load` opens a run or a file of weights, `save` writes that file.

This is a door of the library, as the commands are: it names the tasks, and no room imports it.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, get_args

import equinox as eqx
import jax
import jax.random as jr
import tomli_w

from ._build import make_model, restore
from ._errors import InputError
from ._fields import build, field_types, typed
from ._model import LoopedTransformer
from ._tables import parse_toml
from ._task import AbstractTask
from .nn import GRU, NormKind
from .run import ModelSpec, Spec, Which, open_run
from .run._checkpoint import Header, load_header
from .run._checkpoint import load as load_arrays
from .run._checkpoint import save as save_arrays
from .tasks import make_task

_PRECISION = field_types(ModelSpec)["precision"]
_CONTENT = "weights"
"""The content that the header of a file of weights states; that of a run's checkpoint does not."""


class Loaded(NamedTuple):
    """A trained model and where it comes from.

    **Attributes:**

    - `model`: the weights that `eqloop eval` measures: the average, if the run keeps one.
    - `task`: the task that the model was trained on.
    - `spec`: the resolved spec of the run.
    """

    model: LoopedTransformer
    task: AbstractTask
    spec: Spec


def load(path: Path | str, *, task: AbstractTask | None = None, which: Which = "best") -> Any:
    """Load the folder of a run, or a file of weights that `eqloop.save` wrote.

    **Arguments:**

    - `path`: the folder or the file.
    - `task`: the task of the run; by default the task of eqloop that the run names. Pass it for a
        run on a task of your own: loading a run imports no code that you did not name.
    - `which`: the checkpoint of the run: `"best"` on validation, `"last"`, or a step.

    **Returns** for a run the named tuple `Loaded(model, task, spec)`, for a file the model alone,
    a `LoopedTransformer`.

    **Raises** `InputError` (one line) for a path that is neither, for a file that is damaged or of
    another version, for weights that do not fit the settings, and for a task that is not known.

    ```python
    model, task, spec = eqloop.load("runs/prefix-sums-001")
    eqloop.save(model, "adder.safetensors")
    same = eqloop.load("adder.safetensors")
    ```
    """
    path = Path(path)
    if not path.is_dir():
        return _load_weights(path)
    run = open_run(path)
    if task is None:
        try:
            task = make_task(run.spec.task_name, run.spec.task_fields, run.manifest.get("version"))
        except InputError as error:
            raise InputError(f"{path / 'spec.toml'}: {error}") from None
    elif task.name != run.spec.task_name:
        raise InputError(
            f"{path} was trained on the task {run.spec.task_name!r}, not on {task.name!r}"
        )
    return Loaded(restore(run, which)[0], task, run.spec)


def save(model: LoopedTransformer, path: Path | str) -> None:
    """Write the weights of a model to one safetensors file, atomically.

    The header of the file holds the settings of the model as TOML and a SHA-256 over settings and
    weights; the file holds no code. The same model gives the same bytes. `eqloop.load` reads it.

    **Arguments:**

    - `model`: a `LoopedTransformer`.
    - `path`: the file, whose name ends in `.safetensors`. A file of this name is replaced.

    **Raises** `InputError` for another ending, and if the file cannot be written; `ValueError` for
    a model that its settings do not describe, such as one with layers of your own.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the name of a file of weights must end in .safetensors")
    spec = _settings(model)
    header = Header(0, tomli_w.dumps({"model": dataclasses.asdict(spec)}), {"content": _CONTENT})
    try:
        save_arrays(path, {"model": model}, header)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _load_weights(path: Path) -> LoopedTransformer:
    if not path.exists():
        raise InputError(f"{path}: there is no such run and no such file")
    header = load_header(path)
    if header.notes.get("content") != _CONTENT:
        raise InputError(
            f"{path} is not a file of eqloop.save: for a checkpoint of a run, load the folder of "
            "the run, and name the step with which="
        )
    settings = parse_toml(header.spec, str(path)).get("model")
    if not isinstance(settings, dict):
        raise InputError(f"{path} does not hold the settings of the model")
    try:
        skeleton = _skeleton(build(ModelSpec, "model", settings))
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    return load_arrays(path, {"model": skeleton})[0]["model"]


def _skeleton(spec: ModelSpec) -> LoopedTransformer:
    return eqx.filter_eval_shape(make_model, spec, jr.key(0))


def _settings(model: LoopedTransformer) -> ModelSpec:
    """The settings that rebuild the structure of `model`. **Raises** `ValueError` if none do."""
    block = model.blocks[0]
    shapes = eqx.filter_eval_shape(lambda: model)
    try:
        for norm in get_args(NormKind):
            spec = ModelSpec(
                width=block.attention.output.bias.size,
                heads=block.attention.heads,
                recall=block.recall_kind,
                norm=norm,
                residual="gru" if isinstance(block.residual, GRU) else "add",
                blocks=len(model.blocks),
                mlp_ratio=block.feedforward.hidden.bias.size // block.attention.output.bias.size,
                attention=block.attention.window,
                precision=typed("model.precision", str(model.dtype), _PRECISION),
                grid=model.grid,
                channels=model.prelude.weight.shape[-1],
                classes=model.coda.output.bias.size,
            )
            if _same_structure(_skeleton(spec), shapes):
                return spec
    except (AttributeError, InputError) as error:
        raise ValueError(f"the settings of the model cannot be written: {error}") from None
    raise ValueError(
        "no settings of eqloop.LoopedTransformer describe this model: save the weights of a model "
        "with layers of your own with eqx.tree_serialise_leaves"
    )


def _same_structure(one: Any, other: Any) -> bool:
    def outline(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

    return outline(one) == outline(other)
