"""`stability.basins` on maps whose basins have closed forms."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps

from eqloop import stability

SIZES = (0.5, 1.2, 2.0)
LINES = {
    # Fixed points 0 and +-1 with basin boundaries at 0 and, for -1 and 1, at +-sqrt(3) and beyond.
    "two wells": (0.9, [0, 1.5, 0, -0.5]),
    "one in [0, 1]": (0.2, maps.logistic(2.5)),
    "cycle": (0.2, maps.logistic(3.2)),
    "chaos": (0.2, maps.logistic(3.9)),
    "slow": (0.2, [0.0005, 0.9995, 0, 0]),
    "diverging": (0.2, [0, 1.5, 0, 0]),
}


@functools.cache
def lines() -> stability.Basins:
    starts, coefficients = zip(*LINES.values(), strict=True)
    return stability.basins(
        maps.polynomial,
        jnp.asarray(starts)[:, None],
        jnp.asarray(coefficients, float),
        key=jr.key(0),
        sizes=SIZES,
        samples=16,
    )


def own(name: str) -> list[float]:
    example = list(LINES).index(name)
    return [at.values[example] for at in lines().own]


def hits(at: int | None) -> dict[str, int]:
    part = lines()
    shares = {name: part.random[name] if at is None else part.ends[name][at] for name in part.ends}
    for share in shares.values():
        assert share.count == len(LINES) * part.samples
        assert share.low <= share.share <= share.high
    return {name: share.hits for name, share in shares.items() if share.hits}


def test_shares_of_all_ends_follow_from_where_the_starts_are():
    """A start at the distance s from z > 0 is `z (1 + s)` or `z (1 - s)`."""
    part = lines()
    # Two wells: 0.5 and 1.5 return; -0.2 goes to -1 and 2.2 returns; -1 stays and 3 diverges.
    # Logistic, r = 2.5: 0.3 and 0.9 return; later 1.32 and -0.12 leave [0, 1] and diverge.
    wells = own("two wells")
    assert (wells[0], wells[2]) == (1, 0)
    assert 0.2 < wells[1] < 0.8
    assert own("one in [0, 1]") == [1, 0, 0]
    assert part.half.values[:2] in ([0.5, 0.5], [1.2, 0.5])
    assert part.fixed_points[:2] == [2, 1]
    assert 0 < own("cycle")[0] <= 1
    for name in ("chaos", "slow", "diverging"):
        assert np.isnan(own(name)).all()
    nearest, middle, farthest = (hits(at) for at in range(3))
    assert sum(nearest.values()) == len(LINES) * 16
    assert nearest["own"] == 32 + round(16 * own("cycle")[0])
    assert "other" not in nearest
    assert "cycle" not in nearest
    # The chaotic loop stays in [0, 1] or leaves it; the slow one never diverges.
    assert nearest["wandering"] + nearest["diverged"] == 96 - 16 - nearest["own"]
    assert middle["own"] + middle["other"] == 16
    assert "own" not in farthest
    assert hits(None)["own"] > 0
    assert [at.count for at in part.own] == [3, 3, 3]


def test_basins_are_plain_values():
    part = lines()
    assert json.loads(json.dumps(dataclasses.asdict(part)))["sizes"] == list(SIZES)


@pytest.mark.parametrize(
    "wrong", [{"sizes": ()}, {"sizes": (1.0, 0.5)}, {"sizes": (0.0, 1.0)}, {"samples": 0}]
)
def test_arguments_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        stability.basins(
            maps.polynomial,
            jnp.full((6, 1), 0.5),
            jnp.asarray([case[1] for case in LINES.values()], float),
            key=jr.key(0),
            **wrong,
        )
