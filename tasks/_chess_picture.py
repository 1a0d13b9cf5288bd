"""A chess puzzle as a picture for a page, by `chess.svg` with marks that need no colour."""

import xml.etree.ElementTree as ET

import chess
import chess.svg
import numpy as np

from .._task import Split
from ._chess_moves import ends, marked, move_between, name
from ._chess_rows import Encoding

_SQUARE = chess.svg.SQUARE_SIZE
_BOARD = 8 * _SQUARE
_LEFT, _BELOW = 18, 64
# Light and dark of one hue, so that the marks and the men stand out on both.
_COLOURS = {"square light": "#eee8dc", "square dark": "#b9a78c", "arrow blue": "#0057a0b0"}
_FILL = "#5aa9e6b0"
_ANSWER = "#0b6b3a"


def draw(split: Split, prediction: np.ndarray | None, encoding: Encoding) -> str:
    """The board from the mover's side, in true coordinates.

    An arrow on filled squares is the prediction, a cross a square of it that is wrong; dashed
    squares are those of the answer, where it is known.
    """
    board = chess.Board(split.puzzles[0].decode())
    squares = [] if prediction is None else marked(board, prediction, encoding)
    known = prediction is not None and split.answered[0]
    right = marked(board, split.targets[0], encoding) if known else []
    move = ends(board, squares)
    svg = ET.fromstring(
        chess.svg.board(
            board,
            orientation=board.turn,
            coordinates=False,
            colors=_COLOURS,
            fill=dict.fromkeys(squares, _FILL),
            arrows=[chess.svg.Arrow(*move, color="blue")] if move else [],
            squares=[square for square in squares if known and square not in right],
        )
    )
    _shorten(svg)
    side = "White" if board.turn == chess.WHITE else "Black"
    lines = [f"{side} to move"]
    if prediction is not None:
        lines = [f"predicted: {_told(board, squares)}"]
    if right:
        lines.append(f"answer (dashed): {_told(board, right)}")
    verdict = (" Right." if squares == right else " Wrong.") if known else ""
    ET.SubElement(svg, "g", {"fill": "currentColor", "font-size": "15"}).extend(
        [*_coordinates(board.turn), *_captions(lines)]
    )
    svg.extend(_dashed(square, board.turn) for square in right)
    title = ET.Element("title")
    title.text = f"A chess puzzle, {'; '.join(lines)}.{verdict}"
    svg.insert(0, title)
    svg.set("viewBox", f"{-_LEFT} 0 {_BOARD + _LEFT} {_BOARD + _BELOW}")
    svg.set("role", "img")
    ET.register_namespace("", "http://www.w3.org/2000/svg")
    return ET.tostring(svg, encoding="unicode")


def _told(board: chess.Board, squares: list[int]) -> str:
    """Two squares as a move, or by their names where no legal move joins them."""
    move = move_between(board, squares) if len(squares) == 2 else None
    if move is not None:
        return name(board, move)
    return f"{' and '.join(map(chess.square_name, squares)) or 'nothing'}, no legal move"


def _shorten(svg: ET.Element) -> None:
    """Leave out what only styles or old browsers need: a page holds some hundred boards."""
    for each in svg.iter():
        for attribute in ("class", "{http://www.w3.org/1999/xlink}href"):
            each.attrib.pop(attribute, None)
    for child in list(svg):
        if child.tag.endswith("}desc"):
            svg.remove(child)


def _place(square: int, turn: chess.Color) -> tuple[int, int]:
    """The upper left corner of a square, seen from the side to move."""
    file, rank = chess.square_file(square), chess.square_rank(square)
    column, row = (file, 7 - rank) if turn == chess.WHITE else (7 - file, rank)
    return column * _SQUARE, row * _SQUARE


def _dashed(square: int, turn: chess.Color) -> ET.Element:
    x, y = _place(square, turn)
    side = str(_SQUARE - 5)
    shape = {"x": str(x + 2.5), "y": str(y + 2.5), "width": side, "height": side, "fill": "none"}
    return ET.Element(
        "rect", {**shape, "stroke": _ANSWER, "stroke-width": "4", "stroke-dasharray": "8 4"}
    )


def _coordinates(turn: chess.Color) -> list[ET.Element]:
    found = []
    for number in range(8):
        x, _ = _place(chess.square(number, 0), turn)
        _, y = _place(chess.square(0, number), turn)
        found.append(_text(chess.FILE_NAMES[number], x + _SQUARE / 2, _BOARD + 15))
        found.append(_text(chess.RANK_NAMES[number], -_LEFT / 2, y + _SQUARE / 2 + 5))
    for each in found:
        each.set("text-anchor", "middle")
    return found


def _captions(lines: list[str]) -> list[ET.Element]:
    return [_text(line, 0, _BOARD + 36 + 20 * number) for number, line in enumerate(lines)]


def _text(text: str, x: float, y: float) -> ET.Element:
    found = ET.Element(
        "text", {"x": f"{x:g}", "y": f"{y:g}", "font-family": "system-ui,sans-serif"}
    )
    found.text = text
    return found
