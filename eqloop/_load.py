"""Models on disk, in one line: `eqloop.load` and `eqloop.save`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.random as jr
import tomli_w

from ._build import make_model, model_spec, restore
from ._errors import InputError
from ._fields import build
from ._model import AbstractLoopedModel
from ._tables import parse_toml
from .run import (
    SPEC,
    Header,
    ModelSpec,
    Run,
    Spec,
    Which,
    load_arrays,
    load_header,
    open_run,
    save_arrays,
)

if TYPE_CHECKING:
    from ._task import Task

_KIND = "weights"
"""What the notes of a file of weights say that it is; a checkpoint of a run says nothing."""


class Loaded(NamedTuple):
    """A trained run: its model, the task that it was trained on, and its spec.

    **Attributes:**

    - `model`: the `LoopedTransformer` with the weights of the checkpoint.
    - `task`: the `Task`, an object with the settings of the run.
    - `spec`: the `eqloop.run.Spec` of the run, with every field resolved.
    """

    model: AbstractLoopedModel
    task: "Task"
    spec: Spec


def save(model: AbstractLoopedModel, path: str | Path) -> None:
    """Write the weights and the settings of a model into one safetensors file.

    **Arguments:**

    - `model`: any model; it need not have been trained here.
    - `path`: the file, which is replaced in one step if it exists.

    **Raises** `InputError` if the file cannot be written, or the model computes in another
    precision than float32 or bfloat16.

    ```python
    >>> import eqloop, jax.random as jr, pathlib, tempfile
    >>> model = eqloop.LoopedTransformer((3, 3), 2, 5, width=8, heads=2, key=jr.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     eqloop.save(model, path)
    ...     print(path.stat().st_size > 4 * eqloop.parameter_count(model))
    True

    ```
    """
    settings = {"model": dataclasses.asdict(model_spec(model))}
    try:
        save_arrays(Path(path), model, Header(0, tomli_w.dumps(settings), {"kind": _KIND}))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def load(path: str | Path, which: Which = "best") -> Any:
    """Load a trained run, `model, task, spec = eqloop.load("runs/sudoku-001")`, or the model that
    `save` wrote.

    **Arguments:**

    - `path`: a run folder, or a file that `save` wrote.
    - `which`: the checkpoint of a run: `"best"` (on validation), `"last"`, or a step; has no effect
        on a file.

    **Returns** a `Loaded` (model, task, spec) for a run folder, a `LoopedTransformer` for a file.
    The weights of a run are the averaged ones if it keeps an average.

    **Raises** `InputError` if there is no such run, file or checkpoint, if it is damaged, if the
    weights of a run are not finite, and if the class of its task comes from a file that has changed
    or was not loaded before (see `eqloop.tasks.named`).

    ```python
    >>> import eqloop, jax.random as jr, tempfile
    >>> model = eqloop.LoopedTransformer((3, 3), 2, 5, width=8, heads=2, key=jr.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.save(model, f"{folder}/model.safetensors")
    ...     loaded = eqloop.load(f"{folder}/model.safetensors")
    >>> print((loaded.prelude.weight == model.prelude.weight).mean(), loaded.grid)
    1.0 (3, 3)

    ```
    """
    path = Path(path)
    if not path.is_file():
        run = open_run(path)
        model, task, _ = load_trained(run, which)
        return Loaded(model, task, run.spec)
    header = load_header(path)
    if header.notes.get("kind") != _KIND:
        raise InputError(f"{path} is a checkpoint of a run: load the run folder that holds it")
    spec = _settings(header.spec, path)
    skeleton = eqx.filter_eval_shape(make_model, spec, jr.key(0))
    return load_arrays(path, skeleton)[0]


def load_trained(
    run: Run, which: Which = "best", fields: Mapping[str, object] | None = None
) -> tuple[AbstractLoopedModel, "Task", int]:
    """The model of a run, its task (with `fields` in place of those of the run), and the step of
    the checkpoint. **Raises** `InputError` as `load`."""
    from .tasks import task_of_run

    spec = run.spec
    try:
        task = task_of_run(spec.task_name, spec.task_fields | dict(fields or {}), run.manifest)
    except InputError as error:
        raise InputError(f"{run.path / SPEC}: {error}") from None
    model, step = restore(run, which)
    return model, task, step


def _settings(text: str, path: Path) -> ModelSpec:
    table = parse_toml(text, str(path)).get("model")
    if not isinstance(table, dict):
        raise InputError(f"{path} does not say how its model is made")
    try:
        return build(ModelSpec, "model", table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
