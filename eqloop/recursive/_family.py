"""The names of the families of models."""

from typing import Literal

Family = Literal["trm", "hrm", "eqr", "fprm"]
"""TRM, HRM, EqR or FPRM."""
