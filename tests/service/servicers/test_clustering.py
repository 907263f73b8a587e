from __future__ import annotations

import pytest

from service.errors import NotOfferedError
from service.generated.penfield.v1 import clustering_pb2 as pb
from service.generated.penfield.v1 import clustering_pb2_grpc as services
from service.servicers.clustering import ClusteringServicer


@pytest.mark.parametrize("method", ["Cluster", "AssignUnits"])
def test_clustering_is_said_not_to_be_offered(method, answering, run):
    async def ask():
        async with answering(services, "ClusteringService", ClusteringServicer()) as stub:
            request = pb.ClusterRequest() if method == "Cluster" else iter([pb.AssignUnitsRequest()])
            return [answer async for answer in getattr(stub, method)(request, timeout=10)]

    with pytest.raises(NotOfferedError, match=f"{method}.*discriminative stimuli"):
        run(ask())
