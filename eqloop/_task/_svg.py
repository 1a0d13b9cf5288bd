"""Parts of the drawings of all tasks: the frame, text, and the mark of a wrong cell.

Drawings appear in light and dark pages: the ink is `currentColor`, and other colours are CSS
variables with a fallback. Numbers are short, since a page has some hundred drawings.
"""

from collections.abc import Iterable
from html import escape

WRONG = "var(--wrong,#b3261e)"
PREDICTED = "var(--predicted,currentColor)"


def picture(title: str, width: float, height: float, body: Iterable[str]) -> str:
    """A self-contained SVG of no fixed size; screen readers read `title`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def glyphs(text: str, at: Iterable[tuple[float, float]], **attributes: str) -> str:
    """One `<text>` element with each character centred at its point in `at`."""
    if not text:
        return ""
    xs, ys = zip(*at, strict=True)
    # One y suffices if all characters are on one line.
    y = " ".join(f"{y:g}" for y in (ys[:1] if len(set(ys)) == 1 else ys))
    x = " ".join(f"{x:g}" for x in xs)
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x}" y="{y}"{extra}>{escape(text)}</text>'


def struck(cells: Iterable[tuple[float, float]], width: float, height: float) -> str:
    """Mark wrong cells, given by their upper left corners, by a box with a diagonal stroke."""
    path = "".join(
        f"M{x:g} {y:g}h{width:g}v{height:g}h{-width:g}zl{width:g} {height:g}" for x, y in cells
    )
    return f'<path d="{path}" fill="none" stroke="{WRONG}" stroke-width="1.2"/>' if path else ""
