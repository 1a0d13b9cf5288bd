"""What a run is: the resolved spec, its checks, and its one readable form (`spec.toml`)."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w

from .._errors import InputError
from .._fields import build, check_storable, nearest, quoted
from .._tables import parse_toml, read_text

SPEC_FORMAT = 1
"""Version of `spec.toml`; raised when an old file can no longer be read as it stands."""


def _check(ok: bool, field: str, value: object, wanted: str) -> None:
    if not ok:
        raise InputError(f"{field} must be {wanted}, got {quoted(value)}")


MOST = 2**31 - 1
"""Of what is counted: the programs count in 32 bits."""
_MOST_BLOCKS = 1000  # each is traced and compiled by itself
_MOST_EPOCHS = 100_000  # where each of them begins is a constant of the program


def _check_counts(group: str, table: object, least: Mapping[int, tuple[str, ...]]) -> None:
    """Whole numbers: their least value -> the names of the fields."""
    for bound, names in least.items():
        for name in names:
            value = getattr(table, name)
            _check(value >= bound, f"{group}.{name}", value, f"at least {bound}")
            _check(value <= MOST, f"{group}.{name}", value, f"at most {MOST}")


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The `[model]` table: `eqloop.LoopedTransformer` as text.

    **Attributes:**

    - `width`: features of the state in each cell; a multiple of 2 x axes of the grid x `heads`.
    - `heads`: heads of the attention.
    - `recall`: how the input enters every iteration; see `eqloop.nn.Recall`.
    - `norm`: where the block normalises; see `eqloop.nn.NormPlacement`.
    - `residual`: how a branch joins the state: by a sum or by a gated unit (GRU).
    - `mlp_ratio`: hidden features of the multilayer perceptron, in units of `width`.
    - `attention`: `"full"`, a window in cells, or `"task"` for the task's own default (resolved
      before it is stored).
    - `precision`: the dtype of the computation; parameters are always float32.
    - `blocks`: distinct blocks in one iteration. With `blocks = 15`, `recall = "none"`,
      `solver.steps = 1` and `train.loss = "last"` it is the untied baseline of fixed depth.
    - `grid`, `channels`, `classes`: filled in from the task, so that a stored spec rebuilds the
      model without it.
    """

    width: int = 256
    heads: int = 8
    recall: Literal["none", "external", "internal"] = "internal"
    norm: Literal["pre", "peri", "post", "sandwich"] = "post"
    residual: Literal["add", "gru"] = "add"
    blocks: int = 1
    mlp_ratio: int = 4
    attention: int | Literal["task", "full"] = "task"
    precision: Literal["float32", "bfloat16"] = "float32"
    grid: tuple[int, ...] = ()
    channels: int = 0
    classes: int = 0

    def __post_init__(self) -> None:
        _check_counts("model", self, {1: ("width", "heads", "blocks", "mlp_ratio")})
        _check(self.blocks <= _MOST_BLOCKS, "model.blocks", self.blocks, f"at most {_MOST_BLOCKS}")
        # Rotary positions turn pairs of channels of each head, along each axis.
        pairs = 2 * max(len(self.grid), 1)
        _check(
            self.width % (pairs * self.heads) == 0,
            "model.width",
            self.width,
            f"a multiple of {pairs} x model.heads = {pairs * self.heads}",
        )
        if isinstance(self.attention, int):
            _check(
                self.attention >= 1 and self.attention % 2 == 1,
                "model.attention",
                self.attention,
                '"full" or an odd window',
            )
            if self.grid and min(self.grid) < self.attention:
                raise InputError(
                    f"model.attention = {self.attention} is wider than the task's grid of "
                    f'{" x ".join(map(str, self.grid))} cells: set model.attention = "task"'
                )


@dataclasses.dataclass(frozen=True)
class SolverSpec:
    """The `[solver]` table: how the loop is run in training, and how it is differentiated.

    **Attributes:**

    - `name`: the solver that runs the loop in training.
    - `gradient`: how the loop is differentiated in training.
    - `steps`: iterations of `unroll` (and the largest number that the progressive loss draws).
    - `rtol`, `atol`: tolerance of the other solvers; `rtol` is also the relative residual below
      which an example counts as converged in the training log.
    - `norm`: of the residual: `"two"`, of the whole state, or `"largest-cell"`.
    - `max_steps`: steps after which a solver that has not converged gives up (and says so).
    - `damping`, `patience`: of `fixed-point`: `z <- (1 - damping) f(z) + damping z`, once the
      residual has not fallen for `patience` steps; `damping` is also that of `anderson`.
    - `memory`: differences that `anderson` keeps, terms that `broyden` keeps.
    - `gradient_steps`: iterations that `truncated` and `phantom` differentiate, terms of `neumann`.
    - `gradient_damping`: of `phantom`.
    - `gradient_checkpoints`: states that `backprop` of `unroll` keeps, with the losses `"last"` and
      `"progressive"`; 0 for one per iteration.
    - `gradient_solver`: of the linear system of `implicit`: `"gmres"`, or `"anderson"` on the
      adjoint system.
    - `gradient_rtol`, `gradient_restart`, `gradient_cycles`: of that solve: its relative tolerance,
      vector-Jacobian products per cycle (the memory of `"anderson"`), cycles at most.
    """

    name: Literal[
        "unroll", "fixed-point", "anderson", "broyden", "newton", "chord", "steady-state"
    ] = "unroll"
    gradient: Literal["backprop", "truncated", "one-step", "phantom", "neumann", "implicit"] = (
        "backprop"
    )
    steps: int = 30
    rtol: float = 1e-3
    atol: float = 0.0
    norm: Literal["two", "largest-cell"] = "two"
    max_steps: int = 64
    damping: float = 0.0
    patience: int = 0
    memory: int = 5
    gradient_steps: int = 6
    gradient_damping: float = 0.5
    gradient_checkpoints: int = 0
    gradient_solver: Literal["gmres", "anderson"] = "gmres"
    gradient_rtol: float = 1e-3
    gradient_restart: int = 10
    gradient_cycles: int = 10

    def __post_init__(self) -> None:
        least = {
            1: (
                "steps",
                "max_steps",
                "memory",
                "gradient_steps",
                "gradient_restart",
                "gradient_cycles",
            ),
            0: ("patience", "gradient_checkpoints"),
        }
        _check_counts("solver", self, least)
        for name in ("rtol", "gradient_rtol"):
            value = getattr(self, name)
            _check(_positive(value) and value < 1, f"solver.{name}", value, "between 0 and 1")
        _check(math.isfinite(self.atol) and self.atol >= 0, "solver.atol", self.atol, "at least 0")
        for name in ("damping", "gradient_damping"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"solver.{name}", value, "in [0, 1)")
        if self.gradient == "backprop" and self.name in ("newton", "chord"):
            raise InputError(
                f'solver.gradient = "backprop" cannot follow the steps of solver.name = '
                f'{self.name!r}: use "implicit", "phantom" or "neumann"'
            )

    @property
    def converges(self) -> bool:
        """Whether the solver stops by itself, at a fixed point."""
        return self.name != "unroll"


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The `[train]` table: optimiser, schedule, loss and what is written when.

    **Attributes:**

    - `steps`: optimiser steps in all.
    - `batch`: examples per step, over all devices.
    - `lr`: the full learning rate of AdamW, which the schedule scales.
    - `betas`: decay rates of the two moments of AdamW.
    - `eps`: term added to the denominator of AdamW.
    - `weight_decay`: decoupled decay of AdamW; biases and norm gains are not decayed.
    - `seed`: seed of the initial weights, the order of the examples, and their augmentation.
    - `clip`: largest global norm of the gradient; 0 for none.
    - `schedule`: `"paper"` (see `epochs`), `"warmup-cosine"` or `"constant"`.
    - `epochs`: the paper's schedule in units of `steps / epochs`: factor `1 - exp(-(epoch + 1) /
      10)` in the first tenth, then 1, and 0.1 of it from `0.6 epochs` on.
    - `warmup`: optimiser steps of linear warm-up of `"warmup-cosine"`.
    - `loss`: `"progressive"` (the paper's), `"mean"` over all iterations, or `"last"`.
    - `burn_in`: with `"mean"`: up to this many iterations, drawn anew at every step, run without
      gradient before the `solver.steps` that count.
    - `ema`: decay of the averaged weights that are validated and evaluated; 0 for none.
    - `validation_split`, `validation_rows`, `validation_iterations`: what the best checkpoint is
      chosen on: most examples solved whole, then most cells right, then the earliest. Its name
      starts with `validation`: never a test set. 0 rows: all of them. The loop is then iterated
      plainly, whatever the solver; 0 iterations: as many as training takes at most.
    - `log_every`: optimiser steps between two lines of the log.
    - `validate_every`: optimiser steps between two validations.
    - `checkpoint_every`: optimiser steps between two checkpoints of the whole state.
    - `keep`: the number of latest checkpoints that stay; the best one stays as well.
    - `tracker`: a program that receives the log too.
    - `audit_every`: every so many steps a few gradients of the weights in training are held against
      full backpropagation and the converged implicit gradient on 16 validation examples (see
      `eqloop.gradient_audit`), and logged with `kind = "gradients"`; 0 for never. Training itself
      goes on as if they were not.
    """

    steps: int = 8000
    batch: int = 500
    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    schedule: Literal["paper", "warmup-cosine", "constant"] = "paper"
    epochs: int = 100
    warmup: int = 100
    loss: Literal["progressive", "mean", "last"] = "progressive"
    burn_in: int = 0
    ema: float = 0.0
    seed: int = 0
    log_every: int = 1
    validate_every: int = 500
    validation_split: str = "validation"
    validation_rows: int = 1000
    validation_iterations: int = 0
    checkpoint_every: int = 500
    keep: int = 3
    audit_every: int = 0
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        least = {
            1: ("steps", "batch", "epochs", "log_every", "validate_every", "checkpoint_every"),
            0: (
                "warmup",
                "burn_in",
                "validation_rows",
                "validation_iterations",
                "audit_every",
            ),
            # The one before the last is what a damaged last checkpoint is replaced by.
            2: ("keep",),
        }
        _check_counts("train", self, least)
        _check(self.epochs <= _MOST_EPOCHS, "train.epochs", self.epochs, f"at most {_MOST_EPOCHS}")
        _check(self.seed >= 0, "train.seed", self.seed, "at least 0")
        _check(self.seed < 2**32, "train.seed", self.seed, "below 2**32")
        _check(_positive(self.lr), "train.lr", self.lr, "above 0")
        _check(_positive(self.eps), "train.eps", self.eps, "above 0")
        for name in ("weight_decay", "clip"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value >= 0, f"train.{name}", value, "at least 0")
        _check(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "in [0, 1)")
        _check(0 <= self.ema < 1, "train.ema", self.ema, "in [0, 1)")
        _check(
            self.validation_split.startswith("validation"),
            "train.validation_split",
            self.validation_split,
            "a validation split: a checkpoint is never chosen on test data",
        )


GROUPS = {"model": ModelSpec, "solver": SolverSpec, "train": TrainSpec}


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that decides what a run computes, stored in it as `spec.toml`.

    `task` holds the name of the task under `"name"` and its fields; the task class itself checks
    them, since the library knows no tasks. `preset` is only a record of where the values began.
    """

    task: Mapping[str, Any]
    model: ModelSpec = ModelSpec()
    solver: SolverSpec = SolverSpec()
    train: TrainSpec = TrainSpec()
    preset: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.task.get("name"), str):
            raise InputError('task.name is missing: which task is it? (name = "sudoku")')
        loss, solver = self.train.loss, self.solver
        where = f"train.loss = {loss!r}"
        if solver.converges and loss != "last":
            raise InputError(
                f"{where} draws or averages over iterations, which solver.name = {solver.name!r}"
                ' does not have: use train.loss = "last"'
            )
        if loss == "progressive" and solver.gradient == "phantom":
            raise InputError(
                f"{where} may draw fewer iterations than solver.gradient = 'phantom' adds: use "
                'train.loss = "last"'
            )
        checkpointed = solver.gradient == "backprop" and not solver.converges and loss != "mean"
        if solver.gradient_checkpoints and not checkpointed:
            raise InputError(
                f"solver.gradient_checkpoints = {solver.gradient_checkpoints} has no effect here: "
                'it is for solver.name = "unroll" with solver.gradient = "backprop" and '
                'train.loss = "last" or "progressive"'
            )
        if not solver.converges:
            if loss == "mean" and solver.gradient != "backprop":
                raise InputError(
                    f"{where} is differentiated through every iteration: with solver.gradient = "
                    f'{solver.gradient!r} use train.loss = "last" or "progressive"'
                )
            follows = solver.gradient in ("truncated", "phantom")
            if follows and solver.gradient_steps > solver.steps:
                raise InputError(
                    f"solver.gradient_steps = {solver.gradient_steps} iterations cannot be "
                    f"differentiated out of solver.steps = {solver.steps}"
                )

    def __hash__(self) -> int:
        return hash(self.to_toml())

    @property
    def task_name(self) -> str:
        return self.task["name"]

    @property
    def task_fields(self) -> dict[str, Any]:
        """The fields of the task, without its name."""
        return {name: value for name, value in self.task.items() if name != "name"}

    def with_steps(self, steps: int) -> "Spec":
        """The same with another number of optimiser steps."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, steps=steps))

    def tables(self) -> dict[str, Any]:
        """As nested tables of plain values."""
        groups = {name: dataclasses.asdict(getattr(self, name)) for name in GROUPS}
        return {"format": SPEC_FORMAT, "preset": self.preset, "task": dict(self.task), **groups}

    def to_toml(self) -> str:
        return tomli_w.dumps(self.tables())

    @staticmethod
    def from_toml(path: Path) -> "Spec":
        """Read a `spec.toml`. **Raises** `InputError` naming the file and what is wrong."""
        return Spec.from_text(read_text(path), str(path))

    @staticmethod
    def from_text(text: str, where: str) -> "Spec":
        """Parse the text of a `spec.toml`; `where` names it in errors."""
        tables = parse_toml(text, where)
        if tables.get("format") != SPEC_FORMAT:
            raise InputError(
                f"{where}: format {tables.get('format')!r} is not the one this eqloop reads"
                f" ({SPEC_FORMAT}); use the version of eqloop that wrote it"
            )
        try:
            return from_tables(tables)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def differences(self, other: "Spec", *, place: bool = True) -> list[str]:
        """`group.field: here -> there` for every value in which two specs differ; with `place`
        false where the data lies, `task.data`, does not count."""
        found = []
        for group in ("task", *GROUPS):
            mine, theirs = self.tables()[group], other.tables()[group]
            for name in sorted(mine.keys() | theirs.keys()):
                counts = place or (group, name) != ("task", "data")
                if counts and mine.get(name) != theirs.get(name):
                    found.append(f"{group}.{name}: {mine.get(name)!r} -> {theirs.get(name)!r}")
        return found


def from_tables(tables: Mapping[str, Any]) -> Spec:
    """A spec from nested tables. **Raises** `InputError` naming the field that is wrong."""
    for name, table in tables.items():
        if name in ("format", "preset"):
            continue
        if name not in ("task", *GROUPS):
            raise InputError(f"unknown table [{name}]{nearest(name, ['task', *GROUPS])}")
        if not isinstance(table, Mapping):
            raise InputError(f"[{name}] must be a table, got {quoted(table)}")
    for name, value in tables.get("task", {}).items():
        check_storable(f"task.{name}", value)
    groups = {name: build(cls, name, tables.get(name, {})) for name, cls in GROUPS.items()}
    return Spec(task=dict(tables.get("task", {})), preset=str(tables.get("preset", "")), **groups)


def trained_iterations(spec: Spec) -> tuple[int, int]:
    """The fewest and the most iterations after which training asks for the answer."""
    solver, loss = spec.solver, spec.train.loss
    if solver.converges:
        return 1, solver.max_steps
    if loss == "last":
        return solver.steps, solver.steps
    return 1, solver.steps + (spec.train.burn_in if loss == "mean" else 0)
