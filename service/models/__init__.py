"""Models in memory: what a fitted artifact needs beside itself to answer requests, many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recordings.errors import MissingWeightsError, PenfieldError

from ..errors import BudgetError, DamagedModelError
from ..repository import DECODE, ModelEntry
from .description import DecodedTarget, Description, FeatureSpace, Units

if TYPE_CHECKING:
    from .decoder import DecoderModel
    from .encoder import EncoderModel

__all__ = ["DecodedTarget", "Description", "FeatureSpace", "Units", "load_model"]


def load_model(entry: ModelEntry, device: str = "auto", **options: Any) -> EncoderModel | DecoderModel:
    """The model of an entry, read from disk.

    Parameters
    ----------
    device : where networks run.
    options : of `DecoderModel`.

    Raises
    ------
    DamagedModelError : its files cannot be read or do not fit each other.
    BudgetError : there is no memory for it.
    MissingWeightsError : networks that it needs are not on this machine.
    """
    if entry.reason:
        raise DamagedModelError(entry.reason, where=entry.key.name, remedy="Write the model again")
    try:
        if DECODE in entry.verbs:
            from .decoder import DecoderModel

            return DecoderModel(entry, device, **options)
        from .encoder import EncoderModel

        return EncoderModel(entry, device)
    except MissingWeightsError:
        raise
    except PenfieldError as error:
        raise DamagedModelError(error.what, where=entry.key.name, remedy=error.remedy) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, MemoryError) as error:
        from .memory import is_out_of_memory

        if is_out_of_memory(error):
            raise BudgetError("does not fit in memory", where=entry.key.name, remedy="Unload other models") from error
        raise DamagedModelError(
            f"cannot be loaded ({type(error).__name__})", where=entry.key.name, remedy="Write the model again"
        ) from error
