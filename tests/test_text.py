"""Text from files is only ever text, in every output that contains it. `HOSTILE` lists texts that
may be a theme, a folder, a cell of a sweep or an error that quotes a file, and that the format of
an output would interpret."""

import csv
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_example import an_evaluation, end_cell, fail_cell, rising, write_sweep

from eqloop._text import one_line, printable
from eqloop.cli._console import SafeConsole
from eqloop.cli._encoding import ERRORS
from eqloop.cli._output import table
from eqloop.report import accuracy_figure, read_results, write_results
from eqloop.report._escape import csv_value, figure_text, html_text, latex_text, markdown_text

HOSTILE = {
    "[/bold] x": "closes a tag of Rich that was never opened",
    "[link=file:///etc/passwd]x[/link]": "markup of Rich",
    "\x1b[31mred\x1b]0;title\x07": "commands of a terminal",
    "\x9b31m\x7f": "the same in one byte, and DEL",
    "a\rb\x08c": "overwrites a line",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe": "reversed",
    "\udcff": "half of a character: a file name that is not UTF-8",
    "a\nb\r\nc": "several lines",
    "| a | `b` *c* [d](e) <i> & \\| _f_": "Markdown",
    "=1+1": "a formula",
    "@sum": "a formula",
    "-1+1": "a formula",
    "%$#_{}~^\\input{x}": "LaTeX",
    "<script>alert(1)</script>\"'": "HTML",
    "$\\frac{": "mathematics of matplotlib",
    "_hidden": "no line of a legend, for matplotlib",
    ":smile:": "an emoji of Rich",
}
PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")

hostile = pytest.mark.parametrize("text", HOSTILE, ids=[ascii(text) for text in HOSTILE])


def test_printable_shows_what_is_not_seen():
    assert printable("a\x1b[0m\x9b\u202e\udcff\x00") == r"a\x1b[0m\x9b\u202e\udcff\x00"
    assert printable("é ± 漢\n\t\N{NO-BREAK SPACE}x") == "é ± 漢\n\t\N{NO-BREAK SPACE}x"
    assert one_line(" a\r\n\tb\x1b ") == r"a b\x1b"


# --- the terminal


def printed(text: object, encoding: str = "utf-8", **options) -> str:
    raw = io.BytesIO()
    out = SafeConsole()
    # Strict: a character that the encoding lacks would raise.
    out.file = io.TextIOWrapper(raw, encoding)
    out.print(text, soft_wrap=True, **options)
    out.file.flush()
    return raw.getvalue().decode(encoding)


@hostile
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_console_prints_text_as_it_is(text, encoding):
    output = printed(text, encoding)
    assert not CONTROL.search(output)
    if text.isascii() and text.isprintable():
        assert output == f"{text}\n"
    cells = printed(table(("name", text), [(text, "1")]), encoding).splitlines()
    assert [line.split()[0] for line in cells] == ["name", one_line(text).split()[0]]
    assert not CONTROL.search("\n".join(cells))


def test_a_board_has_markup():
    assert printed("[bold]7[/] \x1b[", markup=True) == "7 \\x1b[\n"


@pytest.mark.parametrize("name", ["markup", "escape"])
@pytest.mark.parametrize("command", ["check", "show"])
def test_themes_of_chess(name, command, shared, cli):
    """The two files are from a collection that outsiders made."""
    path = shared / "data" / "faults" / f"chess-theme-{name}.csv"
    code, out, err = cli("data", command, path, "--task", "chess")
    assert (code, err) == (0, "")
    assert {"markup": "theme:[/bold]", "escape": r"theme:\x1b[31mfork"}[name] in out
    assert not CONTROL.search(out)


def test_an_error_that_quotes_a_file_is_one_plain_line(cli, tmp_path):
    path = tmp_path / "a\x1b[31m\n[bold]b.csv"
    code, out, err = cli("data", "check", path, "--task", "chess")
    assert (code, out) == (2, "")
    assert err == (f"error: {tmp_path}/a\\x1b[31m [bold]b.csv: no such file; check the path\n")
    path.write_text("question\n\x1b]0;x\x07\n")
    code, out, err = cli("data", "check", path, "--task", "prefix-sums")
    assert code == 1
    assert not CONTROL.search(out + err)


# --- ASCII


def test_ascii_has_readable_substitutes():
    assert "ρ ± 3 – “é”".encode("ascii", ERRORS) == rb"rho +/- 3 - \u201c\xe9\u201d"
    assert "\udcff".encode("utf-8", ERRORS) == rb"\udcff"


def test_commands_on_a_terminal_of_ascii(tmp_path):
    """The streams of the process are ASCII from the start."""
    name = str(tmp_path / "é±.csv")
    Path(name).write_text(f"source,question,answer,rating\na,{PUZZLE},{ANSWER},0\n")
    commands = [
        ["--help"],
        *([command, "--help"] for command in ("train", "eval", "stability", "sweep", "report")),
        ["data", "check", name, "-t", "sudoku"],
        ["data", "show", name, "-t", "sudoku"],
        ["data", "show", name, "-t", "sudoku", "--json"],
        ["data", "check", f"{name}.gz", "-t", "sudoku"],
        ["report", name],
    ]
    program = (
        "import json, sys; from eqloop.cli import main\n"
        "print([main(command) for command in json.loads(sys.argv[1])])"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C"},
    )
    out, err = completed.stdout.decode("ascii"), completed.stderr.decode("ascii")
    assert out.splitlines()[-1] == str([0] * 9 + [2, 2]), err
    assert "+---------+---------+---------+" in out
    assert r"\xe9+/-.csv: 1 rows" in out
    assert err.count("error: ") == 2
    assert "Traceback" not in err


# --- the files of a report


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, str]:
    """A report on a sweep in a folder with a hostile name, whose axis, bands and errors are the
    texts; returns the text of each file by name."""
    sweep = tmp_path_factory.mktemp("sweeps") / "a\n\\input{x}\x1b[31m\udcff|$x_"
    write_sweep(sweep, "hostile", ["kind"], [])
    listed = [{"name": f"cell-{n}", "axes": {"kind": text}} for n, text in enumerate(HOSTILE)]
    listed += [{"name": f"fail-{n}", "axes": {"kind": text}} for n, text in enumerate(HOSTILE)]
    cells = {"format": 1, "name": "hostile", "axes": ["kind"], "cells": listed}
    (sweep / "cells.json").write_text(json.dumps(cells))
    bands = {text: rising(0.5) for text in HOSTILE}
    for number, text in enumerate(HOSTILE):
        scores = an_evaluation(rising(0.5), bands)
        end_cell(sweep, {"cell": number}, test=scores, hard=scores)
        fail_cell(sweep, {"fail": number}, text)
    folder = tmp_path_factory.mktemp("report")
    paths = write_results(read_results([sweep]), folder)
    assert {"report.html", "accuracy.png"} <= {path.name for path in paths}
    texts = [path for path in paths if path.suffix != ".png"]
    return {path.name: path.read_text("utf-8") for path in texts}


def test_no_file_of_a_report_commands_a_terminal(written):
    for name, text in written.items():
        assert not CONTROL.search(text), name


def test_csv_holds_no_formula(written):
    """Text that looks like a formula has an apostrophe before it; a negative number is a number."""
    rows = list(csv.DictReader(io.StringIO(written["results.csv"])))
    assert len(rows) == 2 * len(HOSTILE)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in tuple("=+-@")]
    kinds = [row["kind"] for row in rows[: len(HOSTILE)]]
    assert {"'=1+1", "'@sum", "'-1+1", "[/bold] x", ":smile:"} <= set(kinds)
    assert csv_value(-1.5) == -1.5
    assert csv_value("\t=1") == "'\t=1"


def test_markdown_keeps_to_its_cell(written):
    """Every row of a table has as many cells as the line below its header."""
    text = written["results.md"]
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 4
    for rows in tables:
        for row in rows:
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == rows[1].count("|"), row
    assert all(f"| {markdown_text(value)} |" in text for value in HOSTILE)


def test_markdown_escapes_what_it_reads_as_marks():
    assert markdown_text("`a` *b* [c](d) _e_ f_g $h$ ~i~ \\| &lt;") == (
        r"\`a\` \*b\* \[c\](d) \_e\_ f_g \$h\$ \~i\~ \\\| &amp;lt;"
    )


@hostile
def test_latex_prints_text(text, written):
    tex = written["results.tex"]
    assert latex_text(text) in tex
    # No line break ends the comment that names the folder.
    comment, blank = tex.splitlines()[:2]
    assert comment.startswith("% Results of ")
    assert (comment.endswith("Needs \\usepackage{booktabs}."), blank) == (True, "")
    assert "\\input" not in tex.replace(comment, "")
    for sign in "&%$#_":
        bare = re.findall(rf"(?<!\\)[{sign}]", latex_text(text).replace(r"$\pm$", ""))
        assert not bare


@hostile
def test_pages_escape_text(text, written):
    assert "<script" not in written["report.html"]
    assert html_text(text) in written["report.html"]
    assert html.unescape(html_text(text)) == printable(text)


def test_figures_draw_text_as_it_is():
    """Each text has its line in the legend, and none is parsed as mathematics (which may fail)."""
    curves = {text: [0.1 * number] for number, text in enumerate(HOSTILE)}
    figure = accuracy_figure(curves, [1], title="$\\frac{ \x1b_")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.legends[0].get_texts()]
    assert labels == [figure_text(text) for text in HOSTILE]


# --- no other way out


def test_all_output_of_commands_goes_through_one_place():
    """Only `_output`, `_console` and the entry point use `print` and Rich's own consoles; their
    texts go through `printable` or JSON."""
    root = Path(__file__).resolve().parents[1]
    bare = re.compile(r"(?<![.\w])print\(|typer\.echo|(?<!Safe)Console\(|sys\.std(out|err)\.write")
    calls = [
        f"{path.relative_to(root)}: {match[0]}"
        for folder in ("cli", "eqloop", "tasks")
        for path in sorted((root / folder).rglob("*.py"))
        if not any(parent.is_symlink() for parent in path.parents)
        for match in bare.finditer(re.sub(r'"""(?s:.*?)"""', "", path.read_text("utf-8")))
    ]
    assert calls == [
        "cli/_main.py: print(",  # the version
        "cli/_main.py: print(",  # help
        "cli/_main.py: print(",  # an error, through one_line
        "cli/_output.py: print(",  # JSON, in ASCII
        "eqloop/train/_loop.py: Console(",  # a console that prints nothing
    ]
