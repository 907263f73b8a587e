"""What right each method needs."""

from __future__ import annotations

# Probes of load balancers and of KServe clients carry no token; these tell only whether the server is up.
OPEN = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)

_BY_METHOD = {
    "/penfield.v1.ModelService/ListModels": "read",
    "/penfield.v1.ModelService/DescribeModel": "read",
    "/penfield.v1.ModelService/LoadModel": "admin",
    "/penfield.v1.ModelService/UnloadModel": "admin",
}

_BY_SERVICE = {
    "penfield.v1.EncodingService": "predict",
    "penfield.v1.DecodingService": "predict",
    "penfield.v1.ClusteringService": "predict",
    # These read and write what callers have uploaded.
    "penfield.v1.AlignmentService": "data",
    "penfield.v1.DataService": "data",
    "penfield.v1.JobService": "data",
    "grpc.reflection.v1alpha.ServerReflection": "read",
    "grpc.reflection.v1.ServerReflection": "read",
}

_INFERENCE = "/inference.GRPCInferenceService/"


def scope_of(method: str) -> str | None:
    """The scope that a method needs, None if everybody may call it; "admin" for methods that nobody thought of.

    Parameters
    ----------
    method : full name, such as "/penfield.v1.EncodingService/Encode".
    """
    if method in OPEN:
        return None
    if method.startswith(_INFERENCE):
        return "predict" if method == f"{_INFERENCE}ModelInfer" else "read"
    return _BY_METHOD.get(method) or _BY_SERVICE.get(method.split("/")[1] if "/" in method else "", "admin")
