"""Likeness of captions against fixed cases and torchmetrics."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from torchmetrics.functional.text.rouge import rouge_score

from decoders.evaluation import Resampling, caption_cosine, evaluate_captions, meteor, rouge
from recordings.errors import InputError, ShapeError

QUICK = Resampling(n_permutations=50, n_bootstrap=50)
DECODED = ["a red mug on the left", "A blue car, in the middle", "tree", "the the ball"]
TRUE = ["a red mug on the right", "a green car in the middle", "a ball at the top", "the ball"]


def test_rouge_fixed_cases() -> None:
    found = rouge(["a b c d", "x"], ["a c b d", "y"])
    assert found["rouge1"].tolist() == [1, 0]
    assert found["rougeL"].tolist() == [0.75, 0]
    assert rouge(["the the ball"], ["the ball"])["rouge1"][0] == pytest.approx(2 * 2 / 5)
    assert rouge([""], ["a"])["rougeL"][0] == 0


def test_rouge_agrees_with_torchmetrics() -> None:
    found = rouge(DECODED, TRUE)
    for i, (guess, truth) in enumerate(zip(DECODED, TRUE, strict=True)):
        peer = rouge_score(guess, truth, rouge_keys=("rouge1", "rougeL"))
        for name in found:
            assert found[name][i] == pytest.approx(float(peer[f"{name}_fmeasure"]))


def test_the_best_of_several_true_captions_counts() -> None:
    assert rouge(["a cat"], [["a dog", "a cat"]])["rouge1"].tolist() == [1]


def letters(captions: list[str]) -> np.ndarray:
    return np.array([[text.lower().count(chr(97 + k)) + 0.01 for k in range(26)] for text in captions])


def test_cosine_of_embeddings_and_its_null() -> None:
    found = caption_cosine(DECODED, TRUE, letters, resampling=QUICK)
    a, b = letters(DECODED), letters(TRUE)
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.values == pytest.approx(expected) and found.null.mean < found.value
    several = caption_cosine(DECODED, [[t, d] for t, d in zip(TRUE, DECODED, strict=True)], letters, resampling=QUICK)
    assert several.value == pytest.approx(1)


def test_meteor_without_nltk_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(InputError, match="pip install nltk"):
        meteor(DECODED, TRUE)


def stand_in(monkeypatch: pytest.MonkeyPatch, wordnet: object) -> None:
    """A stand-in for the two functions of nltk that are called, with their signatures."""
    score, corpus = ModuleType("nltk.translate.meteor_score"), ModuleType("nltk.corpus")
    score.meteor_score = lambda references, hypothesis: max(r.count(hypothesis[0]) for r in references)
    corpus.wordnet = wordnet
    for name, module in {score.__name__: score, corpus.__name__: corpus}.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("nltk", "nltk.translate"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))


def test_meteor_gets_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, SimpleNamespace(ensure_loaded=lambda: None))
    assert meteor(["Ball!", "cup"], [["a ball", "ball ball"], ["no"]]).tolist() == [2, 0]


def test_meteor_without_wordnet_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise LookupError("wordnet")

    stand_in(monkeypatch, SimpleNamespace(ensure_loaded=absent))
    with pytest.raises(InputError, match=r"nltk\.downloader wordnet"):
        meteor(DECODED, TRUE)


def test_what_is_missing_is_said_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    networks = {"letters": letters, "clip": "open_clip:ViT-B-32/openai#text"}
    found, missing = evaluate_captions(DECODED, TRUE, networks, resampling=QUICK)
    assert set(found) == {"rouge1", "rougeL", "cosine.letters"}
    assert set(missing) == {"meteor", "cosine.clip"} and "penfield models fetch" in missing["cosine.clip"]


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match="4 decoded captions for 2"):
        rouge(DECODED, TRUE[:2])
    with pytest.raises(ShapeError, match="stimulus 1 has no"):
        rouge(["a", "b"], [["a"], []])
    with pytest.raises(InputError, match="#text"):
        caption_cosine(DECODED, TRUE, "miniature:backbone")
