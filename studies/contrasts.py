"""In-silico contrasts: which regions should answer more to one kind of picture, named by prompt or by label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from encoders import FeatureExtractor, Features
from encoders.encoder import Encoder
from encoders.features.uris import parse_uri
from recordings import Recording, Stimuli
from recordings.artifacts import check_neuroids
from recordings.errors import ArtifactError, InputError, RepetitionError, UnknownNameError
from recordings.events import OnEvent, Stop, report

Given = Features | Mapping[str, Features]
_ROWS = 512
_TWO_TOWERS = ("open_clip", "transformers")
_PERMUTATION_BYTES = 64 * 2**20


# Kinds of pictures -----------------------------------------------------------------------------------------------


def text_tower(images: Features, device: str = "auto") -> FeatureExtractor:
    """The text tower of the model whose image tower embedded the pictures.

    Parameters
    ----------
    images : embeddings of pictures, read-out "projected" of an open_clip or transformers model with two towers.

    Raises
    ------
    InputError : features of another read-out, or of a model without a text tower.
    MissingWeightsError : its weights are not here.
    """
    _check_embedding(images)
    uri = str(images.attrs.get("uri", ""))
    if ":" not in uri or parse_uri(uri).library not in _TWO_TOWERS or uri.endswith("#text"):
        raise InputError(
            f"no text tower goes with the embeddings of {uri or 'arrays'}",
            where="images",
            remedy="Extract with readout='projected' from open_clip or transformers, such as open_clip:ViT-B-32/openai",
        )
    return FeatureExtractor.from_uri(f"{uri}#text", device=device)


def prompt_similarity(
    images: Features, tower: FeatureExtractor, prompts: Mapping[str, str | Sequence[str]]
) -> pd.DataFrame:
    """Cosine of each picture with each prompt in a two-tower model's space, one row a stimulus, one column a prompt.

    Parameters
    ----------
    images : embeddings of pictures, read-out "projected". tower : the same model's text tower, see `text_tower`.
    prompts : by name, such as {"face": "a photo of a face"}; of several wordings, the mean embedding counts.

    Raises
    ------
    InputError : images are no embeddings, or the tower does not read text. ArtifactError : towers of two models.
    """
    _check_embedding(images)
    if tower.modality != "text":
        raise InputError(
            f"{tower.uri} reads {tower.modality}s", where="tower", remedy="Take its text tower, with #text"
        )
    if images.attrs.get("weights") != tower.weights:
        raise ArtifactError(
            f"the pictures' embeddings are not of {tower.uri} with these weights",
            where="images",
            remedy="Embed pictures and prompts with one model",
        )
    names = list(prompts)
    wordings = [[p] if isinstance(p, str) else list(p) for p in prompts.values()]
    text = np.stack([_unit(_unit(tower(w, readout="projected")["projected"]).mean(0)) for w in wordings])
    rows = [_unit(images.read(slice(a, a + _ROWS))) @ text.T for a in range(0, len(images), _ROWS)]
    return pd.DataFrame(np.concatenate(rows), index=pd.Index(images.stimulus_ids, name="stimulus_id"), columns=names)


def top_stimuli(similarity: pd.DataFrame, k: int) -> dict[str, list[str]]:
    """The k stimuli that go with each prompt most, best first.

    With several prompts a stimulus is ranked by its similarity minus its mean similarity to the other prompts: some
    pictures are similar to any text, and those of two prompts should not be the same.

    Parameters
    ----------
    similarity : see `prompt_similarity`.

    Raises
    ------
    RepetitionError : fewer than k stimuli a prompt.
    """
    n = similarity.shape[1]
    if k < 1 or len(similarity) < k * n:
        raise RepetitionError(
            f"{len(similarity)} stimuli, from which {n} prompts want {k} each",
            where="stimuli",
            remedy="Take a smaller k, or give features of more stimuli",
        )
    values = similarity.to_numpy(np.float64)
    others = (values.sum(1, keepdims=True) - values) / max(n - 1, 1)
    order = np.argsort(-(values - others), axis=0, kind="stable")[:k]
    return {name: similarity.index[order[:, j]].astype(str).tolist() for j, name in enumerate(similarity)}


def labelled_stimuli(
    stimuli: Stimuli, kinds: Mapping[str, str | Sequence[str]], column: str = "category"
) -> dict[str, list[str]]:
    """Ids of the stimuli of each kind: those whose column holds the label, or one of the labels, of that kind.

    Raises
    ------
    UnknownNameError : no such column, or a label that no stimulus has.
    """
    found = {}
    for name, labels in kinds.items():
        wanted = [labels] if isinstance(labels, str) else list(labels)
        found[name] = stimuli.where(**{column: wanted}).ids
        missing = set(wanted) - set(stimuli.table[column].astype(str))
        if missing:
            known = ", ".join(map(str, pd.unique(stimuli.table[column])[:20]))
            raise UnknownNameError(f"no stimulus with {column} {min(missing)!r}", remedy=f"There are: {known}")
    return found


# Contrasts -------------------------------------------------------------------------------------------------------


def region_contrast(
    encoder: Encoder,
    features: Given,
    first: Sequence[str],
    second: Sequence[str],
    recording: Recording,
    *,
    n_permutations: int = 9999,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> pd.DataFrame:
    """Predicted response of each region to one kind of stimuli against another.

    A region's response to a stimulus is the mean prediction over its neuroids. The null exchanges stimuli between the
    two kinds: p says whether the encoder tells them apart, not how well it predicts the brain; that is its score.

    Parameters
    ----------
    encoder : fitted, without delays. features : of both kinds of stimuli, which the fit need not have seen.
    first, second : stimulus ids of the two kinds; no stimulus may be in both.
    recording : of the fit's neuroids, whose ``roi`` says which region they are in; its responses are not read.
    n_permutations, seed : of the null; all permutations, where they are fewer.

    Returns
    -------
    One row a region: n_neuroids; difference of means, in units of the responses; d_prime, over the root of the mean of
    both variances; t (Welch); two-sided p; q, after Benjamini and Hochberg (1995) over regions. d_prime and t are NaN
    for a region whose prediction never varies.

    Raises
    ------
    RepetitionError : fewer than two stimuli of a kind. InputError : a stimulus of both kinds; delays; no regions.
    ArtifactError : other neuroids or features than in the fit. MismatchedIdsError : a stimulus without features.
    """
    _check_kinds(encoder, first, second)
    check_neuroids(encoder.recording_, recording, responses=False)
    if not recording.rois:
        raise InputError("the recording has no regions", where="recording", remedy="Give neuroids a coordinate 'roi'")
    masks = np.stack([recording.roi_mask(name) for name in recording.rois], 1)
    means = masks / masks.sum(0)
    a, b = (
        np.concatenate([block @ means for block in _predictions(encoder, features, kind, on_event, stop)])
        for kind in (first, second)
    )
    difference, spread = a.mean(0) - b.mean(0), np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
    # Rounding of a constant prediction is no spread.
    spread = np.where(spread > 1e-6 * np.abs(np.concatenate([a, b])).max(0), spread, np.nan)
    error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    test = stats.permutation_test(
        (a, b),
        _difference,
        n_resamples=n_permutations,
        batch=max(1, _PERMUTATION_BYTES // (8 * a.shape[1] * (len(a) + len(b)))),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    p = np.where(np.isnan(spread), 1.0, test.pvalue)
    return pd.DataFrame(
        {
            "roi": recording.rois,
            "n_neuroids": masks.sum(0),
            "difference": difference,
            "d_prime": difference / spread,
            "t": np.where(np.isnan(spread), np.nan, difference / np.where(error > 0, error, np.nan)),
            "p": p,
            "q": stats.false_discovery_control(p),
        }
    )


def neuroid_contrast(
    encoder: Encoder,
    features: Given,
    first: Sequence[str],
    second: Sequence[str],
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> np.ndarray:
    """d' of predicted responses to two kinds of stimuli, (neuroid,) float32; NaN where the prediction never varies.

    `Recording.to_gifti` and `Recording.to_nifti` write it as a map of the brain. Takes and raises what
    `region_contrast` does.
    """
    _check_kinds(encoder, first, second)
    moments = []
    for kind in (first, second):
        # Welford's sums, block by block (Chan et al. 1983).
        n, mean, square = 0, np.zeros(1), np.zeros(1)
        for block in _predictions(encoder, features, kind, on_event, stop):
            m, own = len(block), block.mean(0, dtype=np.float64)
            square = square + ((block - own) ** 2).sum(0) + (own - mean) ** 2 * n * m / (n + m)
            mean = mean + (own - mean) * m / (n + m)
            n += m
        moments.append((mean, square / (n - 1)))
    (mean_a, var_a), (mean_b, var_b) = moments
    spread = np.sqrt((var_a + var_b) / 2)
    varies = spread > 1e-6 * np.maximum(np.abs(mean_a), np.abs(mean_b))
    return ((mean_a - mean_b) / np.where(varies, spread, np.nan)).astype(np.float32)


def _difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return a.mean(axis) - b.mean(axis)


def _predictions(
    encoder: Encoder, features: Given, stimulus_ids: Sequence[str], on_event: OnEvent | None, stop: Stop | None
) -> Iterator[np.ndarray]:
    for start in range(0, len(stimulus_ids), _ROWS):
        report(on_event, stop, "predict", start, len(stimulus_ids))
        yield encoder.predict(features, list(stimulus_ids[start : start + _ROWS]))


def _check_kinds(encoder: Encoder, first: Sequence[str], second: Sequence[str]) -> None:
    encoder._check_fitted()
    if encoder.delays:
        raise InputError("stimuli out of their order have no delayed predecessors", remedy="Fit without delays")
    if min(len(first), len(second)) < 2:
        raise RepetitionError(
            f"a contrast of {len(first)} with {len(second)} stimuli", remedy="Give at least two of each kind"
        )
    both = set(map(str, first)) & set(map(str, second))
    if both:
        raise InputError(
            f"stimulus {min(both)!r} is of both kinds ({len(both)} in all)",
            where="contrast",
            remedy="Take a smaller k, or kinds that exclude each other",
        )


def _check_embedding(images: Features) -> None:
    if images.attrs.get("readout") != "projected" or len(images.shape) != 2:
        raise InputError(
            f"features of read-out {images.attrs.get('readout')!r} do not lie in a space of text and pictures",
            where="images",
            remedy="Extract with readout='projected' (--readout projected)",
        )


def _unit(values: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(norm > 0, norm, 1)
