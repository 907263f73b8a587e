"""The report: one file, all of its numbers, words for every picture."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image as Pillow

from studies.demo.decoding import Decoded
from studies.demo.decoding_page import decoding_section
from studies.demo.encoding_page import EncoderScore, encoding_section
from studies.demo.numbers import meaning, numbers_section
from studies.demo.pictures import Pictured
from studies.demo.pictures_page import pictures_section
from studies.demo.regions import COLOURS, region_maps
from studies.demo.world import World
from studies.report import Section, write_report
from studies.report.charts import Series, scores_by_roi
from studies.report.cortex import cortex, on_fsaverage5, symmetric_limit
from studies.report.images import DARK, NARROW, photograph
from studies.report.page import number


class Elements(HTMLParser):
    """Tags with their attributes, and the visible words."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in tags]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


@pytest.mark.slow
def test_the_page_asks_for_nothing_outside_itself(report_page: Path) -> None:
    elements = Elements(report_page)
    addresses = [
        a[key] for a in elements.of(*{t for t, _ in elements.tags}) for key in ("src", "srcset", "href") if key in a
    ]
    assert len(addresses) > 40
    assert {str(a).partition(":")[0] for a in addresses if not str(a).startswith("#")} == {"data"}
    assert not elements.of("script", "iframe", "object")
    assert "url(" not in report_page.read_text().partition("</style>")[0]


@pytest.mark.slow
def test_every_picture_has_words_and_a_size(report_page: Path) -> None:
    images = Elements(report_page).of("img")
    assert images and all(len(str(image["alt"])) > 10 and int(str(image["width"])) for image in images)


@pytest.mark.slow
def test_headings_and_anchors_fit_together(report_page: Path) -> None:
    elements = Elements(report_page)
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in elements.of("a")} <= set(ids)
    assert len(elements.of("h1")) == 1


@pytest.mark.slow
def test_what_users_write_is_escaped(report_page: Path) -> None:
    assert "a made-up picture <3>" in str(Elements(report_page).of("img")) and "<3>" not in report_page.read_text()


@pytest.mark.slow
def test_the_numbers_of_the_summary_are_on_the_page(report_page: Path) -> None:
    words = Elements(report_page).words
    assert "&" not in words
    for text in ("encode.ridge.V1", "0.710", "0.0152", "84.2", "0.957", "1.840", "These data are made up."):
        assert text in words


def test_a_number_without_a_meaning_is_refused() -> None:
    with pytest.raises(KeyError, match="transmogrify"):
        numbers_section({"transmogrify": 1.0}, {})
    assert meaning("encode.banded_ridge.V4").startswith("banded ridge: mean noise-normalised r in V4")


@pytest.mark.slow
def test_scores_and_intervals_are_in_the_table(made_up_world: World, made_up_scores: list[EncoderScore]) -> None:
    section = encoding_section(made_up_world.subject.recording, made_up_scores, "pixels", 10, 10)
    assert section.content["rows"][0] == ("the ridge", [made_up_scores[0].by_roi["V1"]] * 6)
    assert section.content["mapped"] == "the pixels"


def test_the_right_answer_is_marked_and_wrong_ones_are_not(made_up_world: World, made_up_decoding: Decoded) -> None:
    stimuli = made_up_world.subject.stimuli
    grid = decoding_section(made_up_decoding, stimuli).content["grid"]
    ranks = made_up_decoding.identified.rank
    assert [row["place"] for row in grid] == [rank if rank <= 3 else 0 for rank in ranks]
    assert {0, 1, 2} <= {row["place"] for row in grid}
    for row, name in zip(grid, made_up_world.test, strict=True):
        marked = [answer["image"] for answer in row["answers"] if answer["right"]]
        assert len(marked) == (row["place"] > 0)
        own = stimuli.select([name]).load(0)
        assert all(np.array_equal(pixels(image.uri)[..., :3], own) for image in [row["shown"], *marked])


@pytest.mark.slow
def test_regions_are_drawn_in_their_colours(made_up_world: World) -> None:
    drawn = np.concatenate([pixels(i.uri).reshape(-1, 4) for i in region_maps(made_up_world.subject.recording)["flat"]])
    opaque = drawn[drawn[:, 3] == 255][:, :3].astype(int)
    for name, colour in COLOURS.items():
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(opaque - wanted).max(1) < 24).sum() > 20, name


@pytest.mark.slow
def test_cortex_without_values_is_grey_and_with_values_is_not() -> None:
    maps = {"L": np.full(10242, np.nan), "R": np.full(10242, 0.5)}
    bare, full = cortex(maps, "half")["flat"]
    spread = [np.ptp(pixels(image.uri)[..., :3][pixels(image.uri)[..., 3] == 255], 1).max() for image in (bare, full)]
    assert spread[0] <= 2 < 50 < spread[1]
    assert bare.alt == "half: flattened left hemisphere"


def test_scales_of_differences_are_symmetric_and_hold_nearly_all() -> None:
    few = np.r_[np.linspace(-0.31, 0.31, 1000), np.full(5, 3.0), np.nan]
    assert symmetric_limit(few) == 0.35
    assert symmetric_limit(np.full(3, np.nan)) == symmetric_limit(np.zeros(3)) == 0.05


def test_maps_of_finer_meshes_are_drawn_at_the_vertices_they_share() -> None:
    fine = {side: np.arange(40962.0) for side in "LR"}
    drawn = on_fsaverage5(fine)
    assert drawn is not None and np.array_equal(drawn["R"], np.arange(10242.0))
    assert on_fsaverage5({"L": np.zeros(32492), "R": np.zeros(32492)}) is None


def test_charts_come_for_light_and_dark_wide_and_narrow() -> None:
    image = scores_by_roi([Series("ridge", {"V1": (0.7, 0.6, 0.8)})], "one dot")
    assert [media for media, *_ in image.sources] == [f"{NARROW} and {DARK}", NARROW, DARK]
    assert len({image.uri, *(uri for _, uri, *_ in image.sources)}) == 4
    again = scores_by_roi([Series("ridge", {"V1": (0.7, 0.6, 0.8)})], "one dot")
    assert again == image
    other = scores_by_roi([Series("ridge", {"V1": (0.6, 0.5, 0.7)})], "one dot")
    assert other.uri != image.uri


def test_photographs_are_lossless(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    shown = photograph(image, "noise", width=12)
    assert np.array_equal(pixels(shown.uri)[..., :3], image) and (shown.width, shown.height) == (12, 16)


@pytest.mark.parametrize(
    ("value", "text"), [(0.6123, "0.612"), (0.00491, "0.0049"), (84.23, "84.2"), (1200.0, "1,200"), (0.0, "0.0000")]
)
def test_numbers_keep_the_places_that_say_something(value: float, text: str) -> None:
    assert number(value) == text


def test_a_section_that_fails_leaves_the_old_report(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")
    with pytest.raises(jinja2.UndefinedError):
        write_report(page, "t", "n", "l", [], [Section("numbers", "Numbers")], {})
    assert page.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_drawings_stand_beside_what_was_shown_and_what_was_decoded(
    made_up_world: World, made_up_pictures: Pictured
) -> None:
    stimuli = made_up_world.subject.stimuli
    content = pictures_section(made_up_pictures, stimuli).content
    assert [title for title, *_ in content["rows"]] == [
        "decoded z",
        "words only",
        "all inputs",
        "the scenes themselves",
    ]
    assert content["over_z"].value > 0.2
    for row, name in zip(content["grid"], made_up_world.test, strict=True):
        assert np.array_equal(pixels(row["shown"].uri)[..., :3], stimuli.select([name]).load(0))
        assert row["decoded"] == f"a thing called {name}"
        drawn = dict(zip(content["titles"], row["drawn"], strict=True))
        number = made_up_world.test.index(name)
        assert np.array_equal(pixels(drawn["decoded z"].uri)[..., :3], made_up_pictures.images["z"][number])
