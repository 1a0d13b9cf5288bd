"""Where a block normalises, and where it injects the input: one row for each name.

The spec of a run checks names against these tables and `eqloop.nn` builds blocks from them. A new
row is all that a new placement takes, here or in Python before a spec names it:

```python
eqloop.nn.RECALLS["both"] = eqloop.nn.RecallPlaces("before and inside", before=True, inside=True)
```
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class NormPlaces:
    """A norm placement: which of the norms of `z <- N_out(z + N_branch(F(N_pre(z))))` it has.

    **Arguments:**

    - `meaning`: one phrase for help texts.
    - `pre`: whether it normalises the input of each branch F.
    - `branch`: whether it normalises the output of each branch.
    - `out`: whether it normalises the sum of state and branch.

    ```python
    >>> import eqloop
    >>> post = eqloop.nn.NORMS["post"]
    >>> print(post.meaning, post.pre, post.branch, post.out)
    after each residual sum False False True

    ```
    """

    meaning: str
    pre: bool = False
    branch: bool = False
    out: bool = False


@dataclasses.dataclass(frozen=True)
class RecallPlaces:
    """A recall: what `W_x z + W_h e + b` replaces in a block.

    **Arguments:**

    - `meaning`: one phrase for help texts.
    - `before`: whether it replaces the residual stream before the block.
    - `inside`: whether it replaces the input of each branch inside the block.

    ```python
    >>> import eqloop
    >>> internal = eqloop.nn.RECALLS["internal"]
    >>> print(internal.meaning, internal.before, internal.inside)
    the input is added inside the block False True

    ```
    """

    meaning: str
    before: bool = False
    inside: bool = False


NORMS: dict[str, NormPlaces] = {
    "pre": NormPlaces("before each branch", pre=True),
    "peri": NormPlaces("before and after each branch", pre=True, branch=True),
    "post": NormPlaces("after each residual sum", out=True),
    "sandwich": NormPlaces("before each branch and after each residual sum", pre=True, out=True),
}
"""Name of a norm placement -> which norms it has."""

RECALLS: dict[str, RecallPlaces] = {
    "none": RecallPlaces("the input is the initial state only"),
    "external": RecallPlaces("the input is added before the block", before=True),
    "internal": RecallPlaces("the input is added inside the block", inside=True),
}
"""Name of a recall -> where it adds the input."""
