"""The four tests of whether an equilibrium computes or only settles, on maps with known answers."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqloop.claims import Followed, follow, four_tests, stays_solved
from eqloop.stability import Start, share, summary

CELLS = 24
LENGTHS = np.repeat([4, 8, 12, 16, 20, 24], 4)
INSIDE = np.arange(CELLS) < LENGTHS[:, None]
BITS = np.where(INSIDE, np.random.RandomState(0).choice([-1.0, 1.0], INSIDE.shape), 0.0)
BITS[::2] = INSIDE[::2]  # the parity of single ones is the string itself
BITS = BITS.astype(np.float32)
PARITY = np.where(INSIDE, np.cumprod(np.where(INSIDE, BITS, 1), axis=1), 0).astype(np.float32)
EXAMPLES = (BITS, INSIDE, PARITY)


def transports(z, x):
    """Each cell multiplies its bit by the state of the cell before it: the running parity."""
    return x * jnp.concatenate([jnp.ones(1), z[:-1]])


def is_its_start(z, x):
    return x


def is_one_step_away(z, x):
    """A map whose every iteration goes half of the way to one fixed point, the same for all
    examples."""
    return (z + x) / 2


def begins(x):
    return 0 * x


def itself(x):
    return x


def solved(z, inside, parity):
    return jnp.all(~inside | (jnp.sign(z) == parity))


def starts(same: np.ndarray) -> dict[str, Start]:
    return {"gaussian": Start(share(np.ones(len(same), bool)), share(same), summary(same))}


AGREE = starts(np.ones(16, bool))


def outcome(f, start=begins, others=AGREE):
    followed = follow(f, start, solved, EXAMPLES, LENGTHS, iterations=64, rtol=1e-4)
    stays = stays_solved(f, start, solved, EXAMPLES, key=jr.key(0), iterations=64)
    return four_tests({"test": followed}, "test", stays, others)


def test_a_map_that_transports_passes_all():
    tests = outcome(transports)
    assert {name: test.verdict for name, test in tests.items()} == dict.fromkeys(
        ("t1", "t2", "t3", "t4"), "passed"
    )
    assert tests["t1"].value == 1
    assert tests["t1"].numbers["solved"] == 1
    assert tests["t1"].numbers["solved_after_one"] == 0
    # One state settles after as many iterations as there are cells; the other never changes.
    assert tests["t2"].value == 1
    assert tests["t2"].numbers["iterations_per_difficulty"] == pytest.approx(1)
    assert tests["t4"].value == 1


@pytest.mark.parametrize(("f", "start"), [(is_its_start, itself), (is_one_step_away, begins)])
def test_an_equilibrium_that_only_settles_passes_neither_of_the_first_two(f, start):
    tests = outcome(f, start)
    assert [tests[name].verdict for name in ("t1", "t2")] == ["failed", "failed"]
    assert tests["t1"].value == tests["t2"].value == 0
    assert tests["t1"].numbers["solved"] == tests["t1"].numbers["solved_after_one"]


def test_restarts_that_end_elsewhere_and_solved_states_that_are_lost_fail():
    assert outcome(transports, others=starts(np.arange(16) < 2))["t3"].verdict == "failed"
    assert outcome(transports, others=starts(np.arange(16) < 8))["t3"].verdict == "undecided"

    def drifts(z, x):
        """A map that is right after 64 iterations and wrong after 256, and never forgets a push."""
        return z - 0.01 * x

    whole = (PARITY[-4:],) * 3  # without blanks
    stays = stays_solved(
        drifts, itself, lambda z, bits, _: jnp.all(z * bits > 0), whole,
        key=jr.key(0), iterations=64,
    )  # fmt: skip
    test = four_tests({"test": _followed(4)}, "test", np.tile(stays, (4, 1)), AGREE)["t4"]
    assert (test.verdict, test.value, test.numbers["after_longer"]) == ("failed", 0, 0)


def _followed(count: int, **changes) -> Followed:
    parts = {
        "steps": np.arange(count, dtype=float),
        "solved": np.zeros((count, 3), bool),
        "difficulty": np.arange(count, dtype=float),
    }
    return Followed(**(parts | changes))


def test_what_cannot_be_measured_is_said_to_be_so():
    nothing = np.zeros((4, 3), bool)
    none = {
        "gaussian": Start(share(np.ones(0, bool)), share(np.ones(0, bool)), summary(np.ones(0)))
    }
    unsettled = _followed(8, steps=np.full(8, np.nan))
    tests = four_tests({"test": unsettled}, "test", nothing, none)
    assert [tests[name].verdict for name in ("t2", "t3", "t4")] == ["not measured"] * 3
    alike = four_tests({"test": _followed(8, difficulty=np.ones(8))}, "test", nothing, none)
    assert alike["t2"].verdict == "not measured"
    # This map solves nothing at z* either.
    assert (alike["t1"].verdict, alike["t1"].value) == ("failed", 0)


def test_the_interval_of_a_correlation_holds_the_true_one():
    """The interval covers the true value in 400 samples of 20 normal pairs with a rank correlation
    of 0.58."""
    random, inside = np.random.RandomState(0), 0
    true = 6 / np.pi * np.arcsin(0.6 / 2)
    for _ in range(400):
        x = random.normal(size=20)
        steps = 0.6 * x + 0.8 * random.normal(size=20)
        followed = _followed(20, steps=steps, difficulty=x)
        test = four_tests({"test": followed}, "test", np.zeros((1, 3), bool), AGREE)["t2"]
        inside += test.low <= true <= test.high
    assert 0.92 <= inside / 400 <= 0.98
