"""The miniature captioner: what it says of scenes, seen or decoded from a brain, and how it is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from transformers import BlipTextLMHeadModel

from decoders import LatentDecoder
from decoders.captions import CAPTIONER, CaptionDecoder
from decoders.miniature import captioner
from decoders.miniature.captioner import corrupt, make_tokenizer, train_captioner, words_right
from decoders.miniature.pictures import draw_pictures
from recordings.errors import ArtifactError, Cancelled, InputError
from recordings.miniature import Scenes, caption, make_stimuli, render, simulate_subject

CAPTIONS = ["a red mug at the top left", "a blue chair on the right", "an orange ring in the middle"]


@pytest.fixture(scope="module")
def decoder() -> CaptionDecoder:
    return CaptionDecoder.from_pretrained("miniature:captioner", device="cpu")


def test_describes_scenes_it_has_not_seen(decoder: CaptionDecoder) -> None:
    pictures = draw_pictures(80, seed=3005, held_out=None)
    tokens = decoder.tokens_of(pictures.image)
    assert tokens.shape == (80, 65, 192)
    said = decoder.decode(tokens.read(), batch_size=80)
    right = words_right(said, pictures.captions)
    assert right["category"].mean() > 0.9
    assert right["colour"].mean() > 0.8
    assert right["place"].mean() > 0.75
    assert np.mean([a == b for a, b in zip(said, pictures.captions, strict=True)]) > 0.5
    other = words_right(said, np.roll(pictures.captions, 1))
    assert max(r.mean() for r in other.values()) < 0.35


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")
def test_describes_what_a_brain_has_seen(decoder: CaptionDecoder) -> None:
    scenes = Scenes.sample(1000, seed=3006)
    rendered = render(scenes)
    subject = simulate_subject(scenes, rendered, seed=3)
    held_out = np.isin(subject.recording.stimulus_ids.astype(str), scenes.stimulus_id[800:])
    train, test = subject.recording.take(~held_out), subject.recording.take(held_out).average_repetitions()
    tokens = decoder.tokens_of(make_stimuli(scenes, rendered=rendered))
    fitted = LatentDecoder(alphas=(100, 1000, 10000, 100000), calibration_folds=0, components=256)
    fitted.fit(train, tokens.select(scenes.stimulus_id[:800]))
    decoded = fitted.predict(test).reshape(len(test), *fitted.feature_shape_)
    said = decoder.decode(decoded, batch_size=100)
    expected = np.array(caption(scenes))[tokens.rows(test.stimulus_ids)]
    right = {what: r.mean() for what, r in words_right(said, expected).items()}
    assert right["category"] > 0.7
    assert right["colour"] > 0.45
    assert right["place"] > 0.65
    shuffled = words_right(said, np.random.default_rng(0).permutation(expected))
    assert max(r.mean() for r in shuffled.values()) < 0.25


def test_loads_in_plain_transformers_and_is_small() -> None:
    model, found = BlipTextLMHeadModel.from_pretrained(CAPTIONER, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert model.config.encoder_uri == "miniature:backbone"
    assert {tensor.dtype for tensor in load_file(CAPTIONER / "model.safetensors").values()} == {torch.float16}
    assert sum(file.stat().st_size for file in CAPTIONER.iterdir()) < 1.5e6
    assert {file.suffix for file in CAPTIONER.iterdir()} <= {".json", ".safetensors", ".md"}


def test_options_it_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_size"):
        CaptionDecoder.from_pretrained(image_size=240)
    with pytest.raises(InputError, match="revision"):
        CaptionDecoder.from_pretrained(revision="main")
    nameless = BlipTextLMHeadModel.from_pretrained(CAPTIONER)
    del nameless.config.encoder_uri
    nameless.save_pretrained(tmp_path / "nameless")
    make_tokenizer(CAPTIONS).save_pretrained(tmp_path / "nameless")
    with pytest.raises(ArtifactError, match="whose tokens"):
        CaptionDecoder.from_pretrained(str(tmp_path / "nameless"))


def test_words_right() -> None:
    said = ["a red mug at the top", "a blue blue chair on the right", "an orange mug in the middle"]
    right = words_right(said, CAPTIONS)
    assert right["category"].tolist() == [True, True, False]
    assert right["colour"].tolist() == [True, True, True]
    assert right["place"].tolist() == [False, True, True]


def test_noise_covaries_as_tokens_do() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 6))
    scenes = torch.as_tensor((rng.normal(size=(2000, 2)) @ mixing + 3).reshape(2000, 2, 3), dtype=torch.float32)
    centre = scenes.mean(0)
    noise = corrupt(centre.expand(2000, 2, 3), scenes, centre, torch.Generator().manual_seed(0)) - centre
    covariance = np.cov(noise.flatten(1).T.numpy())
    expected = np.cov(scenes.flatten(1).T.numpy()) * captioner.MOST_NOISE**2 / 3
    np.testing.assert_allclose(covariance, expected, atol=0.1 * expected.max())


@pytest.fixture(scope="module")
def told() -> tuple[np.ndarray, list[str]]:
    """Tokens that tell which of three captions is meant."""
    rng = np.random.default_rng(0)
    which = rng.integers(3, size=200)
    tokens = 10 + 4 * np.eye(3)[which][:, None] + rng.normal(size=(200, 4, 3))
    return tokens.astype(np.float32), [CAPTIONS[k] for k in which]


@pytest.mark.slow
def test_learns_what_tokens_tell_and_nothing_from_noise(told: tuple[np.ndarray, list[str]]) -> None:
    tokens, captions = told
    last = {}
    for name, seen in (("told", tokens), ("noise", np.random.default_rng(1).permutation(tokens))):
        losses: list[float] = []
        train_captioner(
            seen, captions, make_tokenizer(CAPTIONS), steps=60, batch_size=16, learning_rate=3e-3,
            on_event=lambda event, losses=losses: losses.append(event.payload["loss"]),
        )  # fmt: skip
        last[name] = np.mean(losses[-10:])
    # Noise leaves to be told which of three captions it is: log(3) over some eight words.
    assert last["told"] < 0.1 < last["noise"]


def test_training_repeats_and_stops(told: tuple[np.ndarray, list[str]]) -> None:
    tokenizer = make_tokenizer(CAPTIONS)
    once, again, other = (train_captioner(*told, tokenizer, steps=3, batch_size=8, seed=seed) for seed in (0, 0, 1))
    same = [torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(iter(once.parameters())), next(iter(other.parameters())))
    with pytest.raises(Cancelled, match="after 1 of 60"):
        train_captioner(*told, tokenizer, steps=60, batch_size=8, stop=lambda: True)


def test_trained_captioner_reads_tokens_as_they_are(told: tuple[np.ndarray, list[str]]) -> None:
    # Standardised inside: another scale and offset of the tokens must not change what is learnt.
    tokens, captions = told
    tokenizer = make_tokenizer(CAPTIONS)
    scale, offset = np.float32([2, 8, 0.5]), np.float32([-5, 0, 20])
    losses: list[list[float]] = [[], []]
    for seen, kept in zip((tokens, scale * tokens + offset), losses, strict=True):
        model = train_captioner(
            seen, captions, tokenizer, steps=5, batch_size=8, learning_rate=3e-3,
            on_event=lambda event, kept=kept: kept.append(event.payload["loss"]),
        )  # fmt: skip
        said = tokenizer(captions, padding=True, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            kept.append(model(input_ids=said, labels=said, encoder_hidden_states=torch.as_tensor(seen)).loss.item())
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


@pytest.mark.slow
def test_bad_captioner_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioner, "N_GATE", 20)
    with pytest.raises(typer.Exit) as error:
        captioner.main(tmp_path / "captioner", steps=1, batch_size=4, n_scenes=64)
    assert error.value.exit_code == 1
    assert not list(tmp_path.iterdir())
