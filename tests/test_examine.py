"""The examination of a model on its task: the command from a run folder to a page, theory, and
checks."""

import contextlib
import dataclasses
import json
import math
import shutil
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose
from stability_example import a_report

import eqloop
import eqloop._build
import eqloop._load
import eqloop.cli.stability
from eqloop._stability_report import POINT_KINDS
from eqloop._tables import parse_json, write_json
from eqloop.claims import CHECKS, compare, predict, random_subjects, weight_figures
from eqloop.claims._checks import check_scan
from eqloop.claims._theory import REACHED
from eqloop.claims._weights import attention_entropy
from eqloop.cli import main
from eqloop.cli._compare import format_measurement
from eqloop.cli._output import finishing, time_left
from eqloop.report import value_at
from eqloop.run import open_run
from eqloop.stability import Statement, Verdict

AXES = ("reachability", "input_dependence", "geometry")
SMALL = ["--examples", "4", "--iterations", "16"]


@pytest.fixture(scope="module")
def work_done():
    """What the command that writes the report shows of its progress: work done, total and part."""
    return []


@pytest.fixture(scope="module")
def examined(tiny_run, tmp_path_factory, work_done):
    """A run with its report, written by the command itself."""
    run = tmp_path_factory.mktemp("examined") / "run"
    shutil.copytree(tiny_run, run)

    @contextlib.contextmanager
    def recorded(label):
        yield lambda *state: work_done.append(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eqloop.cli.stability, "progress_of_work", recorded)
        assert main(["stability", str(run), *SMALL]) == 0
    return run


def test_every_part_shows_all_of_its_work(examined, work_done):
    """Before the player begins, the work done is all but that of the player."""
    *during, (done, total, part) = work_done
    assert part == "player"
    assert max(state[0] for state in during) == done < total


def refused(capsys, *args: str) -> str:
    """Run the command, assert that it refuses in one line, and return this line."""
    assert main(["stability", *args]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_command(examined):
    """The report has its documented keys, and the page lies beside it."""
    folder = examined / "stability"
    report = json.loads((folder / "report.json").read_text())
    assert set(report) == {
        *AXES, "spectrum", "verdict", "predicted", "settings", "crc32", "computes", "census",
        "points", "planes",
    }  # fmt: skip
    assert set(report["verdict"]) == set(report["predicted"]) == set(AXES)
    assert report["settings"]["format"] == 1
    assert report["settings"]["examples"] == 4
    assert len(report["reachability"]["outcomes"]) == 4
    curve = report["reachability"]["accuracy"]
    assert set(curve["splits"]) == {"test", "hard"}
    assert {len(accuracy) for accuracy in curve["splits"].values()} == {len(curve["iterations"])}
    weights = report["spectrum"]["weights"]
    assert {"rho_w_x", "w_x_over_w_h"} <= set(weights)
    assert 0 < weights["attention_entropy_end"] < 1
    assert weights["attention_entropy_end"] != weights["attention_entropy_start"]
    assert report["geometry"]["audit"]["backprop"]["cosine_backprop"] == pytest.approx(1)
    assert len(report["geometry"]["weight_noise"]["accuracy"]) == 4
    # A quick census is of the orbits of the report.
    census = report["census"]
    assert (census["examples"], census["restarts"]) == (4, 2)
    assert census["outcome_correct"]["outcomes"] == report["reachability"]["outcomes"]
    solved = census["bypass"]["right_at_end"]["share"]
    assert solved == curve["splits"]["hard"][-1]
    assert census["bypass"]["right_after_one"]["share"] == curve["splits"]["hard"][0]
    # Two of the detailed examples are searched.
    assert {point["kind"] for point in report["points"]} <= set(POINT_KINDS)
    assert {point["example"] for point in report["points"]} == {0, 2}
    for point in report["points"]:
        largest = max(math.hypot(*pair) for pair in point["eigenvalues"])
        assert point["residual"] < 1e-4
        assert (point["kind"] == "saddle") == (point["unstable"] > 0)
        assert largest > 1 if point["unstable"] else largest > 0
        assert len(point["directions"]) == min(4, point["unstable"])
    assert {len(part["values"]) for part in report["spectrum"]["growth_by_part"].values()} == {2}
    assert len(report["spectrum"]["precision"]["double"]) == 1
    assert "norm_modes" not in report["spectrum"]
    # The player can follow each of its examples in the plane of that example.
    player = json.loads((folder / "player.json").read_text())["examples"]
    assert [plane["example"] for plane in report["planes"]] == [0, 1, 2, 3]
    assert [example["example"] for example in player] == [0, 1, 2, 3]
    for plane in report["planes"]:
        assert plane["iterations"] == list(range(17))
        assert np.isfinite([plane["own"], *plane["others"]]).all()
        assert 0 < plane["variance"] <= 1
    assert len(player) == 4
    for example in player:
        frames = example["frames"]
        assert [frame["iterations"] for frame in frames] == list(range(1, len(frames) + 1))
        assert frames[0]["svg"].startswith("<svg")
        assert all(0 <= frame["right"] <= frame["cells"] == 8 for frame in frames)
    page = (folder / "report.html").read_text()
    for axis in AXES:
        assert report["verdict"][axis]["verdict"].lower() in page.lower()
    assert len(list(folder.glob("*.png"))) >= 5


def test_one_checkpoint_of_a_run_on_other_data(examined, capsys, tmp_path):
    path = next((examined / "checkpoints").glob("step-*2.safetensors"))
    _, task, _ = eqloop.load(examined)
    tests = task.load().splits["test"].puzzles
    # The test split of a file that has these has others.
    (data := tmp_path / "bits.csv").write_bytes(b"\n".join([b"question", *tests]))
    arguments = ["--split", "test", "--census", "full", "--json", "--task-data", str(data)]
    own = (examined / "stability" / "report.json").read_bytes()
    assert main(["stability", str(path), *SMALL, *arguments]) == 0
    assert (examined / "stability" / "report.json").read_bytes() == own
    [other] = examined.glob("stability.*/report.json")
    output = capsys.readouterr()
    assert json.loads(other.read_text())["settings"]["split"] == "test"
    assert str(other) in output.err
    report = json.loads(output.out)
    begins = "measuring orbits, stability, accuracy, weight noise, gradients, four tests, census, "
    begins += "planes, points, exponents, basins, player: 4 of "
    assert output.err.startswith(begins)
    assert "16 iterations" in output.err.splitlines()[0]
    assert report["settings"]["step"] == 2
    assert report["settings"]["split"] == "test"
    # A full census is of all examples of the split.
    census = report["census"]
    assert (census["examples"], census["restarts"]) == (16, 8)
    assert len(census["outcome_correct"]["right"]) == 16
    assert report["settings"]["examples"] == len(report["reachability"]["outcomes"]) == 4
    # So are the edge states, the basins and the exponents of the detailed examples.
    stable = dict.fromkeys(range(4), 0)
    for point in report["points"]:
        stable[point["example"]] += point["kind"] == "stable"
    for example, number in stable.items():
        edges = [edge for edge in report["edges"] if edge["example"] == example]
        assert len(edges) == min(2, max(1, number - 1))
        unmeasured = [edge["because"].startswith("not measurable, because") for edge in edges]
        assert any(unmeasured) == (number < 2)
    basins = report["basins"]
    assert [len(own["values"]) for own in basins["own"]] == [4] * len(basins["sizes"])
    ends = [sum(shares[0]["hits"] for shares in basins["ends"].values())]
    assert ends == [4 * basins["samples"]]
    spectrum = report["spectrum"]
    assert len(spectrum["precision"]["double"]) == len(spectrum["lyapunov"]) == 2
    assert set(spectrum["growth_by_part"]) == {"attention", "feedforward"}
    assert spectrum["norm_modes"]["zero"] == 8


def test_time_left():
    """The time left is in proportion to the work, and the clock goes on during a piece of work."""
    assert time_left(0, None, 0, 3) == time_left(4, 100, 3, 3) == "time left not known yet"
    assert time_left(25, 100, 10, 10) == "about 30 s left"
    assert time_left(25, 100, 10, 15) == "about 25 s left"
    assert time_left(25, 100, 10, 90) == "about 0 s left"
    assert time_left(10, 100, 60, 60) == "about 9 min left"


def test_what_is_begun_to_be_written_is_finished():
    """The first Ctrl-C waits until the file is written; the second one does not."""
    ended = []

    def write(name, presses):
        with finishing():
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
            ended.append(name)

    for name, presses in (("first", 1), ("second", 2)):
        with pytest.raises(KeyboardInterrupt):
            write(name, presses)
    write("third", 0)
    assert ended == ["first", "third"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_numbers_are_written_as_what_they_are():
    """Shares are written as shares, and distinct fixed points as a count out of a total."""
    report = a_report()
    [share, distinct] = [
        format_measurement(value_at(report, path))
        for path in ("reachability.shares.converged", "input_dependence")
    ]
    assert share == "87.5 [69, 95.7] %"
    assert distinct == "16 of 16"
    assert format_measurement(report.points) == "1 stable, 1 saddle, 1 undecided"
    assert format_measurement([]) == "none"


def test_comparison(examined, capsys):
    assert main(["stability", "--compare", str(examined), str(examined)]) == 0
    out = capsys.readouterr().out
    assert "Reachability" in out
    assert "spectral radius" in out
    assert main(["stability", "--compare", str(examined), str(examined), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["runs"]) == {str(examined)}


def test_scalar(capsys, tmp_path):
    picture = tmp_path / "scalar.png"
    assert main(["stability", "--scalar", "--plot", str(picture)]) == 0
    assert "internal, sigma 4" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_refusals(examined, tmp_path, capsys):
    """Each refusal is one line that says what is wrong, where, and what to do."""
    assert "name one run" in refused(capsys)
    assert "there is no such folder" in refused(capsys, str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "spec.toml" in refused(capsys, str(tmp_path / "empty"))
    assert "--split medium" in refused(capsys, str(examined), "--split", "medium")
    assert "--rtol" in refused(capsys, str(examined), "--rtol", "0")
    assert "--check clustres" in refused(capsys, "--check", "clustres")
    assert "leave out CKPT" in refused(capsys, str(examined), "--scalar")
    assert "name CKPT" in refused(capsys, "--check", "clusters", "--examples", "0")
    assert "two runs" in refused(capsys, "--compare", str(examined))
    assert "--plot requires" in refused(capsys, str(examined), "--plot", "a.png")
    path = examined / "checkpoints" / "step-00000099.safetensors"
    assert "there is no such file" in refused(capsys, str(path))
    bare = tmp_path / "bare"
    shutil.copytree(examined, bare)
    shutil.rmtree(bare / "checkpoints")
    (bare / "checkpoints").mkdir()
    assert "no checkpoint yet" in refused(capsys, str(bare))
    shutil.rmtree(bare / "stability")
    assert "report.json" in refused(capsys, "--compare", str(bare), str(bare))
    report = examined / "stability" / "report.json"
    other_run = tmp_path / "other"
    (other_run / "stability").mkdir(parents=True)
    later = parse_json(report.read_text())
    later["settings"]["format"] = 99
    write_json(other_run / "stability" / "report.json", later)
    assert "format 99" in refused(capsys, "--compare", str(other_run), str(examined))


def test_a_model_that_is_not_finite(examined, monkeypatch, capsys):
    """NaN weights give a report that says so, and no exception."""

    model, step = eqloop._build.restore(open_run(examined))
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), model)
    monkeypatch.setattr(eqloop._load, "restore", lambda run, which: (nan, step))
    assert main(["stability", str(examined), *SMALL, "--census", "off", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "census" not in report
    assert "points" not in report
    assert report["verdict"]["reachability"]["verdict"] == "not reached"
    assert "diverged" in report["verdict"]["reachability"]["because"]
    for axis in ("input_dependence", "geometry"):
        assert report["verdict"][axis]["verdict"] == "not measurable"


def contracting(subject):
    """The same model with weights so small that its loop settles at once."""
    blocks = jax.tree.map(lambda w: 0.5 * w if w.ndim > 1 else w, subject.model.blocks)
    return dataclasses.replace(
        subject, model=eqx.tree_at(lambda m: m.blocks, subject.model, blocks)
    )


def deaf(subject):
    """The same model with recall through which no input passes."""
    where = lambda m: m.blocks[0].recall.input.weight  # noqa: E731
    return dataclasses.replace(
        subject, model=eqx.tree_at(where, subject.model, 0 * where(subject.model))
    )


@pytest.mark.parametrize(("name", "falsified"), [
    ("clusters", False), ("sensitivity", False), ("gradients", False), ("return", True),
])  # fmt: skip
def test_checks_hold_where_they_must_and_fail_where_they_must(name, falsified):
    """Contracting loops satisfy every claim. A loop whose recall passes no input has one fixed
    point and no gradient, but returns after a push all the same. A check has the same shapes for
    both kinds of recall, so that all checks share one program."""
    contracting_subjects = map(contracting, random_subjects(key=jr.key(0), examples=3, width=16))
    subjects = {subject.recall: subject for subject in contracting_subjects}
    none, with_recall = subjects["none"], subjects["external"]
    check = CHECKS[name]([none, with_recall], key=jr.key(1), iterations=64)
    assert check.holds is True
    assert check.rows
    assert all(len(row) == len(check.columns) for row in check.rows)
    assert eqloop._tables.plain(check.tables())
    assert CHECKS[name]([deaf(with_recall)], key=jr.key(1), iterations=64).holds is falsified


def test_scan_sets_the_spectral_radius():
    """Theory: rho(W_x) decides the growth where there is no outer normalisation."""
    external = random_subjects(key=jr.key(0), examples=3, width=16)[1:2]
    check = check_scan(external, key=jr.key(1), iterations=128)
    growth = {(row[0].split()[-1], row[1]): row[-1] for row in check.rows}
    assert growth["peri", 0.5] < 3
    assert not growth["peri", 1.5] < 1e6
    assert_allclose(growth["post", 3.0], 1, rtol=0.5)


def test_weights_against_the_closed_form():
    model = eqloop.LoopedTransformer((4,), 2, 2, 8, 2, recall="external", key=jr.key(0))
    w = np.diag(np.arange(1.0, 9.0)).astype(np.float32)
    model = eqx.tree_at(
        lambda m: (m.blocks[0].recall.state.weight, m.blocks[0].recall.input.weight),
        model,
        (jnp.asarray(w), jnp.asarray(2 * w)),
    )
    figures = weight_figures(model)
    assert_allclose(figures["rho_w_x"], 8)
    assert_allclose(figures["w_x_over_w_h"], 0.5)
    assert_allclose(figures["sigma_0_over_sigma_10"], 8)
    assert weight_figures(
        eqloop.LoopedTransformer((4,), 2, 2, 8, 2, recall="none", key=jr.key(0))
    ) == {}  # fmt: skip


@pytest.mark.parametrize("attention", ["full", 3])
def test_attention_weights(attention):
    """The weights sum to one, mix the values to the output of the layer, and are equal where all
    keys are equal."""
    model = eqloop.LoopedTransformer((5,), 2, 2, 8, 2, attention=attention, key=jr.key(0))
    layer = model.blocks[0].attention
    x = jr.normal(jr.key(1), (5, 8))
    weights = layer.weights(x)
    assert weights.shape == (5 if attention == "full" else 3, 5, 2)
    assert_allclose(np.sum(weights, 0), 1, rtol=1e-6)
    values = layer.value(x).reshape(5, 2, 4)
    if attention == "full":
        mixed = jnp.einsum("jch,jhd->chd", weights, values)
    else:
        first = np.clip(np.arange(5) - 1, 0, 2)
        neighbours = jnp.stack([values[first + j] for j in range(3)])
        mixed = jnp.einsum("jch,jchd->chd", weights, neighbours)
    assert_allclose(layer.output(mixed.reshape(5, 8)), layer(x), rtol=1e-4, atol=1e-5)
    assert layer.key_norm is not None
    zero = eqx.tree_at(lambda m: m.blocks[0].attention.key_norm.gain, model,
                       jnp.zeros_like(layer.key_norm.gain))  # fmt: skip
    assert_allclose(attention_entropy(zero, x[None], x[None]), 1, rtol=1e-6)


@pytest.mark.parametrize("recall", ["none", "external", "internal"])
@pytest.mark.parametrize("norm", ["pre", "peri", "post", "sandwich"])
@pytest.mark.parametrize("residual", ["add", "gru"])
def test_theory_says_something_of_every_model(recall, norm, residual):
    claims = predict(recall, norm, residual, 0.5)
    assert set(claims) == set(AXES)
    assert all(prediction.claim and prediction.because for prediction in claims.values())
    if residual == "gru":
        assert all(prediction.expects is None for prediction in claims.values())


def test_theory_against_verdicts():
    statements = {axis: Statement(Verdict.SMOOTH, "", {}) for axis in AXES}
    statements["reachability"] = Statement(REACHED[0], "", {})
    statements["geometry"] = Statement(Verdict.EXPLODING, "", {})
    agrees = compare(predict("internal", "post", "add"), statements)
    assert [agrees[axis].agrees for axis in AXES] == [True, True, False]
    none = compare(predict("none", "post", "add"), statements)
    assert [none[axis].agrees for axis in AXES] == [None, False, None]
    statements["input_dependence"] = Statement(Verdict.NOT_MEASURABLE, "", {})
    assert compare(predict("none", "post", "add"), statements)["input_dependence"].agrees is None
    statements["input_dependence"] = Statement(Verdict.SMOOTHNESS_UNKNOWN, "", {})
    assert (
        compare(predict("internal", "post", "add"), statements)["input_dependence"].agrees is None
    )
    # The threshold of an external loop without normalisation.
    assert predict("external", "pre", "add", 0.9)["reachability"].expects == REACHED
    assert predict("external", "pre", "add", 1.1)["reachability"].expects == ("not reached",)
