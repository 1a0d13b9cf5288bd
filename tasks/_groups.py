"""Finite groups of permutations, with names for their elements and a table of their products."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from .._errors import InputError

Permutation = tuple[int, ...]

FAMILIES = "Z2 to Z120 (cyclic), D3 to D60 (dihedral), S3 to S5 (symmetric), A3 to A5 (alternating)"


@dataclasses.dataclass(frozen=True)
class Group:
    """A finite group. Element 0 is the identity.

    **Attributes:**

    - `names`: the name of each element, as texts and pictures have it: for Z_n the number k of the
      rotation by k; for D_n `rk` for that rotation and `sk` for the reflection `x -> k - x`; for
      S_n and A_n the images of 1, 2, ..., so that 213 exchanges 1 and 2.
    - `table`: `table[a, b]` is the product ab, that is first a, then b; uint8, (order, order).
    - `generators`: elements that generate the group.
    """

    names: tuple[str, ...]
    table: np.ndarray
    generators: tuple[int, ...]

    @property
    def order(self) -> int:
        return len(self.names)


@functools.cache
def group(name: str) -> Group:
    """The group of a name such as `S3`. **Raises** `InputError` for any other name."""
    match = re.fullmatch(r"([ZDSA])([1-9]\d{0,2})", name)
    family, points = (match[1], int(match[2])) if match else ("", 0)
    # At most 120 elements: a token of one byte is an element, or one that begins a further word.
    least, most = {"Z": (2, 120), "D": (3, 60), "S": (3, 5), "A": (3, 5)}.get(family, (1, 0))
    if not least <= points <= most:
        raise InputError(f"task.group={name!r}: must be one of {FAMILIES}")
    cycle = tuple((x + 1) % points for x in range(points))
    if family == "Z":
        elements = [tuple((x + k) % points for x in range(points)) for k in range(points)]
        return _of(elements, [str(k) for k in range(points)], [cycle])
    if family == "D":
        rotations = [tuple((x + k) % points for x in range(points)) for k in range(points)]
        reflections = [tuple((k - x) % points for x in range(points)) for k in range(points)]
        names = [f"{letter}{k}" for letter in "rs" for k in range(points)]
        return _of(rotations + reflections, names, [cycle, reflections[0]])
    elements = [p for p in itertools.permutations(range(points)) if family == "S" or is_even(p)]
    names = ["".join(str(image + 1) for image in p) for p in elements]
    rest = tuple(range(points))
    if family == "S":
        return _of(elements, names, [(1, 0, *rest[2:]), cycle])
    three = (1, 2, 0, *rest[3:])
    # A cycle of an even number of points is odd: leave out the first point.
    long = cycle if points % 2 else (0, *(x % (points - 1) + 1 for x in rest[1:]))
    return _of(elements, names, [three] if points == 3 else [three, long])


def _of(
    elements: Sequence[Permutation], names: Sequence[str], generators: Sequence[Permutation]
) -> Group:
    numbers = {element: number for number, element in enumerate(elements)}
    table = [[numbers[product(a, b)] for b in elements] for a in elements]
    return Group(
        tuple(names), np.array(table, np.uint8), tuple(numbers[element] for element in generators)
    )


def product(a: Permutation, b: Permutation) -> Permutation:
    """First a, then b."""
    return tuple(b[x] for x in a)


def is_even(p: Permutation) -> bool:
    return sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0
