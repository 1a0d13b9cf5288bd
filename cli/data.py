"""`eqloop data make | check | show`: the data of a task, without any model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from ._output import Json, console, emit, notes, progress, table

if TYPE_CHECKING:
    from .._task import AbstractTask

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=False,
    help="Make a set, check any file, print an example as a board.",
)

Task = Annotated[
    str, typer.Option("--task", "-t", help="prefix-sums, sudoku or chess.", show_default=False)
]
MOST_GENERATED = 10_000
"""Examples that `show` generates for the sake of one."""
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the task, as task.FIELD=VALUE; repeatable."),
]


def build(name: str, settings: list[str] | None, **fields: Any) -> "AbstractTask":
    """The task `name` with the fields that `--set task.FIELD=VALUE` gives."""
    from ..run import parse_setting
    from ..tasks import make_task

    for setting in settings or []:
        group, field, value = parse_setting(setting)
        if group != "task":
            raise InputError(f"--set {setting}: there is only data here; write task.FIELD=VALUE")
        fields[field] = value
    return make_task(name, fields)


@app.command()
def make(
    task: Task,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many examples.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    seed: Annotated[int, typer.Option(help="The same seed makes the same file.")] = 42,
    settings: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Make a set with the task's own generator.

    Reads nothing. Writes OUT (compressed if its name ends in .gz or .zst), whole or not at all.
    --force replaces a regular file, and never a link, a device or a pipe.

    Example: eqloop data make --task sudoku --rows 1000 --out sudoku.csv.gz
    """
    from ..tasks import replaceable
    from ..train import check_examples

    made = build(task, settings, seed=seed)
    try:
        replaceable(out)
    except InputError as error:
        raise InputError(f"--out {error}") from None
    if out.exists() and not force:
        raise InputError(f"--out {out}: exists; add --force to replace it")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it first")
    check_examples(rows, made.grid)
    with progress("making") as report:
        split = made.generate(rows, seed, progress=report)
    made.write(split, out)
    bands = {name: int(mask.sum()) for name, mask in made.bands(split).items()}
    if as_json:
        emit({"file": out, "task": task, "rows": len(split), "seed": seed, "bands": bands})
        return
    console().print(f"{out}: {len(split):,} rows")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to read.")],
    task: Task,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Check every row of a file: is it well formed, legal, and is its answer right.

    Reads FILE, whatever its name: CSV (separated by commas, semicolons or tabs), JSON lines or
    parquet (pip install 'eqloop[parquet]'), as it is or in gzip, bzip2, Zstandard or zip.

    Chess: the columns FEN, Moves and Rating, and PuzzleId and Themes where they are known. FEN must
    be the position before the opponent's first move, which is the first of Moves. Sudoku: question
    (or puzzle, quizzes), and answer, rating and source where they are known; one puzzle a line; a
    folder as HRM has it. Puzzles without a rating are rated by the program's own solver. Prefix
    sums: question (input), and answer where it is known; one string a line.

    Writes nothing. Exits with 0 where every row is good, 1 where some are bad, 2 where FILE cannot
    be read at all. Sudokus with several solutions and symmetric copies are counted.

    Example: eqloop data check lichess_db_puzzle.csv.zst --task chess
    """
    from ..tasks import Tally

    made = build(task, settings)
    tally = Tally()
    with progress("checking") as report:
        split = made.read(file, on_bad=tally, progress=report)
    good = len(split)
    bands = {name: int(mask.sum()) for name, mask in made.bands(split).items()}
    remarks = {phrase: count for phrase, count in made.remarks(split).items() if count}
    if as_json:
        first = [{"where": bad.where, "why": bad.why} for bad in tally.first]
        emit(
            {
                "file": file,
                "task": task,
                "rows": good + tally.count,
                "good": good,
                "bad": tally.count,
                "first": first,
                "remarks": remarks,
                "bands": bands,
            }
        )
    else:
        for bad in tally.first:
            console().print(str(bad), markup=False, soft_wrap=True)
        if tally.count > len(tally.first):
            console().print(f"... and {tally.count - len(tally.first):,} more")
        told = f"{file}: {good:,} rows are good, {tally.count:,} are bad"
        console().print(told, markup=False, soft_wrap=True)
        for phrase, count in remarks.items():
            console().print(f"{count:,} {phrase}", markup=False, soft_wrap=True)
        if bands:
            console().print(table(("band", "rows"), [(k, f"{v:,}") for k, v in bands.items()]))
    if tally.count:
        raise typer.Exit(1)


@app.command()
def show(
    task: Task,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The file to read; left out, one is generated."),
    ] = None,
    index: Annotated[
        int, typer.Option("--index", "-i", min=0, help="Which of its good rows, from 0.")
    ] = 0,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Print one example and its answer as a board.

    Reads FILE, or where there is none generates all examples up to that one. Writes nothing.

    Example: eqloop data show sudoku.csv.gz --task sudoku --index 3
    """
    from ..tasks import Tally
    from ..train import check_examples

    made = build(task, settings)
    tally = Tally()
    if file is None and index >= MOST_GENERATED:
        raise InputError(
            f"--index {index}: without FILE, all up to that one are generated; at most "
            f"{MOST_GENERATED - 1}"
        )
    with progress("reading") as report:
        if file is None:
            check_examples(index + 1, made.grid)
            split = made.generate(index + 1, made.seed, progress=report)
        else:
            split = made.read(file, on_bad=tally, progress=report)
    bad = f" and {tally.count:,} bad ones, which do not count" if tally.count else ""
    if index >= len(split):
        raise InputError(
            f"--index {index}: {file} has {len(split):,} good rows{bad}; the first is 0"
        )
    if bad:
        notes().print(f"note: {file} has {len(split):,} good rows{bad}", markup=False)
    one = split.take(slice(index, index + 1))
    bands = [name for name, mask in made.bands(one).items() if mask[0]]
    if as_json:
        emit(
            {
                "index": index,
                "puzzle": one.puzzles[0],
                "targets": one.targets[0],
                "difficulty": float(one.difficulty[0]),
                "bands": bands,
            }
        )
        return
    out = console()
    out.print(one.puzzles[0].decode(), markup=False, soft_wrap=True)
    out.print(made.render(one), markup=True)
    out.print("answer:")
    out.print(made.render(one, one.targets[0]), markup=True)
    out.print(f"difficulty {one.difficulty[0]:g} ({', '.join(bands)})", markup=False)
