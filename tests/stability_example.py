"""An invented stability report and an invented player, in the format of a measurement."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np

from eqloop._schema import from_table
from eqloop._task import Task
from eqloop.claims import (
    Accuracy,
    Bypass,
    Census,
    ComparedGradient,
    EdgeRecord,
    EquilibriumTest,
    Froze,
    NormModesRecord,
    OutcomeCorrect,
    PlaneRecord,
    PointRecord,
    PrecisionRecord,
    SettledWrong,
    WeightNoise,
)
from eqloop.stability import (
    Agreement,
    Band,
    Basins,
    Geometry,
    InputDependence,
    Outcome,
    Reachability,
    Spectrum,
    StabilityReport,
    Start,
    Statement,
    Summary,
    Verdict,
    auroc,
    rank_correlation,
    share,
    summary,
)

EXAMPLES = 24
GRID = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256]


def a_report() -> StabilityReport:
    """The report on a loop with recall that mostly converges."""
    random = np.random.default_rng(0)
    settled = np.arange(EXAMPLES) % 8 != 7
    rates = np.where(settled, random.uniform(0.8, 0.93, EXAMPLES), 0.999)
    t = np.array(GRID)
    curves = 0.6 * rates[:, None] ** t + random.uniform(1, 4, (EXAMPLES, 1)) * 1e-6
    outcomes = ["converged" if converged else "slow" for converged in settled]
    outcomes[7] = "cycle"

    def spread(mean: float, width: float, known=settled) -> Summary:
        return summary(np.where(known, random.normal(mean, width, EXAMPLES), np.nan))

    def band(values: np.ndarray) -> Band:
        low, median, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
        return Band(median.tolist(), low.tolist(), high.tolist())

    implicit = spread(2.4, 0.3)
    back = np.arange(49)
    angles = random.uniform(0, np.pi, (EXAMPLES, 6))
    size = rates[:, None] * np.linspace(1, 0.5, 6)
    points = random.normal(0, 1, (EXAMPLES, 2)) * [3, 1.5]
    cosines = {"backprop": 0.998, "truncated-4": 0.81, "phantom-4": 0.84, "one-step": 0.42}
    kinds = ("converged", "unresolved", "cycle", "slow", "wandering", "diverged")
    return StabilityReport(
        reachability=Reachability(
            tolerance=1e-4,
            outcomes=outcomes,  # pyright: ignore[reportArgumentType]
            shares={kind: share(np.array(outcomes) == kind) for kind in kinds},
            periods=[2 if outcome == "cycle" else 0 for outcome in outcomes],
            iterations=GRID,
            residual=band(curves),
            residual_cell=band(2 * curves),
            curves=curves.tolist(),
            settle_step=spread(78, 14),
            rate=spread(0.87, 0.03),
            remaining=spread(1e-6, 1e-7),
            predicted_rate=spread(0.868, 0.03),
            growth=spread(1.6, 0.1),
            starts={
                "gaussian": Start(share(settled), share(settled), spread(0.9998, 0.0001)),
                "other": Start(share(settled), share(settled), spread(0.9997, 0.0001)),
            },
            basin=spread(1.0, 0.0),
            basin_limit=1.0,
            accuracy=Accuracy(
                iterations=[1, 2, 4, 8, 16, 32, 64, 128, 256],
                splits={
                    "test": [0, 0, 0.02, 0.2, 0.61, 0.88, 0.93, 0.94, 0.94],
                    "hard": [0, 0, 0, 0.03, 0.18, 0.42, 0.55, 0.6, 0.61],
                },
                trained=(1, 30),
            ),
        ),
        input_dependence=InputDependence(
            tolerance=1e-2,
            inputs=[1, 2, 4, 8, 16],
            clusters=[1, 2, 4, 7.9, 15.6],
            distinct=0.98,
            spread=0.74,
            spread_low=0.7,
            spread_high=0.79,
            recall=True,
            iterations=GRID,
            sensitivity=band(2.4 * (1 - 0.8 * rates[:, None] ** t)),
            kept=spread(0.5, 0.1),
            implicit=implicit,
            agreement=spread(1.01, 0.02),
            smoothness=spread(0.99, 0.01),
            through_start=spread(0.99, 0.01),
            probe=0.93,
            points=[
                p if s else None for p, s in zip(points.tolist(), settled.tolist(), strict=True)
            ],
            plane=0.41,
        ),
        geometry=Geometry(
            iterations=back.tolist(),
            gradient_norm=band(rates[:, None] ** back[::-1]),
            cosines={name: spread(value, 0.01) for name, value in cosines.items()},
            ratios={name: spread(value, 0.05) for name, value in cosines.items()},
            sigma_min=spread(0.11, 0.02),
            sigma_max=spread(3.1, 0.2),
            condition=spread(29, 5),
            products=spread(24, 2),
            solved=share(settled),
            return_factor=spread(0.87, 0.03),
            return_predicted=spread(0.868, 0.03),
            returned=share(settled),
            weight_noise=WeightNoise(
                levels=[0, 0.01, 0.02, 0.05],
                accuracy=[0.94, 0.93, 0.81, 0.2],
                low=[0.9, 0.88, 0.75, 0.14],
                high=[0.96, 0.95, 0.86, 0.27],
            ),
            audit={
                name: ComparedGradient(
                    cosine_backprop=value,
                    cosine_implicit=value - 0.01,
                    ratio_backprop=value,
                    ratio_implicit=math.nan,
                    seconds=0.7,
                )
                for name, value in cosines.items()
            },
        ),
        spectrum=Spectrum(
            eigenvalues=np.stack(
                [size * np.cos(angles), size * np.sin(angles), angles < 2.9], axis=-1
            ).tolist(),
            radius=spread(0.868, 0.03),
            radius_error=spread(1e-5, 1e-6),
            radius_at_fixed_points=spread(0.868, 0.03),
            sigma_max=spread(2.2, 0.2),
            non_normality=spread(2.5, 0.2),
            at_fixed_point=settled.tolist(),
            lyapunov=[spread(-0.14, 0.03), spread(-0.16, 0.03)],
            regimes=["contracting" if converged else "marginal" for converged in settled],
            regime_shares={
                "contracting": share(settled),
                "marginal": share(~settled),
                "expanding": share(settled & ~settled),
            },
            weights={"rho(W_x)": 0.82, "|W_x|/|W_h|": 1.3},
            norm_modes=NormModesRecord(81, spread(1e-7, 1e-8), spread(1.05, 0.01), "81 are 0"),
            growth_by_part={"attention": spread(0.2, 0.1), "feedforward": spread(-0.34, 0.1)},
            precision=PrecisionRecord(
                [spread(-0.14, 0.03)], [spread(-0.2, 0.03)], "they <part> for 2 of 24 examples"
            ),
        ),
        verdict={
            "reachability": Statement(
                Verdict.REACHED_FROM_OWN_START,
                "21 of 24 examples (69 to 96 %) reached a residual of 1e-4 within 256 iterations.",
                {"reachability.shares.converged.share": 0.875},
            ),
            "input_dependence": Statement(
                Verdict.SMOOTH,
                "24 inputs have 23.5 distinct fixed points, and |dz_T/dx| is 1.01 times its "
                "implicit value.",
                {"input_dependence.distinct": 0.98},
            ),
            "geometry": Statement(
                Verdict.NOT_MEASURABLE, "fewer than 2 examples converged <at all>.", {}
            ),
        },
        predicted={
            "reachability": Agreement(
                claim="Recall with outer normalisation has reachable fixed points.",
                agrees=True,
                because="87 % converged.",
            ),
            "input_dependence": Agreement(
                claim="The fixed points depend on the input.",
                agrees=False,
                because="they were all the same.",
            ),
            "geometry": Agreement(
                claim="Back-propagation is stable.",
                agrees=None,
                because="nothing was measured.",
            ),
        },
        settings={
            "format": 1,
            "run": "runs/sudoku & co",
            "checkpoint": "best",
            "step": 8000,
            "split": "test",
            "examples": EXAMPLES,
            "iterations": 256,
            "tolerance": 1e-4,
            "seconds": 41.3,
        },
        computes={
            name: EquilibriumTest(
                claim=f"The claim of {name}",
                measure="a share",
                value=0.9,
                low=0.8,
                high=0.95,
                limit=0.5,
                count=16,
                verdict="passed",
                numbers={"slope": 0.5},
            )
            for name in ("t1", "t2", "t3", "t4")
        },
        census=a_census(np.array(outcomes)),
        points=[
            PointRecord(
                "stable",
                "it is inside <1>",
                0,
                0,
                [[0.6, 0.6], [0.6, -0.6]],
                2e-7,
                5,
                place=[1.0, 0.0],
                directions=[],
            ),
            a_saddle(),
            PointRecord("undecided", "not finite", 12, 0, [[math.nan, math.nan]], 1e-7, 1),
        ],
        planes=[a_plane(0), a_plane(12)],
        edges=[
            EdgeRecord(0, "a saddle <between> two", 1e-6, a_saddle()),
            EdgeRecord(12, "not measurable, because there is none", math.nan, None),
        ],
        basins=Basins(
            sizes=[0.1, 1.0],
            samples=8,
            ends={
                "own": [share(np.arange(192) < 180), share(np.arange(192) < 60)],
                "other": [share(np.arange(192) < 12), share(np.arange(192) < 132)],
                "cycle": [share(np.zeros(192, bool))] * 2,
            },
            random={
                "own": share(np.arange(192) < 20),
                "other": share(np.arange(192) < 172),
                "cycle": share(np.zeros(192, bool)),
            },
            own=[spread(0.94, 0.02), spread(0.31, 0.02)],
            half=spread(0.1, 0),
            fixed_points=[2] * EXAMPLES,
        ),
    )


def a_saddle() -> PointRecord:
    """A saddle whose unstable direction is mostly in the plane."""
    return PointRecord(
        "saddle", "1 eigenvalue outside", 0, 1, [[-1.75, 0.0], [0.2, 0.0]], 3e-7, 1,
        place=[0.5, -0.5], directions=[[0.6, -0.7]],
    )  # fmt: skip


def a_plane(example: int) -> PlaneRecord:
    """Spirals to the point (1, 0), of which the one from noise leaves the numbers."""
    t = np.arange(33)
    spiral = 1 + 2 * 0.8**t * np.exp(0.5j * t)
    places = np.stack([spiral.real, spiral.imag], axis=-1).tolist()
    other = [[-a, b] for a, b in places[:20]] + [[math.nan, math.nan]] * 13
    return PlaneRecord(example, 0.83, t.tolist(), places, [other])


def a_census(outcomes: np.ndarray) -> Census:
    """The census of loops of which one settled at a wrong answer, and one is right and slow."""
    random = np.random.default_rng(1)
    settled = outcomes == "converged"
    right = settled ^ (np.arange(EXAMPLES) == 4) | (np.arange(EXAMPLES) == 15)
    scores = {name: random.normal(right, 0.5) for name in ("residual", "rate", "entropy")}
    scores["agreement"] = np.full(EXAMPLES, math.nan)
    froze = summary(np.where(settled, random.integers(8, 20, EXAMPLES), math.nan))
    return Census(
        examples=EXAMPLES,
        restarts=2,
        outcome_correct=OutcomeCorrect(
            outcomes=outcomes.tolist(),
            right=right.tolist(),
            shares={kind: share(right[outcomes == kind]) for kind in get_args(Outcome)},
        ),
        settled_wrong=SettledWrong(
            wrong_of_settled=share(~right[settled]),
            settled_and_wrong=share(settled & ~right),
            unsettled_of_right=share(~settled[right]),
            right_and_unsettled=share(right & ~settled),
        ),
        scores={name: values.tolist() for name, values in scores.items()},
        auroc={name: auroc(values, right) for name, values in scores.items()},
        froze=Froze(froze, froze, summary(np.zeros(EXAMPLES)), share(settled & ~settled)),
        bypass=Bypass(
            right_at_start=share(right & ~right),
            right_after_one=share(right & ~right),
            right_at_end=share(right),
            distance=summary(random.uniform(0.5, 1, EXAMPLES)),
            difficulty=rank_correlation(np.arange(EXAMPLES), random.normal(size=EXAMPLES)),
            iteration_probe=0.4,
        ),
    )


def report_tables() -> dict[str, Any]:
    """The content of `report.json` of `a_report`."""
    return json.loads(json.dumps(a_report().tables()))


KEPT = {"iterations", "inputs", "tolerance", "trained", "settings", "verdict", "limit", "periods"}
KEPT |= {"recall", "at_fixed_point", "examples", "restarts", "right"}
KEPT |= {"example", "unstable", "candidates", "samples", "fixed_points", "zero"}


def without_numbers() -> StabilityReport:
    """The report on a loop that never converged: counts are 0, other measured numbers NaN."""
    return from_table(StabilityReport, _without_numbers(report_tables()))


def _without_numbers(tables: Any) -> Any:
    if isinstance(tables, dict):
        return {
            name: value
            if name in KEPT
            else 0
            if name in ("hits", "count", "positives", "negatives")
            else _without_numbers(value)
            for name, value in tables.items()
        }
    if isinstance(tables, list):
        return [_without_numbers(item) for item in tables]
    return None if isinstance(tables, float | int) else tables


def a_player(task: Task, *, examples: int = 2, frames: int = 24) -> dict[str, Any]:
    """The tables of `player.json` for a loop that solves more and more of its puzzle."""
    split = task.generate(examples, 3)
    examples_of_player = []
    for index in range(examples):
        puzzle = split.take(slice(index, index + 1))
        random = np.random.default_rng(index)
        target = puzzle.targets[0]
        order = random.permutation(target.size).reshape(target.shape)
        snapshots, before = [], None
        for t in range(frames):
            right = order < target.size * (t + 1) / (frames - 4)
            prediction = np.where(right, target, (target + 1) % task.classes).astype(np.uint8)
            if task.name == "chess":
                prediction = _two_squares(target, order, solved=t > frames // 2)
            svg = task.draw(puzzle, prediction)
            snapshots.append(
                {
                    "iterations": t + 1,
                    "residual": float(0.5 * 0.75**t),
                    "svg": None if svg == before else svg,
                    "right": int((prediction == target).sum()),
                    "cells": target.size,
                }
            )
            before = svg
        examples_of_player.append(
            {
                "title": f"test {index}: {puzzle.puzzles[0].decode()[:30]}",
                "puzzle_svg": task.draw(puzzle),
                "target_svg": task.draw(puzzle, target),
                "frames": snapshots,
                "example": index,
            }
        )
    return {"examples": examples_of_player}


def _two_squares(target: np.ndarray, order: np.ndarray, *, solved: bool) -> np.ndarray:
    one_right = (target > 0) & (order == order[target > 0].min())
    return target if solved else (one_right | (order == 5)).astype(np.uint8)


def write_example(folder: Path, task: Task | None = None) -> Path:
    """Write a folder as `eqloop stability` leaves it before it writes the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report_tables()))
    if task is not None:
        (folder / "player.json").write_text(json.dumps(a_player(task)))
    return folder
