"""One-line descriptions of scenes in words: colour, category, place."""

from __future__ import annotations

import numpy as np

from .scenes import Scenes

# Upper bound of each name in degrees of hue; red wraps round.
_HUES = {
    "red": 15,
    "orange": 43,
    "yellow": 68,
    "green": 155,
    "turquoise": 195,
    "blue": 255,
    "purple": 290,
    "pink": 345,
}
COLOURS = tuple(_HUES)
_CENTRE = 0.14


def caption(scenes: Scenes) -> list[str]:
    """Describe each scene, as in "a red mug at the top left"."""
    rows = zip(colour_names(scenes.hue), scenes.category_names, scenes.x, scenes.y, strict=True)
    return [f"{_article(colour)} {colour} {category} {_place(x, y)}" for colour, category, x, y in rows]


def colour_names(hue: np.ndarray) -> np.ndarray:
    """Names, str (n,), of hues (n,) in turns; one of `COLOURS`."""
    at = np.searchsorted(list(_HUES.values()), 360 * (np.asarray(hue) % 1), side="right")
    return np.array(COLOURS)[at % len(COLOURS)]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _place(x: float, y: float) -> str:
    across = "left" if x < -_CENTRE else "right" if x > _CENTRE else ""
    along = "bottom" if y < -_CENTRE else "top" if y > _CENTRE else ""
    if across and along:
        return f"at the {along} {across}"
    if across:
        return f"on the {across}"
    return f"at the {along}" if along else "in the middle"
