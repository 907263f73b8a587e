"""The report in a real browser: wide and narrow, light and dark, with the network watched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studies.demo.world import World
from studies.page import PAGE, write_study_page

from .test_page import ANSWERS, made_up_study

pytestmark = [pytest.mark.browser, pytest.mark.slow]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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


@pytest.fixture(scope="module", params=[(1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, report_page: Path) -> Iterator[Any]:
    """The opened page, with `complaints` (console and page errors) and `requests` beyond the file itself."""
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.complaints, opened.requests = [], []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda r: opened.requests.append(r.url) if not r.url.startswith("data:") else None)
    opened.goto(report_page.as_uri())
    opened.wait_for_load_state("networkidle")
    yield opened
    opened.close()


def test_renders_whole_without_complaints_or_requests(page: Any, report_page: Path) -> None:
    assert page.complaints == []
    assert page.requests == [report_page.as_uri()]
    assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)") == []


OUTSIDE = """width => [...document.querySelectorAll('main *, header *')]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !e.closest('.scroll, pre'))
    .map(e => e.outerHTML.slice(0, 80))"""
COLOURS = """() => [...document.querySelectorAll('p, dt, dd, td, th, figcaption, a, span, code')].map(e => {
    let behind = e;
    while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor, e.outerHTML.slice(0, 60)];
})"""


def test_nothing_hangs_over_the_side(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE, width) == []


def test_words_stand_out_from_the_page(page: Any) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) between words and what is behind them."""
    pairs = page.evaluate(COLOURS)
    assert len(pairs) > 50
    assert not {what for words, behind, what in pairs if contrast(words, behind) < 4.5 and "chip" not in what}


def test_the_keyboard_reaches_the_results_first(page: Any) -> None:
    page.reload()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_a_study_page_fits_a_telephone(browser: Any, made_up_world: World, tmp_path: Path) -> None:
    write_study_page(tmp_path, made_up_study(tmp_path), ANSWERS, made_up_world.subject.recording)
    opened = browser.new_page(viewport={"width": 390, "height": 900})
    opened.goto((tmp_path / PAGE).as_uri())
    opened.wait_for_load_state("networkidle")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.evaluate(OUTSIDE, 390) == []
    assert opened.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)") == []
    opened.close()


def contrast(first: str, second: str) -> float:
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(css: str) -> float:
    levels = [int(v) / 255 for v in css.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
