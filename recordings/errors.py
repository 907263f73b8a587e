"""Typed errors: each says what is wrong, where, and what to do about it.

Everything raised on purpose derives from `PenfieldError`. Errors that the caller can mend by changing the input derive
from `InputError`, which is also a `ValueError`; the command line prints them in one line and exits with code 2.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


class PenfieldError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : what is wrong, in a few words.
    where : the file, array, column or unit it concerns.
    remedy : what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, remedy: str | None = None):
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        head = f"{self.where}: {what}" if self.where else what
        super().__init__(f"{head}. {remedy}" if remedy else head)


class InputError(PenfieldError, ValueError):
    """The input or the request is wrong; nothing was written."""

    exit_code = 2


class FormatError(InputError):
    """A file is not in the layout that its reader expects."""


class TruncatedFileError(FormatError):
    """A file ends before its header says it should, or cannot be read to its end."""


class CorruptImageError(FormatError):
    """An image or clip cannot be decoded."""


class ImageTooLargeError(InputError):
    """An image has more pixels than the limit; it was refused before decoding."""


class NotFiniteError(InputError):
    """NaN or infinite values where numbers are needed."""


class ConstantUnitError(InputError):
    """A voxel, neuron or feature does not vary, so that correlation is undefined."""


class ShapeError(InputError):
    """An array has the wrong shape, length or dtype."""


class DuplicateIdError(InputError):
    """Identifiers that must be unique are not."""


class MismatchedIdsError(InputError):
    """Two tables that should name the same stimuli or neuroids do not."""


class UnknownNameError(InputError):
    """A name (ROI, layer, column, metric, format) that does not exist here."""


class EmptyROIError(InputError):
    """A region of interest without a single neuroid."""


class RepetitionError(InputError):
    """Too few repetitions, presentations or conditions for what is asked."""


class LeakageError(InputError):
    """A stimulus stands on both sides of a split."""


class MissingWeightsError(InputError):
    """A model's weights are not on this machine."""


class ArtifactError(InputError):
    """A saved model does not fit the data, the format version or the features it is used with."""


class DiskFullError(PenfieldError, OSError):
    """The disk filled up; what was being written has been removed or can be resumed."""

    exit_code = 2


class Cancelled(PenfieldError):
    """The caller asked to stop; the state on disk can be resumed."""


@contextmanager
def naming(where: str | PathLike[str]) -> Iterator[None]:
    """Let an `InputError` that names no file or folder name this one."""
    try:
        yield
    except InputError as error:
        if error.where is not None:
            raise
        raise type(error)(error.what, where=where, remedy=error.remedy) from error


@contextmanager
def disk_full_as_error(where: str | PathLike[str]) -> Iterator[None]:
    """Turn the operating system's "no space left" into a `DiskFullError` that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            "no space left on the disk",
            where=where,
            remedy="Free some space or choose another output folder, then run the same command again",
        ) from error
