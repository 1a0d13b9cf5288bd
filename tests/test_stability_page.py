"""The page of an invented stability report."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose
from stability_example import a_player, a_report, report_tables, without_numbers, write_example

from eqloop import InputError
from eqloop._numbers import typeset_number, typeset_percent
from eqloop._tables import parse_json
from eqloop.report import write_stability
from eqloop.report.pages._basins_panel import BASINS_PANEL
from eqloop.report.pages._census_panels import CENSUS_PANELS
from eqloop.report.pages._plane_panels import PLANE_PANELS
from eqloop.report.pages._stability_panels import PANELS
from eqloop.run import read_stability
from eqloop.tasks import make_task

ALL_PANELS = (*PANELS, *CENSUS_PANELS, *PLANE_PANELS, BASINS_PANEL)

# --- numbers as text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (0.12345, "0.123"),
        (0.99976, "0.9998"),
        (-1.5, "−1.5"),
        (1.23456e-7, "1.23×10⁻⁷"),
        (-4.5e12, "−4.5×10¹²"),
    ],
)
def test_a_number_is_short(value, text):
    assert typeset_number(value) == text


def test_a_share_is_in_percent():
    assert typeset_percent(0.875) == "87.5\N{NO-BREAK SPACE}%"
    assert typeset_percent(None) == "–"


# --- the page


class Page(html.parser.HTMLParser):
    """Collects the tags in order with their attributes, and the text of each."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, tag: str) -> list[str]:
        return [data for within, data in self.texts if within == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_example(tmp_path_factory.mktemp("page"), make_task("prefix-sums", {}))
    write_stability(folder)
    return folder


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_what_is_written(folder):
    paths = write_stability(folder)
    assert [path.name for path in paths] == [
        "report.html",
        *(f"{panel.name}.png" for panel in ALL_PANELS),
    ]
    for path in paths[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob(".*"))
    before = paths[0].read_bytes()
    write_stability(folder)
    # The page does not depend on the time at which it is written.
    assert paths[0].read_bytes() == before
    assert len(before) < 2_000_000


def test_nothing_is_fetched(text, page):
    # Namespaces of XML dialects, which are never fetched.
    bare = text.replace("http://www.w3.org/", "")
    assert "http://" not in bare
    assert "https://" not in bare
    assert "url(" not in text
    for _, attributes in page.tags:
        source = attributes.get("src") or attributes.get("href") or "data:"
        assert source.startswith(("data:", "#"))
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}


def test_only_the_one_script_may_run(page):
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    script = page.text("script")[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "")
    assert (policy or "").startswith("default-src 'none'")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_verdict_comes_first_and_is_three_statements(text, page):
    places = [
        text.index(heading) for heading in ("Verdict", "The loop at work", "Figures", "Numbers")
    ]
    assert places == sorted(places)
    assert [tag for tag, _ in page.tags].count("article") == 3
    report = a_report()
    for statement in report.verdict.values():
        assert statement.verdict in page.text("p")
    for words in ("agree.", "disagree.", "neither confirmed nor refuted."):
        assert any(text.strip().endswith(words) for text in page.text("strong"))
    assert {"✓", "✗", "?"} <= set(page.text("span"))


def test_every_picture_is_described(page):
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(ALL_PANELS)
    for attributes in pictures:
        assert len(attributes["alt"] or "") > 40
        svg = base64.b64decode((attributes["src"] or "").removeprefix("data:image/svg+xml;base64,"))
        assert b"<svg" in svg
    headings = page.text("h3")
    assert all(panel.title in headings for panel in ALL_PANELS)


def test_text_is_escaped(text, page):
    assert "converged &lt;at all&gt;." in text
    assert page.text("title") == ["Stability of runs/sudoku & co"]
    assert page.open == []  # every tag is closed


def test_the_frames_cannot_end_their_element(tmp_path):
    folder = write_example(tmp_path)
    task = make_task("prefix-sums", {})
    player = a_player(task, examples=1)
    player["examples"][0]["title"] = "</script><script>alert(1)</script><!--"
    player["examples"][0]["frames"][0]["residual"] = float("nan")
    (folder / "player.json").write_text(json.dumps(player))
    write_stability(folder)
    page = Page((folder / "report.html").read_text("utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    frames = json.loads(page.text("script")[0])
    assert frames["examples"][0]["title"].startswith("</script>")
    assert frames["examples"][0]["frames"][0]["residual"] is None


def test_tables_hold_the_numbers(page):
    cells = page.text("td")
    report = a_report()
    assert typeset_number(report.reachability.rate.mean) in cells
    assert typeset_percent(report.reachability.shares["converged"].share) in cells
    headings = page.text("h2")
    for heading in ("Gradients of the weights", "Noise on the weights", "Weight matrices"):
        assert heading in headings
    assert "rho(W_x)" in page.text("th")
    assert "The claim of t4: a share" in page.text("th")
    assert page.text("td").count("passed") == 4


def test_the_points_are_a_table(text, page):
    assert "Points that orbits do not find" in page.text("h2")
    assert "1 stable, 1 saddle, 1 undecided." in text
    rows = [re.sub(r"</?t[rhd][^>]*>", "|", row) for row in re.findall(r"<tr>.*?</tr>", text)]
    [row] = [row for row in rows if "|saddle|" in row]
    assert row.strip("|").split("||") == ["1", "saddle", "1", "1.75", "3×10⁻⁷"]
    [unknown] = [row for row in rows if "|undecided|" in row]
    assert unknown.strip("|").split("||")[:4] == ["13", "undecided", "0", "–"]


def test_edge_states_basins_and_exponents_are_tables(text, page):
    """Where nothing was measured, the table says why."""
    rows = [re.sub(r"</?t[rhd][^>]*>", "|", row) for row in re.findall(r"<tr>.*?</tr>", text)]
    cells = [row.strip("|").split("||") for row in rows]
    assert ["1", "1.75", "1×10⁻⁶", "a saddle &lt;between&gt; two"] in cells
    assert ["13", "–", "–", "not measurable, because there is none"] in cells
    [head] = [row for row in cells if row[0] == "distance"]
    assert head == ["distance", "own", "95 % interval", "other"]  # and no column without a hit
    basins = a_report().basins
    assert basins is not None
    for label, size in (("0.1", 0), ("1", 1)):
        [row] = [row for row in cells[cells.index(head) :] if row[0] == label][:1]
        assert row[1] == typeset_percent(basins.own[size].mean)
        assert row[3] == typeset_percent(basins.ends["other"][size].share)
    labels = page.text("th")
    for label in ("part of the leading exponent: attention", "Lyapunov exponent 1, in float64"):
        assert label in labels
    assert any("they <part> for 2 of 24 examples." in words for words in page.text("p"))


def test_the_player_has_the_plane_of_its_example(page):
    """The places in the picture: the orbit winds from the right to the left and back."""
    first, second = json.loads(page.text("script")[0])["examples"]
    assert "plane" not in second
    plane = first["plane"]
    assert plane["picture"].startswith('<img alt="Orbits of example 1 in their main plane, which')
    assert plane["iterations"] == list(range(33))
    places = dict(zip(plane["iterations"], plane["places"], strict=True))
    assert all(0 < share < 1 for place in places.values() for share in place)
    planes = a_report().planes
    assert planes is not None
    spiral = planes[0].own
    for axis, sign in ((0, 1), (1, -1)):
        drawn, true = ([place[axis] for place in part] for part in (plane["places"], spiral))
        # A line from the coordinates to the places in the picture, which count from the top.
        slope, _ = fit = np.polyfit(true, drawn, 1)
        assert sign * slope > 0
        assert_allclose(np.polyval(fit, true), drawn, atol=2e-4)


def test_a_map_without_a_model_has_a_page_too(tmp_path):
    report = without_numbers()
    report = dataclasses.replace(
        report,
        reachability=dataclasses.replace(report.reachability, accuracy=None),
        geometry=dataclasses.replace(report.geometry, audit=None, weight_noise=None),
        spectrum=dataclasses.replace(
            report.spectrum, weights=None, norm_modes=None, growth_by_part=None, precision=None
        ),
        predicted=None,
        settings={name: value for name, value in report.settings.items() if name != "run"},
        computes=None,
        census=None,
        points=None,
        planes=None,
        edges=None,
        basins=None,
    )
    report.save(tmp_path)
    tables = parse_json((tmp_path / "report.json").read_bytes())
    parts = (tables, *(tables[name] for name in ("reachability", "geometry", "spectrum")))
    left_out = {"accuracy", "audit", "weight_noise", "weights", "norm_modes", "growth_by_part"}
    left_out |= {"precision", "computes", "census", "points", "planes", "edges", "basins"}
    assert not left_out & {name for part in parts for name in part}
    text = write_stability(tmp_path)[0].read_text("utf-8")
    assert text.count("No theory speaks of this map.") == 3
    assert "The loop at work" not in text
    assert "Gradients of the weights" not in text
    assert "Census" not in text
    assert "Points that orbits do not find" not in text
    assert "None" not in re.sub(r"<script.*", "", text, flags=re.DOTALL)


OLDER = {
    "reachability": ("remaining",),
    "input_dependence": ("kept", "recall", "through_start"),
    "spectrum": ("radius_at_fixed_points", "radius_error"),
}
"""The keys that the first reports did not have."""


def test_a_report_is_read_as_it_was_written(tmp_path):
    tables = report_tables()
    a_report().save(tmp_path)
    assert read_stability(tmp_path).tables() == tables
    for part, names in OLDER.items():
        for name in names:
            del tables[part][name]
    (tmp_path / "report.json").write_text(json.dumps(tables))
    older = read_stability(tmp_path)
    assert older.tables() == tables
    assert math.isnan(older.reachability.remaining.median)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda tables: tables["reachability"]["residual"]["low"].pop(),
            "a band needs as many values as there are iterations",
        ),
        (
            lambda tables: tables["reachability"]["shares"].pop("converged"),
            r"it has no reachability\.shares\.converged",
        ),
        (lambda tables: tables["verdict"].pop("geometry"), r"it has no verdict\.geometry"),
        (
            lambda tables: tables["geometry"]["audit"]["one-step"].pop("seconds"),
            r"it has no geometry\.audit\.one-step\.seconds",
        ),
    ],
)
def test_a_report_that_is_damaged_inside_is_refused_by_its_reader(damage, message, tmp_path):
    tables = report_tables()
    damage(tables)
    (tmp_path / "report.json").write_text(json.dumps(tables))
    with pytest.raises(InputError, match=rf"report\.json: damaged .*{message}.*measure it again"):
        read_stability(tmp_path)


DAMAGED = {
    "cut off": ('{"settings": {"format": 1', "not JSON"),
    "binary": ("\x00\x01", "not JSON"),
    "a list": ("[]", "not a JSON object but a list"),
    "other format": ('{"settings": {"format": 2}}', "format 2, where 1 is understood"),
    "no format": ('{"settings": {}}', "format None"),
    "no tables": ('{"settings": {"format": 1}}', "it has no reachability"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_report_that_cannot_be_used_is_one_line(tmp_path, case):
    content, message = DAMAGED[case]
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_stability(tmp_path)
    assert "\n" not in str(caught.value)
    assert "eqloop stability RUN" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_missing_report_or_key_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"report\.json: No such file"):
        write_stability(tmp_path)
    report = report_tables()
    del report["input_dependence"]["clusters"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(
        InputError, match=r"report\.json: damaged .*has no input_dependence\.clusters"
    ):
        write_stability(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(report_tables()))
    (tmp_path / "player.json").write_text("{}")
    with pytest.raises(InputError, match=r"player\.json: damaged, has no list of examples"):
        write_stability(tmp_path)
