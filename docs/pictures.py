"""The pictures of the pages.

python docs/pictures.py

It writes `sudoku.svg` (a trained loop at work), `recall.svg`, `norms.svg`, `axes.svg` and
`lyapunov.svg` into docs/images, from benchmarks/release and benchmarks/results alone. It needs
`pip install '.[plot]'`. The other pictures there are made by the commands beside them.
"""

import csv
import io
import itertools
import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np

import eqloop
from eqloop.report.figures._style import line_style, new_figure, tidy

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
PUZZLE = "7...........8.9..6.42......27.63.9....4....31...98....6...28.5....7..16..8.3.624."
INK, BLUE, RED, GREY, PALE = "#1b1b1b", "#0072B2", "#D55E00", "#8a8a8a", "#eef3f7"


def svg(width: int, height: int, title: str, body: Iterable[str], style: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="sans-serif">'
        f"<title>{escape(title)}</title><style>text{{fill:{INK}}}{style}</style>"
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(body)}</svg>\n'
    )


def text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", more: str = ""):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" {more}>'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" {more}/>'


# --- the moving picture


SECONDS, PAUSE = 0.3, 12
"""Duration of an iteration, and of the last picture in iterations."""


class Film:
    """Elements that are visible from one iteration to another: one keyframe rule for each pair.
    Where motion is unwelcome, or unknown, only the last iteration is shown."""

    def __init__(self, frames: int):
        self.frames = frames
        self.rules: dict[tuple[int, int], str] = {}

    def during(self, first: int, last: int, element: str) -> str:
        """Show `element` from iteration `first` on and before iteration `last`."""
        begin, end = (100 * frame / (self.frames + PAUSE) for frame in (first, last))
        stays = last == self.frames
        name = f"k{first}-{last}"
        self.rules[first, last] = (
            f"@keyframes {name}{{0%{{opacity:{int(first == 0)}}}"
            + (f"{begin:.2f}%{{opacity:1}}" if first else "")
            + (f"{end:.2f}%{{opacity:0}}" if not stays else "")
            + f"}}.{name}{{opacity:{int(stays)};animation-name:{name}}}"
        )
        return f'<g class="f {name}">{element}</g>'

    def style(self) -> str:
        seconds = SECONDS * (self.frames + PAUSE)
        return (
            "".join(self.rules.values())
            + f".f{{animation-duration:{seconds:g}s;animation-timing-function:step-end;"
            + "animation-iteration-count:infinite}"
            + "@media(prefers-reduced-motion:reduce){.f{animation-name:none!important}}"
        )


def sudoku() -> str:
    """A released model fills in a puzzle: its answer and residual after every iteration."""
    model, task, _ = eqloop.load(ROOT / "benchmarks/release/sudoku")
    puzzle = task.parse(PUZZLE)
    tokens = puzzle.inputs[0]
    traced = eqloop.evaluate.trace(model, task, tokens, iterations=256, rtol=1e-4)
    answers, right = traced.predictions, puzzle.targets[0]
    assert (answers[-1] == right).all()
    frames = traced.changes()[-1] + 6
    film, body, size, left, top = Film(frames), [], 36, 14, 34
    for row, column in np.ndindex(9, 9):
        x, y = left + size * (column + 0.5), top + size * (row + 0.5) + 7
        if tokens[row, column]:
            body.append(text(x, y, str(tokens[row, column]), 20, more='font-weight="bold"'))
            continue
        digits = answers[:frames, row, column]
        starts = [0, *(1 + np.flatnonzero(digits[1:] != digits[:-1])), frames]
        for first, last in itertools.pairwise(starts):
            wrong = digits[first] != right[row, column]
            look = (
                f'style="fill:{RED}" text-decoration="underline"'
                if wrong
                else f'style="fill:{BLUE}"'
            )
            body.append(film.during(first, last, text(x, y, str(digits[first]), 20, more=look)))
    for place in range(10):
        thick = f'stroke-width="{2.2 if place % 3 == 0 else 0.7}"'
        at = size * place
        body += [line(left, top + at, left + 9 * size, top + at, thick)]
        body += [line(left + at, top, left + at, top + 9 * size, thick)]
    body.append(text(left, 22, "black: given; blue: right; red, underlined: wrong", 12, "start"))
    x0, y0, width, height = 420, 60, 300, 232
    levels = np.log10(traced.residuals[:frames])
    xs = x0 + width * np.arange(frames) / (frames - 1)
    ys = y0 + height * levels / -2
    body += [line(x0, y0, x0, y0 + height), line(x0, y0 + height, x0 + width, y0 + height)]
    for power in range(3):
        y = y0 + height * power / 2
        body += [line(x0 - 4, y, x0, y), text(x0 - 8, y + 4, f"{10.0**-power:g}", 11, "end")]
    for step in range(0, frames, 10):
        x = xs[max(step - 1, 0)]
        body += [line(x, y0 + height, x, y0 + height + 4)]
        body += [text(x, y0 + height + 18, str(max(step, 1)), 11)]
    body.append(text(x0 + width / 2, y0 + height + 38, "iteration", 13))
    body.append(text(x0 - 40, y0 - 14, "relative residual |f(z) - z| / |f(z)|", 13, "start"))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    body.append(f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>')
    for frame, (x, y) in enumerate(zip(xs, ys, strict=True)):
        wrong = int((answers[frame] != right).sum())
        words = f"iteration {frame + 1}: {wrong} of {81 - (tokens > 0).sum()} blanks wrong"
        if not wrong:
            words = f"iteration {frame + 1}: solved"
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{RED}"/>'
        body.append(film.during(frame, frame + 1, dot + text(x0, 20, words, 15, "start")))
    title = f"A sudoku of 9x9 cells, solved by a loop after {traced.changes()[-1]} iterations"
    return svg(740, 372, title, body, film.style())


# --- what the paper varies


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = INK) -> str:
    angle = math.atan2(y2 - y1, x2 - x1)
    tip = [(x2 - 8 * math.cos(angle + a), y2 - 8 * math.sin(angle + a)) for a in (-0.4, 0.4)]
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *tip])
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" '
        f'stroke-width="1.5"/><polygon points="{head}" fill="{colour}"/>'
    )


def box(x: float, y: float, words: str, width: float = 62, height: float = 26, fill: str = PALE):
    """A box around the point (x, y)."""
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" '
        f'height="{height:g}" rx="4" fill="{fill}" stroke="{INK}"/>' + text(x, y + 4.5, words, 13)
    )


def plus(x: float, y: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="9" fill="white" stroke="{INK}"/>' + text(
        x, y + 5, "+"
    )


def recall() -> str:
    """Where the input enters one iteration: never, before the block, inside each branch."""
    body = []
    for panel, (name, note) in enumerate(
        [
            ("none", "x acts through z_0 = e alone"),
            ("external", "R(z, e) replaces the state"),
            ("internal", "R(z, e) enters each branch"),
        ]
    ):
        x, branch = 90 + 250 * panel, 182 + 250 * panel
        body += [text(x + 40, 24, name, 16, more='font-weight="bold"'), text(x + 40, 44, note, 12)]
        body += [text(x, 68, "z"), line(x, 74, x, 330), arrow(x, 330, x, 346), text(x, 364, "z'")]
        if name == "external":
            body += [box(x, 96, "R", 34, fill="#fbe3d6"), arrow(x - 56, 96, x - 18, 96, RED)]
            body += [text(x - 66, 101, "e", 14)]
        for at, part in ((140, "attention"), (250, "MLP")):
            body += [line(x, at, branch - 17, at), line(branch, at + 12, branch, at + 26)]
            if name == "internal":
                body += [box(branch, at, "R", 34, fill="#fbe3d6")]
                body += [
                    arrow(branch + 48, at, branch + 18, at, RED),
                    text(branch + 56, at + 5, "e", 14),
                ]
            else:
                body += [line(branch - 17, at, branch, at), line(branch, at, branch, at + 26)]
            body += [box(branch, at + 38, part, 78), line(branch, at + 51, branch, at + 68)]
            body += [arrow(branch, at + 68, x + 10, at + 68), plus(x, at + 68)]
    body.append(
        text(375, 388, "R(z, e) = W_x z + W_h e + b;   the same block in every iteration", 13)
    )
    return svg(760, 402, "Where the three recalls give the input to the loop", body)


def norms() -> str:
    """Where a sub-block normalises."""
    body = []
    places = {"pre": "p", "peri": "pb", "post": "o", "sandwich": "po", "gru": "pbg"}
    for panel, (name, has) in enumerate(places.items()):
        x, branch = 34 + 152 * panel, 100 + 152 * panel
        body += [text(x + 36, 24, name, 16, more='font-weight="bold"'), text(x, 50, "z")]
        body += [line(x, 56, x, 306), arrow(x, 306, x, 322), text(x, 340, "z'")]
        body += [line(x, 70, branch, 70), line(branch, 70, branch, 240)]
        body += [arrow(branch, 240, x + (22 if "g" in has else 10), 240)]
        body += [box(branch, 148, "F", 52)]
        body += [box(branch, 102, "norm", 52, fill="#dcefe6")] if "p" in has else []
        body += [box(branch, 194, "norm", 52, fill="#dcefe6")] if "b" in has else []
        body += [box(x, 240, "GRU", 44, fill="#fbe3d6")] if "g" in has else [plus(x, 240)]
        body += [box(x, 280, "norm", 52, fill="#dcefe6")] if "o" in has else []
    body.append(
        text(375, 366, "F: attention, then the MLP, each with its own pass through this scheme", 13)
    )
    return svg(760, 380, "Where five placements normalise a sub-block", body)


def axes() -> str:
    """Three axes, each on two maps of one number."""
    figure = new_figure(9, 3)
    reach, depend, shape = figure.subplots(1, 3)
    steps = np.arange(40)

    def orbit(f, z):
        states = [z]
        for _ in steps[1:]:
            states.append(f(states[-1]))
        return np.array(states)

    for place, (label, f) in enumerate(
        [
            ("f = 0.8 tanh(z) + 0.5", lambda z: 0.8 * np.tanh(z) + 0.5),
            ("f = -1.6 tanh(z) + 0.5", lambda z: -1.6 * np.tanh(z) + 0.5),
        ]
    ):
        states = orbit(f, 2.0)
        residual = np.abs(np.diff(states)) / np.abs(states[1:])
        reach.semilogy(steps[1:], residual, label=label, **{**line_style(place), "markersize": 3})
    reach.set_ylim(1e-5, 10)
    reach.set(title="Reachability", xlabel="iteration", ylabel="relative residual")
    xs = np.linspace(-3, 3, 301)

    def limits(f, z):
        for _ in range(400):
            z = f(z)
        return z

    depend.plot(
        xs, limits(lambda z: 0.6 * np.tanh(z) + xs / 2, xs), color=line_style(0)["color"],
        label="recall: 0.6 tanh(z) + x / 2",
    )  # fmt: skip
    depend.plot(
        xs, limits(lambda z: z + 0.2 * np.sin(2 * np.pi * z), xs), "--",
        color=line_style(1)["color"], label="none: z + 0.2 sin(2 pi z)",
    )  # fmt: skip
    depend.set(title="Input-dependence", xlabel="input x", ylabel="limit z*")
    for place, slope in enumerate((0.8, 1.1)):
        shape.semilogy(
            steps, slope ** (steps[-1] - steps.astype(float)), label=f"|J| = {slope}",
            **{**line_style(place), "markersize": 3},
        )  # fmt: skip
    shape.set(title="Geometry", xlabel="iteration t", ylabel="|dL/dz_t| / |dL/dz_T|")
    for panel in (reach, depend, shape):
        tidy(panel)
        panel.legend(fontsize=7, frameon=False)
    return save(figure)


def lyapunov() -> str:
    """Extrapolation against stability: 36 models of each task of the small grid of the paper."""
    figure = new_figure(9, 3.2)
    panels = figure.subplots(1, 3)
    for panel, task in zip(panels, ("prefix-sums", "sudoku", "chess"), strict=True):
        path = ROOT / f"benchmarks/results/paper-small-{task}/results.csv"
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["lyapunov_exponent"]]
        for place, recall_name in enumerate(("internal", "external", "none")):
            chosen = [row for row in rows if row["recall"] == recall_name]
            look = line_style(place)
            panel.plot(
                [float(row["lyapunov_exponent"]) for row in chosen],
                [100 * float(row["hard_last"]) for row in chosen],
                look["marker"], color=look["color"], markersize=4, label=recall_name,
            )  # fmt: skip
        panel.set(title=f"{task}, {len(rows)} models", xlabel="leading Lyapunov exponent")
        tidy(panel)
    panels[0].set_ylabel("hard examples solved, %")
    panels[0].legend(title="recall", fontsize=8, frameon=False)
    return save(figure)


def save(figure) -> str:
    """The figure as SVG, the same text for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "eqloop", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for picture in (sudoku, recall, norms, axes, lyapunov):
        path = IMAGES / f"{picture.__name__}.svg"
        path.write_text(picture(), "utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
