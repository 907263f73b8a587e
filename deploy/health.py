"""Ask a gRPC server for its health, as a container's probe does: exit code 0 if it is serving, 1 if not.

Kubernetes' own gRPC probe speaks no TLS, which Penfield requires beyond loopback.

Example: health.py localhost:50051 --certificate /etc/penfield/tls/tls.crt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def is_serving(address: str, certificate: Path | None = None, name: str = "localhost", timeout: float = 3.0) -> bool:
    """Whether a server says SERVING within `timeout` seconds.

    Parameters
    ----------
    address : host:port. certificate : authority that the server's certificate must be of, PEM; None speaks no TLS.
    name : that the certificate bears.
    """
    if certificate is None:
        channel = grpc.insecure_channel(address)
    else:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        channel = grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host:port")
    parser.add_argument("--certificate", type=Path, help="authority of the server's certificate, PEM")
    parser.add_argument("--name", default="localhost", help="name that the certificate bears")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds")
    given = parser.parse_args()
    return 0 if is_serving(given.address, given.certificate, given.name, given.timeout) else 1


if __name__ == "__main__":
    sys.exit(main())
