"""Phases of a run: fields that differ from those of the spec up to an optimiser step."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import InputError
from .._fields import nearest, quoted, typed

FIXED = {
    "solver": ("object", "gradient_object"),
    "train": (
        "steps",
        "batch",
        "ema",
        "seed",
        "schedule_per_phase",
        "log_every",
        "validate_every",
        "validation_split",
        "validation_rows",
        "validation_iterations",
        "checkpoint_every",
        "keep",
        "audit_every",
        "tracker",
        "loss_object",
        "curriculum_steps",
        "curriculum_share",
    ),
}
"""Fields that are the same in all phases: what a checkpoint holds, the order of the examples, and
what is written when."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A `[[phases]]` table: the first optimiser steps of a run, or those after the phase before.

    After its last phase a run is trained as the tables `[solver]` and `[train]` say.

    **Attributes:**

    - `until`: the optimiser step after which the phase ends.
    - `solver`, `train`: fields of these tables that differ, by name.

    ```python
    >>> import eqloop
    >>> eqloop.run.Phase(until=300, train={"lr": 0.003}).table()
    {'until': 300, 'train': {'lr': 0.003}}

    ```
    """

    until: int
    solver: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """As nested tables of plain values."""
        changes = {"solver": dict(self.solver), "train": dict(self.train)}
        return {"until": self.until, **{name: table for name, table in changes.items() if table}}


def phases_from_tables(tables: Any) -> tuple[Phase, ...]:
    """The phases of a spec from its `[[phases]]` tables.

    **Raises** `InputError` naming the phase and the field that is wrong. The values of the fields
    are checked by the spec, which knows the others.
    """
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        raise InputError(f"phases must be a list of tables, got {quoted(tables)}")
    phases = []
    for number, table in enumerate(tables, 1):
        where = f"phases.{number}"
        if not isinstance(table, Mapping):
            raise InputError(f"{where} must be a table, got {quoted(table)}")
        known = [field.name for field in dataclasses.fields(Phase)]
        for name in table:
            if name not in known:
                raise InputError(f"unknown field {where}.{name}{nearest(name, known)}")
        if "until" not in table:
            raise InputError(f"{where}.until is missing: after which step does the phase end?")
        until = typed(f"{where}.until", table["until"], int)
        least = phases[-1].until + 1 if phases else 1
        if until < least:
            raise InputError(f"{where}.until must be at least {least}, got {until}")
        for group, fixed in FIXED.items():
            changes = table.get(group, {})
            if not isinstance(changes, Mapping):
                raise InputError(f"{where}.{group} must be a table, got {quoted(changes)}")
            for name in changes:
                if name in fixed:
                    raise InputError(f"{where}.{group}.{name}: this field is that of all phases")
        phases.append(Phase(until, dict(table.get("solver", {})), dict(table.get("train", {}))))
    return tuple(phases)
