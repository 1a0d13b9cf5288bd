"""`eqloop data make | check | show`: make, check and show the data of a task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from ._output import Json, console, emit, notes, progress, table

if TYPE_CHECKING:
    from .._task import Task

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=False,
    help="Make a set of examples, check a file, or show an example as a board.",
)

TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        "-t",
        help="Use this task: prefix-sums, sudoku, chess, maze, group-words, or FILE.py:CLASS.",
        show_default=False,
    ),
]
MOST_GENERATED = 10_000
"""Maximum number of examples that `show` generates to show one."""
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set a field of the task, as task.FIELD=VALUE. The option can be repeated."
    ),
]


def build(name: str, settings: list[str] | None, **fields: Any) -> "Task":
    """The task `name` with the fields of `--set task.FIELD=VALUE`."""
    from ..run import parse_setting
    from ..tasks import make_task, named

    for setting in settings or []:
        group, field, value = parse_setting(setting)
        if group != "task":
            raise InputError(f"--set {setting}: there is only data here; write task.FIELD=VALUE")
        fields[field] = value
    return make_task(named(name), fields)


@app.command()
def make(
    task: TaskName,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Make this number of examples.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write this file.")],
    seed: Annotated[
        int, typer.Option(help="Draw from this seed: the same seed makes the same file.")
    ] = 42,
    settings: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Make a set of examples with the generator of a task.

    Reads nothing. Writes OUT, compressed if its name ends in .gz or .zst; mazes are written as a
    folder in the format of HRM if OUT has no suffix. An interrupted command leaves no partial file.
    --force replaces a regular file, and never a link, a device or a pipe.

    Example: eqloop data make --task sudoku --rows 1000 --out sudoku.csv.gz
    """
    from .._task import replaceable
    from ..train import check_examples

    built = build(task, settings, seed=seed)
    try:
        replaceable(out)
    except InputError as error:
        raise InputError(f"--out {error}") from None
    if out.exists() and not force:
        raise InputError(f"--out {out}: exists; add --force to replace it")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it first")
    check_examples(rows, built.grid)
    with progress("making") as report:
        split = built.generate(rows, seed, progress=report)
    built.write(split, out)
    bands = {name: int(mask.sum()) for name, mask in built.bands(split).items()}
    if as_json:
        emit({"file": out, "task": task, "rows": len(split), "seed": seed, "bands": bands})
        return
    console().print(f"{out}: {len(split):,} rows")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Read this file.")],
    task: TaskName,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Check every row of a file: whether it is well formed and legal, and its answer right.

    Reads FILE, whatever its name: CSV (separated by commas, semicolons or tabs), JSON lines or
    parquet (pip install pyarrow), plain or compressed by gzip, bzip2, Zstandard or zip.

    Chess needs the columns FEN, Moves and Rating; PuzzleId and Themes are optional. FEN is the
    position before the opponent's move, which is the first of Moves. Sudoku needs the column
    question (or puzzle, quizzes); answer, rating and source are optional. A text file with one
    puzzle per line and a folder in the format of HRM are read too. The program's own solver rates
    puzzles without a rating. Prefix sums need the column question (or input), or one string per
    line; answer is optional. Mazes need the column question (rows of #, ., S and G), or a folder in
    the format of HRM; group words need the column question, or one word per line.

    Writes nothing. Exits with 0 if every row is good, 1 if some rows are bad, 2 if FILE cannot be
    read. Counts sudokus and mazes with several solutions, and symmetric copies.

    Example: eqloop data check lichess_db_puzzle.csv.zst --task chess
    """
    from .._task import Tally

    built = build(task, settings)
    tally = Tally()
    with progress("checking") as report:
        split = built.read(file, on_bad=tally, progress=report)
    good = len(split)
    bands = {name: int(mask.sum()) for name, mask in built.bands(split).items()}
    remarks = {phrase: count for phrase, count in built.remarks(split).items() if count}
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
        counts = f"{file}: {good:,} rows are good, {tally.count:,} are bad"
        console().print(counts, markup=False, soft_wrap=True)
        for phrase, count in remarks.items():
            console().print(f"{count:,} {phrase}", markup=False, soft_wrap=True)
        if bands:
            console().print(table(("band", "rows"), [(k, f"{v:,}") for k, v in bands.items()]))
    if tally.count:
        raise typer.Exit(1)


@app.command()
def show(
    task: TaskName,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Read this file. Without it, an example is generated."
        ),
    ] = None,
    index: Annotated[
        int, typer.Option("--index", "-i", min=0, help="Show the good row of this number, from 0.")
    ] = 0,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Print one example and its answer as a board.

    Reads FILE. Without FILE the examples up to this one are generated. Writes nothing.

    Example: eqloop data show sudoku.csv.gz --task sudoku --index 3
    """
    from .._task import Tally
    from ..train import check_examples

    built = build(task, settings)
    tally = Tally()
    if file is None and index >= MOST_GENERATED:
        raise InputError(
            f"--index {index}: without FILE, all up to that one are generated; at most "
            f"{MOST_GENERATED - 1}"
        )
    with progress("reading") as report:
        if file is None:
            check_examples(index + 1, built.grid)
            split = built.generate(index + 1, built.seed, progress=report)
        else:
            split = built.read(file, on_bad=tally, progress=report)
    bad = f" and {tally.count:,} bad ones, which do not count" if tally.count else ""
    if index >= len(split):
        raise InputError(
            f"--index {index}: {file} has {len(split):,} good rows{bad}; the first is 0"
        )
    if bad:
        notes().print(f"note: {file} has {len(split):,} good rows{bad}", markup=False)
    one = split.take(slice(index, index + 1))
    bands = [name for name, mask in built.bands(one).items() if mask[0]]
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
    out.print(built.render(one), markup=True)
    out.print("answer:")
    out.print(built.render(one, one.targets[0]), markup=True)
    among = f" ({', '.join(bands)})" if bands else ""
    out.print(f"difficulty {one.difficulty[0]:g}{among}", markup=False)
