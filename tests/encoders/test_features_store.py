"""The feature store: resumed bit for bit, never stale, appended to, never half-written under its own name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from encoders.features import FeatureExtractor, Features, extract, layers_of
from encoders.features.backbone import Backbone
from encoders.features.store import LayerStore, part_of
from recordings import Event, Stimuli
from recordings.errors import (
    ArtifactError,
    Cancelled,
    CorruptImageError,
    DuplicateIdError,
    FormatError,
    MismatchedIdsError,
    NotFiniteError,
    ShapeError,
    TruncatedFileError,
    UnknownNameError,
)

N, BATCH = 11, 4


class TwoLayers(nn.Module):
    """A convolution and a linear layer, and a count of the images that passed."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 5, 3, stride=2)
        self.head = nn.Linear(5, 3)
        self.n_seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_seen += len(x)
        return self.head(self.conv(x).relu().mean((2, 3)))


def make_extractor(seed: int = 0, preprocessing: str = "scaled") -> FeatureExtractor:
    module = TwoLayers(seed).eval()

    def preprocess(image: np.ndarray) -> dict[str, torch.Tensor]:
        return {"x": torch.as_tensor(image.copy()).movedim(-1, 0).float() / 255}

    backbone = Backbone(module, preprocess, lambda inputs: module(inputs["x"]), preprocessing)
    extractor = FeatureExtractor(backbone, "test:two-layers", device="cpu")
    extractor.layers()
    module.n_seen = 0
    return extractor


@pytest.fixture
def extractor() -> FeatureExtractor:
    return make_extractor()


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(N):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"s{i:02d}.png")
    return folder


@pytest.fixture
def stimuli(folder: Path) -> Stimuli:
    return Stimuli.from_folder(folder)


def seen(extractor: FeatureExtractor) -> int:
    """Images that passed since the last call."""
    count, extractor.backbone.module.n_seen = extractor.backbone.module.n_seen, 0
    return count


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def run(extractor: FeatureExtractor, stimuli: Stimuli, path: Path, **options: object) -> dict[str, Features]:
    return extract(extractor, stimuli, path, ["conv", "head"], batch_size=BATCH, **options)  # type: ignore[arg-type]


def test_values_are_those_of_the_model(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    features = run(extractor, stimuli, tmp_path / "f.zarr")
    images = torch.as_tensor(np.stack(list(stimuli))).movedim(-1, 1).float() / 255
    module = extractor.backbone.module
    with torch.inference_mode():
        np.testing.assert_allclose(features["conv"].read(), module.conv(images).mean((2, 3)).numpy(), atol=1e-6)
        np.testing.assert_allclose(features["head"].read(), module(images).numpy(), atol=1e-6)
    assert features["head"].shape == (N, 3)
    assert features["head"].read().dtype == np.float32
    assert list(features["head"].stimulus_ids) == stimuli.ids
    assert features["head"].attrs["weights"] == extractor.weights
    assert layers_of(tmp_path / "f.zarr") == ["conv", "head"]


def test_second_call_computes_nothing(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    run(extractor, stimuli, tmp_path / "f.zarr")
    assert seen(extractor) == N
    before = content(tmp_path / "f.zarr")
    run(extractor, stimuli, tmp_path / "f.zarr")
    assert seen(extractor) == 0
    assert content(tmp_path / "f.zarr") == before
    events: list[Event] = []
    extract(extractor, stimuli, tmp_path / "f.zarr", ["head"], on_event=events.append)
    assert [(e.done, e.total) for e in events] == [(N, N)]


@pytest.mark.parametrize("after", [1, 2])
def test_cancelled_run_resumes(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path, after: int) -> None:
    path, whole = tmp_path / "f.zarr", tmp_path / "whole.zarr"
    run(extractor, stimuli, whole)
    seen(extractor)
    calls = iter(range(after + 1))
    with pytest.raises(Cancelled):
        run(extractor, stimuli, path, stop=lambda: next(calls) == after)
    assert not path.exists()
    with pytest.raises(FormatError, match="unfinished"):
        Features.load(path, "head")
    run(extractor, stimuli, path)
    assert seen(extractor) == N
    assert not part_of(path).exists()
    assert content(path) == content(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from encoders.features import FeatureExtractor, extract
from encoders.features.store import JOURNAL, LayerStore
from recordings import Stimuli

folder, path, where, chunk = sys.argv[1:]
write, chunk = LayerStore.write, int(chunk)

def write_and_die(store, k, values, hashes):
    if k == chunk and where == "data":
        (store.folder / f"c/{k}/0.abc.partial").parent.mkdir(parents=True, exist_ok=True)
        (store.folder / f"c/{k}/0.abc.partial").write_bytes(b"half a chunk")
        store.array[k * store.batch_size] = np.float32(7)
        os.kill(os.getpid(), signal.SIGKILL)
    write(store, k, values, hashes)
    if k == chunk and where == "journal":
        journal = store.folder / JOURNAL
        os.truncate(journal, journal.stat().st_size - 5)
        os.kill(os.getpid(), signal.SIGKILL)

LayerStore.write = write_and_die
extractor = FeatureExtractor.from_uri("baseline:gabor", device="cpu")
extract(extractor, Stimuli.from_folder(folder), path, batch_size=4)
"""


@pytest.mark.parametrize("where", ["data", pytest.param("journal", marks=pytest.mark.slow)])
def test_kill_9_costs_at_most_one_chunk(folder: Path, tmp_path: Path, where: str) -> None:
    path, whole = tmp_path / "f.zarr", tmp_path / "whole.zarr"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(folder), str(path), where, "1"]
    died = subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert died.returncode == -9
    assert not path.exists()
    gabor, stimuli = FeatureExtractor.from_uri("baseline:gabor", device="cpu"), Stimuli.from_folder(folder)
    events: list[Event] = []
    extract(gabor, stimuli, path, batch_size=4, on_event=events.append)
    # Chunk 0 had been whole; of the three, the one that was being written and the one never begun are computed.
    assert [e.done for e in events] == [4, 8, N]
    extract(gabor, stimuli, whole, batch_size=4)
    assert content(path) == content(whole)


def test_new_stimuli_are_appended(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    path, whole = tmp_path / "f.zarr", tmp_path / "whole.zarr"
    run(extractor, stimuli.take(slice(0, 6)), path)
    seen(extractor)
    features = run(extractor, stimuli, path)
    # Rows 4 and 5 shared a batch with nothing; now their batch is whole and computed again.
    assert seen(extractor) == N - BATCH
    np.testing.assert_array_equal(features["conv"].read(), run(extractor, stimuli, whole)["conv"].read())


def test_new_stimuli_alone_are_appended(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    path = tmp_path / "f.zarr"
    old = run(extractor, stimuli.take(slice(0, 6)), path)["conv"].read()
    seen(extractor)
    new = run(extractor, stimuli.take(slice(6, N)), path)["conv"]
    assert seen(extractor) == N - 6
    assert list(new.stimulus_ids) == stimuli.ids[6:]
    everything = Features.load(path, "conv")
    np.testing.assert_array_equal(everything.read(everything.rows(stimuli.ids[:6])), old)
    np.testing.assert_allclose(
        everything.read(), run(extractor, stimuli, tmp_path / "g.zarr")["conv"].read(), atol=1e-6
    )


def test_new_layer_joins_a_store(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    path = tmp_path / "f.zarr"
    extract(extractor, stimuli, path, ["conv"], batch_size=BATCH)
    extract(extractor, stimuli, path, ["head"], "flat", batch_size=2)
    assert layers_of(path) == ["conv", "head"]
    assert Features.load(path, "head").attrs["readout"] == "flat"


def test_changed_image_is_computed_again(
    extractor: FeatureExtractor, stimuli: Stimuli, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.zarr"
    before = run(extractor, stimuli, path)["conv"].read()
    seen(extractor)
    Image.new("RGB", (16, 16), "red").save(folder / "s05.png")
    after = run(extractor, stimuli, path)["conv"].read()
    assert seen(extractor) == BATCH
    changed = np.abs(after - before).max(1) > 1e-6
    assert list(np.flatnonzero(changed)) == [5]


def test_changed_caption_is_computed_again(tmp_path: Path) -> None:
    module = nn.Linear(1, 2).eval()
    backbone = Backbone(
        module, lambda text: {"x": torch.tensor([float(len(text))])}, lambda x: module(x["x"]), "length", "text"
    )
    extractor = FeatureExtractor(backbone, "test:length", device="cpu")
    images = np.zeros((2, 8, 8, 3), np.uint8)
    # The pictures stay; a text model must look at the captions.
    first = extract(extractor, Stimuli.from_arrays(images, caption=["a", "bb"]), tmp_path / "f.zarr")["output"].read()
    second = extract(extractor, Stimuli.from_arrays(images, caption=["a", "ccc"]), tmp_path / "f.zarr")["output"].read()
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "weights"),
        ({"preprocessing": "cropped"}, "preprocessing"),
    ],
)
def test_other_weights_or_preprocessing_are_refused(
    extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path, change: dict, named: str
) -> None:
    path = tmp_path / "f.zarr"
    run(extractor, stimuli, path)
    before = content(path)
    with pytest.raises(ArtifactError, match=named):
        run(make_extractor(**change), stimuli, path)
    assert content(path) == before
    run(make_extractor(**change), stimuli, path, overwrite=True)
    assert content(path) != before


@pytest.mark.parametrize(("option", "named"), [("flat", "readout"), ("float16", "dtype"), ("srp:2", "reduction")])
def test_other_kind_of_layer_is_refused(
    extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path, option: str, named: str
) -> None:
    path = tmp_path / "f.zarr"
    run(extractor, stimuli, path)
    options = {"flat": {"readout": "flat"}, "float16": {"store_dtype": "float16"}, "srp:2": {"reduction": "srp:2"}}
    with pytest.raises(ArtifactError, match=named):
        run(extractor, stimuli, path, **options[option])


def test_corrupt_image_is_named_and_the_rest_kept(
    extractor: FeatureExtractor, folder: Path, stimuli: Stimuli, tmp_path: Path
) -> None:
    path = tmp_path / "f.zarr"
    good = (folder / "s05.png").read_bytes()
    (folder / "s05.png").write_bytes(good[:60])
    with pytest.raises(CorruptImageError, match=r"s05\.png"):
        run(extractor, stimuli, path)
    assert seen(extractor) == N - 1
    assert not path.exists()
    # Left out: nothing is left to do. Replaced: its batch alone is computed.
    others = [i for i in stimuli.ids if i != "s05"]
    run(extractor, stimuli.select(others), path)
    assert seen(extractor) == 0
    stored = Features.load(path, "conv")
    assert list(stored.stimulus_ids) == others
    with pytest.raises(MismatchedIdsError, match="s05"):
        stored.rows(["s05"])
    (folder / "s05.png").write_bytes(good)
    repaired = run(extractor, stimuli, path)["conv"]
    assert seen(extractor) == BATCH
    np.testing.assert_array_equal(repaired.read(), run(extractor, stimuli, tmp_path / "whole.zarr")["conv"].read())


def test_a_batch_of_corrupt_images_comes_first(
    extractor: FeatureExtractor, folder: Path, stimuli: Stimuli, tmp_path: Path
) -> None:
    for i in range(BATCH):
        (folder / f"s{i:02d}.png").write_bytes(b"nothing")
    with pytest.raises(CorruptImageError, match=r"s00\.png.*4 of 11"):
        run(extractor, stimuli, tmp_path / "f.zarr")
    seen(extractor)
    rest = run(extractor, stimuli.take(slice(BATCH, N)), tmp_path / "f.zarr")["head"]
    assert seen(extractor) == 0
    assert list(rest.stimulus_ids) == stimuli.ids[BATCH:]


def test_nothing_but_corrupt_images_leaves_no_store(extractor: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"nothing")
    with pytest.raises(CorruptImageError, match=r"a\.png"):
        run(extractor, Stimuli.from_folder(tmp_path / "bad"), tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr").exists()
    assert not part_of(tmp_path / "f.zarr").exists()


def test_features_too_large_for_half_precision(stimuli: Stimuli, tmp_path: Path) -> None:
    extractor = make_extractor()
    with torch.no_grad():
        extractor.backbone.module.head.bias.fill_(1e6)
    with pytest.raises(NotFiniteError, match="'s00'"):
        run(extractor, stimuli, tmp_path / "f.zarr", store_dtype="float16")
    assert not (tmp_path / "f.zarr").exists()


def test_half_precision_store(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    half = run(extractor, stimuli, tmp_path / "half.zarr", store_dtype="float16")["conv"]
    full = run(extractor, stimuli, tmp_path / "full.zarr")["conv"]
    assert LayerStore(tmp_path / "half.zarr", "conv").array.dtype == np.float16
    assert half.read().dtype == np.float32
    np.testing.assert_allclose(half.read(), full.read(), rtol=1e-3, atol=1e-3)


def test_lost_and_damaged_chunks_are_told(extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    path = tmp_path / "f.zarr"
    whole = run(extractor, stimuli, path)["conv"].read()
    chunk = path / "layers" / "conv" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[3] ^= 255
    chunk.write_bytes(bytes(data))
    features = Features.load(path, "conv")
    with pytest.raises(TruncatedFileError, match="damaged"):
        features.read()
    chunk.unlink()
    with pytest.raises(TruncatedFileError, match="missing"):
        features.read([5])
    np.testing.assert_array_equal(features.read([0, 10]), whole[[0, 10]])
    seen(extractor)
    np.testing.assert_array_equal(run(extractor, stimuli, path)["conv"].read(), whole)
    assert seen(extractor) == BATCH


def test_cut_metadata_of_a_layer_are_told(features: Features, tmp_path: Path) -> None:
    saved = features.save(tmp_path / "f.zarr")
    card = tmp_path / "f.zarr" / "layers" / str(saved.attrs["layer"]) / "zarr.json"
    card.write_bytes(card.read_bytes()[:-100])
    with pytest.raises(TruncatedFileError, match="metadata are damaged"):
        Features.load(tmp_path / "f.zarr", str(saved.attrs["layer"]))


def test_full_disk_is_told_and_resumed(
    extractor: FeatureExtractor, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LayerStore.write

    def full(store: LayerStore, chunk: int, *args: object) -> None:
        if chunk == 1:
            raise OSError(28, "No space left on device")
        write(store, chunk, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LayerStore, "write", full)
    with pytest.raises(OSError, match="no space left") as error:
        run(extractor, stimuli, tmp_path / "f.zarr")
    assert error.value.exit_code == 2  # type: ignore[attr-defined]
    assert error.value.where == str(tmp_path / "f.zarr")  # type: ignore[attr-defined]
    assert not (tmp_path / "f.zarr").exists()
    monkeypatch.undo()
    seen(extractor)
    run(extractor, stimuli, tmp_path / "f.zarr")
    assert seen(extractor) == N - BATCH


def test_token_layers_are_stored_in_blocks(rng: np.random.Generator, tmp_path: Path) -> None:
    store = LayerStore(tmp_path, "tokens")
    example = rng.standard_normal((8, 900, 400)).astype(np.float32)
    store.create(example, 8, 8, "float32", {})
    store.write(0, example, ["x"] * 8)
    assert store.array.chunks[0] == 2 and store.batch_size == 8
    np.testing.assert_array_equal(store.read(np.asarray([5, 1])), example[[5, 1]])


# Features by themselves ------------------------------------------------------------------------------------------


@pytest.fixture
def features(rng: np.random.Generator) -> Features:
    return Features.from_arrays(rng.standard_normal((7, 5)), [f"i{k}" for k in range(7)], uri="test", layer="a.1")


def test_rows_and_selection_go_by_id(features: Features, tmp_path: Path) -> None:
    for source in (features, features.save(tmp_path / "f.zarr")):
        np.testing.assert_array_equal(source.rows(["i3", "i0", "i3"]), [3, 0, 3])
        chosen = source.select(["i6", "i2", "i4"])
        np.testing.assert_array_equal(chosen.read(), features.read([6, 2, 4]))
        np.testing.assert_array_equal(chosen.select(["i4"]).read(), features.read([4]))
        np.testing.assert_array_equal(source.read([3, 0, 3]), features.read()[[3, 0, 3]])
        np.testing.assert_array_equal(source.read(np.arange(7) > 4), features.read()[5:])
        np.testing.assert_array_equal(chosen.read(slice(1, None)), features.read([2, 4]))
        assert chosen.shape == (3, 5)
        with pytest.raises(MismatchedIdsError, match="'nope'"):
            source.rows(["i1", "nope"])


def test_saved_features_load_without_a_layer(features: Features, tmp_path: Path) -> None:
    saved = features.save(tmp_path / "f.zarr")
    loaded = Features.load(tmp_path / "f.zarr")
    assert loaded.attrs["layer"] == "a.1"
    assert saved.fingerprint() == features.fingerprint()
    with pytest.raises(UnknownNameError, match=r"a\.1"):
        Features.load(tmp_path / "f.zarr", "b")


def test_fingerprint_is_of_the_space_not_of_the_stimuli(features: Features) -> None:
    assert features.select(["i1"]).fingerprint() == features.fingerprint()
    other = Features.from_arrays(features.read(), list(features.stimulus_ids), uri="test", layer="a.2")
    assert other.fingerprint() != features.fingerprint()
    narrow = Features.from_arrays(features.read()[:, :4], list(features.stimulus_ids), uri="test", layer="a.1")
    assert narrow.fingerprint() != features.fingerprint()


def test_bad_arrays_are_refused(rng: np.random.Generator) -> None:
    values = rng.standard_normal((3, 2))
    with pytest.raises(ShapeError):
        Features.from_arrays(values, ["a", "b"])
    with pytest.raises(ShapeError):
        Features.from_arrays(values[0], ["a", "b"])
    with pytest.raises(DuplicateIdError, match="'a'"):
        Features.from_arrays(values, ["a", "b", "a"])
    values[1, 1] = np.nan
    with pytest.raises(NotFiniteError, match="'b'"):
        Features.from_arrays(values, ["a", "b", "c"])


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        Features.load(tmp_path / "none.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="not a feature store"):
        Features.load(tmp_path / "empty")
