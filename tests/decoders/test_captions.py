"""Captions from image tokens: BLIP's own answer from its own tokens, words that a brain holds, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, BlipForConditionalGeneration

from decoders.captions import CaptionDecoder
from recordings import Stimuli
from recordings.errors import ArtifactError, Cancelled, InputError, MissingWeightsError, NotFiniteError, ShapeError

from .transformers_models import save_blip, save_dpt

IDS = [f"photo-{k}" for k in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip(tmp_path_factory.mktemp("hub") / "blip")


@pytest.fixture(scope="module")
def decoder(folder: Path) -> CaptionDecoder:
    return CaptionDecoder.from_pretrained(str(folder), device="cpu")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 60, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tokens(decoder: CaptionDecoder, images: np.ndarray) -> np.ndarray:
    return decoder.tokens_of(Stimuli.from_arrays(images, IDS)).read()


def by_transformers(folder: Path, images: np.ndarray, prompt: str) -> list[str]:
    """Captions as transformers' own captioner writes them, start token and prompt and all."""
    model = BlipForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")["pixel_values"]
    asked = tokenizer([prompt] * len(images), return_tensors="pt")
    written = model.generate(
        pixels, asked["input_ids"], asked["attention_mask"], num_beams=3, max_length=20, min_length=5,
        repetition_penalty=1.5,
    )  # fmt: skip
    return tokenizer.batch_decode(written, skip_special_tokens=True)


def test_captions_are_those_of_blip_itself(
    decoder: CaptionDecoder, folder: Path, images: np.ndarray, tokens: np.ndarray
) -> None:
    captions = decoder.decode(tokens)
    assert [f"[DEC] a picture of {caption}" for caption in captions] == by_transformers(folder, images, "a picture of ")
    assert len(set(captions)) > 1


def test_batches_and_beams(decoder: CaptionDecoder, folder: Path, tokens: np.ndarray) -> None:
    captions = decoder.decode(tokens)
    assert decoder.decode(tokens[::-1], batch_size=2)[::-1] == captions
    greedy = CaptionDecoder.from_pretrained(str(folder), num_beams=1, max_length=12, prompt="", device="cpu")
    assert greedy.decode(tokens) != captions
    assert all(len(caption.split()) <= 11 for caption in greedy.decode(tokens))
    long = CaptionDecoder.from_pretrained(str(folder), min_length=15, device="cpu")
    assert sum(map(len, long.decode(tokens))) > sum(map(len, captions))


def test_tokens_are_features_of_the_vision_tower(
    decoder: CaptionDecoder, folder: Path, images: np.ndarray, tmp_path: Path
) -> None:
    kept = decoder.tokens_of(Stimuli.from_arrays(images, IDS), tmp_path / "tokens.zarr", batch_size=2)
    held = decoder.tokens_of(images)
    assert kept.shape == (5, 10, 24) == held.shape
    assert kept.fingerprint() == held.fingerprint()
    np.testing.assert_allclose(kept.read(), held.read(), atol=1e-5)
    as_published = CaptionDecoder.from_pretrained(str(folder), image_size=32, normalise=False, device="cpu")
    assert as_published.tokens_of(images).shape == (5, 5, 24)
    assert as_published.tokens_of(images).fingerprint() != kept.fingerprint()
    seen = as_published.extractor.backbone.preprocess(images[0])["pixel_values"]
    assert seen.shape == (3, 32, 32)
    assert 0 <= seen.min() < seen.max() <= 1


def test_cancelled_between_two_words(decoder: CaptionDecoder, tokens: np.ndarray) -> None:
    asked: list[int] = []
    with pytest.raises(Cancelled):
        decoder.decode(tokens, stop=lambda: asked.append(0) or len(asked) > 3)
    assert len(asked) == 4
    events: list[tuple[int, int]] = []
    decoder.decode(tokens, batch_size=2, on_event=lambda event: events.append((event.done, event.total)))
    assert events == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_bad_tokens(decoder: CaptionDecoder, tokens: np.ndarray) -> None:
    holed = tokens.copy()
    holed[3, 2, 1] = np.nan
    with pytest.raises(NotFiniteError, match="'photo-3'"):
        decoder.decode(holed, IDS)
    with pytest.raises(ShapeError, match="24"):
        decoder.decode(tokens[..., :12])
    with pytest.raises(ShapeError, match="24"):
        decoder.decode(tokens.reshape(5, -1))
    with pytest.raises(ShapeError, match="4 stimulus ids"):
        decoder.decode(tokens, IDS[:4])


@pytest.mark.parametrize(
    "search", [{"num_beams": 0}, {"max_length": 4}, {"max_length": 33}, {"min_length": 21}, {"repetition_penalty": 0}]
)
def test_bad_settings(decoder: CaptionDecoder, search: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Take"):
        CaptionDecoder(
            decoder.text_decoder, decoder.tokenizer, decoder.extractor, prompt="a picture of ", **search
        )  # fmt: skip


def test_absent_damaged_and_other_models(folder: Path, tmp_path: Path) -> None:
    name = "Salesforce/no-such-captioner"
    with pytest.raises(MissingWeightsError, match=f"`penfield models fetch transformers:{name}`"):
        CaptionDecoder.from_pretrained(name)
    with pytest.raises(ArtifactError, match="type dpt, not blip"):
        CaptionDecoder.from_pretrained(str(save_dpt(tmp_path / "dpt")))
    weights = load_file(folder / "model.safetensors")
    part = {name: value for name, value in weights.items() if ".layer.1." not in name}
    with pytest.raises(ArtifactError, match=r"lacks .* first text_decoder.bert.encoder.layer.1"):
        CaptionDecoder.from_pretrained(str(_copy(folder, tmp_path / "part", part)))
    cut = _copy(folder, tmp_path / "cut", weights) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(ArtifactError, match="cannot load"):
        CaptionDecoder.from_pretrained(str(cut.parent))
    cut.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ArtifactError, match="LFS"):
        CaptionDecoder.from_pretrained(str(cut.parent))


def _copy(folder: Path, to: Path, weights: dict[str, torch.Tensor]) -> Path:
    to.mkdir()
    for file in folder.glob("*.json"):
        (to / file.name).write_bytes(file.read_bytes())
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to
