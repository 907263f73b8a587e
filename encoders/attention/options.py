"""Options of the transformer encoder: their bounds, and which of them have a meaning together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from recordings.errors import InputError, UnknownNameError

from .position import CODES
from .predictor import ROUTINGS

ATTENDING = ("roi", "vertex")
_OF_ATTENTION = (
    "hidden", "n_heads", "n_layers", "n_self_attention", "feedforward", "dropout", "attention_dropout", "fold_keys",
    "position",
)  # fmt: skip
_BOUNDS: dict[str, tuple[float, float]] = {
    "hidden": (1, math.inf),
    "n_heads": (1, math.inf),
    "n_layers": (1, math.inf),
    "n_self_attention": (0, math.inf),
    "feedforward": (0, math.inf),
    "dropout": (0, 0.99),
    "attention_dropout": (0, 0.99),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "learning_rate": (1e-12, 1e3),
    "weight_decay": (0, 1e3),
    "step_epochs": (1, math.inf),
    "clip": (1e-12, math.inf),
    "patience": (1, math.inf),
}
_NAMES: dict[str, tuple[str, ...]] = {"routing": ROUTINGS, "position": CODES, "haemodynamics": ("fir", "query")}


def check_options(options: Mapping[str, Any], signature: Mapping[str, inspect.Parameter]) -> None:
    """Refuse options of a `TransformerEncoder` that cannot be, or that would do nothing.

    Parameters
    ----------
    options : all of them by name. signature : of the constructor, which knows the defaults.

    Raises
    ------
    UnknownNameError : no such routing, position code or haemodynamics. InputError : a value out of bounds, or one that
        means nothing beside the others.
    """
    for name, known in _NAMES.items():
        if options[name] not in known:
            raise UnknownNameError(f"no {name} {options[name]!r}", remedy=f"There are: {', '.join(known)}")
    for name, (low, high) in _BOUNDS.items():
        value = options[name]
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} of {value}", remedy=f"Give a value from {low:g} to {high:g}")
    grid, hidden, n_heads = options["grid"], options["hidden"], options["n_heads"]
    if grid is not None and min(grid) < 1:
        raise InputError(f"a grid of {grid[0]} x {grid[1]}", where="grid", remedy="Give rows and columns")
    if hidden and hidden % n_heads:
        raise InputError(f"hidden size {hidden} does not split among {n_heads} heads", where="n_heads")
    if options["fold_keys"] and options["n_layers"] > 1:
        raise InputError("keys can be folded into the queries of one layer only", where="fold_keys")
    for idle, names, why in (
        (options["routing"] not in ATTENDING, _OF_ATTENTION, f"routing {options['routing']!r} has no attention"),
        (not options["delays"], ("haemodynamics",), "there are no delays"),
        (options["schedule"] != "step", ("step_epochs",), f"schedule {options['schedule']!r} has no steps"),
    ):
        given = [name for name in names if options[name] != signature[name].default]
        if idle and given:
            raise InputError(f"{given[0]} does nothing: {why}", remedy="Leave it out")
