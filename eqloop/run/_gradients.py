"""`gradients.json`: gradients of the same weights, compared.

`eqloop.audit` makes these objects; their fields are the keys of the file.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._schema import FLAT, from_table, to_table
from ._record import read_record, write_record

GRADIENTS_FILE = "gradients.json"


@dataclasses.dataclass(frozen=True)
class Likeness:
    """A gradient g against a reference r; NaN where one of them is zero.

    **Attributes:**

    - `cosine`: `<g, r> / (|g| |r|)`.
    - `ratio`: `|g| / |r|`.
    """

    cosine: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The gradient of some of the weights: its norm, and how it lies to the two references."""

    norm: float
    backprop: Likeness
    implicit: Likeness


@dataclasses.dataclass(frozen=True)
class AuditedGradient:
    """One gradient of the mean loss of the batch: what it is like, and what it costs.

    Counts are means over the examples (a batch waits for the slowest of them).

    **Attributes:**

    - `total`, `layers`: of all weights, and of those of each layer: a layer is the dotted path of
        its weights in the model (`blocks.0.attention.query`), without their own names.
    - `seconds`: of loss and gradient, the best of some runs; `compile_seconds`: tracing and
        compiling, once; only tracing, where another gradient's program is the same.
    - `evaluations`: of f going forwards.
    - `repeated`: evaluations of f once more going backwards: one for each iteration that is gone
        back through (two with `Backprop(checkpoints=...)`), and one to linearise f for a solve.
    - `products`: with the transposed Jacobian of f. Each of an iteration that is gone back through
        is one with respect to state and weights; the others, of a solve, to the state alone.
    - `memory`: bytes of scratch memory that XLA sets aside for the program, its peak apart from
        arguments and results (`temp_size_in_bytes`), or None where it does not say.
    - `residual`: of the loop, the mean; `converged`: share of examples whose solve did.
    - `backward_residual`: of the backward solve, the mean, or None where there is none;
        `fallback`: share of examples whose solution was not used (see `BackwardReport`).
    """

    total: Comparison
    layers: Mapping[str, Comparison]
    seconds: float
    compile_seconds: float
    evaluations: float
    repeated: float
    products: float
    memory: int | None
    residual: float
    converged: float
    backward_residual: float | None
    fallback: float


@dataclasses.dataclass(frozen=True)
class GradientAudit:
    """The result of `eqloop.gradient_audit`.

    **Attributes:**

    - `examples`, `iterations`: of the batch, and of the loop.
    - `rtol`, `max_steps`: tolerance and most steps of the converged implicit gradient.
    - `share`: share of the examples in which that one is what it is called: both its solves, of
        the loop and backwards, reached the tolerance. In the others there is no fixed point to
        differentiate (or none was found), and what it holds is not a reference; where there are
        no examples left, likeness to it is NaN.
    - `gradients`: by name, the two references ("backprop", "implicit-converged") first.
    - `seconds`: of the whole audit, compiling included.
    """

    examples: int
    iterations: int
    rtol: float
    max_steps: int
    share: float
    gradients: Mapping[str, AuditedGradient]
    seconds: float

    def tables(self) -> dict[str, Any]:
        """The attributes as nested plain values, NaN as None."""
        return to_table(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientsRecord:
    """`gradients.json`.

    **Attributes:**

    - `task`, `split`, `step`: names of the task and of the split, and the step of the checkpoint.
    - `audit`: the comparison.
    - `objects`: name of a gradient -> the object as text, with the SHA-256 of the file of a class
        that was loaded from one. Empty in files of earlier versions.
    """

    task: str
    split: str
    step: int
    audit: GradientAudit = dataclasses.field(metadata=FLAT)
    objects: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tables(self) -> dict[str, Any]:
        """The content of the file."""
        return to_table(self)


def save_gradients(run: Path, record: GradientsRecord) -> None:
    """Write `gradients.json`. **Raises** `InputError` if it cannot be written."""
    write_record(run / GRADIENTS_FILE, record)


def read_gradients(run: Path) -> GradientsRecord | None:
    """Read `gradients.json`; None if there is none. **Raises** `InputError` if it is damaged."""
    path, again = run / GRADIENTS_FILE, f"measure it again: eqloop gradients {run}"
    if not path.exists():
        return None
    return read_record(path, lambda table: from_table(GradientsRecord, table), again)
