"""What the options of a `SharedSpaceDecoder` may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recordings.errors import InputError, UnknownNameError

INPUTS = ("aligned", "trained")
_LEAST = {"shared": 1, "width": 1, "epochs": 1, "batch_size": 2, "n_blocks": 0, "views": 2}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise `InputError` that names the first option that cannot be."""
    if options["inputs"] not in INPUTS:
        raise UnknownNameError(f"no inputs {options['inputs']!r}", remedy=f"There are: {', '.join(INPUTS)}")
    for name, least in _LEAST.items():
        if options[name] < least:
            raise InputError(f"{options[name]}", where=name, remedy=f"Give {least} or more")
    for name in ("dropout", "input_dropout", "validation"):
        if not 0 <= options[name] < 1:
            raise InputError(f"{options[name]}", where=name, remedy="Give a fraction from 0 to below 1")
    if options["learning_rate"] <= 0 or min(options["temperature"]) <= 0:
        raise InputError(
            f"learning_rate {options['learning_rate']}, temperature {options['temperature']}",
            remedy="Give numbers above 0",
        )
    if options["weight_decay"] < 0 or min(options["loss_weights"]) < 0 or not any(options["loss_weights"]):
        raise InputError(
            f"weight_decay {options['weight_decay']}, loss_weights {options['loss_weights']}",
            remedy="Give 0 or more, and one loss at least",
        )


def check_adaptation(options: Mapping[str, Any], train: str, changed: Mapping[str, Any]) -> None:
    """Raise `InputError` if a decoder of these options cannot be adapted so; what is None is not changed."""
    if train not in ("all", "input"):
        raise UnknownNameError(f"no way to adapt {train!r}", remedy="Give all or input")
    given = {name: value for name, value in changed.items() if value is not None}
    if given and options["inputs"] == "aligned" and train == "input":
        raise InputError(
            "an aligned input layer has no epochs and no learning rate",
            where="adapt",
            remedy="Leave them out, or train all",
        )
    check_options({**options, **given})
