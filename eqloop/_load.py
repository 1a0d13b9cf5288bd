"""Models on disk, in one line: `eqloop.load` and `eqloop.save`."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.random as jr
import tomli_w

from ._build import make_model, model_spec, restore
from ._errors import InputError
from ._fields import build
from ._files import open_regular
from ._hub import PREFIX, download
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

    **Raises** `InputError` if the file cannot be written, if the model computes in another
    precision than float32 or bfloat16, or if its weights are not of float32 or float64.

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


def load(path: str | Path, which: Which = "best", *, sha256: str | None = None) -> Any:
    """Load a trained run, `model, task, spec = eqloop.load("runs/sudoku-001")`, or the model that
    `save` wrote, from disk or from the Hugging Face Hub.

    An address `hf://owner/repository/path@revision` is downloaded once and then read from the cache
    of `huggingface_hub` (`pip install huggingface_hub`), without network too. What is verified: a
    `revision` that is a whole commit hash always names the same files, as far as the Hub is to be
    trusted; `sha256` is compared with the bytes of the file, whoever delivered them. Without either
    a warning names the present commit. In any case the file is compared with the SHA-256 that it
    holds itself, which shows damage but not intent.

    **Arguments:**

    - `path`: a run folder, or a file that `save` wrote; or the address of one on the Hub.
    - `which`: the checkpoint of a run: `"best"` (on validation), `"last"`, or a step; has no effect
        on a file.
    - `sha256`: the SHA-256 of the file, or of that checkpoint, in hexadecimal digits.

    **Returns** a `Loaded` (model, task, spec) for a run folder, a `LoopedTransformer` for a file.
    The weights of a run are the averaged ones if it keeps an average.

    **Raises** `InputError` if there is no such run, file or checkpoint, if it is damaged or has
    another SHA-256, if the weights of a run are not finite, if the class of its task comes from a
    file that has changed or was not loaded before (see `eqloop.tasks.named`), and if the Hub cannot
    be reached and the cache does not have it.

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
    address = str(path)
    hub = address.startswith(PREFIX)
    path = download(address, pinned=sha256 is not None) if hub else Path(path)
    if not path.is_file():
        run = open_run(path)
        if sha256 is not None:
            which = run.find(which)
            _check_sha256(run.checkpoint(which), sha256)
        model, task, _ = load_trained(run, which)
        return Loaded(model, task, run.spec)
    if sha256 is not None:
        _check_sha256(path, sha256)
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


def _check_sha256(path: Path, expected: str) -> None:
    sha = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    if sha.hexdigest() != expected.lower():
        raise InputError(f"{path} has the SHA-256 {sha.hexdigest()}, not {expected}: do not use it")


def _settings(text: str, path: Path) -> ModelSpec:
    table = parse_toml(text, str(path)).get("model")
    if not isinstance(table, dict):
        raise InputError(f"{path} does not say how its model is made")
    try:
        return build(ModelSpec, "model", table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
