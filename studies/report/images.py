"""Pictures as data URIs, so that a report is one file, in versions for light and dark and for wide and narrow pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Pillow

NARROW = "(max-width: 640px)"
DARK = "(prefers-color-scheme: dark)"


@dataclass(frozen=True)
class Image:
    """A picture of the report.

    Attributes
    ----------
    uri : data URI shown unless a source applies.
    alt : what is to be seen, for those who do not see it.
    width, height : in CSS pixels.
    sources : (media query, data URI, width, height), first match wins.
    """

    uri: str
    alt: str
    width: int
    height: int
    sources: tuple[tuple[str, str, int, int], ...] = ()


@dataclass(frozen=True)
class Ink:
    """Colours of a chart on a light or a dark page.

    Attributes
    ----------
    text, muted, grid : of words, of secondary words and of lines. series : of data, safe for colour-blind readers.
    """

    text: str
    muted: str
    grid: str
    series: tuple[str, ...]


# Okabe & Ito, "Color universal design" (2008); the blue that is too dark on black gives way to the lighter one.
LIGHT_INK = Ink("#1c2026", "#565d68", "#d9dce1", ("#0072b2", "#d55e00", "#009e73", "#aa4a82", "#9a6a00", "#6b7280"))
DARK_INK = Ink("#e8eaed", "#a4abb6", "#363b44", ("#56b4e9", "#f28c3b", "#2fc79a", "#e39ac3", "#e6b830", "#9aa3b0"))
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "svg.hashsalt": "penfield",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "legend.frameon": False,
}


def chart(
    draw: Callable[[Figure, Ink], None],
    alt: str,
    wide: tuple[float, float] = (10.8, 4.2),
    narrow: tuple[float, float] = (4.4, 5.0),
) -> Image:
    """Draw a chart four times: light and dark, for wide and for narrow pages.

    Parameters
    ----------
    draw : draws into an empty figure with the given ink; the figure's size tells it how much room there is.
    wide, narrow : sizes in inches, at 80 CSS pixels an inch.
    """
    sources = []
    for size, ink, media in (
        (narrow, DARK_INK, f"{NARROW} and {DARK}"),
        (narrow, LIGHT_INK, NARROW),
        (wide, DARK_INK, DARK),
        (wide, LIGHT_INK, ""),
    ):
        uri = _svg(draw, ink, size)
        sources.append((media, uri, round(80 * size[0]), round(80 * size[1])))
    _, uri, width, height = sources.pop()
    return Image(uri, alt, width, height, tuple(sources))


def _svg(draw: Callable[[Figure, Ink], None], ink: Ink, size: tuple[float, float]) -> str:
    colours = {
        "text.color": ink.text,
        "axes.labelcolor": ink.text,
        "xtick.color": ink.muted,
        "xtick.labelcolor": ink.text,
        "ytick.color": ink.muted,
        "ytick.labelcolor": ink.text,
        "axes.edgecolor": ink.muted,
        "grid.color": ink.grid,
    }
    with matplotlib.rc_context(_RC | colours):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, ink)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def photograph(pixels: np.ndarray, alt: str, width: int | None = None) -> Image:
    """An image (H, W, 3) uint8 as lossless PNG, shown `width` CSS pixels wide (its own width by default)."""
    height, own = pixels.shape[:2]
    width = width or own
    return Image(_png(Pillow.fromarray(pixels)), alt, width, round(width * height / own))


def cropped(figure: Figure, alt: str, dpi: int = 160, padding: int = 4, colours: int = 128) -> Image:
    """A figure on a transparent ground without its empty border, as PNG of at most `colours` colours."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, transparent=True)
    picture = Pillow.open(buffer).convert("RGBA")
    left, top, right, bottom = picture.getchannel("A").getbbox() or (0, 0, *picture.size)
    picture = picture.crop((left - padding, top - padding, right + padding, bottom + padding))
    # Two pixels of the picture a CSS pixel keep it sharp on dense screens.
    width, height = picture.width // 2, picture.height // 2
    return Image(_png(picture.quantize(colours, method=Pillow.Quantize.FASTOCTREE)), alt, width, height)


def _png(picture: Pillow.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a ``data:`` address of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class ColourBar:
    """The scale of a map, drawn by the page so that its words stay words.

    Attributes
    ----------
    gradient : CSS colours from low to high. ticks : position (0 to 1) to label. label : quantity and unit.
    """

    gradient: tuple[str, ...]
    ticks: Mapping[float, str]
    label: str


def colour_bar(cmap: str, low: float, high: float, label: str, ticks: int = 5) -> ColourBar:
    """The bar of a matplotlib colour map between two values."""
    colours = matplotlib.colormaps[cmap](np.linspace(0, 1, 12))
    places = np.linspace(0, 1, ticks)
    named = {float(p): f"{low + p * (high - low):.2g}" for p in places}
    return ColourBar(tuple(matplotlib.colors.to_hex(c) for c in colours), named, label)
