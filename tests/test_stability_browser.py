"""The page of a stability report in a real browser, opened from disk."""

import base64
import json
import re
from pathlib import Path

import pytest
from stability_example import a_player, write_example

from eqloop.report import write_stability
from eqloop.tasks import make_task

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FRAMES = 24


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A page with two examples, of which the second has no known answer."""
    folder = write_example(tmp_path_factory.mktemp("browser"))
    player = a_player(make_task("prefix-sums", {}), frames=FRAMES)
    first, second = player["examples"]
    first["title"] += " with a very long title, longer than any phone is wide"
    second["target_svg"] = None
    for frame in second["frames"]:
        frame |= {"right": None, "residual": None}
    (folder / "player.json").write_text(json.dumps(player))
    return write_stability(folder)[0]


def status(page) -> str:
    return page.inner_text("#status")


def iteration(page) -> int:
    number = re.match(r"Iteration (\d+)", status(page))
    return int(number[1]) if number else 0


def test_the_slider_moves_the_player(open_page, written):
    page = open_page(written)
    assert page.inner_text("#status") == "The puzzle"
    puzzle = page.inner_html("#board")
    assert "·" in puzzle
    page.fill("#slider", "5")
    assert page.inner_text("#at") == "Iteration 5"
    assert page.inner_html("#board") != puzzle
    status_line = page.inner_text("#status")
    assert re.fullmatch(r"Iteration 5: residual 1\.6×10⁻¹, \d+ of 32 cells right", status_line)
    assert page.get_attribute("#slider", "aria-valuetext") == status_line
    page.fill("#slider", str(FRAMES))
    assert re.fullmatch(r"Iteration 24: residual 6\.7×10⁻⁴, 32 of 32 cells right", status(page))
    # The last frame shows the right answer: only the title of the drawing differs.
    assert page.inner_text("#board") == page.inner_text("#target")


def test_keys_and_buttons_move_the_player(open_page, written):
    page = open_page(written)
    for key, expected in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 1)]:
        page.keyboard.press(key)
        assert iteration(page) == expected
    page.click("#next")
    assert iteration(page) == 2
    before = page.get_attribute("#cursor", "d")
    page.click("#previous")
    assert iteration(page) == 1
    assert page.get_attribute("#cursor", "d") != before
    page.click("#previous")
    page.click("#previous")  # no frame comes before the puzzle
    assert status(page) == "The puzzle"
    page.focus("#slider")  # the slider handles the key itself, so that it moves once
    page.keyboard.press("ArrowRight")
    assert iteration(page) == 1
    # Every control can be reached by the keyboard.
    page.focus("#example")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["slider", "previous", "play", "next"]


def test_play_runs_to_the_end_and_can_be_paused(open_page, written):
    page = open_page(written)
    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    assert page.get_attribute("#status", "aria-live") == "off"
    playwright.expect(page.locator("#status")).to_contain_text("Iteration 2")
    page.click("#play")
    assert page.inner_text("#play") == "Play"
    assert page.get_attribute("#status", "aria-live") == "polite"
    paused = iteration(page)
    page.wait_for_timeout(600)
    assert iteration(page) == paused
    page.fill("#slider", str(FRAMES - 1))
    page.click("#play")
    playwright.expect(page.locator("#play")).to_have_text("Play")
    assert iteration(page) == FRAMES
    page.click("#play")  # it plays from the start again
    assert iteration(page) == 0


def test_an_example_is_chosen(open_page, written):
    page = open_page(written)
    first = page.inner_html("#board")
    page.keyboard.press("ArrowRight")
    page.select_option("#example", index=1)
    assert status(page) == "The puzzle"
    assert page.inner_html("#board") != first
    assert not page.is_visible("#answer")
    assert page.inner_text("#range") == "No residual was measured"
    page.keyboard.press("ArrowRight")
    assert status(page) == "Iteration 1"
    page.select_option("#example", index=0)
    assert page.is_visible("#answer")


RING = """() => {
  const box = (place) => document.querySelector(place).getBoundingClientRect();
  const [ring, picture] = [box("#mark"), box("#picture img")];
  return [(ring.x + ring.width / 2 - picture.x) / picture.width,
          (ring.y + ring.height / 2 - picture.y) / picture.height];
}"""
"""Where the middle of the ring is in the picture, as shares from the left and from the top."""


def drawn_orbit(page) -> list[list[float]]:
    """Where the picture has the markers of the orbit from the own start, read from its SVG."""
    source = page.get_attribute("#picture img", "src")
    svg = base64.b64decode(source.partition(",")[2]).decode()
    size = [float(number) for number in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]]
    for group in svg.split("<g "):
        markers = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', group)
        if len(markers) == 33:
            return [[float(a) / b for a, b in zip(m, size, strict=True)] for m in markers]
    raise AssertionError("no line has 33 markers")


@pytest.mark.parametrize("width", [360, 1200])
def test_the_ring_follows_the_orbit_in_the_plane(open_page, written, width):
    """The ring is where the picture has the orbit. An example without a plane has no picture."""
    page = open_page(written, width=width)
    drawn = drawn_orbit(page)
    for step, words in ((0, "at its start"), (1, "after iteration 1"), (9, "after iteration 9")):
        page.fill("#slider", str(step))
        assert page.inner_text("#where") == f"The ring is the orbit {words}"
        assert page.evaluate(RING) == pytest.approx(drawn[step], abs=2e-3)
    page.select_option("#example", index=1)
    assert not page.is_visible("#plane")
    page.keyboard.press("ArrowRight")
    page.select_option("#example", index=0)
    assert page.is_visible("#mark")
    assert page.evaluate(RING) == pytest.approx(drawn[0], abs=2e-3)


@pytest.mark.parametrize("width", [360, 700, 1200])
def test_nothing_is_wider_than_the_screen(open_page, written, width):
    page = open_page(written, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    too_wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter("
        "e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML)"
    )
    assert not too_wide


def test_dark_mode(open_page, written):
    def shades(scheme: str) -> list[int]:
        """Return how bright the page and its ink are, 0 to 255 each."""
        page = open_page(written, scheme=scheme)
        style = "getComputedStyle(document.body)"
        colours = (page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color"))
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) // 3 for colour in colours]

    page, ink = shades("light")
    assert page > 200 > 100 > ink
    page, ink = shades("dark")
    assert page < 60 < 200 < ink


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"), [("sudoku", {}), ("sudoku", {"box": 2}), ("chess", {})], ids=str
)
def test_the_boards_of_every_task(open_page, tmp_path, name, fields):
    write_example(tmp_path, make_task(name, fields))
    page = open_page(write_stability(tmp_path)[0], width=360)
    page.fill("#slider", "3")
    boxes = [page.locator(f"#{place} svg").bounding_box() for place in ("board", "target")]
    assert boxes[0]["width"] == boxes[1]["width"] > 250
    assert boxes[0]["height"] == boxes[1]["height"]
    assert page.evaluate("document.documentElement.scrollWidth") == 360
