"""The page in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import pyconv
from pyconv import bundled
from pyconv.server.background import BackgroundServer
from pyconv.server.settings import ModelSpec, Settings

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if _CHROMIUM is None:
    pytest.skip("needs a browser: apt-get install chromium", allow_module_level=True)

_FLAGS = [
    "--no-sandbox",  # which Chromium refuses to set up for root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 60_000  # for a machine that is busy with other things
playwright.expect.set_options(timeout=_PATIENCE_MS)

Page = Any


@pytest.fixture(scope="module")
def server(small_classifier: Path) -> Iterator[BackgroundServer]:
    """Digits on both engines, and a model of somebody's own."""
    models = [ModelSpec("digits", "digits"), ModelSpec("my-own", str(small_classifier))]
    background = BackgroundServer(
        Settings(models=models, engines=["native", "onnxruntime"], port=0, http_port=0)
    )
    with background:
        yield background


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any, server: BackgroundServer) -> Iterator[Callable[..., Page]]:
    """Opens the page; afterwards nothing must have gone wrong, and nothing left the host."""
    home = f"http://{server.http_address}"
    problems: list[str] = []
    contexts = []

    def check(request: Any) -> None:
        target = urlsplit(request.url.removeprefix("blob:"))
        if target.netloc != server.http_address and target.scheme != "data":
            problems.append(f"a request to {request.url}")

    def open_page(**settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
        contexts.append(context)
        context.set_default_timeout(_PATIENCE_MS)
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", check)
        page.goto(home)
        page.locator(".tile").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def _draw(page: Page, *points: tuple[float, float]) -> None:
    """A stroke through points, as shares of the pad's sides."""
    box = page.locator("#pad").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def _wait_for_answer(page: Page, label: str) -> None:
    playwright.expect(page.locator("#answer li.best span").first).to_have_text(label)


def _wait_until_settled(page: Page) -> None:
    playwright.expect(page.locator("main")).to_have_attribute("aria-busy", "false")


def _pixels(page: Page, selector: str) -> np.ndarray:
    """The pixels of a canvas: (height, width, 4) uint8."""
    script = """canvas => {
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      return [Array.from(data), height, width];
    }"""
    data, height, width = page.locator(selector).first.evaluate(script)
    return np.array(data, np.uint8).reshape(height, width, 4)


def _map(page: Page, layer: str, channel: int) -> np.ndarray:
    """What is drawn at a tile: (height, width, 3) uint8."""
    script = """tile => {
      const sheet = tile.parentElement.querySelector("canvas");
      const [all, box] = [sheet.getBoundingClientRect(), tile.getBoundingClientRect()];
      const scale = sheet.width / all.width;
      const [left, top] = [(box.left - all.left) * scale, (box.top - all.top) * scale];
      const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
      const { data } = sheet.getContext("2d")
        .getImageData(Math.round(left), Math.round(top), width, height);
      return [Array.from(data), height, width];
    }"""
    tile = page.locator(f".tile[aria-label='{layer}, channel {channel}']")
    data, height, width = tile.evaluate(script)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def _reduced(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Every value of a map, from the middle of its rectangle in a picture of it."""
    height, width = values.shape
    y = (np.arange(rows) + 0.5) * height / rows
    x = (np.arange(columns) + 0.5) * width / columns
    return values[np.ix_(y.astype(int), x.astype(int))]


def test_page_sees_a_seven_where_a_seven_is_drawn(visit: Callable[..., Page]) -> None:
    page = visit()
    _wait_for_answer(page, "0")  # the first sample
    _draw(page, (0.27, 0.24), (0.74, 0.24), (0.45, 0.82))
    _wait_for_answer(page, "7")
    _wait_until_settled(page)
    shown = _pixels(page, "#shown")
    assert shown.shape == (28, 28, 4)
    model = pyconv.load("digits")
    image = shown[np.newaxis, :, :, 0]
    (best,) = model.classify(image)[0]
    assert best.label == "7"
    playwright.expect(page.locator("#best b")).to_have_text("7")
    share = page.locator("#answer li.best span").last.inner_text()
    assert float(share.rstrip("%")) == pytest.approx(best.probability * 100, abs=0.06)
    # Each tile is the map of its channel: bright where that is high.
    maps = model.activations(image, ["conv2d"])["conv2d"][0]
    for channel in (0, 5):
        light = _reduced(_map(page, "conv2d", channel).sum(axis=2, dtype=int), 26, 26)
        assert np.corrcoef(light.ravel(), maps[..., channel].ravel())[0, 1] > 0.95
    rows = page.locator("#times tbody tr")
    assert [rows.nth(i).locator("td").first.inner_text() for i in range(2)] == [
        "native",
        "onnxruntime",
    ]
    page.click("#clear")
    playwright.expect(page.locator("#hint")).to_be_visible()


def test_page_takes_a_picture_that_is_dropped(visit: Callable[..., Page]) -> None:
    page = visit()
    _wait_for_answer(page, "0")
    (seven,) = [path for path in bundled.samples("digits") if path.stem == "7"]
    content = base64.b64encode(seven.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """content => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "seven.png", { type: "image/png" }));
          return transfer;
        }""",
        content,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    playwright.expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    _wait_for_answer(page, "7")
    playwright.expect(page.locator("#drop")).to_be_hidden()


def test_page_opens_a_map(visit: Callable[..., Page]) -> None:
    page = visit()
    _wait_for_answer(page, "0")
    page.click(".tile[aria-label='conv2d, channel 5']")
    playwright.expect(page.locator("#inspector-title")).to_have_text("conv2d, channel 5")
    page.locator("#filter canvas").first.wait_for()
    playwright.expect(page.locator("#exciting canvas")).not_to_have_count(0)
    large = page.locator("#large canvas")
    box = large.bounding_box()
    cell = box["width"] / 26
    image = _pixels(page, "#shown")[np.newaxis, :, :, 0]
    maps = pyconv.load("digits").activations(image, ["conv2d", "max_pooling2d"])
    brightest = maps["conv2d"][0, 2:-2, 2:-2, 5]  # where the pooled value's place is no edge's
    row, column = (int(i) + 2 for i in np.unravel_index(brightest.argmax(), brightest.shape))
    page.mouse.move(box["x"] + (column + 0.5) * cell, box["y"] + (row + 0.5) * cell)
    cells = page.locator("#probe tbody tr").first.locator("td")
    playwright.expect(cells.nth(1)).to_have_text(f"{row}, {column}")
    value = float(maps["conv2d"][0, row, column, 5])
    assert float(cells.nth(2).inner_text()) == pytest.approx(value, rel=1e-2, abs=1e-3)
    pooled = page.locator("#probe tbody tr").nth(1).locator("td")
    r, c = (int(part) for part in pooled.nth(1).inner_text().split(", "))
    assert {row // 2 - 1, row // 2} >= {r}
    value = float(maps["max_pooling2d"][0, r, c, 5])
    assert float(pooled.nth(2).inner_text()) == pytest.approx(value, rel=1e-2, abs=1e-3)
    field = page.locator("#field rect")
    assert [float(field.get_attribute(name)) for name in ("y", "x", "height", "width")] == [
        row,
        column,
        3,
        3,
    ]
    page.keyboard.press("Tab")
    page.locator("#close").click()
    playwright.expect(page.locator("#inspector")).to_be_hidden()


def test_page_lays_explanations_over_and_compares(visit: Callable[..., Page]) -> None:
    page = visit()
    _wait_for_answer(page, "0")
    for kind, note in (("Grad-CAM", "what speaks for “0” in conv2d"), ("occlusion", "“0”")):
        page.click(f"#overlays label:has-text('{kind}')")
        playwright.expect(page.locator("#overlay-note")).to_contain_text(note)
        assert _pixels(page, "#overlay").shape == (28, 28, 4)
    page.click("#compare")
    shown = [_pixels(page, "#shown")[..., 0]]
    page.click("button[aria-label='Sample 3']")
    _wait_for_answer(page, "3")
    shown.insert(0, _pixels(page, "#shown")[..., 0])
    tile = _map(page, "conv2d", 5).sum(axis=2, dtype=int)
    half = len(tile) // 2
    maps = pyconv.load("digits").activations(np.stack(shown)[..., None], ["conv2d"])["conv2d"]
    for drawn, expected in ((tile[:half], maps[0]), (tile[-half:], maps[1])):  # A above B
        light = _reduced(drawn, 26, 26)
        assert np.corrcoef(light.ravel(), expected[..., 5].ravel())[0, 1] > 0.95
    page.click("#engines label:has-text('onnxruntime')")
    playwright.expect(page.locator("#times tr.current td").first).to_have_text("onnxruntime")


def test_page_works_by_keyboard(visit: Callable[..., Page]) -> None:
    page = visit()
    _wait_for_answer(page, "0")
    page.focus("#pad")
    page.keyboard.press(" ")
    for _ in range(14):
        page.keyboard.press("ArrowDown")
    _wait_for_answer(page, "1")
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#inspector-title")).to_have_text("conv2d, channel 1")
    playwright.expect(page.locator("#large canvas")).to_be_focused()
    # An answer that comes meanwhile, here the other engine's, draws the map anew.
    drawn = page.locator("#large canvas").element_handle()
    page.evaluate("document.querySelector('#engines label:last-of-type input').click()")
    page.wait_for_function("drawn => !drawn.isConnected", arg=drawn)
    playwright.expect(page.locator("#large canvas")).to_be_focused()
    page.keyboard.press("ArrowDown")
    place = page.locator("#probe tbody tr.current td").nth(1)
    playwright.expect(place).to_have_text("13, 13")
    page.keyboard.press("ArrowLeft")
    playwright.expect(place).to_have_text("13, 12")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#inspector")).to_be_hidden()
    playwright.expect(page.locator(".tile").nth(1)).to_be_focused()


def test_page_shows_models_of_ones_own(visit: Callable[..., Page]) -> None:
    page = visit()
    _wait_for_answer(page, "0")
    page.select_option("#model", "my-own")
    playwright.expect(page.locator("#answer li")).to_have_count(3)
    playwright.expect(page.locator(".strip h3").first).to_contain_text("4 maps of 4×6")
    assert _pixels(page, "#shown").shape == (6, 8, 4)
    for selector in ("#shown", ".tile"):  # neither is drawn out into a square
        box = page.locator(selector).first.bounding_box()
        ratio = 8 / 6 if selector == "#shown" else 6 / 4
        assert box["width"] / box["height"] == pytest.approx(ratio, rel=0.02)


def test_page_asks_for_the_token_that_the_server_wants(
    browser: Any, small_classifier: Path, tmp_path: Path
) -> None:
    token = "a-token-of-the-test-0123456789"
    (tmp_path / "tokens").write_text(token, encoding="utf-8")
    guarded = BackgroundServer(
        Settings(
            models=[ModelSpec("my-own", str(small_classifier))],
            port=0,
            http_port=0,
            token_file=tmp_path / "tokens",
        )
    )
    with guarded:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{guarded.http_address}")
        page.fill("#token", "wrong", timeout=_PATIENCE_MS)
        page.click("#entry button")
        playwright.expect(page.locator("#alert")).to_contain_text("token")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.locator(".tile").first.wait_for(timeout=_PATIENCE_MS)
        playwright.expect(page.locator("#entry")).to_be_hidden()
        context.close()


_CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(node).backgroundColor);
      if (alpha > 0.5) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !node.checkVisibility() || node.closest("#hint, .skip")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_readable_in_both_themes_on_a_phone(visit: Callable[..., Page], theme: str) -> None:
    page = visit(color_scheme=theme, viewport={"width": 390, "height": 844}, has_touch=True)
    _wait_for_answer(page, "0")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.click(".tile[aria-label='conv2d, channel 5']")
    page.locator("#filter canvas").first.wait_for()
    for _ in range(2):  # as the machine has it, and the other by the button
        contrasts = page.evaluate(_CONTRASTS)
        assert len(contrasts) > 30
        assert [item for item in contrasts if item[1] < 4.5] == []  # WCAG 2.2, AA
        page.locator("#close").click() if page.locator("#close").is_visible() else None
        page.click("#theme")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(250, 249, 247)" if theme == "light" else "rgb(14, 12, 18)")
