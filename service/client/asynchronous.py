"""`AsyncClient`: a server's verbs as coroutines."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recordings.errors import InputError
from recordings.events import OnEvent

from ..generated.penfield.v1 import (
    alignment_pb2,
    data_pb2,
    data_pb2_grpc,
    decoding_pb2,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from . import decoding, encoding, inputs, scoring, uploads
from .connection import Connection, File
from .jobs import AsyncRemoteJob, plain_arguments
from .values import Decoded, JobStatus, ModelDescription, ModelInfo, StoredData

Many = Sequence[str]


class AsyncClient:
    """A server's encoders, decoders, data and jobs.

    Calls that may be repeated are tried again when the server cannot be reached, and any call when it says that it is
    busy, as late as it asks for; waits are drawn at random. What fails raises the error that the server raised, of the
    same class. A client belongs to the event loop of its first call. Models are named NAME or NAME@VERSION.

    Parameters
    ----------
    target : HOST:PORT or unix:PATH. Servers elsewhere than on this machine are spoken to over TLS; https:// before the
        address asks for TLS in any case, and http:// for none.
    token : bearer token. ca : certificates of the server's authorities, PEM; by default the system's.
    certificate, key : of this client, PEM, for a server with mutual TLS.
    timeout : seconds for a call that is answered at once. stream_timeout : seconds for encoding many stimuli, for
        decoding, scoring and uploads.
    retries : how often a call is tried again.

    Raises
    ------
    InputError : a token that would travel in plain; certificate without key. FormatError : a file cannot be read.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        token: str | None = None,
        ca: File | None = None,
        certificate: File | None = None,
        key: File | None = None,
        timeout: float = 30,
        stream_timeout: float = 3600,
        retries: int = 4,
    ):
        self._connection = Connection(
            target,
            token=token,
            ca=ca,
            certificate=certificate,
            key=key,
            timeout=timeout,
            stream_timeout=stream_timeout,
            retries=retries,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._connection.close()

    async def health(self) -> bool:
        """Whether the server wants calls; `UnavailableError` if it cannot be reached."""
        service = self._connection.stub(health_pb2_grpc.HealthStub)
        answer = await self._connection.call(service.Check, health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    # Models ----------------------------------------------------------------------------------------------------------

    async def models(self, verb: str = "") -> list[ModelInfo]:
        """All models, or those that answer "encode" or "decode"."""
        request = model_pb2.ListModelsRequest(verb=verb)
        answer = await self._connection.call(self._stub(model_pb2_grpc.ModelServiceStub).ListModels, request)
        return [ModelInfo.of(model) for model in answer.models]

    async def describe(self, name: str, version: str = "") -> ModelDescription:
        """What a model takes and gives, units by name. `ModelNotFoundError` if there is none."""
        request = model_pb2.DescribeModelRequest(model=_reference(name, version))
        answer = await self._connection.call(self._stub(model_pb2_grpc.ModelServiceStub).DescribeModel, request)
        return ModelDescription.of(answer.description)

    async def load(self, name: str, version: str = "") -> ModelInfo:
        """Bring a model into the server's memory, as the first request to it does otherwise."""
        request = model_pb2.LoadModelRequest(model=_reference(name, version))
        method = self._stub(model_pb2_grpc.ModelServiceStub).LoadModel
        return ModelInfo.of((await self._connection.call(method, request)).model)

    async def unload(self, name: str, version: str = "") -> ModelInfo:
        """Take a model out of the server's memory when its running requests are done."""
        request = model_pb2.UnloadModelRequest(model=_reference(name, version))
        method = self._stub(model_pb2_grpc.ModelServiceStub).UnloadModel
        return ModelInfo.of((await self._connection.call(method, request)).model)

    # Encoding and decoding -------------------------------------------------------------------------------------------

    async def encode(
        self,
        model: str,
        *,
        images: Any = None,
        clips: Any = None,
        features: Any = None,
        rois: Many = (),
        on_event: OnEvent | None = None,
        timeout: float | None = None,
    ) -> np.ndarray:
        """Predicted responses float32 (stimulus, unit); (stimulus, time, unit) of clips read frame by frame.

        Many stimuli are sent in parts, while earlier ones are computed; an iterator is read no faster than that.

        Parameters
        ----------
        images : one or several of uint8 (height, width, 3), PIL images, and names of files.
        clips : one or several of uint8 (time, height, width, 3), and names of files.
        features : float (stimulus, ...), `encoders.Features`, or several of these by name of the feature space.
        rois : only units of these regions.
        timeout : seconds, instead of the client's own.

        Raises
        ------
        InputError : not one of images, clips and features, or as the server says. ModelNotFoundError : no such encoder.
        ConflictError : the model was replaced before all stimuli were answered. Also InputError : a time series that
            does not fit into one request, for a model that reads over delays.
        """
        total = inputs.count(images, clips, features)
        asked: dict[str, Any] = {"images": images, "clips": clips, "features": features, "rois": rois}
        if features is not None and total > inputs.PART_STIMULI:
            # Rows of features are small, and those of a whole cortex are not.
            n_units = len((await self.describe(model)).unit_ids)
            asked["most_rows"] = max(1, inputs.ANSWER_BYTES // (4 * max(1, n_units)))
        return await encoding.encode(
            self._connection,
            inputs.encode_requests(model, **asked),
            check_parts=partial(self._check_parts, model),
            total=total,
            on_event=on_event,
            timeout=timeout,
        )

    async def decode(
        self,
        model: str,
        responses: Any,
        outputs: Many = ("image",),
        *,
        stimulus_ids: Many | None = None,
        preset: str = "",
        strength: float | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        samples: int | None = None,
        seed: int = 0,
        preview_every: int = 0,
        on_event: OnEvent | None = None,
        timeout: float | None = None,
    ) -> list[Decoded]:
        """What responses say of what was seen, a `Decoded` a row; a row that fails says why and spares others.

        Leaving, or an error in `on_event`, stops the server within one denoising step.

        Parameters
        ----------
        responses : float (row, unit) in the order of the model's units; or a `recordings.Recording`, whose repetitions
            are averaged and whose units are compared with the model's.
        outputs : some of "caption", "image", "depth", "shape" and "targets".
        stimulus_ids : names of the rows, on which random numbers depend; of a recording, those that are wanted.
        preset, strength, guidance, steps, samples : how pictures are drawn; the server's and the preset's by default.
        preview_every : every so many steps a preview.
        on_event : gets progress; previews in the payload, "preview" (1, height, width, 3), "stimulus_ids" and
            "samples"; and each `Decoded`, without settings, as "row" in the payload, as soon as it is there.
        """
        drawing = decoding_pb2.DrawingOptions(
            preset=preset,
            strength=strength,
            guidance=guidance,
            steps=steps,
            samples=samples,
            preview_every=preview_every,
        )
        return await decoding.decode(
            self._connection,
            model,
            responses,
            outputs,
            stimulus_ids=stimulus_ids,
            drawing=drawing,
            seed=seed,
            on_event=on_event,
            timeout=timeout,
        )

    async def caption(self, model: str, responses: Any, **options: Any) -> list[str]:
        """A sentence a row; options as of `decode`. Raises the error of the first row that fails."""
        return [str(row.caption) for row in await self._whole(model, responses, "caption", options)]

    async def image(self, model: str, responses: Any, **options: Any) -> np.ndarray:
        """Pictures uint8 (row, sample, height, width, 3); see `caption`."""
        rows = await self._whole(model, responses, "image", options)
        return np.stack([row.images for row in rows if row.images is not None])

    async def depth(self, model: str, responses: Any, **options: Any) -> np.ndarray:
        """Depth maps float32 (row, height, width), larger is nearer; see `caption`."""
        rows = await self._whole(model, responses, "depth", options)
        return np.stack([row.depth for row in rows if row.depth is not None])

    async def score(
        self,
        *,
        metric: str,
        features: StoredData | str | None = None,
        model: str | None = None,
        recording: StoredData | str | None = None,
        rdms: StoredData | str | None = None,
        stimuli: StoredData | str | None = None,
        layers: Many = (),
        seed: int = 0,
        on_event: OnEvent | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """How well features, or a model's layers, agree with a recording or RDMs: what ``penfield score --json`` tells.

        Parameters
        ----------
        features, recording, rdms, stimuli : uploaded data, or their ids. model : extractor URI.
        options : others of ``penfield score``: readout, roi, compare, baselines.
        """
        if (features is None) == (model is None) or (recording is None) == (rdms is None):
            raise InputError("needs one of features and model, and one of recording and rdms", where="score")
        request = alignment_pb2.ScoreRequest(
            features_id=_id(features),
            extractor_uri=model,
            recording_id=_id(recording),
            rdms_id=_id(rdms),
            stimuli_id=_id(stimuli) or "",
            layers=layers,
            metric=metric,
            options_json=json.dumps(plain_arguments(options)),
            seed=seed,
        )
        return await scoring.score(self._connection, request, on_event=on_event, timeout=timeout)

    # Data and jobs ---------------------------------------------------------------------------------------------------

    async def upload(
        self,
        path: str | PathLike[str],
        kind: str,
        *,
        consent: str = "",
        license: str = "",
        retention: timedelta | None = None,
        on_event: OnEvent | None = None,
    ) -> StoredData:
        """Store a file or folder on the server; one that broke off goes on, and what is there already is not sent.

        Parameters
        ----------
        kind : "recording", "stimuli", "features", "rdms" or "file".
        consent, license : what the participants consented to, and the licence; recordings need both.
        retention : how long it may stay; the server's own limit by default.

        Raises
        ------
        InputError : a recording without consent or licence. BudgetError : larger than the server takes.
        """
        terms: dict[str, Any] = {"consent": consent, "license": license, "retention": retention}
        return await uploads.upload(self._connection, Path(path), kind, **terms, on_event=on_event)

    async def data(self) -> list[StoredData]:
        """What this caller has stored, in the order of arrival."""
        method = self._stub(data_pb2_grpc.DataServiceStub).ListData
        answer = await self._connection.call(method, data_pb2.ListDataRequest())
        return [StoredData.of(data) for data in answer.data]

    async def delete(self, data: StoredData | str) -> list[str]:
        """Delete data at once, with all that jobs derived from them; the ids of these jobs."""
        method = self._stub(data_pb2_grpc.DataServiceStub).DeleteData
        request = data_pb2.DeleteDataRequest(id=_id(data))
        # A second time there would be nothing to delete, and the answer of the first would be lost.
        return list((await self._connection.call(method, request, repeatable=False)).job_ids)

    async def submit(self, verb: str, /, key: str | None = None, **arguments: Any) -> AsyncRemoteJob:
        """Queue a verb of the command line as a job, which goes on without this client.

        Parameters
        ----------
        verb : such as "encode fit". arguments : its options with "_" for "-"; `StoredData`, jobs and models, or
            "data:ID", "job:ID" and "model:NAME", where the command line takes a path.
        key : name under which a repeated submission is the same job.
        """
        request = job_pb2.SubmitJobRequest(key=uuid.uuid4().hex if key is None else key)
        request.request.verb = verb
        request.request.arguments.update(plain_arguments(arguments))
        answer = await self._connection.call(self._stub(job_pb2_grpc.JobServiceStub).SubmitJob, request)
        return AsyncRemoteJob(self._connection, answer.job.id)

    async def job(self, id: str) -> AsyncRemoteJob:
        """The job of an id, with or without "job:"; `ModelNotFoundError` if there is none."""
        job = AsyncRemoteJob(self._connection, id.removeprefix("job:"))
        await job.status()
        return job

    async def jobs(self) -> list[JobStatus]:
        """This caller's jobs, newest first."""
        method = self._stub(job_pb2_grpc.JobServiceStub).ListJobs
        return [JobStatus.of(job) for job in (await self._connection.call(method, job_pb2.ListJobsRequest())).jobs]

    def _stub(self, kind: Any) -> Any:
        return self._connection.stub(kind)

    async def _check_parts(self, model: str) -> None:
        if (await self.describe(model)).delays:
            raise InputError(
                "reads a time series as one run, and this one does not fit into one request",
                where=model,
                remedy="Encode it run by run, or as a job",
            )

    async def _whole(self, model: str, responses: Any, output: str, options: dict[str, Any]) -> list[Decoded]:
        rows = await self.decode(model, responses, (output,), **options)
        for row in rows:
            if row.failure is not None:
                raise row.failure
        return rows


def _reference(name: str, version: str) -> model_pb2.ModelReference:
    return model_pb2.ModelReference(name=name, version=version) if version else inputs.reference(name)


def _id(data: StoredData | str | None) -> str | None:
    return data.id if isinstance(data, StoredData) else data
