"""Where a sub-block normalises."""

import equinox as eqx

from .._places import NORMS
from ._norm import RMSNorm

NormKind = str
"""A name of `NORMS`."""


class NormPlacement(eqx.Module):
    """The norms of `z <- N_out(z + N_branch(F(N_pre(z))))`; a place without a norm is None.

    One gain per place, shared by the attention and the MLP sub-block (arXiv 2604.15259). `post`
    is the paper's outer normalisation: it keeps the state in a compact set.

    **Arguments:**

    - `kind`: "pre", "peri", "post", "sandwich", or another row of `NORMS`.
    - `width`: features per cell.

    **Raises** `ValueError` for any other kind.

    ```python
    >>> import eqloop
    >>> norms = eqloop.nn.NormPlacement("post", 8)
    >>> print(norms.pre, norms.branch, norms.out.gain.shape, norms.kind)
    None None (8,) post

    ```
    """

    pre: RMSNorm | None
    branch: RMSNorm | None
    out: RMSNorm | None

    def __init__(self, kind: NormKind, width: int):
        if kind not in NORMS:
            raise ValueError(f"norm = {kind!r} must be one of {', '.join(NORMS)}")
        places = NORMS[kind]
        self.pre, self.branch, self.out = (
            RMSNorm(width) if place else None for place in (places.pre, places.branch, places.out)
        )

    @property
    def kind(self) -> NormKind:
        """The name of this placement."""
        places = tuple(norm is not None for norm in (self.pre, self.branch, self.out))
        return next(kind for kind, p in NORMS.items() if (p.pre, p.branch, p.out) == places)
