"""Certificates and keys as files, of servers and clients alike."""

from __future__ import annotations

from pathlib import Path

from recordings.errors import FormatError


def read_pem(path: Path) -> bytes:
    """Content of a PEM file; `FormatError` if it cannot be read or is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", where=path) from error
    if b"-----BEGIN " not in content:
        raise FormatError("not a PEM file", where=path, remedy="Convert it with openssl")
    return content
