"""`ModelServicer`: what models there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recordings.errors import UnknownNameError
from service.generated.penfield.v1 import model_pb2 as pb
from service.generated.penfield.v1 import model_pb2_grpc
from service.repository import DECODE, ENCODE

from .data import timestamp
from .replies import model_message, named, units_message

if TYPE_CHECKING:
    from service.engine import Engine
    from service.models import Description

VERBS = (ENCODE, DECODE)


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """The models of an engine. Methods raise typed errors, which an interceptor turns into statuses.

    Parameters
    ----------
    engine : whose models they are.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """All models, or those that answer a verb."""
        if request.verb and request.verb not in VERBS:
            raise UnknownNameError(
                f"no verb {request.verb[:50]!r}", where="verb", remedy=f"There are {', '.join(VERBS)}"
            )
        found = [entry for entry in self.engine.models() if not request.verb or request.verb in entry.verbs]
        return pb.ListModelsResponse(models=[model_message(self.engine, entry) for entry in found])

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Any) -> pb.DescribeModelResponse:
        """What a model takes and gives."""
        described = await self.engine.describe(*named(request.model))
        return pb.DescribeModelResponse(description=self._description(described))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Any) -> pb.LoadModelResponse:
        """Bring a model into memory."""
        entry = await self.engine.load(*named(request.model))
        return pb.LoadModelResponse(model=model_message(self.engine, entry))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Any) -> pb.UnloadModelResponse:
        """Take a model out of memory."""
        entry = await self.engine.unload(*named(request.model))
        return pb.UnloadModelResponse(model=model_message(self.engine, entry))

    def _description(self, described: Description) -> pb.ModelDescription:
        return pb.ModelDescription(
            model=model_message(self.engine, described.entry),
            units=units_message(described.units, described.units.columns(())),
            features=[
                pb.FeatureSpace(
                    name=space.name,
                    uri=space.uri,
                    layer=space.layer,
                    readout=space.readout,
                    shape=space.shape,
                    fingerprint=space.fingerprint,
                )
                for space in described.features
            ],
            targets=[pb.DecodedTarget(name=target.name, shape=target.shape) for target in described.targets],
            presets=described.presets,
            rois=described.rois,
            card=described.card,
            license=described.license,
            modified=timestamp(described.modified),
            delays=described.delays,
        )
