"""The spec of a run from the fields of the authors' configuration."""

from collections.abc import Mapping
from typing import Any

from .._errors import InputError
from ._family import Family
from ._make import Sizes

_EPS = 1e-5


def spec_tables(kind: Family, config: Mapping[str, Any], task: str) -> dict[str, dict[str, Any]]:
    """The spec of a run that is a model of TRM, HRM, EqR or FPRM.

    The loop is iterated without noise and without damping by step size, as many times as the
    authors' evaluation does at most: `H_cycles x halt_max_steps` cycles, or FPRM's `max_iter_eval`
    steps. What the authors' training needs is not in the spec.

    **Arguments:**

    - `kind`: the family.
    - `config`: the fields of the authors' configuration, complete.
    - `task`: "sudoku" or "maze".

    **Returns** the tables `model`, `solver` and `train`, for `eqloop.run.overlay`.

    **Raises** `InputError` for a configuration that no spec describes.

    ```python
    >>> import eqloop
    >>> config = dict(seq_len=81, vocab_size=11, hidden_size=512, num_heads=8, expansion=4,
    ...     L_layers=2, H_cycles=3, L_cycles=6, halt_max_steps=16, mlp_t=True)
    >>> tables = eqloop.recursive.spec_tables("trm", config, "sudoku")
    >>> tables["model"]["mixer"], tables["solver"]["steps"], tables["solver"]["max_steps"]
    ('mlp', 3, 48)

    ```
    """
    sizes = Sizes.of(config)
    if sizes.rms_norm_eps != _EPS or sizes.expansion != int(sizes.expansion):
        raise InputError(
            f"rms_norm_eps = {sizes.rms_norm_eps} and expansion = {sizes.expansion} are not in a "
            f"spec, which has {_EPS} and whole numbers: write the weights alone with --weights"
        )
    plane = {"rope": "line", "rope2d": "axes", "learned": "learned"}
    model: dict[str, Any] = {
        "family": kind,
        "width": sizes.hidden_size,
        "heads": sizes.num_heads,
        "blocks": sizes.L_layers,
        "mlp_ratio": int(sizes.expansion),
        "attention": "full",
        "mixer": "mlp" if sizes.mlp_t else "attention",
        "positions": plane.get(sizes.pos_encodings or "none", "none"),
        "rotary_base": float(sizes.rope_theta),
        "extra": sizes.extra(kind),
        "causal": sizes.causal,
        "begin": "vectors",
        "q_head": True,
    }
    if task == "maze":
        model["outputs"] = (2, 3)
    solver: dict[str, Any] = {"name": "unroll", "steps": sizes.H_cycles}
    if kind == "fprm":
        conv = {"conv2d": "grid", "conv1d": "line"}.get(sizes.conv_type, "none")
        model |= {"conv": conv, "end_norm": sizes.norm_placement}
        model |= {"conv_width": sizes.conv_kernel_size} if conv != "none" else {}
        model |= {} if sizes.fixed_init else {"begin": "normal", "begin_std": (sizes.init_std,)}
        solver |= {"gradient": "backprop", "steps": sizes.n_backwards_L}
        most = sizes.max_iter_eval or sizes.max_iter * sizes.n_backwards_L
    else:
        model["cycles"] = sizes.L_cycles
        solver |= {"gradient": "truncated", "gradient_steps": 1}
        most = sizes.H_cycles * sizes.halt_max_steps
    if kind == "hrm":
        model["high_blocks"] = sizes.H_layers
    if kind == "eqr":
        stds = (float(sizes.H_init_std), float(sizes.L_init_std))
        model |= {"mix": sizes.lambda_, "begin": "normal", "begin_std": stds}
    train = {"loss": "last", "steps": 1, "validation_iterations": most, "ema": 0.0}
    return {"model": model, "solver": solver | {"max_steps": most}, "train": train}
