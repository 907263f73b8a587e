"""`ClusteringServicer`: the protocol of functional cell types, whose library code is yet to come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

from service.errors import NotOfferedError
from service.generated.penfield.v1 import clustering_pb2 as pb
from service.generated.penfield.v1 import clustering_pb2_grpc


class ClusteringServicer(clustering_pb2_grpc.ClusteringServiceServicer):
    """Refuses: methods raise NotOfferedError, which an interceptor turns into a status."""

    async def Cluster(self, request: pb.ClusterRequest, context: Any) -> None:
        """Not offered."""
        _refuse("Cluster")

    async def AssignUnits(self, requests: AsyncIterator[pb.AssignUnitsRequest], context: Any) -> None:
        """Not offered."""
        _refuse("AssignUnits")


def _refuse(method: str) -> NoReturn:
    raise NotOfferedError(
        "clustering by most discriminative stimuli is not offered by this version of the server",
        where=method,
        remedy="ListModels and the other services tell what is",
    )
