"""Models of TRM, HRM, EqR and FPRM as the models of runs: on a task, in its tokens."""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._errors import InputError
from ..recursive import NestedTransformer, RecursiveModel, ScaledResidual
from ..starts import Vector


def sibling_task(config: Mapping[str, Any], name: str | None = None) -> tuple[str, dict[str, Any]]:
    """The task of this package that a model of TRM, HRM, EqR or FPRM is for.

    Sudokus with n digits have n^2 cells and a vocabulary of n + 2: padding, blank and the digits.
    Mazes have a square number of cells and 6: padding, wall, free, start, goal and path.

    **Arguments:**

    - `config`: the fields of the authors' configuration, complete (see `sibling_checkpoint`).
    - `name`: "sudoku" or "maze", where the sizes allow both; by default what they say.

    **Returns** the name of the task, and the fields that make it of that size.

    **Raises** `InputError` for sizes of another task.

    ```python
    >>> import eqloop
    >>> eqloop.interop.sibling_task({"seq_len": 81, "vocab_size": 11})
    ('sudoku', {'box': 3})

    ```
    """
    cells, vocabulary = config["seq_len"], config["vocab_size"]
    side = math.isqrt(cells)
    box = math.isqrt(side)
    if name in (None, "sudoku") and box in (2, 3) and (box**4, box**2 + 2) == (cells, vocabulary):
        return "sudoku", {"box": box}
    if name in (None, "maze") and side**2 == cells and vocabulary == 6:
        return "maze", {"size": side}
    raise InputError(
        f"{cells} cells and a vocabulary of {vocabulary} are those of no {name or 'sudoku or maze'}"
        ", so that no run can be made of them: write the weights alone with --weights"
    )


def to_nested(model: RecursiveModel, like: NestedTransformer) -> NestedTransformer:
    """A model of TRM, HRM, EqR or FPRM as a model on a task, called like a `LoopedTransformer`.

    It computes what the authors' model computes, for the puzzle vector of number 0. Tokens of the
    task are the authors' tokens less 1, since theirs begin with padding. The q head is left out if
    `like` has none.

    **Arguments:**

    - `model`: the model; see `from_sibling_state_dict`.
    - `like`: a model of the same sizes, as the spec of `spec_tables` makes it; its arrays, which
        may be shapes, are not used.

    **Returns** a `NestedTransformer` with the weights of `model`.

    **Raises** `InputError` if the state of `model` has other parts than that of `like`, as TRM with
    one level does, and if an array of `like` has another shape than that of `model`.

    ```python
    >>> import eqloop, jax.random as jr
    >>> config = dict(seq_len=16, vocab_size=6, hidden_size=8, num_heads=1, expansion=4,
    ...     L_layers=1, H_cycles=2, L_cycles=2, halt_max_steps=3, mlp_t=True)
    >>> model = eqloop.recursive.make_model("trm", config)
    >>> like = eqloop.recursive.NestedTransformer("trm", (4, 4), 5, 5, 8, 1, layers=1, cycles=2,
    ...     mixer="mlp", begin="vectors", key=jr.key(0))
    >>> same = eqloop.interop.to_nested(model, like)
    >>> print((same.coda.head.weight == model.lm_head.weight[1:]).mean())
    1.0

    ```
    """
    levels, wanted = len(model.begin), len(like.begin.laws)
    if levels != wanted:
        raise InputError(
            f"the state of the model has {levels} level{'s' * (levels > 1)}, and that of a run of "
            f"{like.family} has {wanted}, so that no run can be made of it: write the weights "
            "alone with --weights"
        )
    embed, cells = model.embed, like.prelude.weight.shape[1]
    vector = None if embed.puzzles is None else embed.puzzles[0]
    laws = tuple(
        law if isinstance(law, Vector) else own
        for law, own in zip(model.begin, like.begin.laws, strict=True)
    )
    arrays = (
        embed.tokens[1 : cells + 1].T,
        embed.extra_tokens(vector) if embed.extra else None,
        embed.positions,
        [law.vector for law in laws if isinstance(law, Vector)],
        jax.tree.leaves(model.loop),
        model.lm_head.weight[1 : len(like.coda.head.weight) + 1],
        [] if like.q_head is None else jax.tree.leaves(model.q_head),
    )

    def places(m: NestedTransformer) -> Any:
        vectors = [law.vector for law in m.begin.laws if isinstance(law, Vector)]
        return (
            m.prelude.weight,
            m.tokens,
            m.places,
            vectors,
            jax.tree.leaves(m.map),
            m.coda.head.weight,
            jax.tree.leaves(m.q_head),
        )

    mine, theirs = (jax.tree.map(jnp.shape, tree) for tree in (places(like), arrays))
    if mine != theirs or isinstance(model.loop, ScaledResidual) != (like.family == "fprm"):
        raise InputError(f"a {like.family} of the spec has other shapes than the model")
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), arrays)
    # What is None on both sides is no leaf.
    return eqx.tree_at(lambda m: jax.tree.leaves(places(m)), like, jax.tree.leaves(arrays))
