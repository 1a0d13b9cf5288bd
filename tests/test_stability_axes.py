"""`eqloop.stability`: input-dependence, geometry, statistics and verdicts of maps with known
answers, and maps of every kind."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose
from scipy.stats import binom

from eqloop import stability
from eqloop.stability import Share, Summary
from eqloop.stability._input_dependence import PROBES
from eqloop.stability._verdict import (
    judge_geometry,
    judge_input_dependence,
    judge_reachability,
)

A = maps.dense(6, 0.9, maps.turn(0.8, 2.0), skew=1.0)
B = np.random.default_rng(1).normal(size=(6, 3))
EXAMPLES, DETAIL = 24, 8


def affine(a=A, b=B):
    """Return `f, z0s, xs`; all `a` and `b` share one program."""
    xs = jr.normal(jr.key(2), (EXAMPLES, 3))
    return maps.Affine(jnp.asarray(a), jnp.asarray(b)), jnp.zeros((EXAMPLES, 6)), xs


def plain(value):
    """Convert a value to what JSON returns."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parts(value):
    """Yield every dataclass inside a value."""
    if dataclasses.is_dataclass(value):
        yield value
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from parts(item)


def check(report, examples, detail):
    """Assert what holds of every report."""
    tables = json.loads(json.dumps(plain(report.tables()), allow_nan=False))
    assert tables["settings"]["format"] == stability.FORMAT
    assert set(report.verdict) == {"reachability", "input_dependence", "geometry"}
    for statement in report.verdict.values():
        assert statement.verdict
        assert "nan" not in statement.because
    reach, depend, shape = report.reachability, report.input_dependence, report.geometry
    summaries = (reach.settle_step, reach.rate, reach.remaining, reach.growth)
    for summary in summaries:
        assert len(summary.values) == examples
    assert len(reach.outcomes) == len(reach.curves) == len(reach.periods) == examples
    assert len(depend.points) == examples
    wide = [id(summary) for summary in summaries]
    for part in parts(report):
        if isinstance(part, Summary):
            assert len(part.values) == (examples if id(part) in wide else detail)
            assert part.count == np.isfinite(part.values).sum()
        elif isinstance(part, Share):
            assert 0 <= part.hits <= part.count <= examples
        elif isinstance(part, stability.Band):
            on = depend if part is depend.sensitivity else reach
            on = shape if part is shape.gradient_norm else on
            assert len(part.median) == len(part.low) == len(part.high) == len(on.iterations)
    assert sum(s.hits for s in reach.shares.values()) == examples
    return report


def analyse(f, z0s, xs, **kwargs):
    report = stability.analyse(f, z0s, xs, key=jr.key(0), detail=DETAIL, **kwargs)
    return check(report, EXAMPLES, DETAIL)


def test_an_affine_loop(x64):
    calls = []
    report = analyse(*affine(), progress=lambda *progress: calls.append(progress))
    # The work that is done grows to the planned total: no stage is left out or counted twice.
    done, totals = zip(*calls, strict=True)
    assert set(totals) == {sum(stability.planned(EXAMPLES, DETAIL, 256).values())}
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]
    reach, depend, shape = report.reachability, report.input_dependence, report.geometry
    unit = np.eye(6)
    assert_allclose(report.spectrum.radius.values, 0.9, rtol=1e-6)
    assert_allclose(report.spectrum.sigma_max.values, np.linalg.norm(A, 2), rtol=1e-6)
    assert_allclose(report.spectrum.non_normality.values, np.linalg.norm(A, 2) / 0.9, rtol=1e-6)
    assert_allclose(reach.rate.median, 0.9, rtol=2e-2)  # conjugate pairs make it ripple
    sigma = np.linalg.svd(unit - A)[1]
    assert_allclose(shape.sigma_max.values, sigma[0], rtol=1e-6)
    assert_allclose(shape.sigma_min.values, sigma[-1], rtol=1e-6)
    assert_allclose(shape.condition.values, sigma[0] / sigma[-1], rtol=1e-6)
    assert shape.solved.share == shape.returned.share == 1
    assert_allclose(depend.agreement.values, 1, rtol=1e-6)
    assert_allclose(depend.smoothness.values, 1, rtol=1e-6)
    assert depend.clusters == depend.inputs == [1, 2, 4, 8, 16, 24]
    assert depend.distinct == 1
    assert depend.probe is not None
    assert depend.probe > 0.9  # z* is a linear function of x, from which x can be computed
    assert report.spectrum.regime_shares["contracting"].share == 1
    assert report.verdict["reachability"].verdict == "reached from every start"
    assert report.verdict["input_dependence"].verdict == "smooth in the input"
    assert report.verdict["geometry"].verdict == "stable"


def test_a_report_prints_saves_and_draws_itself(tmp_path, x64):
    report = analyse(*affine())
    text = str(report)
    assert len(text.splitlines()) <= 24
    for statement in report.verdict.values():
        assert statement.verdict in text
    saved = json.loads(report.save(tmp_path / "new" / "folder").read_text())
    assert saved["verdict"]["reachability"]["verdict"] == report.verdict["reachability"].verdict
    page = report.page(tmp_path / "page")
    assert page.name == "report.html"
    assert report.verdict["reachability"].verdict in page.read_text()


@pytest.mark.parametrize(
    ("a", "reachability", "dependence", "geometry"),
    [
        (np.zeros((6, 6)), "reached from every start", "smooth in the input", "stable"),
        (3 * A, "not reached", "not measurable", "exploding"),
        (-np.eye(6), "not reached", "not measurable", "stable"),
        (np.diag([1 - 1e-4, *[0.5] * 5]), "not reached", "not measurable", "stable"),
        (
            maps.dense(6, np.array([[0.5, 500], [0, 0.3]])),
            "reached from every start",
            "smooth in the input",
            "exploding",
        ),
    ],
)
def test_verdicts_of_affine_loops(a, reachability, dependence, geometry, x64):
    report = analyse(*affine(a))
    verdict = {axis: statement.verdict for axis, statement in report.verdict.items()}
    assert verdict == {
        "reachability": reachability,
        "input_dependence": dependence,
        "geometry": geometry,
    }
    if dependence == "not measurable":
        assert "0 of 24" in report.verdict["input_dependence"].because
        assert "no loop converged" in report.verdict["geometry"].because
        assert not report.verdict["input_dependence"].numbers


def test_every_verdict_on_input_dependence(x64):
    """One report is changed in the numbers on which each verdict depends."""
    report = analyse(*affine())
    depend = report.input_dependence
    unknown = dataclasses.replace(depend.smoothness, count=0)
    rough = dataclasses.replace(depend.smoothness, quantiles={"0.5": 3.0})
    still = dataclasses.replace(depend.kept, quantiles={"0.5": 1e-9})
    disagreement = dataclasses.replace(depend.agreement, quantiles={"0.5": 183.0})

    def verdict(**changed):
        changed = dataclasses.replace(depend, **changed)
        return judge_input_dependence(report.reachability, changed).verdict

    assert verdict() == "smooth in the input"
    assert verdict(smoothness=rough) == "differs, not smoothly"
    assert verdict(smoothness=unknown) == "differs, smoothness not measurable"
    assert verdict(kept=still, smoothness=unknown) == "differs, not smoothly"
    # Where z* depends more on the start than on f, other starts are tried.
    assert verdict(agreement=disagreement, smoothness=rough) == "smooth in the input"
    assert verdict(agreement=disagreement, through_start=rough) == "differs, not smoothly"
    assert verdict(recall=False, agreement=disagreement) == "smooth in the input"
    assert (
        verdict(recall=False, agreement=disagreement, through_start=rough)
        == "differs, not smoothly"
    )
    assert verdict(recall=False, kept=still) == "differs, not smoothly"
    first = dataclasses.replace(depend.sensitivity, median=[0.0] * len(depend.iterations))
    assert verdict(recall=False, sensitivity=first) == "not measurable"
    assert verdict(distinct=0.25) == "few fixed points"
    assert verdict(clusters=[1.0] * len(depend.clusters)) == "one fixed point, whatever the input"


def test_every_verdict_on_reachability_and_conditioning(x64):
    report = analyse(*affine())
    reach, shape = report.reachability, report.geometry
    for converged, unresolved, verdict in (
        (24, 0, "reached from every start"),
        (22, 2, "reached from every start"),
        (20, 4, "not measurable"),
        (20, 0, "reached in part"),
        (1, 23, "not measurable"),
        (1, 0, "not reached"),
    ):
        shares = {
            "converged": stability.share(np.arange(EXAMPLES) < converged),
            "unresolved": stability.share(np.arange(EXAMPLES) < unresolved),
        }
        statement = judge_reachability(dataclasses.replace(reach, shares=reach.shares | shares))
        assert statement.verdict == verdict
        assert ("1 - rate" in statement.because) == (unresolved > 0)
    half = dataclasses.replace(reach.starts["other"].same, share=0.5)
    other_start = dataclasses.replace(reach.starts["other"], same=half)
    starts = dataclasses.replace(reach, starts=reach.starts | {"other": other_start})
    assert judge_reachability(starts).verdict == "reached from its own start"
    some = dataclasses.replace(reach.shares["wandering"], hits=1)
    rest = dataclasses.replace(reach, shares=reach.shares | {"wandering": some})
    assert f"the others within {reach.iterations[-1]} iterations: 1 wandering" in (
        judge_reachability(rest).because
    )
    few = dataclasses.replace(shape.condition, count=shape.solved.count // 2 - 1)
    unknown = dataclasses.replace(shape, condition=few)
    conditioning = judge_geometry(reach, unknown, report.spectrum).verdict
    assert conditioning == "stable, conditioning not measurable"
    # Numbers are attributed to fixed points only if they were measured at fixed points.
    assert judge_geometry(reach, shape, report.spectrum).because.count("at the 8 fixed points") == 1
    some = dataclasses.replace(shape, solved=Share(1, 1, 1.0, 0.2, 1.0))
    radius = stability.summary(np.where(np.arange(DETAIL) < 1, 0.7, math.nan))
    spectrum = dataclasses.replace(report.spectrum, radius_at_fixed_points=radius)
    because = judge_geometry(reach, some, spectrum).because
    assert "at the one fixed point the spectral radius is 0.70" in because
    none = stability.summary(np.full(DETAIL, math.nan))
    spectrum = dataclasses.replace(report.spectrum, radius_at_fixed_points=none)
    because = judge_geometry(reach, shape, spectrum).because
    assert "spectral radius is not measurable (J is too far from normal: to ± " in because


def test_other_fixed_points_are_starts_too(x64):
    """The map has two wells, and the starts are so near to the ridge that Gaussian starts of their
    size show nothing."""
    xs = jnp.sign(jr.normal(jr.key(0), (12, 4)))
    limits = stability.follow_orbits(
        lambda z, x: jnp.tanh(2 * z + 0.1 * x), jnp.full((12, 4), 1e-3), xs, iterations=64
    )
    reach = stability.reachability(limits, key=jr.key(1))
    assert reach.starts["gaussian"].same.share == 1
    assert judge_reachability(reach).verdict == "reached from its own start"


def test_ill_conditioned(x64):
    """The loop starts at its fixed point, which it would take for ever to reach."""
    a = np.diag([1 - 2.0**-13, *[0.5] * 5])
    f, z0s, xs = affine(a)
    z0s = jnp.linalg.solve(jnp.eye(6) - a, f.b @ xs.T).T
    report = analyse(f, z0s, xs)
    assert_allclose(report.geometry.condition.values, 2.0**12, rtol=1e-6)
    assert report.verdict["geometry"].verdict == "ill-conditioned"


def test_an_input_that_does_not_matter(x64):
    report = analyse(*affine(b=0 * B))
    assert set(report.input_dependence.implicit.values) == {0.0}
    assert "one fixed point" in report.verdict["input_dependence"].verdict


def test_estimate_of_the_sensitivity(x64):
    """Hutchinson's estimate takes a few probes per example; its mean over many examples is within
    its error."""
    limits = stability.follow_orbits(*affine())
    some = limits.take(np.arange(DETAIL))
    squares = []
    for seed in range(24):
        depend = stability.input_dependence(limits, key=jr.key(seed), detail=some)
        squares.append(np.square(depend.implicit.values))
    dense = np.linalg.solve(np.eye(6) - A, B)
    gram = dense.T @ dense
    # The standard error with Gaussian probes.
    error = math.sqrt(2 * np.sum(gram**2) / (PROBES * np.size(squares)))
    assert abs(np.mean(squares) - np.trace(gram)) < 3 * error
    assert error < 0.1 * np.trace(gram)  # otherwise the test would show nothing


def network(z, x):
    return {"a": jnp.tanh(0.5 * z["b"] + x["u"]), "b": 0.4 * z["a"] * z["b"] + x["v"] ** 2}


def test_operators_of_pytrees(x64):
    x = {"u": jnp.array([0.3, -0.2]), "v": jnp.array([0.5, 0.1]), "n": jnp.array(3), "none": None}
    z = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    for _ in range(200):
        z = network(z, x)
    j = stability.state_jacobian(network, z, x)
    b = stability.input_jacobian(network, z, x)
    sensitivity = np.linalg.solve(np.eye(4) - j.as_matrix(), b.as_matrix())
    assert_allclose(j.T.as_matrix(), j.as_matrix().T, rtol=1e-12)

    def limit(u, v):
        y = z
        for _ in range(100):
            y = network(y, {"u": u, "v": v})
        return ravel_pytree(y)[0]

    h, columns = 1e-6, []
    for i in range(4):
        d = jnp.zeros(4).at[i].set(h)
        ends = [limit(x["u"] + s * d[:2], x["v"] + s * d[2:]) for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * h))
    assert_allclose(sensitivity, np.stack(columns, axis=1), rtol=1e-6, atol=1e-8)


CENTRES = np.array([[0.0, 5.0], [4.0, 0.0], [-4.0, 0.0], [0.0, -5.0], [9.0, 9.0]])


class Attractors(eqx.Module):
    centres: jax.Array

    def __call__(self, z, x):
        del x
        away = jnp.sum(jnp.square(self.centres - z[None]), axis=1)
        return z + 0.3 * (self.centres[jnp.argmin(away)] - z)


def itself(x):
    return x


def test_as_many_fixed_points_as_there_are_attractors(x64):
    xs = 5 * jr.normal(jr.key(0), (64, 2)) + 2
    for m in range(1, 6):
        # The unwanted points lie where there is no input.
        f = Attractors(jnp.asarray(np.where(np.arange(5)[:, None] < m, CENTRES, 1e3)))
        limits = stability.follow_orbits(f, itself, xs)
        depend = stability.input_dependence(limits, key=jr.key(1))
        nearest = np.argmin(np.sum((np.asarray(xs)[:, None] - CENTRES[None, :m]) ** 2, -1), 1)
        assert len(set(nearest.tolist())) == m
        assert depend.clusters[-1] == m
        assert depend.clusters == sorted(depend.clusters)
        assert_allclose(depend.distinct, m / 64)
        assert max(depend.implicit.values) == 0
        # The input enters through the start, which the loop then forgets.
        assert depend.sensitivity.median[0] > 0.5
        assert depend.sensitivity.median[-1] < 1e-12


def test_gaussian_starts_reach_either_of_two_wells(x64):
    """Gaussian starts reach each well half of the time, whichever well the example's own start
    reaches."""
    xs = jnp.linspace(-1, 1, 400)[:, None]
    coefficients = jnp.tile(jnp.array([0, 1.5, 0, -0.5]), (400, 1))
    limits = stability.follow_orbits(maps.polynomial, xs, coefficients)
    same = stability.reachability(limits, key=jr.key(0)).starts["gaussian"].same
    assert same.count > 390  # all examples but those that began beside the edge
    assert same.low < 0.5 < same.high


def rough(z, x):
    return 0.5 * z + x["scale"] * jnp.sin(x["often"] * x["u"])


def test_roughness(x64):
    """`z* = 2 sin(often u)` has no slope over a hundredth of u if `often` is large."""
    ones = jnp.ones((32, 1))
    xs = {"u": jr.normal(jr.key(0), (32, 1)), "scale": ones, "often": ones}
    for often, smooth in ((1.0, True), (1e5, False)):
        limits = stability.follow_orbits(rough, 0 * ones, xs | {"often": often * ones})
        median = np.median(stability.smoothness(limits, key=jr.key(0)))
        assert (0.9 < median < 1.1) == smooth
        assert smooth or median < 0.1


def jump(z, x):
    return 0.5 * z + jnp.round(5 * x)


def read(z, x):
    return 0.5 * z + jnp.arange(8.0)[x][None]


def steady(z, x):
    del x
    return 0.5 * z + 1


@pytest.mark.parametrize(
    ("f", "xs", "count"),
    [
        (jump, jnp.linspace(0, 2, 8)[:, None], 8),
        (read, jnp.arange(8), 8),
        (steady, None, 1),
        (steady, {"n": jnp.arange(8)}, 1),
    ],
    ids=["jump", "integers", "none", "unused"],
)
def test_inputs_without_a_derivative(f, xs, count):
    limits = stability.follow_orbits(f, jnp.zeros((8, 1)), xs)
    depend = stability.input_dependence(limits, key=jr.key(0))
    assert depend.clusters[-1] == count
    assert depend.implicit.values == [0.0] * 8
    assert set(depend.sensitivity.high) == {0.0}
    assert depend.smoothness.count == 0


# --- Geometry


DYADIC = {
    # The numbers are binary fractions, so that a loop started at a fixed point stays there, stable
    # or not.
    "outside, pair": (np.array([[0.75, -1], [1, 0.75]]), 1.25),
    "inside, pair": (np.array([[0.5, -0.5], [0.5, 0.5]]), 0.5**0.5),
    "outside": (np.diag([1.5, 0.5]), 1.5),
    "outside, turned over": (np.diag([-1.25, 0.5]), 1.25),
    "inside": (np.diag([-0.75, 0.5]), 0.75),
    "inside, not normal": (np.array([[0.5, 8], [0, 0.25]]), 0.5),
    "just inside": (np.diag([1 - 2.0**-7, 0.5]), 1 - 2.0**-7),
    "just outside": (np.diag([1 + 2.0**-7, 0.5]), 1 + 2.0**-7),
    "just outside, pair": (np.array([[1, -1 / 64], [1 / 64, 1]]), (1 + 2.0**-12) ** 0.5),
}


def at_fixed_points(matrices):
    zs, xs = maps.stack(matrices)
    return stability.follow_orbits(maps.by_matrix, zs + 1, xs)


def test_what_is_pushed_returns_from_inside_the_unit_circle(x64):
    limits = at_fixed_points([a for a, _ in DYADIC.values()])
    assert limits.converged.all()
    leading = stability.jacobian_eigenvalues(limits, key=jr.key(0))
    factor, returned = stability.return_test(limits, leading)
    moduli = np.array([modulus for _, modulus in DYADIC.values()])
    assert_allclose(factor, moduli, rtol=1e-6)
    assert_allclose(np.abs(leading.values[:, 0]), moduli, rtol=1e-12)
    assert returned.tolist() == (moduli < 1).tolist()


def along(z, target):
    return z @ target


def test_gradients_on_their_way_back(x64):
    """The powers and finite sums of J^T come from a dense matrix."""
    g = np.array([1.0, -2.0, 0.5, 1.5])
    for a in (
        maps.dense(4, 0.6, maps.turn(0.5, 1.0)),
        maps.dense(4, 0.5, skew=2.0),
        maps.dense(4, 1.5),
    ):
        limits = at_fixed_points([a] * 2)
        shape = stability.geometry(
            limits, key=jr.key(0), loss=along, targets=jnp.tile(jnp.array(g), (2, 1))
        )
        back = [g]
        for _ in range(32):
            back.append(a.T @ back[-1])
        norms = np.linalg.norm(back, axis=1) / np.linalg.norm(g)
        assert_allclose(shape.gradient_norm.median, norms[::-1], rtol=1e-9)
        assert shape.iterations == list(range(33))
        if not limits.converged.all():  # rounding carries it away from an unstable fixed point
            continue
        unit = np.eye(4)
        truth = np.linalg.solve(unit - a.T, g)
        sums = {f"neumann-{k}": np.sum(back[:k], axis=0) for k in (2, 4, 8, 16)} | {"one-step": g}
        damped = 0.5 * unit + 0.5 * a.T
        for k in (4, 8):
            powers = [np.linalg.matrix_power(damped, i) @ g for i in range(k)]
            sums[f"phantom-{k}"] = 0.5 * np.sum(powers, axis=0)
        assert shape.cosines.keys() == shape.ratios.keys() == sums.keys()
        for name, u in sums.items():
            sizes = np.linalg.norm(u), np.linalg.norm(truth)
            assert_allclose(shape.cosines[name].values, u @ truth / math.prod(sizes), rtol=1e-5)
            assert_allclose(shape.ratios[name].values, sizes[0] / sizes[1], rtol=1e-5)
        if np.linalg.norm(a, 2) < 1:
            assert_allclose(shape.cosines["neumann-16"].values, 1, atol=1e-3)


# --- Statistics


@pytest.mark.parametrize(
    ("draw", "n"),
    [(draw, n) for draw in ("normal", "exponential") for n in (16, 64)]
    + [("normal", 2), ("normal", 7)],  # Student's distribution, for few values
)
def test_coverage_of_the_bootstrap(draw, n):
    rng = np.random.default_rng(3)
    mean = {"normal": 0.0, "exponential": 1.0}[draw]
    sets = getattr(rng, draw)(size=(400, n))
    hits = [low <= mean <= high for low, high in map(stability.bootstrap, sets)]
    assert 0.90 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("n", [16, 64])
def test_coverage_of_shares(n):
    """The coverage is exact: a sum over all numbers of hits, each with its probability."""
    intervals = [stability.share(np.arange(n) < k) for k in range(n + 1)]
    covered = []
    for p in np.linspace(0.02, 0.98, 97):
        inside = [interval.low <= p <= interval.high for interval in intervals]
        covered.append(binom.pmf(np.arange(n + 1), n, p) @ inside)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.quantile(covered, 0.05) >= 0.90
    assert_allclose([intervals[0].low, intervals[-1].high], [0, 1], atol=1e-15)
    assert intervals[0].high > 0


def test_summary_leaves_out_what_is_not_finite():
    values = np.array([1.0, math.nan, 3.0, math.inf, 5.0])
    statistics, alone = stability.summary(values), stability.summary(values[[0, 2, 4]])
    assert statistics.count == alone.count == 3
    assert (statistics.mean, statistics.low, statistics.high) == (alone.mean, alone.low, alone.high)
    assert statistics.quantiles == alone.quantiles
    assert statistics.median == 3
    for empty in (np.full(4, math.nan), np.zeros(0)):
        statistics = stability.summary(empty)
        assert statistics.count == 0
        assert np.isnan([statistics.mean, statistics.low, statistics.high, statistics.median]).all()
    assert math.isnan(stability.share(np.zeros(0, bool)).share)
    single = stability.summary(np.array([2.0]))
    assert single.mean == single.median == 2
    assert math.isnan(single.low)


# --- Maps of every kind


def test_five_lines():
    """The map is a plain function that closes over its weights; there is one example, of pytrees
    with no floats in x."""
    w = jnp.array([[0.3, -0.2], [0.1, 0.4]])

    def f(z, x):
        return {"a": jnp.tanh(w @ z["b"] + x["n"].astype(jnp.float32)), "b": 0.5 * z["a"]}

    z0s = {"a": jnp.zeros((1, 2)), "b": jnp.zeros((1, 2))}
    report = stability.analyse(f, z0s, {"n": jnp.array([2]), "none": None}, key=jr.key(0))
    check(report, 1, 1)
    assert report.verdict["reachability"].verdict == "reached from every start"
    assert "needs two" in report.verdict["input_dependence"].because
    assert report.verdict["geometry"].verdict == "stable"


class Number(eqx.Module):
    """A state of a single number, with a step computed by hand."""

    rate: jax.Array

    def __call__(self, z, x):
        return self.rate * z + x


@pytest.mark.parametrize(
    ("rates", "outcome"),
    [([0.5, 0.5], {"converged"}), ([3.0, 3.0], {"diverged"}), ([0.5, -1.0], None)],
)
def test_two_single_numbers_in_float32(rates, outcome):
    """The numbers also overflow in float32; one of them converges, the other does not."""
    f = Pick(Number(jnp.array(1.0)), jnp.array(rates))
    report = stability.analyse(
        f, jnp.zeros(2), (jnp.array([1.0, 2.0]), jnp.arange(2)), key=jr.key(0)
    )
    check(report, 2, 2)
    outcomes = report.reachability.outcomes
    assert set(outcomes) == outcome if outcome else outcomes == ["converged", "cycle"]
    if outcome == {"converged"}:
        assert_allclose(report.spectrum.radius.values, 0.5)
        assert report.verdict["input_dependence"].verdict == "smooth in the input"
    else:
        assert report.verdict["input_dependence"].verdict == "not measurable"


class Pick(eqx.Module):
    """A map with a rate of its own for each example."""

    number: Number
    rates: jax.Array

    def __call__(self, z, x):
        u, i = x
        return eqx.tree_at(lambda n: n.rate, self.number, self.rates[i])(z, u)


def test_enough_examples_of_single_numbers_for_a_probe():
    f = Number(jnp.array(0.5))
    limits = stability.follow_orbits(f, jnp.zeros(16), jnp.linspace(0, 1, 16))
    depend = stability.input_dependence(limits, key=jr.key(0))
    assert depend.probe is not None
    assert depend.probe > 0.99
    assert_allclose(depend.agreement.values, 1, rtol=1e-4)
