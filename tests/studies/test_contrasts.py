"""In-silico contrasts: planted selectivity is found, by label and by prompt, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from encoders import FeatureExtractor, Features, RidgeEncoder
from recordings import Recording, Stimuli
from recordings.errors import ArtifactError, InputError, MismatchedIdsError, RepetitionError, UnknownNameError
from studies.contrasts import (
    labelled_stimuli,
    neuroid_contrast,
    prompt_similarity,
    region_contrast,
    text_tower,
    top_stimuli,
)

from ..encoders.tiny import WORDS, save_clip, save_open_clip, save_timm

N, PER_ROI = 80, 5
ROIS = ("FFA", "PPA", "V1", "dead")


def ids(rows: np.ndarray | range) -> list[str]:
    return [f"s{i}" for i in rows]


@pytest.fixture(scope="module")
def fitted() -> tuple[RidgeEncoder, Features, Recording, Stimuli]:
    """FFA answers to faces, PPA to houses, V1 to what is neither, and a dead region to nothing."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat(["face", "house"], N // 2))
    values = np.column_stack([kind == "face", kind == "house", rng.standard_normal((N, 3))])
    signal = np.column_stack([values[:, 0], values[:, 1], values[:, 2], np.zeros(N)]).repeat(PER_ROI, 1)
    noise = 0.3 * rng.standard_normal(signal.shape) * (np.arange(signal.shape[1]) < 3 * PER_ROI)
    neuroids = {"roi": np.repeat(ROIS, PER_ROI)}
    recording = Recording(signal + noise, {"stimulus_id": ids(range(N))}, neuroids)
    features = Features.from_arrays(values, ids(range(N)))
    stimuli = Stimuli(pd.DataFrame({"stimulus_id": ids(range(N)), "category": kind, "caption": kind}))
    return RidgeEncoder(alphas=(1.0, 100.0), cv=3).fit(features, recording), features, recording, stimuli


# By label --------------------------------------------------------------------------------------------------------


def test_planted_regions_answer_to_their_kind_and_others_to_neither(
    fitted: tuple[RidgeEncoder, Features, Recording, Stimuli],
) -> None:
    encoder, features, recording, stimuli = fitted
    kinds = labelled_stimuli(stimuli, {"faces": "face", "houses": ["house"]})
    table = region_contrast(encoder, features, kinds["faces"], kinds["houses"], recording, n_permutations=999)
    table = table.set_index("roi")
    assert list(table.index) == list(ROIS)
    assert table.loc["FFA", "d_prime"] > 2
    assert table.loc["PPA", "d_prime"] < -2
    assert abs(table.loc["V1", "d_prime"]) < 0.6
    assert (table.loc[["FFA", "PPA"], "q"] < 0.01).all()
    assert table.loc["V1", "q"] > 0.05
    # A prediction that never varies tells nothing apart.
    assert table.loc["dead", ["d_prime", "t"]].isna().all()
    assert table.loc["dead", "p"] == 1
    assert (table["n_neuroids"] == PER_ROI).all()


def test_the_numbers_are_those_of_scipy(fitted: tuple[RidgeEncoder, Features, Recording, Stimuli]) -> None:
    from scipy import stats

    encoder, features, recording, _ = fitted
    first, second = ids(range(12)), ids(range(30, 50))
    row = region_contrast(encoder, features, first, second, recording, n_permutations=4999).set_index("roi").loc["V1"]
    a, b = (encoder.predict(features, kind)[:, 10:15].mean(1) for kind in (first, second))
    peer = stats.ttest_ind(a, b, equal_var=False)
    assert row["t"] == pytest.approx(peer.statistic, rel=1e-4)
    assert row["p"] == pytest.approx(peer.pvalue, abs=0.03)
    assert row["difference"] == pytest.approx(a.mean() - b.mean(), rel=1e-4)
    again = region_contrast(encoder, features, first, second, recording, n_permutations=4999)
    assert again.set_index("roi").loc["V1", "p"] == row["p"]


def test_without_a_contrast_p_is_uniform(fitted: tuple[RidgeEncoder, Features, Recording, Stimuli]) -> None:
    encoder, features, recording, _ = fitted
    p = []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(N)
        table = region_contrast(
            encoder, features, ids(order[:20]), ids(order[20:40]), recording, n_permutations=199, seed=seed
        )
        p += table["p"].iloc[:3].tolist()
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) < 0.12


def test_neuroids_are_contrasted_in_blocks_as_at_once(
    fitted: tuple[RidgeEncoder, Features, Recording, Stimuli], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, features, _, _ = fitted
    first, second = ids(range(17)), ids(range(20, 50))
    monkeypatch.setattr("studies.contrasts._ROWS", 5)
    found = neuroid_contrast(encoder, features, first, second)
    a, b = encoder.predict(features, first)[:, :15], encoder.predict(features, second)[:, :15]
    expected = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
    np.testing.assert_allclose(found[:15], expected, rtol=1e-3)
    assert np.isnan(found[15:]).all()


@pytest.mark.slow
def test_vehicles_against_furniture_light_up_their_patches_of_the_miniature_world() -> None:
    from recordings.miniature import Scenes, render
    from recordings.miniature.brain import simulate_subject, true_features
    from recordings.miniature.scenes import GROUPS

    scenes = Scenes.sample(300, seed=5)
    rendered = render(scenes)
    subject = simulate_subject(scenes, rendered, seed=5, repetitions=1)
    features = Features.from_arrays(true_features(scenes, rendered), list(scenes.stimulus_id))
    recording = subject.recording
    held_out = subject.stimuli.take(slice(200, None))
    train = recording.take(np.flatnonzero(~np.isin(recording.stimulus_ids, held_out.ids)))
    encoder = RidgeEncoder(cv=3).fit(features, train)
    kinds = labelled_stimuli(held_out, {name: GROUPS[name] for name in ("vehicles", "furniture")})
    table = region_contrast(encoder, features, kinds["vehicles"], kinds["furniture"], recording, n_permutations=999)
    d = table.set_index("roi")["d_prime"]
    assert d["vehicles"] == d.max()
    assert d["furniture"] == d.min()
    assert d["vehicles"] > 2
    assert d["furniture"] < -2
    assert abs(d["vessels"]) < 1


# By prompt -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)


def embed(uri: str, images: np.ndarray) -> Features:
    extractor = FeatureExtractor.from_uri(uri, device="cpu")
    values = extractor(list(images), readout="projected")["projected"]
    return Features.from_arrays(
        values, ids(range(len(images))), uri=extractor.uri, readout="projected", weights=extractor.weights
    )


def test_similarity_is_that_of_open_clip(tmp_path: Path, pictures: np.ndarray) -> None:
    import open_clip
    import torch

    folder = save_open_clip(tmp_path / "clip")
    images = embed(f"open_clip:{folder}", pictures)
    prompts = {"face": ["a photo of a face", "a face"], "house": "a photo of a house"}
    table = prompt_similarity(images, text_tower(images, "cpu"), prompts)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    from PIL import Image

    with torch.inference_mode():
        picture = model.eval().encode_image(preprocess(Image.fromarray(pictures[4]))[None], normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(["a photo of a house"]), normalize=True)
        two = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(prompts["face"]), normalize=True)
    mean = two.mean(0) / two.mean(0).norm()
    assert table.loc["s4", "house"] == pytest.approx(float(picture[0] @ text[0]), abs=1e-5)
    assert table.loc["s4", "face"] == pytest.approx(float(picture[0] @ mean), abs=1e-5)
    assert table.shape == (12, 2)


def test_a_prompt_finds_the_pictures_that_lie_beside_it(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    folder = save_clip(tmp_path / "clip")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    uri = f"transformers:{folder}"
    tower = FeatureExtractor.from_uri(f"{uri}#text", device="cpu")
    prompts = {"mug": "a red mug", "chair": "the chair on the left"}
    text = tower(list(prompts.values()), readout="projected")["projected"]
    rng = np.random.default_rng(2)
    kind = rng.permutation(np.repeat([0, 1], 10))
    values = text[kind] + 0.1 * np.abs(text[0] - text[1]).mean() * rng.standard_normal((20, text.shape[1]))
    images = Features.from_arrays(values, ids(range(20)), uri=uri, readout="projected", weights=tower.weights)
    found = top_stimuli(prompt_similarity(images, text_tower(images, "cpu"), prompts), 10)
    assert set(found["mug"]) == set(ids(np.flatnonzero(kind == 0)))
    assert set(found["chair"]) == set(ids(np.flatnonzero(kind == 1)))


def test_pictures_that_are_similar_to_anything_do_not_count_for_every_prompt() -> None:
    similarity = pd.DataFrame({"a": [0.9, 0.5, 0.1, 0.2], "b": [0.9, 0.1, 0.5, 0.21]}, index=list("wxyz"))
    assert top_stimuli(similarity, 1) == {"a": ["x"], "b": ["y"]}
    assert top_stimuli(similarity[["a"]], 2) == {"a": ["w", "x"]}
    with pytest.raises(RepetitionError, match="4 stimuli"):
        top_stimuli(similarity, 3)


# What is refused -------------------------------------------------------------------------------------------------


def test_towers_that_do_not_belong_together_are_refused(tmp_path: Path, pictures: np.ndarray) -> None:
    clip = save_open_clip(tmp_path / "clip")
    images = embed(f"open_clip:{clip}", pictures[:2])
    prompts = {"face": "a face"}
    plain = embed(f"timm:{save_timm(tmp_path / 'vit')}", pictures[:2])
    with pytest.raises(InputError, match="no text tower"):
        text_tower(plain)
    with pytest.raises(InputError, match="no text tower"):
        text_tower(Features.from_arrays(np.ones((2, 3)), ["a", "b"], readout="projected"))
    with pytest.raises(ArtifactError, match="one model"):
        prompt_similarity(plain, text_tower(images, "cpu"), prompts)
    with pytest.raises(InputError, match="reads images"):
        prompt_similarity(images, FeatureExtractor.from_uri(f"open_clip:{clip}", device="cpu"), prompts)
    pooled = Features.from_arrays(np.ones((2, 3)), ["a", "b"], uri=f"open_clip:{clip}", readout="pooled")
    with pytest.raises(InputError, match="readout='projected'"):
        text_tower(pooled)


def test_kinds_that_cannot_be_contrasted_are_refused(
    fitted: tuple[RidgeEncoder, Features, Recording, Stimuli],
) -> None:
    encoder, features, recording, stimuli = fitted
    with pytest.raises(RepetitionError, match="1 with 3"):
        region_contrast(encoder, features, ["s0"], ids(range(1, 4)), recording)
    with pytest.raises(InputError, match="'s2' is of both kinds"):
        region_contrast(encoder, features, ids(range(3)), ids(range(2, 5)), recording)
    with pytest.raises(MismatchedIdsError, match="s99"):
        region_contrast(encoder, features, ["s0", "s99"], ["s1", "s2"], recording)
    with pytest.raises(ArtifactError, match="neuroids"):
        region_contrast(encoder, features, ["s0", "s1"], ["s2", "s3"], recording.roi("FFA"))
    with pytest.raises(UnknownNameError, match="'dog'"):
        labelled_stimuli(stimuli, {"dogs": ["face", "dog"]})
    with pytest.raises(InputError, match="not fitted"):
        neuroid_contrast(RidgeEncoder(), features, ["s0", "s1"], ["s2", "s3"])
