"""Parts of the drawings of all tasks: the frame, text, and the mark of a wrong cell.

Drawings appear in light and dark pages: the ink is `currentColor`, and other colours are CSS
variables with a fallback. Numbers are short, since a page has some hundred drawings.
"""

from collections.abc import Iterable
from html import escape

WRONG = "var(--wrong,#b3261e)"
"""The colour of a wrong cell in a picture; a page may set it."""
PREDICTED = "var(--predicted,currentColor)"
"""The colour of an answer in a picture; a page may set it."""


def picture(title: str, width: float, height: float, body: Iterable[str]) -> str:
    """Make a self-contained SVG of no fixed size.

    **Arguments:**

    - `title`: the title, which screen readers read.
    - `width`, `height`: size of the drawing, in the units of `body`.
    - `body`: the elements of the drawing.

    **Returns** the text of the SVG.

    ```python
    >>> import eqloop
    >>> svg = eqloop.tasks.picture("One cell", 10, 10, [eqloop.tasks.glyphs("7", [(5, 5)])])
    >>> svg[svg.index("<title>"):]
    '<title>One cell</title><text x="5" y="5">7</text></svg>'

    ```
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def glyphs(text: str, at: Iterable[tuple[float, float]], **attributes: str) -> str:
    """Make one `<text>` element with each character at its point.

    **Arguments:**

    - `text`: the characters.
    - `at`: one point (x, y) per character, in the units of the drawing.
    - `attributes`: attributes of the element; `_` in a name stands for `-`.

    **Returns** the element; "" for an empty text.

    **Raises** `ValueError` if `at` is empty and `text` is not.

    ```python
    >>> import eqloop
    >>> eqloop.tasks.glyphs("01", [(5, 5), (15, 5)], text_anchor="middle")
    '<text x="5 15" y="5" text-anchor="middle">01</text>'

    ```
    """
    if not text:
        return ""
    xs, ys = zip(*at, strict=True)
    # One y suffices if all characters are on one line.
    y = " ".join(f"{y:g}" for y in (ys[:1] if len(set(ys)) == 1 else ys))
    x = " ".join(f"{x:g}" for x in xs)
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x}" y="{y}"{extra}>{escape(text)}</text>'


def struck(cells: Iterable[tuple[float, float]], width: float, height: float) -> str:
    """Mark wrong cells by a box with a diagonal stroke.

    **Arguments:**

    - `cells`: upper left corner (x, y) of each cell, in the units of the drawing.
    - `width`, `height`: size of a cell, in the same units.

    **Returns** one `<path>` element in the colour `WRONG`; "" for no cells.

    ```python
    >>> import eqloop
    >>> eqloop.tasks.struck([(0, 0)], 10, 10).split(" fill")[0]
    '<path d="M0 0h10v10h-10zl10 10"'

    ```
    """
    path = "".join(
        f"M{x:g} {y:g}h{width:g}v{height:g}h{-width:g}zl{width:g} {height:g}" for x, y in cells
    )
    return f'<path d="{path}" fill="none" stroke="{WRONG}" stroke-width="1.2"/>' if path else ""
