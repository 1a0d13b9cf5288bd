"""How numbers, shares, intervals and durations are written for people.

`format_...` gives plain text for a terminal: "1e-05", and "-" for a missing number. `typeset_...`
gives text for pages and tables of results: "1×10⁻⁵", and "–" for a missing number. A number is
missing if it is None or NaN.
"""

from collections.abc import Callable
from typing import TypeGuard

DASH = "–"

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SPACE = "\N{NO-BREAK SPACE}"
"""A narrow page breaks an interval before "to" and nowhere else."""
_PERCENT = f"{_SPACE}%"


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether `value` is a number: neither None nor NaN."""
    return value is not None and value == value


def format_number(value: float | None, spec: str = ".3g", *, missing: str = "-") -> str:
    """`value` in the format `spec`; `missing` if there is no number."""
    return format(value, spec) if is_known(value) else missing


def format_percent(share: float | None, spec: str = ".1f", *, missing: str = "-") -> str:
    """A share between 0 and 1 in percent, without the sign."""
    return format_number(100 * share, spec) if is_known(share) else missing


def format_with_interval(
    value: float | None, low: float | None, high: float | None, *, percent: bool = False
) -> str:
    """`"12.3 [10, 15]"` with three digits, and with `percent` a share as `"12.3 [10, 15] %"`."""
    form, unit = (format_percent, " %") if percent else (format_number, "")
    if not is_known(value):
        return form(value, ".3g")
    limits = f" [{form(low, '.3g')}, {form(high, '.3g')}]" if is_known(low) else ""
    return f"{form(value, '.3g')}{limits}{unit}"


def format_duration(seconds: float) -> str:
    """Whole seconds below 90 s, whole minutes below 2 h, else hours with one decimal."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def typeset_number(value: float | None) -> str:
    """Three digits, with a power of ten if it is far from 1."""
    if not is_known(value):
        return DASH
    # A cosine of 0.9998 is not one of 1.
    text = f"{value:.3g}" if not 0.995 <= abs(value) < 1 else f"{value:.4g}"
    if "e" in text:
        digits, power = text.split("e")
        text = f"{digits}×10{str(int(power)).translate(_SUPERSCRIPTS)}"
    return text.replace("-", "−")


def typeset_percent(share: float | None) -> str:
    """A share between 0 and 1 in percent, with three digits and the sign."""
    return f"{100 * share:.3g}{_PERCENT}" if is_known(share) else DASH


def typeset_interval(
    low: float | None, high: float | None, typeset: Callable[[float | None], str] = typeset_number
) -> str:
    """`"10 to 15"`; both limits are written by `typeset`."""
    if not is_known(low) or not is_known(high):
        return DASH
    return f"{typeset(low).removesuffix(_PERCENT)} to{_SPACE}{typeset(high)}"


def typeset_hits(hits: int, count: int) -> str:
    """`"3 of 8"`, on one line."""
    return f"{hits}{_SPACE}of{_SPACE}{count}"


def typeset_estimate(mean: float | None, half_width: float | None) -> str:
    """The mean of a share in percent and half the width of its interval: `"12.3 ± 0.4"`."""
    if not is_known(mean):
        return DASH
    return f"{format_percent(mean)} ± {format_percent(half_width, missing=DASH)}"


def typeset_value(value: str | float | bool | None) -> str:
    """The value of a field of a spec: text as it is, a float with up to ten digits, yes or no."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
