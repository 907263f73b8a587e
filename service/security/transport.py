"""Certificates: TLS, mutual TLS, and new certificates without a restart."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from recordings.errors import FormatError

from .files import stamp
from .pem import read_pem

log = logging.getLogger("penfield.security")


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> Any:
    """Credentials of a gRPC server, which looks at the files at each connection and takes new ones that fit.

    Parameters
    ----------
    certificate, key : certificate chain and private key, PEM.
    client_ca : authorities of client certificates, PEM; a client without one of theirs is refused. None: no such.

    Raises
    ------
    FormatError : a file cannot be read or is not PEM, or key and certificate are not of one pair.
    """
    import grpc

    files = [certificate, key, *([client_ca] if client_ca else [])]
    stamps = [stamp(file) for file in files]
    configuration = _configuration(certificate, key, client_ca)

    def changed() -> Any:
        nonlocal stamps
        found = [stamp(file) for file in files]
        if found == stamps:
            return None
        try:
            fresh = _configuration(certificate, key, client_ca)
        except (OSError, FormatError) as error:
            # Certificate and key are replaced one after the other; the pair is looked at again at the next connection.
            log.warning("the certificate was not renewed: %s", error)
            return None
        stamps = found
        log.info("the certificate was renewed")
        return fresh

    return grpc.dynamic_ssl_server_credentials(
        configuration, changed, require_client_authentication=client_ca is not None
    )


def _configuration(certificate: Path, key: Path, client_ca: Path | None) -> Any:
    import grpc

    chain, private, roots = read_pem(certificate), read_pem(key), read_pem(client_ca) if client_ca else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise FormatError(
            f"certificate and key are not a pair that can be used ({error})",
            where=certificate,
            remedy=f"See whether {key} is its key, as PEM, without a password",
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise FormatError(f"not certificates of an authority ({error})", where=client_ca) from error
    return grpc.ssl_server_certificate_configuration([(private, chain)], root_certificates=roots)


def _no_password() -> str:
    raise ValueError("the key has a password")
