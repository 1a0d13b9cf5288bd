"""Draw a chess puzzle with `chess.svg`, with marks that work without colour."""

import xml.etree.ElementTree as ET

import chess
import chess.svg
import numpy as np

from .._task import Split
from ._chess_moves import from_and_to, marked, move_between, name
from ._chess_rows import Encoding

_SQUARE = chess.svg.SQUARE_SIZE
_BOARD = 8 * _SQUARE
_LEFT, _BELOW = 18, 64
# Two shades of one hue, so that marks and pieces stand out on both.
_COLOURS = {"square light": "#eee8dc", "square dark": "#b9a78c", "arrow blue": "#0057a0b0"}
_FILL = "#5aa9e6b0"
_ANSWER = "#0b6b3a"


def draw(split: Split, prediction: np.ndarray | None, encoding: Encoding) -> str:
    """The board from the mover's side, in true coordinates.

    An arrow on filled squares shows the prediction, a cross marks a wrong square of it, and dashed
    squares show the answer if it is known.
    """
    board = chess.Board(split.puzzles[0].decode())
    squares = [] if prediction is None else marked(board, prediction, encoding)
    has_answer = prediction is not None and split.answered[0]
    right = marked(board, split.targets[0], encoding) if has_answer else []
    move = from_and_to(board, squares)
    svg = ET.fromstring(
        chess.svg.board(
            board,
            orientation=board.turn,
            coordinates=False,
            colors=_COLOURS,
            fill=dict.fromkeys(squares, _FILL),
            arrows=[chess.svg.Arrow(*move, color="blue")] if move else [],
            squares=[square for square in squares if has_answer and square not in right],
        )
    )
    _shorten(svg)
    side = "White" if board.turn == chess.WHITE else "Black"
    lines = [f"{side} to move"]
    if prediction is not None:
        lines = [f"predicted: {_move_text(board, squares)}"]
    if right:
        lines.append(f"answer (dashed): {_move_text(board, right)}")
    verdict = (" Right." if squares == right else " Wrong.") if has_answer else ""
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


def _move_text(board: chess.Board, squares: list[int]) -> str:
    """Two squares as a move, or their names if no legal move joins them."""
    move = move_between(board, squares) if len(squares) == 2 else None
    if move is not None:
        return name(board, move)
    return f"{' and '.join(map(chess.square_name, squares)) or 'nothing'}, no legal move"


def _shorten(svg: ET.Element) -> None:
    """Remove attributes for styles and old browsers, since a page has some hundred boards."""
    for element in svg.iter():
        for attribute in ("class", "{http://www.w3.org/1999/xlink}href"):
            element.attrib.pop(attribute, None)
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
    labels = []
    for number in range(8):
        x, _ = _place(chess.square(number, 0), turn)
        _, y = _place(chess.square(0, number), turn)
        labels.append(_text(chess.FILE_NAMES[number], x + _SQUARE / 2, _BOARD + 15))
        labels.append(_text(chess.RANK_NAMES[number], -_LEFT / 2, y + _SQUARE / 2 + 5))
    for label in labels:
        label.set("text-anchor", "middle")
    return labels


def _captions(lines: list[str]) -> list[ET.Element]:
    return [_text(line, 0, _BOARD + 36 + 20 * number) for number, line in enumerate(lines)]


def _text(text: str, x: float, y: float) -> ET.Element:
    element = ET.Element(
        "text", {"x": f"{x:g}", "y": f"{y:g}", "font-family": "system-ui,sans-serif"}
    )
    element.text = text
    return element
