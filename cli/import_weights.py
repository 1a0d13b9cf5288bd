"""`eqloop import CHECKPOINT --as MODEL`: make a run of a checkpoint of TRM, HRM, EqR or FPRM."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from ._output import Json, console, emit, progress, table

if TYPE_CHECKING:
    from ..interop import SiblingCheckpoint
    from ..run import Spec

_CONFIG = "all_config.yaml"


def import_weights(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Read this file.")],
    kind: Annotated[
        str, typer.Option("--as", help="Expect the weights of this model: trm, hrm, eqr or fprm.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="Read the authors' configuration from this file. The default is "
            f"{_CONFIG} beside CHECKPOINT, if there is one."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="Expect the sizes of this task: sudoku, maze or arc."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Set a field of the authors' configuration, as arch.FIELD=VALUE, or of the task "
            "of the run, as task.FIELD=VALUE. The option can be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Make the run in this new folder.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Write the weights under the authors' names into this new folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a checkpoint of TRM, HRM, EqR or FPRM, check it, and make a run of it.

    It reads CHECKPOINT, a file of PyTorch or safetensors, whatever its name, and the configuration
    of its authors. A file of PyTorch can contain programs: none is run. It knows tensors and plain
    containers, and refuses a file that names anything else. Of a file of EqR it takes the averaged
    weights.

    Sizes follow from the shapes of the weights. Cycles, heads and positions do not: they come from
    the configuration or from --set, and the command names those that are missing.

    Without --out and --weights it prints what is in the file and writes nothing. The run OUT is of
    sudoku or maze, and has one checkpoint, of step 0. The commands eval, solve, stability and
    gradients take it; it iterates the map of the authors' evaluation, and keeps the q head. Mazes
    of an even size come from files only: name them with --set task.data=PATH.

    Into the folder WEIGHTS it writes weights.safetensors, with the authors' names without prefix,
    and all_config.yaml, with the whole configuration; other programs can read both without PyTorch,
    and so can this command.

    Example: eqloop import step_32550 --as trm --task sudoku --out runs/trm-sudoku
    """
    from .._weight_files import read_weights, write_weights
    from ..interop import sibling_checkpoint

    _check_folders(out, weights)
    fields, task_fields = _fields(checkpoint, config, settings or [])
    if task_fields and out is None:
        raise InputError(f"--set {task_fields[0]}: is for the run, which --out makes")
    content = read_weights(checkpoint)
    try:
        read = sibling_checkpoint(content, kind, config=fields, task=task)  # pyright: ignore[reportArgumentType] (it is checked there)
        _check(read)
    except InputError as error:
        # Damaged bytes of a tensor are only seen when it is read; that message has the name.
        text = str(error)
        raise InputError(text if str(checkpoint) in text else f"{checkpoint}: {text}") from None
    spec = None if out is None else _spec(read, task, task_fields)
    arrays = {**read.params, **read.buffers}
    # The run comes first: its spec, its model and its data may still be refused.
    if out is not None and spec is not None:
        _make_run(out, read, spec)
    if weights is not None:
        write_weights(weights, arrays, read.config)
    if as_json:
        rows = {name: {"shape": a.shape, "dtype": str(a.dtype)} for name, a in arrays.items()}
        facts = {"config": read.config, "averaged": read.averaged, "out": out, "weights": weights}
        emit({"checkpoint": checkpoint, "kind": read.kind, "arrays": rows, **facts})
        return
    _print(read, arrays)
    show = console()
    if weights is not None:
        show.print(f"{weights}: weights.safetensors, {_CONFIG}", markup=False, soft_wrap=True)
    if spec is not None:
        show.print(f"{out}: a run of {spec.task_name}", markup=False, soft_wrap=True)
        show.print(f"next: eqloop eval {shlex.quote(str(out))}", markup=False, soft_wrap=True)


def _spec(read: "SiblingCheckpoint", task: str | None, settings: list[str]) -> "Spec":
    """The spec of the run. **Raises** `InputError` if there is none."""
    from ..interop import sibling_task, spec_tables
    from ..run import overlay
    from ..tasks import make_task

    name, size = sibling_task(read.config, task)
    tables = spec_tables(read.kind, read.config, name)
    return overlay({"task": size, **tables}, name, settings, make_task=make_task)


def _make_run(out: Path, read: "SiblingCheckpoint", spec: "Spec") -> None:
    import equinox as eqx
    import jax.random as jr

    from .._build import make_model
    from ..interop import from_sibling_state_dict, to_nested
    from ..run import create_run
    from ..tasks import make_task

    like = eqx.filter_eval_shape(make_model, spec.model, jr.key(0))
    theirs = from_sibling_state_dict(
        read.kind, read.params, buffers=read.buffers, config=read.config
    )
    model = to_nested(theirs, like)
    with progress("making the data") as report:
        data = make_task(spec.task_name, spec.task_fields).load(progress=report)
    run = create_run(out, spec, data.manifest)
    run.save({"model": model}, 0, None)


def _check_folders(out: Path | None, weights: Path | None) -> None:
    """**Raises** `InputError` before anything is written, if one of the folders cannot be new."""
    from .._weight_files import check_new
    from ..run import check_folder

    if weights is not None:
        check_new(weights)
    if out is not None:
        check_folder(out)
    if out is not None and weights is not None:
        one, other = out.resolve(), weights.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise InputError(
                f"--weights {weights} and --out {out}: choose two folders, none in the other"
            )


def _check(read: "SiblingCheckpoint") -> None:
    """**Raises** `InputError` if the weights do not make a model, or are not finite."""
    import equinox as eqx
    import jax
    import numpy as np

    from ..interop import from_sibling_state_dict

    params, buffers = (
        {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
        for arrays in (read.params, read.buffers)
    )

    def make(params: Any, buffers: Any) -> Any:
        return from_sibling_state_dict(read.kind, params, buffers=buffers, config=read.config)

    try:
        eqx.filter_eval_shape(make, params, buffers)
    except ValueError as error:
        raise InputError(str(error)) from None
    for name, array in {**read.params, **read.buffers}.items():
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinities: such a model has no answers")


def _fields(
    checkpoint: Path, config: Path | None, settings: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The fields of the configuration, those of `settings` first; and the settings of the task."""
    from ..interop import read_config
    from ..run import parse_setting

    beside = checkpoint.with_name(_CONFIG)
    if config is None and beside.is_file():
        config = beside
    fields, of_task = {} if config is None else read_config(config), []
    for setting in settings:
        group, field, value = parse_setting(setting)
        if group == "arch":
            fields[field] = value
        elif group == "task":
            of_task.append(setting)
        else:
            raise InputError(
                f"--set {setting}: write arch.FIELD=VALUE, as arch.num_heads=8, or task.FIELD=VALUE"
            )
    return fields, of_task


def _print(read: "SiblingCheckpoint", arrays: Mapping[str, Any]) -> None:
    show = console()
    rows = [
        (name, " x ".join(map(str, array.shape)), str(array.dtype))
        for name, array in arrays.items()
    ]
    show.print(table(("array", "shape", "dtype"), rows))
    show.print()
    fields = [(name, str(value)) for name, value in sorted(read.config.items())]
    show.print(table(("field", "value"), fields))
    count = sum(array.size for array in read.params.values())
    averaged = ", the moving average" if read.averaged else ""
    show.print(f"\n{read.kind}: {count:,} weights{averaged}", markup=False)
