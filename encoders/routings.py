"""Routings: the ways from a picture's tokens to a neuroid's response that Adeli et al. (2025) compare, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from recordings.errors import InputError, UnknownNameError

from .attention import TransformerEncoder
from .bands import named
from .encoder import Encoder
from .features import Features
from .ridge import RidgeEncoder

_ENCODERS: dict[str, Callable[..., Encoder]] = {
    "cls": RidgeEncoder,
    "pooled": partial(RidgeEncoder, pool=True),
    "flattened": partial(RidgeEncoder, solver="kernel"),
    "gaussian": partial(TransformerEncoder, "gaussian"),
    "spatial_roi": partial(TransformerEncoder, "spatial_roi"),
    "spatial": partial(TransformerEncoder, "spatial"),
    "roi": partial(TransformerEncoder, "roi"),
    "vertex": partial(TransformerEncoder, "vertex"),
}
ROUTINGS = tuple(_ENCODERS)
RIDGE_ROUTINGS = ("cls", "pooled", "flattened")


def make_routing(name: str, **options: Any) -> Encoder:
    """An encoder that is not fitted yet; all but "cls" are fitted to the same tokens.

    Parameters
    ----------
    name : "cls", ridge on a class token, which needs features of that read-out; "pooled", ridge on the mean token;
        "flattened", ridge on all tokens side by side, in kernel form; "gaussian", a receptive field a neuroid;
        "spatial_roi" and "spatial", one fixed map a region or neuroid; "roi" and "vertex", attention with one query a
        region or neuroid.
    options : of `RidgeEncoder` for the first three, else of `TransformerEncoder`.

    Raises
    ------
    UnknownNameError : no such routing. InputError : an option that its encoder does not have.
    """
    if name not in _ENCODERS:
        raise UnknownNameError(f"no routing {name!r}", remedy=f"There are: {', '.join(ROUTINGS)}")
    try:
        return _ENCODERS[name](**options)
    except TypeError as error:
        raise InputError(f"routing {name!r}: {error}", where="routing", remedy="Leave the option out") from error


def check_readout(name: str, features: Features | Mapping[str, Features]) -> None:
    """Raise `InputError` if features are not of the read-out that a routing goes by: "cls" of its own, else tokens."""
    for space_name, space in named(features).items():
        readout = space.attrs.get("readout")
        fits = len(space.shape) == 2 and readout in (None, "cls") if name == "cls" else len(space.shape) == 3
        if not fits:
            wanted = "cls" if name == "cls" else "tokens"
            raise InputError(
                f"routing {name!r} goes by {'class' if name == 'cls' else 'all'} tokens, not by features of shape "
                f"{space.shape}, read-out {readout}",
                where=f"features {space_name}" if space_name else "features",
                remedy=f"Extract with readout={wanted!r} (--readout {wanted})",
            )
