"""The playground in a real browser, by clicking: wide and narrow, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recordings import Recording

pytestmark = [pytest.mark.browser, pytest.mark.slow]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60_000
OUTSIDE = """width => [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80))"""
# What a browser does with files that are dropped, which a test cannot do with a mouse.
DROP = """(place, [name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
    place.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
NAMES = """() => [...document.querySelectorAll('select, input, button, progress, img')]
    .filter(e => e.checkVisibility())
    .filter(e => !(e.labels?.length || e.alt || e.textContent.trim() || e.getAttribute('aria-labelledby')))
    .map(e => e.outerHTML.slice(0, 80))"""
COLOURS = """() => [...document.querySelectorAll('main *, header *, a')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .filter(e => e.checkVisibility() && !e.disabled).map(e => {
    let behind = e;
    while (behind.parentElement && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)')
        behind = behind.parentElement;
    return [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor, e.outerHTML.slice(0, 60)];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    executable = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox needs rights that containers do not give; the page is our own.
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, playground: str) -> Iterator[Any]:
    """The opened page; at the end nothing may have been asked elsewhere, and nothing complained of."""
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints, asked = [], []
    opened.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda r: asked.append(r.url))
    opened.goto(playground)
    yield opened
    check_looks(opened, width)
    opened.close()
    assert complaints == []
    assert {url for url in asked if not url.startswith((playground, "data:", f"blob:{playground}"))} == set()


@pytest.fixture
def rows(responses: Recording, tmp_path: Path) -> Path:
    """Ten rows for the decoder, as a user has them."""
    path = tmp_path / "rows.npy"
    np.save(path, np.asarray(responses.data[:10], np.float32))
    return path


def check_looks(page: Any, width: int) -> None:
    """Nothing hangs over the side, everything has a name, and words stand out by 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE, width) == []
    assert page.evaluate(NAMES) == []
    pairs = page.evaluate(COLOURS)
    assert len(pairs) > 7
    assert not {what for words, behind, what in pairs if contrast(words, behind) < 4.5}


def choose(page: Any, model: str, button: str) -> None:
    page.get_by_label("Model").select_option(model)
    page.get_by_role("button", name=button).wait_for(timeout=PATIENCE)


def test_a_dropped_picture_is_seen_on_the_cortex(page: Any, pictures: list[np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(pictures[0]).save(tmp_path / "scene.png")
    choose(page, "cortex", "Predict the response")
    page.locator("label.drop:visible").evaluate(DROP, ["scene.png", list((tmp_path / "scene.png").read_bytes())])
    page.get_by_alt_text("Chosen picture, scene.png").wait_for()
    page.get_by_role("button", name="Predict the response").click()
    page.get_by_alt_text("Mean predicted response by region: ", exact=False).wait_for(timeout=PATIENCE)
    for side in ("left", "right"):
        shown = page.get_by_alt_text(f"predicted response: flattened {side} hemisphere")
        shown.wait_for(timeout=PATIENCE)
        assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    assert page.get_by_role("status").text_content() == "Done."
    assert "460 units on fsaverage5" in page.locator("#about").text_content()


def test_rows_become_previews_and_then_a_picture_with_words(page: Any, rows: Path) -> None:
    choose(page, "subject-01/decoder", "Decode")
    page.locator("#responses").set_input_files(rows)
    page.get_by_text("10 rows of 300 responses.").wait_for()
    page.get_by_label("First row").fill("4")
    page.get_by_label("Rows", exact=True).fill("2")
    page.get_by_label("Preset").select_option("takagi-cvpr")
    # Previews give way to the picture, so they are noted as they come.
    page.evaluate("""() => {
        window.seen = [];
        new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach((node) => {
            if (node.alt) window.seen.push(node.alt);
        }))).observe(document.getElementById("output"), { childList: true, subtree: true });
    }""")
    page.get_by_role("button", name="Decode").click()
    page.get_by_text("Done: 2 decoded.").wait_for(timeout=PATIENCE)
    seen = page.evaluate("window.seen")
    assert seen.count("Preview of row 4") > 2
    assert page.get_by_role("img", name="Preview").count() == 0
    shown = page.get_by_role("img", name="Reconstruction of row 5, sample 1")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    assert all(text.strip() for text in page.locator("figcaption").all_text_contents())
    assert page.locator("figcaption").count() == 2


def test_what_is_wrong_is_said_and_mended(page: Any, rows: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.zeros((2, 3), np.float32))
    choose(page, "subject-01/decoder", "Decode")
    page.locator("#responses").set_input_files(tmp_path / "short.npy")
    page.get_by_text("2 rows of 3 responses; the model reads 300.").wait_for()
    page.get_by_role("button", name="Decode").click()
    page.get_by_role("status").get_by_text("3 units, the model reads 300").wait_for(timeout=PATIENCE)
    page.locator("#responses").set_input_files(rows)
    page.get_by_label("Preset").select_option("takagi-cvpr")
    page.get_by_role("button", name="Decode").click()
    page.get_by_role("img", name="Reconstruction of row 0, sample 1").wait_for(timeout=PATIENCE)


def test_stop_stops_and_models_of_numbers_cannot_be_asked(page: Any, rows: Path) -> None:
    choose(page, "subject-01/decoder", "Decode")
    page.locator("#responses").set_input_files(rows)
    page.get_by_label("Rows", exact=True).fill("8")
    page.get_by_role("button", name="Decode").click()
    page.get_by_role("img", name="Preview").first.wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("status").get_by_text("Stopped.").wait_for()
    page.get_by_label("Model").select_option("subject-01/latents")
    page.get_by_text("decodes numbers alone").wait_for(timeout=PATIENCE)
    assert page.get_by_role("button", name="Ask").is_disabled()
    assert page.locator("#output").inner_html() == ""


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "model"
    page.keyboard.type("cortex")
    page.get_by_role("button", name="Predict the response").wait_for(timeout=PATIENCE)
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:2] == ["picture", "go"]


def contrast(first: str, second: str) -> float:
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(css: str) -> float:
    levels = [int(v) / 255 for v in css.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
