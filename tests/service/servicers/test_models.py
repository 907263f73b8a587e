from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager

import pytest

from encoders import RidgeEncoder
from recordings.errors import InputError, UnknownNameError
from service.errors import DamagedModelError, ModelNotFoundError
from service.generated.penfield.v1 import model_pb2 as pb
from service.generated.penfield.v1 import model_pb2_grpc as services
from service.servicers.models import ModelServicer
from service.status import error_from

from ..conftest import ENCODER, LAYER, N_UNITS

READY, UNLOADED = pb.MODEL_STATE_READY, pb.MODEL_STATE_UNLOADED
CARD = "---\nlicense: cc-by-4.0\n---\n# A ridge\n"


@pytest.fixture
def folder(encoder_folder, tmp_path):
    """The encoder in two versions, and one that is damaged."""
    for version in ("1", "2"):
        shutil.copytree(encoder_folder / ENCODER, tmp_path / "lab" / "many" / version)
    (tmp_path / "lab" / "many" / "2" / "README.md").write_text(CARD)
    shutil.copytree(encoder_folder / ENCODER, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"cut short")
    return tmp_path


@pytest.fixture
def model_stub(serving, answering):
    @asynccontextmanager
    async def open(folder):
        async with (
            serving(folder, runner={"warm_up": False}) as engine,
            answering(services, "ModelService", ModelServicer(engine)) as stub,
        ):
            yield stub

    return open


@pytest.fixture
def ask(model_stub, run):
    """The answer of one method."""

    def asking(folder, method, request):
        async def calling():
            async with model_stub(folder) as stub:
                return await getattr(stub, method)(request, timeout=60)

        return run(calling())

    return asking


def test_all_versions_of_all_models_are_listed_as_they_stand(folder, ask):
    models = ask(folder, "ListModels", pb.ListModelsRequest()).models
    names = [(model.reference.name, model.reference.version) for model in models]
    assert names == [("broken", "1"), ("lab/many", "1"), ("lab/many", "2")]
    for model in models:
        assert (model.kind, list(model.verbs), model.state) == ("RidgeEncoder", ["encode"], pb.MODEL_STATE_UNLOADED)
        assert len(model.fingerprint) == 64
        files = (folder / model.reference.name).rglob("*")
        assert 0 < model.memory_bytes <= sum(file.stat().st_size for file in files if file.is_file())
    assert len({model.fingerprint for model in models}) == 3


def test_models_are_listed_by_verb(folder, ask):
    assert len(ask(folder, "ListModels", pb.ListModelsRequest(verb="encode")).models) == 3
    assert not ask(folder, "ListModels", pb.ListModelsRequest(verb="decode")).models
    with pytest.raises(UnknownNameError, match="no verb 'score'"):
        ask(folder, "ListModels", pb.ListModelsRequest(verb="score"))


def test_description_tells_what_goes_in_and_what_comes_out(folder, ask, scene_features):
    reference = pb.ModelReference(name="lab/many")
    found = ask(folder, "DescribeModel", pb.DescribeModelRequest(model=reference)).description
    encoder = RidgeEncoder.from_pretrained(folder / "lab" / "many" / "2")
    assert (found.model.reference.version, found.model.state) == ("2", pb.MODEL_STATE_READY)
    assert list(found.units.unit_ids) == [f"v{i}" for i in range(N_UNITS)]
    assert found.units.fingerprint == encoder.recording_["neuroid_fingerprint"]
    assert json.loads(found.units.space_json) == encoder.recording_["space"]
    [space] = found.features
    assert (space.name, space.uri, space.layer, space.readout) == ("", "miniature:backbone", LAYER, "pooled")
    assert (list(space.shape), space.fingerprint) == ([192], scene_features.fingerprint())
    assert dict(found.rois) == {"A": 30, "B": 10}
    assert (found.card, found.license) == (CARD, "cc-by-4.0")
    written = max(file.stat().st_mtime for file in (folder / "lab" / "many" / "2").iterdir())
    assert found.modified.seconds == int(written)


def test_model_is_loaded_and_unloaded_as_told(folder, model_stub, run):
    async def states():
        async with model_stub(folder) as stub:
            reference = pb.ModelReference(name="lab/many", version="1")
            loaded = (await stub.LoadModel(pb.LoadModelRequest(model=reference))).model
            models = (await stub.ListModels(pb.ListModelsRequest())).models
            listed = {(m.reference.name, m.reference.version): m.state for m in models}
            unloaded = (await stub.UnloadModel(pb.UnloadModelRequest(model=reference))).model
            return loaded, listed, unloaded

    loaded, listed, unloaded = run(states())
    assert (loaded.state, unloaded.state) == (READY, UNLOADED)
    assert listed == {("broken", "1"): UNLOADED, ("lab/many", "1"): READY, ("lab/many", "2"): UNLOADED}
    assert loaded.memory_bytes > unloaded.memory_bytes > 0


def test_damaged_model_says_what_is_wrong_without_the_servers_paths(folder, model_stub, run):
    async def load():
        async with model_stub(folder) as stub:
            request = pb.LoadModelRequest(model=pb.ModelReference(name="broken"))
            refused = await asyncio.gather(stub.LoadModel(request), return_exceptions=True)
            return refused[0], (await stub.ListModels(pb.ListModelsRequest())).models[0]

    refused, model = run(load())
    error = error_from(refused)
    assert isinstance(error, DamagedModelError)
    assert str(folder) not in str(error)
    assert model.state == pb.MODEL_STATE_FAILED
    assert model.reason
    assert str(folder) not in model.reason


@pytest.mark.parametrize("method", ["Describe", "Load", "Unload"])
def test_model_that_is_not_there_is_not_found(folder, ask, method):
    request = getattr(pb, f"{method}ModelRequest")
    for name in ("nobody", "../broken", "lab"):
        with pytest.raises(ModelNotFoundError):
            ask(folder, f"{method}Model", request(model=pb.ModelReference(name=name)))
    with pytest.raises(InputError, match="no model named"):
        ask(folder, f"{method}Model", request())
