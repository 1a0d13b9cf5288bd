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
    """A gradient g relative to a reference r; NaN if one of them is zero.

    **Attributes:**

    - `cosine`: `<g, r> / (|g| |r|)`.
    - `ratio`: `|g| / |r|`.

    ```python
    >>> import eqloop
    >>> likeness = eqloop.run.Likeness(cosine=0.8, ratio=0.5)
    >>> round(likeness.cosine * likeness.ratio, 3)  # of g along r, relative to r
    0.4

    ```
    """

    cosine: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The gradient of a set of weights, relative to the two references.

    **Attributes:**

    - `norm`: its 2-norm.
    - `backprop`: its likeness to full backpropagation.
    - `implicit`: its likeness to the converged implicit gradient.

    ```python
    >>> import eqloop
    >>> same, half = eqloop.run.Likeness(1.0, 1.0), eqloop.run.Likeness(0.9, 0.5)
    >>> compared = eqloop.run.Comparison(norm=3.0, backprop=same, implicit=half)
    >>> compared.norm / compared.implicit.ratio  # the norm of the reference
    6.0

    ```
    """

    norm: float
    backprop: Likeness
    implicit: Likeness


@dataclasses.dataclass(frozen=True)
class AuditedGradient:
    """One gradient of the mean loss of the batch: its likeness to the references, and its cost.

    Counts are means over the examples (a batch waits for the slowest example).

    **Attributes:**

    - `total`: the gradient of all weights.
    - `layers`: layer -> the gradient of its weights. A layer is the dotted path of its weights in
        the model (`blocks.0.attention.query`), without their own names.
    - `seconds`: time of loss and gradient, the best of several runs.
    - `compile_seconds`: time of tracing and compiling; only of tracing if another gradient has the
        same program.
    - `evaluations`: number of evaluations of f in the forward pass.
    - `repeated`: number of evaluations of f in the backward pass: one per differentiated iteration
        (two with `Backprop(checkpoints=...)`), and one to linearise f for a backward solve.
    - `products`: number of products with the transposed Jacobian of f: one with respect to state
        and weights per differentiated iteration, and those of the backward solve, with respect to
        the state.
    - `memory`: bytes of scratch memory that XLA reserves for the program, without arguments and
        results (`temp_size_in_bytes`); None if XLA does not report it.
    - `residual`: mean relative residual of the loop.
    - `converged`: share of examples whose loop converged.
    - `backward_residual`: mean relative residual of the backward solve; None without one.
    - `fallback`: share of examples whose backward solution was not used (see `BackwardReport`).

    ```python
    >>> import eqloop
    >>> near = eqloop.run.Likeness(cosine=0.95, ratio=1.1)
    >>> one_step = eqloop.run.AuditedGradient(
    ...     total=eqloop.run.Comparison(3.0, near, near), layers={}, seconds=0.1,
    ...     compile_seconds=2.0, evaluations=30.0, repeated=1.0, products=1.0, memory=None,
    ...     residual=1e-3, converged=0.75, backward_residual=None, fallback=0.0,
    ... )
    >>> one_step.total.implicit.cosine, one_step.evaluations + one_step.repeated
    (0.95, 31.0)

    ```
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
    """The results of `eqloop.gradient_audit`.

    **Attributes:**

    - `examples`: number of examples of the batch.
    - `iterations`: number of iterations of the loop.
    - `rtol`: tolerance of the converged implicit gradient.
    - `max_steps`: maximum number of steps of the converged implicit gradient.
    - `share`: share of the examples for which the converged implicit gradient is a reference: its
        forward and backward solves both reached the tolerance. For the other examples no fixed
        point was found. If the share is 0, the likeness to this reference is NaN.
    - `gradients`: name -> gradient, the two references ("backprop", "implicit-converged") first.
    - `seconds`: time of the whole audit, with compilation.

    ```python
    >>> import eqloop
    >>> audit = eqloop.run.GradientAudit(
    ...     examples=16, iterations=30, rtol=1e-5, max_steps=256, share=0.75, gradients={},
    ...     seconds=2.0,
    ... )
    >>> f"{audit.share * audit.examples:.0f} of {audit.examples} loops converged"
    '12 of 16 loops converged'

    ```
    """

    examples: int
    iterations: int
    rtol: float
    max_steps: int
    share: float
    gradients: Mapping[str, AuditedGradient]
    seconds: float

    def tables(self) -> dict[str, Any]:
        """The audit as nested tables of plain values; NaN becomes None."""
        return to_table(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientsRecord:
    """`gradients.json`.

    **Attributes:**

    - `task`, `split`, `step`: names of the task and of the split, and the step of the checkpoint.
    - `audit`: the comparison.
    - `objects`: name of a gradient -> the object as text, with the SHA-256 of the file of a class
        that was loaded from one. Empty in files of earlier versions.

    ```python
    >>> import eqloop
    >>> audit = eqloop.run.GradientAudit(
    ...     examples=1, iterations=30, rtol=1e-5, max_steps=256, share=1.0, gradients={},
    ...     seconds=2.0,
    ... )
    >>> record = eqloop.run.GradientsRecord(task="sudoku", split="test", step=900, audit=audit)
    >>> record.tables()["iterations"]
    30

    ```
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
    """Write `gradients.json`, in place of an older file.

    **Arguments:**

    - `run`: the run folder, which must exist.
    - `record`: the content.

    **Raises** `InputError` if it cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> audit = eqloop.run.GradientAudit(
    ...     examples=1, iterations=30, rtol=1e-5, max_steps=256, share=1.0, gradients={},
    ...     seconds=2.0,
    ... )
    >>> record = eqloop.run.GradientsRecord(task="sudoku", split="test", step=900, audit=audit)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.save_gradients(pathlib.Path(folder), record)
    ...     eqloop.run.read_gradients(pathlib.Path(folder)) == record
    True

    ```
    """
    write_record(run / GRADIENTS_FILE, record)


def read_gradients(run: Path) -> GradientsRecord | None:
    """Read `gradients.json`.

    **Arguments:**

    - `run`: the run folder.

    **Returns** the record; None if there is no such file.

    **Raises** `InputError` if the file is damaged.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.read_gradients(pathlib.Path(folder)) is None  # not measured yet
    True

    ```
    """
    path, again = run / GRADIENTS_FILE, f"measure it again: eqloop gradients {run}"
    if not path.exists():
        return None
    return read_record(path, lambda table: from_table(GradientsRecord, table), again)
