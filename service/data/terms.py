"""`Terms`: under what conditions data may be kept and used; they travel to everything that is derived from the data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from recordings.errors import InputError


@dataclass(frozen=True)
class Terms:
    """Terms of an upload, or of a result.

    Attributes
    ----------
    consent : what the participants consented to. license : such as "CC-BY-4.0". Several are joined.
    retention : seconds that the data may stay; None for as long as the server keeps data.
    """

    consent: str = ""
    license: str = ""
    retention: float | None = None

    def __post_init__(self) -> None:
        if self.retention is not None and not self.retention > 0:
            raise InputError(f"{self.retention} s is no time to keep data", where="retention", remedy="Give a duration")
        for name in ("consent", "license"):
            if len(getattr(self, name)) > 1000:
                raise InputError("longer than 1000 characters", where=name, remedy="Name a document instead")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(values["consent"], values["license"], values["retention"])


def strictest(terms: Iterable[Terms]) -> Terms:
    """Terms that satisfy all the given ones: every consent and licence holds, and the shortest time."""
    given = list(terms)
    times = [t.retention for t in given if t.retention is not None]
    consents = dict.fromkeys(t.consent for t in given if t.consent)
    licenses = dict.fromkeys(t.license for t in given if t.license)
    return Terms("; ".join(consents), " AND ".join(licenses), min(times, default=None))
