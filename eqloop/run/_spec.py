"""What a run is: the resolved spec, its checks, and its one readable form (`spec.toml`)."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

from .._errors import InputError
from .._fields import OneOf, build, check_storable, nearest, quoted
from .._places import NORMS, RECALLS
from .._tables import parse_toml, read_text
from ._names import (
    GRADIENTS,
    LOSSES,
    PENALTIES,
    SOLVERS,
    gradient_facts,
    is_outside,
    solver_facts,
)
from ._phases import Phase, phases_from_tables

SPEC_FORMAT = 1
"""Version of `spec.toml`; raised when an old file can no longer be read as it stands."""


def _check(ok: bool, field: str, value: object, wanted: str) -> None:
    if not ok:
        raise InputError(f"{field} must be {wanted}, got {quoted(value)}")


MOST = 2**31 - 1
"""Of what is counted: the programs count in 32 bits."""
_MOST_BLOCKS = 1000  # each is traced and compiled by itself
_MOST_CARRY_STEPS = 1000  # a validation may take as many times the iterations of one step
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


NESTED = (
    *("cycles", "mix", "mixer", "high_blocks", "positions", "extra", "begin", "begin_std"),
    *("conv", "conv_width", "end_norm", "outputs", "q_head"),
)
"""Fields of `[model]` for a family other than `looped`."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The `[model]` table: `eqloop.LoopedTransformer` as text.

    With `blocks = 15`, `recall = "none"`, `solver.steps = 1` and `train.loss = "last"` it is the
    untied baseline of fixed depth.

    ```python
    >>> import eqloop
    >>> eqloop.run.ModelSpec(width=8, heads=2, attention=3, grid=(9,)).crossing
    7

    ```
    """

    width: int = 256
    """The state of one cell has this many numbers."""
    heads: int = 8
    """Attention has this many heads, among which `width` is divided."""
    recall: Annotated[str, OneOf(RECALLS)] = "internal"
    """The recall decides how the input enters the loop at every iteration (see
    `eqloop.nn.Recall`)."""
    norm: Annotated[str, OneOf(NORMS)] = "post"
    """The placement decides where a block normalises; `post` is outer normalisation (see
    `eqloop.nn.NormPlacement`)."""
    residual: Literal["add", "gru"] = "add"
    """A branch joins the state by a sum (`add`) or by a GRU cell (`gru`)."""
    blocks: int = 1
    """One iteration applies this many distinct blocks."""
    mlp_ratio: int = 4
    """The feed-forward part has this many hidden units per number of the state."""
    attention: int | Literal["task", "full"] = "task"
    """A cell attends to all cells (`full`), to a neighbourhood of this width in cells, or as the
    task asks (`task`). A stored spec has the choice of the task in place of `task`."""
    rotary_base: float = 10000.0
    """The frequencies of the rotary positions are 1 to nearly 1 / `rotary_base` radians per cell
    (see `eqloop.nn.rotary_tables`). The paper has 10,000; on a grid of a dozen cells 10 is
    better."""
    family: Literal["looped", "trm", "hrm", "eqr", "fprm"] = "looped"
    """The loop is that of the paper (`looped`, see `eqloop.LoopedTransformer`), or a cycle of TRM,
    HRM or EqR, or the map of FPRM (see `eqloop.recursive.NestedTransformer`). All but `looped` have
    attention to all cells, and `recall`, `norm` and `residual` of their own."""
    cycles: int = 6
    """A cycle of `trm`, `hrm` or `eqr` takes this many steps of the low level."""
    mix: float = 0.95
    """A step of `eqr` takes this share of the new value."""
    mixer: Literal["attention", "mlp"] = "attention"
    """Cells of a `family` other than `looped` mix by `attention` or by an `mlp` over the cells,
    which serves grids of one size."""
    high_blocks: int = 0
    """The net of the high level of `hrm` has this many blocks; 0 takes `blocks`."""
    positions: Literal["axes", "line", "learned", "none"] = "axes"
    """Attention of a `family` other than `looped` has rotary positions along the `axes` of the grid
    or along the `line` of its cells, `learned` vectors, or `none`."""
    extra: int = 0
    """A `family` other than `looped` has this many positions before the cells, whose input is
    learned."""
    causal: bool = False
    """If true, a cell attends only to itself and to the cells before it, on a grid of one axis."""
    begin: Literal["embed", "vectors", "normal"] = "embed"
    """The loop of a `family` other than `looped` begins at the embedding of the input (`embed`), at
    a random vector of each level in all positions (`vectors`), or at truncated `normal` noise,
    which is the same for all examples. `solver.start` has further starts for training."""
    begin_std: tuple[float, ...] = (1.0,)
    """The noise of `begin` has this standard deviation, in each level or in both."""
    conv: Literal["grid", "line", "none"] = "grid"
    """The convolution of `fprm` sees the cells on their `grid`, or on the `line`, where it is
    causal; with `none` there is no convolution."""
    conv_width: int = 0
    """The convolution of `fprm` sees this many cells along each axis; 0 takes 3 on a grid of two
    axes and 4 on a line."""
    end_norm: Literal["none", "input", "output"] = "none"
    """`fprm` normalises the state after the convolution (`input`), at the end of an iteration
    (`output`), or not (`none`)."""
    outputs: tuple[int, ...] = ()
    """The head of a `family` other than `looped` has this many outputs for each class, of which the
    largest is the score of the class; an empty list gives one to each."""
    q_head: bool = False
    """If true, a `family` other than `looped` has a q head, a linear map of the first position of
    its high level to `q_halt` and `q_continue`, which `train.q_weight` trains."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Matrix products in the loop have this precision. Weights are float32 in any case."""
    grid: tuple[int, ...] = ()
    """The grid has this many cells along each axis. The task sets it, so that a stored spec
    rebuilds the model alone."""
    channels: int = 0
    """The input of one cell has this many numbers. The task sets it."""
    classes: int = 0
    """The answer of one cell is one of this many classes. The task sets it."""

    def __post_init__(self) -> None:
        whole = {
            1: ("width", "heads", "blocks", "mlp_ratio", "cycles"),
            0: ("high_blocks", "extra", "conv_width"),
        }
        _check_counts("model", self, whole)
        _check(0 < self.mix <= 1, "model.mix", self.mix, "above 0 and at most 1")
        _check(self.blocks <= _MOST_BLOCKS, "model.blocks", self.blocks, f"at most {_MOST_BLOCKS}")
        base_fits = math.isfinite(self.rotary_base) and self.rotary_base > 1
        _check(base_fits, "model.rotary_base", self.rotary_base, "above 1")
        # Rotary positions turn pairs of channels of each head, along each axis.
        pairs = 2 * (max(len(self.grid), 1) if self.positions == "axes" else 1)
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

        self._check_family()

    def _check_family(self) -> None:
        """**Raises** `InputError` for a field that has no effect on this family."""
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        if self.family != "looped" and isinstance(self.attention, int):
            raise InputError(
                f'model.attention = {self.attention} is for model.family = "looped": '
                f'{self.family} attends to all cells, set model.attention = "full"'
            )
        for name in self._unused:
            if (value := getattr(self, name)) != fields[name]:
                raise InputError(
                    f"model.{name} = {quoted(value)} has no effect on model.family = "
                    f"{self.family!r}: leave it out"
                )
        if self.extra and self.positions == "axes":
            raise InputError(
                f"model.extra = {self.extra} has no place along the axes of the grid: set "
                'model.positions to "line", "learned" or "none"'
            )
        if self.causal and (isinstance(self.attention, int) or len(self.grid) > 1):
            raise InputError(
                'model.causal = true is for model.attention = "full" on a grid of one axis'
            )
        if self.outputs and self.classes:
            fits = len(self.outputs) == self.classes and min(self.outputs) >= 1
            wanted = f"{self.classes} numbers of at least 1"
            _check(fits, "model.outputs", list(self.outputs), wanted)
        levels = (1,) if self.family == "fprm" else (1, 2)
        is_std = len(self.begin_std) in levels and all(map(_positive, self.begin_std))
        wanted = f"{' or '.join(map(str, levels))} numbers above 0"
        _check(is_std, "model.begin_std", list(self.begin_std), wanted)

    @property
    def _unused(self) -> tuple[str, ...]:
        """The fields that have no effect on this family."""
        if self.family == "looped":
            return NESTED
        own = {
            "trm": ("cycles",),
            "hrm": ("cycles", "high_blocks"),
            "eqr": ("cycles", "mix"),
            "fprm": ("conv", "conv_width", "end_norm"),
        }
        others = {name for names in own.values() for name in names} - set(own[self.family])
        return ("recall", "norm", "residual", *sorted(others))

    @property
    def effective(self) -> dict[str, Any]:
        """The fields that have an effect on this family, by name."""
        table = dataclasses.asdict(self)
        return {name: value for name, value in table.items() if name not in self._unused}

    @property
    def state_shape(self) -> tuple[int, ...]:
        """The shape of the state of one example."""
        features = self.width * (2 if self.family in ("trm", "hrm", "eqr") else 1)
        cells = (self.extra + math.prod(self.grid),) if self.extra else self.grid
        return (*cells, features)

    def check_resolved(self) -> None:
        """Check that a task has made its choices.

        **Raises** `InputError` if `grid`, `channels` or `classes` is not set, or `attention` is
        "task".
        """
        missing = [name for name in ("grid", "channels", "classes") if not getattr(self, name)]
        missing += ["attention"] if self.attention == "task" else []
        if missing:
            raise InputError(
                f"model.{missing[0]} = {getattr(self, missing[0])!r}: the task sets it; set it, or "
                "get the spec from eqloop.run.resolve"
            )

    @property
    def crossing(self) -> int:
        """Iterations after which the state of every cell can depend on the input of every other: 1
        for attention to all cells, 0 for attention to none, which never crosses.

        A window of w cells moves information by (w - 1) / 2 cells, and at the edge of the grid,
        where it is not centred, by w - 1.
        """
        if not isinstance(self.attention, int):
            return 1
        reach = self.attention // 2
        if reach == 0:
            return 0
        hops = max(math.ceil((max(self.grid) - 1) / reach) - 1, 1)
        return math.ceil(hops / self.blocks)


@dataclasses.dataclass(frozen=True)
class SolverSpec:
    """The `[solver]` table: how training runs the loop and differentiates it.

    ```python
    >>> import eqloop
    >>> eqloop.run.SolverSpec(name="anderson", gradient="implicit").converges
    True

    ```
    """

    name: Annotated[str, OneOf(SOLVERS, is_outside)] = "unroll"
    """This solver runs the loop in training; `PLACE:Class` is one from outside eqloop."""
    gradient: Annotated[str, OneOf(GRADIENTS, is_outside)] = "backprop"
    """This gradient goes back through the loop in training; `PLACE:Class` is one from outside
    eqloop."""
    steps: int = 30
    """`unroll` makes this many iterations. The progressive loss draws at most this number."""
    rtol: float = 1e-3
    """A solver that converges stops at this relative residual. The training log counts an example
    as converged below it, whatever the solver."""
    atol: float = 0.0
    """A solver that converges adds this absolute residual to its tolerance."""
    norm: Literal["two", "largest-cell"] = "two"
    """The residual is measured in this norm: `two` of the whole state, or that of the
    `largest-cell`."""
    max_steps: int = 64
    """A solver that has not converged gives up after this many steps, and says so."""
    damping: float = 0.0
    """`fixed-point`, `anderson` and `adaptive-damping` have this d in `z <- (1 - d) f(z) + d z`."""
    patience: int = 0
    """`fixed-point` begins `damping` after this many steps without a smaller residual;
    `adaptive-damping` shrinks 1 - d after as many, where 0 takes 5."""
    damping_decay: float = 0.9
    """`adaptive-damping` shrinks 1 - d by this factor each time."""
    memory: int = 0
    """`anderson` stores this many differences, where 0 takes 3, and `broyden` stores this many
    rank-one terms, where 0 takes 16."""
    gradient_steps: int = 6
    """`truncated` and `phantom` differentiate this many iterations, and `last-steps` this many
    steps; `neumann`, and the damped series that `implicit` falls back to, have this many terms."""
    gradient_damping: float = 0.5
    """`phantom` takes this share of the old state in a differentiated iteration; `implicit` damps
    the series that it falls back to by this share."""
    gradient_checkpoints: int = 0
    """`backprop` through `unroll` stores this many states with the losses `last` and `progressive`;
    0 stores one state per iteration."""
    gradient_keep: Literal["marked", "products"] = "marked"
    """This is stored by `backprop`, `truncated` and `last-steps`: the outputs of the branches of
    each block, or with `products` the results of all products with weights, which takes four times
    the memory and, at width 256, a sixth less time on a CPU."""
    gradient_solver: Literal["gmres", "anderson"] = "gmres"
    """`implicit` solves its linear system by `gmres` or `anderson`."""
    gradient_rtol: float = 1e-3
    """The linear solve of `implicit` stops at this relative residual."""
    gradient_restart: int = 10
    """The linear solve of `implicit` makes at most this many vector-Jacobian products in one cycle
    of `gmres`; `anderson` has this memory."""
    gradient_cycles: int = 10
    """The linear solve of `implicit` makes at most this many cycles."""
    gradient_trust: float = 0.0
    """`implicit` takes the series in place of the solution where the relative residual of the loop
    is above this; 0 sets no limit."""
    gradient_largest: float = 0.0
    """`implicit` takes the series in place of the solution where the ratio of the norms of solution
    and cotangent is above this; 0 sets no limit."""
    mix: float = 0.5
    """`reversible` takes this share of a new value in each of its two states. A smaller share
    converges more slowly, and `backprop` then stores states more rarely."""
    start: Literal["embed", "zeros", "normal", "fixed", "solution"] = "embed"
    """A share of the loops in training starts at `embed` (the embedding of the input), `zeros`,
    `normal` noise, `fixed` (one random vector, the same in all cells and runs) or `solution` (where
    the solver stopped at first, so that the loss asks it to stay there). All other loops, and those
    of validation and of every other evaluation, start at their embeddings."""
    start_std: float = 1.0
    """`normal` noise and the `fixed` vector of `start` have this standard deviation."""
    start_share: float = 0.5
    """This share of the examples starts as `start` says, drawn for each example. It is above 0 and
    below 1, since evaluation starts at the embeddings, so that training must do so too."""
    path_noise: float = 0.0
    """Each iteration of training adds Gaussian noise of this standard deviation to the state (see
    `eqloop.PathNoise`); 0 adds none. The noise is drawn at each iteration of `unroll`, and once per
    solve for solvers that converge."""
    min_steps: int = 1
    """A solver that converges makes at least this many steps."""
    budget: Literal["fixed", "uniform", "poisson", "log-normal"] = "fixed"
    """This law draws `max_steps`, or `steps` of `unroll` with the loss `last`, at each optimiser
    step, between `budget_least` and its value (see `eqloop.train.Budget`); `fixed` takes its
    value."""
    budget_least: int = 1
    """`budget` draws at least this many steps."""
    object: str = ""
    """The run records the solver from outside eqloop here as text, with the SHA-256 of its file."""
    gradient_object: str = ""
    """The run records the gradient from outside eqloop here as text, as in `object`."""

    def __post_init__(self) -> None:
        least = {
            1: (
                "steps",
                "max_steps",
                "gradient_steps",
                "gradient_restart",
                "gradient_cycles",
                "min_steps",
                "budget_least",
            ),
            0: ("patience", "memory", "gradient_checkpoints"),
        }
        _check_counts("solver", self, least)
        for name in ("rtol", "gradient_rtol"):
            value = getattr(self, name)
            _check(_positive(value) and value < 1, f"solver.{name}", value, "between 0 and 1")
        _check(_positive(self.start_std), "solver.start_std", self.start_std, "above 0")
        for name in ("atol", "gradient_trust", "gradient_largest", "path_noise"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value >= 0, f"solver.{name}", value, "at least 0")
        for name in ("damping", "gradient_damping"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"solver.{name}", value, "in [0, 1)")
        _check(0 < self.damping_decay <= 1, "solver.damping_decay", self.damping_decay, "in (0, 1]")
        # Above, not even one step in float32 can be computed backwards.
        _check(0 < self.mix <= 0.98, "solver.mix", self.mix, "above 0 and at most 0.98")
        share = self.start_share
        wanted = (
            "above 0 and below 1: evaluation starts at the embeddings, so training must do so too"
        )
        _check(0 < share < 1, "solver.start_share", share, wanted)
        self._check_steps()
        if gradient_facts(self.gradient).follows and not solver_facts(self.name).followed:
            raise InputError(
                f'solver.gradient = "{self.gradient}" cannot follow the steps of solver.name = '
                f'{self.name!r}: use "implicit", "phantom" or "neumann"'
            )

    def _check_steps(self) -> None:
        """**Raises** `InputError` for a range of steps that is empty or has no effect."""
        if self.min_steps > 1 and (not self.converges or is_outside(self.name)):
            raise InputError(
                f"solver.min_steps = {self.min_steps} has no effect on solver.name = "
                f"{self.name!r}: it is for the solvers of the package that converge; set it to 1, "
                "in a phase too"
            )
        drawn = self.budget != "fixed"
        if drawn and self.converges and gradient_facts(self.gradient).whole:
            raise InputError(
                f"solver.budget = {self.budget!r} draws the steps of a solver that converges, and "
                f'solver.gradient = {self.gradient!r} needs a fixed number: use "implicit", '
                '"phantom" or "neumann"'
            )
        field = "max_steps" if self.converges else "steps"
        least, most = self.budget_least if drawn else getattr(self, field), getattr(self, field)
        if drawn and least > most:
            raise InputError(f"solver.budget_least = {least} exceeds solver.{field} = {most}")
        if self.min_steps > least:
            raise InputError(
                f"solver.min_steps = {self.min_steps} exceeds "
                f"solver.{'budget_least' if drawn else field} = {least}"
            )

    @property
    def converges(self) -> bool:
        """Whether the solver stops by itself, at a fixed point."""
        return solver_facts(self.name).converges


LAST_TERMS = (*PENALTIES, "correction")
"""Weights of terms that the loss `last` has besides that of the last state."""


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The `[train]` table: optimiser, schedule, loss, and what is written when.

    ```python
    >>> import eqloop
    >>> try:
    ...     eqloop.run.TrainSpec(batch=0)
    ... except eqloop.InputError as error:
    ...     print(error)
    train.batch must be at least 1, got 0

    ```
    """

    steps: int = 8000
    """Training takes this many optimiser steps."""
    batch: int = 500
    """One optimiser step takes this many examples."""
    optimiser: Literal["adamw", "adam-atan2"] = "adamw"
    """The optimiser is AdamW, or AdamATan2 (`adam-atan2`, see `eqloop.recursive.adam_atan2`)."""
    lr: float = 1e-3
    """The optimiser has this learning rate before the schedule."""
    weight_decay: float = 0.01
    """The optimiser has this weight decay. Biases and gains of norms are not decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    """The two moments of the optimiser decay by these factors."""
    eps: float = 1e-8
    """AdamW adds this to its denominators."""
    clip: float = 1.0
    """The gradient is scaled down to this global norm where it exceeds it; 0 sets no limit."""
    schedule: Literal["paper", "warmup-cosine", "warmup-constant", "constant"] = "paper"
    """The learning rate follows this schedule: `paper` (see `epochs`), `warmup-cosine`,
    `warmup-constant` or `constant`."""
    epochs: int = 100
    """The schedule `paper` has this many epochs of `steps / epochs` steps. The factor of the rate
    is `1 - exp(-(epoch + 1) / 10)` in the first tenth, then 1, and a tenth of that from 0.6
    `epochs` on."""
    warmup: int = 100
    """In `warmup-cosine` and `warmup-constant` the rate rises over this many optimiser steps."""
    schedule_per_phase: bool = False
    """If true, the schedule of the learning rate begins anew with every phase and ends with it,
    instead of going over the whole run."""
    loss: Annotated[str, OneOf(LOSSES, is_outside)] = "progressive"
    """Training minimises this loss: `progressive` (the paper's), `mean` over all iterations, after
    the `last`, or `PLACE:Class` from outside eqloop."""
    scores: Literal["softmax", "stablemax"] = "softmax"
    """The cross-entropy of a cell takes this function of the scores of its classes. `stablemax`
    grows linearly where softmax is an exponential."""
    burn_in: int = 0
    """`mean` makes at most this many iterations without gradient before the `solver.steps` that
    count; their number is drawn at every step."""
    residual_penalty: float = 0.0
    """`last` adds `|f(z) - z|^2 / |z|^2` with this weight, at the state z where the solver
    stopped."""
    jacobian_penalty: float = 0.0
    """`last` adds an estimate of `|J|_F^2 / size` with this weight, for the Jacobian J of the loop
    at the state where the solver stopped."""
    penalty_share: float = 1.0
    """`last` adds penalties and corrections in this share of the optimiser steps."""
    correction: float = 0.0
    """`last` adds a loss `g^i L(z_i)` with this factor g at states on the way to z (fixed-point
    correction), where i counts back from the last of them; 0 adds none. It is for solvers that
    converge."""
    correction_states: int = 1
    """`correction` has this number k of states, which are those after `solver.max_steps / 2^i`
    steps, i = 1 to k."""
    carry_steps: int = 1
    """An example is trained for at most this many optimiser steps, each from the state where the
    one before ended (carried state); 1 takes new examples at every step."""
    q_weight: float = 0.0
    """The losses of the package add the binary cross-entropy of `q_halt` with whether all cells are
    right, with this weight (0.5 in TRM, HRM, EqR and FPRM). It requires `model.q_head`."""
    carry_least: int = 1
    """An example is trained for at least this many optimiser steps, whatever its residual and its q
    head."""
    carry_residual: float = 0.0
    """A new example replaces one that has been trained for `carry_least` steps where the relative
    residual, as the solver measures it, is below this; 0 replaces by `carry_steps` alone."""
    carry_q: Literal["none", "halt", "compare"] = "none"
    """A new example also replaces one that has been trained for `carry_least` steps where the q
    head says that it is right: where `q_halt` is above 0 (`halt`, as in TRM and EqR), or above
    `q_continue` (`compare`, as in HRM). `compare` adds the loss of `q_continue`, whose target is
    what the q head says after one more solve, which takes time. `none` ignores the q head."""
    carry_random: float = 0.0
    """This share of the examples draws a number from `carry_least + 1` to `carry_steps` in place of
    `carry_least`."""
    ema: float = 0.0
    """The average of the weights, which is validated and evaluated, has this decay; 0 makes no
    average."""
    seed: int = 0
    """The weights, the order of examples and their augmentation follow from this seed."""
    log_every: int = 1
    """Lines of the log are this many optimiser steps apart."""
    validate_every: int = 500
    """Validations are this many optimiser steps apart."""
    validation_split: str = "validation"
    """This split chooses the best checkpoint, which has the most examples solved whole, then the
    most cells right, then is the earliest. The name of the split starts with `validation`, so it is
    never a test set."""
    validation_rows: int = 1000
    """A validation takes this many examples of that split; 0 takes all."""
    validation_iterations: int = 0
    """A validation makes this many iterations, which are plain ones whatever the solver; 0 makes
    the most that training takes in any phase."""
    checkpoint_every: int = 500
    """Checkpoints of the whole state are this many optimiser steps apart."""
    keep: int = 3
    """This many of the latest checkpoints stay, besides the best one."""
    audit_every: int = 0
    """Comparisons of gradients on 16 validation examples, which go to the log (see
    `eqloop.gradient_audit`), are this many optimiser steps apart; 0 makes none. Training is the
    same without them."""
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """The log goes to this tracker besides `metrics.jsonl`; the extra `track` of the package has
    the trackers. The logs of `tensorboard` and `trackio` are on this machine and need no
    account."""
    loss_object: str = ""
    """The run records the loss from outside eqloop here as text, as in `solver.object`."""
    curriculum_steps: int = 0
    """A curriculum takes this many optimiser steps, which draw from the easiest examples only, by
    the difficulty that the task gives them; 0 makes none."""
    curriculum_share: float = 0.25
    """The first step of a curriculum draws from this share of the training examples, the easiest.
    The share rises to 1 in even steps."""

    def __post_init__(self) -> None:
        least = {
            1: (
                *("steps", "batch", "epochs", "log_every", "validate_every", "checkpoint_every"),
                *("carry_steps", "carry_least", "correction_states"),
            ),
            0: (
                "warmup",
                "burn_in",
                "validation_rows",
                "validation_iterations",
                "audit_every",
                "curriculum_steps",
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
        for name in ("weight_decay", "clip", "carry_residual", "q_weight", *LAST_TERMS):
            value = getattr(self, name)
            _check(math.isfinite(value) and value >= 0, f"train.{name}", value, "at least 0")
        _check(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "in [0, 1)")
        _check(0 <= self.ema < 1, "train.ema", self.ema, "in [0, 1)")
        _check(0 < self.penalty_share <= 1, "train.penalty_share", self.penalty_share, "in (0, 1]")
        _check(self.correction <= 1, "train.correction", self.correction, "at most 1")
        if self.correction_states > 1 and not self.correction:
            raise InputError(
                f"train.correction_states = {self.correction_states} has no effect without "
                "train.correction: set train.correction_states = 1, in a phase too"
            )
        _check(
            0 < self.curriculum_share < 1,
            "train.curriculum_share",
            self.curriculum_share,
            "between 0 and 1",
        )
        _check(
            self.validation_split.startswith("validation"),
            "train.validation_split",
            self.validation_split,
            "a validation split: a checkpoint is never chosen on test data",
        )
        self._check_carry()

    def _check_carry(self) -> None:
        """**Raises** `InputError` for settings of the carried state that have no effect."""
        most, least = self.carry_steps, self.carry_least
        limit = _MOST_CARRY_STEPS
        _check(most <= limit, "train.carry_steps", most, f"at most {limit}")
        _check(0 <= self.carry_random <= 1, "train.carry_random", self.carry_random, "in [0, 1]")
        early = {"carry_residual": 0, "carry_q": "none"}
        used = [name for name, off in early.items() if getattr(self, name) != off]
        if used and least >= most:
            raise InputError(
                f"train.{used[0]} = {getattr(self, used[0])!r} has no effect with "
                f"train.carry_steps = {most} and train.carry_least = {least}: raise "
                "train.carry_steps above train.carry_least, or set "
                f"train.{used[0]} = {early[used[0]]!r}, in a phase too"
            )
        if "carry_q" in used and not self.q_weight:
            raise InputError(
                f"train.carry_q = {self.carry_q!r} needs a q head that is trained: set "
                "train.q_weight = 0.5, or train.carry_q = 'none', in a phase too"
            )
        for name, value, default in (
            ("carry_least", least, 1),
            ("carry_random", self.carry_random, 0),
        ):
            if value != default and not used:
                raise InputError(
                    f"train.{name} = {value} has no effect without train.carry_residual or "
                    f"train.carry_q: set train.{name} = {default}, in a phase too"
                )


GROUPS = {"model": ModelSpec, "solver": SolverSpec, "train": TrainSpec}
"""Table of a spec -> the class of its fields."""

OBJECTS = {
    ("solver", "name"): ("solver", "object"),
    ("solver", "gradient"): ("solver", "gradient_object"),
    ("train", "loss"): ("train", "loss_object"),
}
"""Where a class from outside the package is named -> where its object is recorded as text."""

DERIVED = {
    **{("model", field): "the task" for field in ("grid", "channels", "classes")},
    **dict.fromkeys(OBJECTS.values(), "the class of the object"),
}
"""Fields that follow from something else -> from what; `--set` cannot set them."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Optimiser steps that are trained alike.

    **Attributes:**

    - `begin`, `end`: the steps done before the first of them, and after the last.
    - `spec`: what holds for them; it has no phases.
    - `schedule_begin`: the steps done before the first step of its schedule, whose length is
      `spec.train.steps`.

    ```python
    >>> import eqloop
    >>> spec = eqloop.run.Spec(
    ...     {"name": "sudoku"}, train=eqloop.run.TrainSpec(steps=900),
    ...     phases=(eqloop.run.Phase(until=300, train={"lr": 0.003}),),
    ... )
    >>> [(stage.begin, stage.end, stage.spec.train.lr) for stage in spec.stages]
    [(0, 300, 0.003), (300, 900, 0.001)]

    ```
    """

    begin: int
    end: int
    spec: "Spec"
    schedule_begin: int


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that decides what a run computes, stored in it as `spec.toml`.

    **Attributes:**

    - `task`: the name of the task under `"name"`, and its fields; the task class itself checks
        them, since the library knows no tasks.
    - `model`, `solver`, `train`: the tables of these names.
    - `preset`: the preset that the values began with; a record only.
    - `phases`: the phases that come before what the tables say; see `stages`.

    **Raises** `InputError` for values that do not go together.

    ```python
    >>> import eqloop
    >>> spec = eqloop.run.Spec({"name": "sudoku", "box": 2})
    >>> eqloop.run.Spec.from_text(spec.to_toml(), "a copy") == spec
    True
    >>> spec.differences(spec.with_steps(900))
    ['train.steps: 8000 -> 900']

    ```
    """

    task: Mapping[str, Any]
    model: ModelSpec = ModelSpec()
    solver: SolverSpec = SolverSpec()
    train: TrainSpec = TrainSpec()
    preset: str = ""
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.task.get("name"), str):
            raise InputError('task.name is missing: which task is it? (name = "sudoku")')
        loss, solver = self.train.loss, self.solver
        gradient = gradient_facts(solver.gradient)
        if not is_outside(loss):
            self._check_loss()
        elif solver.path_noise:
            raise InputError(
                f"solver.path_noise = {solver.path_noise} is for the losses of the package: "
                f"train.loss = {loss!r} adds noise by itself, see eqloop.PathNoise"
            )
        if self.train.q_weight:
            self._check_q()
        places = RECALLS[self.model.recall]
        if solver.start in ("zeros", "normal", "fixed") and not (places.before or places.inside):
            raise InputError(
                f"solver.start = {solver.start!r} hides the input from a loop with model.recall = "
                f'{self.model.recall!r}, which sees it at its start alone: use start = "embed"'
            )
        checkpointed = gradient.whole and not solver.converges and loss != "mean"
        if solver.gradient_checkpoints and not checkpointed:
            raise InputError(
                f"solver.gradient_checkpoints = {solver.gradient_checkpoints} has no effect here: "
                'it is for solver.name = "unroll" with solver.gradient = "backprop" and '
                'train.loss = "last" or "progressive"'
            )
        if solver.gradient_keep != "marked" and not gradient.keeps:
            names = ", ".join(f'"{name}"' for name, facts in GRADIENTS.items() if facts.keeps)
            raise InputError(
                f'solver.gradient_keep = "{solver.gradient_keep}" has no effect here: it is for '
                f"solver.gradient = one of {names}"
            )
        if not solver.converges and gradient.cuts and solver.gradient_steps > solver.steps:
            raise InputError(
                f"solver.gradient_steps = {solver.gradient_steps} iterations cannot be "
                f"differentiated out of solver.steps = {solver.steps}"
            )
        for number, phase in enumerate(self.phases, 1):
            try:
                self._in_phase(phase)
            except InputError as error:
                raise InputError(f"phases.{number}: {error}") from None

    def _in_phase(self, phase: Phase) -> "Spec":
        solver, train = (
            build(cls, name, dataclasses.asdict(getattr(self, name)) | dict(getattr(phase, name)))
            for name, cls in (("solver", SolverSpec), ("train", TrainSpec))
        )
        return dataclasses.replace(self, solver=solver, train=train, phases=())

    @property
    def _parts(self) -> tuple["Spec", ...]:
        """What holds in each phase and after the last one, as far as `train.steps` reaches or not:
        what follows from all of them stays the same when the run is lengthened."""
        phases = (self._in_phase(phase) for phase in self.phases)
        return (*phases, dataclasses.replace(self, phases=()))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The parts of the run that are trained alike: its phases, as far as `train.steps` reaches,
        and then what the tables say."""
        stages, begin, last = [], 0, self.train.steps
        untils = (*(phase.until for phase in self.phases), last)
        for until, spec in zip(untils, self._parts, strict=True):
            end = min(until, last)
            if end <= begin:
                continue
            length, offset = (end - begin, begin) if self.train.schedule_per_phase else (last, 0)
            stages.append(Stage(begin, end, spec.with_steps(length), offset))
            begin = end
        return tuple(stages)

    @property
    def carries(self) -> bool:
        """Whether any part of the run carries states from one optimiser step to the next."""
        return any(part.train.carry_steps > 1 for part in self._parts)

    def _check_loss(self) -> None:
        """**Raises** `InputError` where the loss does not go with the solver or the gradient."""
        loss, solver = self.train.loss, self.solver
        for name in LAST_TERMS:
            if getattr(self.train, name) and loss != "last":
                raise InputError(
                    f'train.{name} is a term of train.loss = "last", which train.loss = {loss!r} '
                    "does not have: set it to 0, in a phase too"
                )
        if self.train.correction:
            self._check_correction()
        facts, where = LOSSES[loss], f"train.loss = {loss!r}"
        if solver.converges and facts.counts:
            raise InputError(
                f"{where} draws or averages over iterations, which solver.name = {solver.name!r}"
                ' does not have: use train.loss = "last"'
            )
        if solver.budget != "fixed" and facts.counts:
            raise InputError(
                f"{where} has its own numbers of iterations, which solver.budget = "
                f'{solver.budget!r} would draw too: use "fixed", or train.loss = "last"'
            )
        if loss not in (known := gradient_facts(solver.gradient).losses):
            others = " or ".join(f'"{name}"' for name in known)
            raise InputError(
                f"{where} {facts.clash}: with solver.gradient = {solver.gradient!r} use "
                f"train.loss = {others}"
            )

    def _check_q(self) -> None:
        """**Raises** `InputError` where there is no q head to train."""
        train = self.train
        if is_outside(train.loss):
            raise InputError(
                f"train.q_weight = {train.q_weight} is for the losses of the package: train.loss = "
                f"{train.loss!r} adds terms by itself, see eqloop.train.AbstractLoss"
            )
        if not self.model.q_head:
            raise InputError(
                f"train.q_weight = {train.q_weight} trains a q head, which the model does not have:"
                " set model.q_head = true, or set it to 0, in a phase too"
            )

    def _check_correction(self) -> None:
        """**Raises** `InputError` where there are no states on the way to correct."""
        solver, states = self.solver, self.train.correction_states
        if not solver.converges:
            raise InputError(
                f"train.correction = {self.train.correction} is for solvers that converge, and "
                f'solver.name = {solver.name!r} does not: use train.loss = "mean", or set it to 0, '
                "in a phase too"
            )
        where = "max_steps" if solver.budget == "fixed" else "budget_least"
        least = getattr(solver, where)
        most = least.bit_length() - 1  # halvings that leave a step
        if states > most:
            raise InputError(
                f"train.correction_states = {states} must be at most {most} with solver.{where} = "
                f"{least}, which is halved for each of them: lower it, or raise solver.{where}"
            )

    def __hash__(self) -> int:
        return hash(self.to_toml())

    @property
    def task_name(self) -> str:
        """The name of the task, or `PLACE:Class` for one from outside eqloop."""
        return self.task["name"]

    @property
    def task_fields(self) -> dict[str, Any]:
        """The fields of the task, without its name."""
        return {name: value for name, value in self.task.items() if name != "name"}

    @property
    def of_all_seeds(self) -> "Spec":
        """The spec with the seed 0 and the rate 1: runs that differ in nothing else share their
        compiled programs."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, seed=0, lr=1.0))

    def with_steps(self, steps: int) -> "Spec":
        """The same spec with another number of optimiser steps.

        **Arguments:**

        - `steps`: the number of optimiser steps.

        **Returns** the new spec.
        """
        return dataclasses.replace(self, train=dataclasses.replace(self.train, steps=steps))

    def tables(self) -> dict[str, Any]:
        """As nested tables of plain values."""
        groups = {name: dataclasses.asdict(getattr(self, name)) for name in GROUPS}
        for group, field in OBJECTS.values():
            if not groups[group][field]:
                del groups[group][field]
        tables = {"format": SPEC_FORMAT, "preset": self.preset, "task": dict(self.task), **groups}
        if self.phases:
            tables["phases"] = [phase.table() for phase in self.phases]
        return tables

    def to_toml(self) -> str:
        """The text of `spec.toml`."""
        return tomli_w.dumps(self.tables())

    @staticmethod
    def from_toml(path: Path) -> "Spec":
        """Read a `spec.toml`.

        **Arguments:**

        - `path`: the file.

        **Returns** the spec.

        **Raises** `InputError` naming the file and what is wrong.
        """
        return Spec.from_text(read_text(path), str(path))

    @staticmethod
    def from_text(text: str, where: str) -> "Spec":
        """Parse the text of a `spec.toml`.

        **Arguments:**

        - `text`: the text.
        - `where`: the name of its source, for messages.

        **Returns** the spec.

        **Raises** `InputError` naming the source and what is wrong.
        """
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
        """Compare two specs.

        A field of the task that is missing is equal to one that is 0, false or empty: a spec is
        older than a field that was added to its task, and the library does not know the default,
        which is to be one of these.

        **Arguments:**

        - `other`: the other spec.
        - `place`: whether the place of the data, `task.data`, counts.

        **Returns** `group.field: here -> there` for every value in which they differ, and "phases"
        if their phases differ.
        """
        differences = []
        for group in ("task", *GROUPS):
            mine, theirs = self.tables()[group], other.tables()[group]
            for name in sorted(mine.keys() | theirs.keys()):
                counts = place or (group, name) != ("task", "data")
                off = group == "task" and not (mine.get(name) or theirs.get(name))
                if counts and not off and mine.get(name) != theirs.get(name):
                    differences.append(
                        f"{group}.{name}: {mine.get(name)!r} -> {theirs.get(name)!r}"
                    )
        if self.phases != other.phases:
            differences.append("phases")
        return differences


def from_tables(tables: Mapping[str, Any]) -> Spec:
    """A spec from nested tables. **Raises** `InputError` naming the field that is wrong."""
    for name, table in tables.items():
        if name in ("format", "preset", "phases"):
            continue
        if name not in ("task", *GROUPS):
            raise InputError(f"unknown table [{name}]{nearest(name, ['task', *GROUPS, 'phases'])}")
        if not isinstance(table, Mapping):
            raise InputError(f"[{name}] must be a table, got {quoted(table)}")
    for name, value in tables.get("task", {}).items():
        check_storable(f"task.{name}", value)
    groups = {name: build(cls, name, tables.get(name, {})) for name, cls in GROUPS.items()}
    return Spec(
        task=dict(tables.get("task", {})),
        preset=str(tables.get("preset", "")),
        phases=phases_from_tables(tables.get("phases", ())),
        **groups,
    )


def trained_iterations(spec: Spec) -> tuple[int, int]:
    """The fewest and the most iterations after which training asks for the answer. A carried state
    has been iterated in up to `train.carry_steps` optimiser steps.

    **Arguments:**

    - `spec`: the spec of the run. All of its phases count, and so does what comes after them, even
      where `train.steps` ends before: both numbers stay the same when the run is lengthened.

    **Returns** both numbers of iterations.

    ```python
    >>> import eqloop
    >>> spec = eqloop.run.Spec({"name": "sudoku"}, solver=eqloop.run.SolverSpec(steps=30))
    >>> eqloop.run.trained_iterations(spec)
    (1, 30)

    ```
    """
    fewest, most = zip(*map(_iterations_of, spec._parts), strict=True)
    return min(fewest), max(most)


def _iterations_of(spec: Spec) -> tuple[int, int]:
    """`trained_iterations` without phases."""
    solver, loss = spec.solver, spec.train.loss
    whole = solver.max_steps if solver.converges else solver.steps
    # A loop that starts at a solution has made these iterations before.
    most = 2 * whole if solver.start == "solution" else whole
    if solver.converges:
        fewest = 1
    elif loss == "last":
        fewest = whole if solver.budget == "fixed" else solver.budget_least
    else:
        fewest, most = 1, most + (spec.train.burn_in if loss == "mean" else 0)
    return fewest, most * spec.train.carry_steps
