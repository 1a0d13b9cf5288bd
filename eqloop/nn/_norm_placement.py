"""Where a sub-block normalises."""

import equinox as eqx

from ._norm import RMSNorm

NormKind = str
"""A name of `_PLACES`."""

# (before the branch, at the end of the branch, after the residual sum)
_PLACES: dict[NormKind, tuple[bool, bool, bool]] = {
    "pre": (True, False, False),
    "peri": (True, True, False),
    "post": (False, False, True),
    "sandwich": (True, False, True),
}


class NormPlacement(eqx.Module):
    """The norms of `z <- N_out(z + N_branch(F(N_pre(z))))`; a place without a norm is None.

    One gain per place, shared by the attention and the MLP sub-block (arXiv 2604.15259). `post`
    is the paper's outer normalisation: it keeps the state in a compact set.

    **Arguments:**

    - `kind`: "pre", "peri", "post" or "sandwich".
    - `width`: features per cell.

    **Raises** `ValueError` for any other kind.
    """

    pre: RMSNorm | None
    branch: RMSNorm | None
    out: RMSNorm | None

    def __init__(self, kind: NormKind, width: int):
        if kind not in _PLACES:
            raise ValueError(f"norm = {kind!r} must be one of {', '.join(_PLACES)}")
        self.pre, self.branch, self.out = (
            RMSNorm(width) if place else None for place in _PLACES[kind]
        )

    @property
    def kind(self) -> NormKind:
        """The name of this placement."""
        places = tuple(norm is not None for norm in (self.pre, self.branch, self.out))
        return next(kind for kind, held in _PLACES.items() if held == places)
