"""What can go wrong between a request and its answer, beyond what the libraries themselves raise."""

from __future__ import annotations

from recordings.errors import ArtifactError, InputError, PenfieldError, UnknownNameError


class ModelNotFoundError(UnknownNameError):
    """No model, version, job or upload of this name, or none that the caller may see."""


class WrongUnitsError(ArtifactError):
    """Responses of other units, another order or another space than the model's."""


class DamagedModelError(ArtifactError):
    """A model folder that cannot be loaded."""


class BusyError(PenfieldError):
    """The queue is full, or a client asks for more than its share.

    Parameters
    ----------
    retry_seconds : when it is worth asking again.
    """

    def __init__(self, what: str, *, retry_seconds: float, where: str | None = None, remedy: str | None = None):
        super().__init__(what, where=where, remedy=remedy or f"Ask again in {retry_seconds:.2g} s")
        self.retry_seconds = retry_seconds


class BudgetError(PenfieldError):
    """The request or the model needs more memory, or a longer time, than the server gives to one."""


class UnavailableError(PenfieldError):
    """The server starts, drains, or has lost the worker that was at it; the same request may succeed later."""


class DeadlineError(PenfieldError):
    """The caller's deadline passed before the answer was ready."""


class UnauthenticatedError(PenfieldError):
    """No token, or one that is not known or has expired."""


class ForbiddenError(PenfieldError):
    """The token does not give the right to do this."""


class ConflictError(InputError):
    """The name is taken by something else."""


class NotReadyError(InputError):
    """It exists and is not in the state that this needs, such as a job that is not done."""


class ChecksumError(PenfieldError):
    """What arrived is not what was sent."""


class NotOfferedError(PenfieldError):
    """The protocol has it, and this server does not answer it."""
