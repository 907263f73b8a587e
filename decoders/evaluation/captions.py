"""How alike decoded and true captions are: ROUGE, METEOR, and the cosine of text embeddings."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from encoders import FeatureExtractor
from recordings.errors import InputError, MissingWeightsError, ShapeError

from ..quiet import quietly
from .measures import Measure, Resampling
from .pool_retrieval import cosine_similarities

Embed = Callable[[list[str]], np.ndarray]
References = Sequence[str] | Sequence[Sequence[str]]

_WORD = re.compile(r"[a-z0-9]+")


def rouge(decoded: Sequence[str], true: References) -> dict[str, np.ndarray]:
    """F of ROUGE-1 (shared words) and of ROUGE-L (longest common subsequence), each (n,) float64 (Lin 2004).

    Words are runs of letters a to z and digits, lower case, without stemming; of several true captions the best counts.

    Parameters
    ----------
    decoded : n captions. true : n captions, or n lists of captions.
    """
    pairs = [
        (_words(guess), [_words(text) for text in texts])
        for guess, texts in zip(decoded, references_of(decoded, true), strict=True)
    ]
    return {
        "rouge1": np.array([max(_f(_shared(g, t), g, t) for t in texts) for g, texts in pairs]),
        "rougeL": np.array([max(_f(_subsequence(g, t), g, t) for t in texts) for g, texts in pairs]),
    }


def meteor(decoded: Sequence[str], true: References) -> np.ndarray:
    """METEOR of each decoded caption (Banerjee & Lavie 2005), (n,) float64, by nltk with its WordNet.

    Raises
    ------
    InputError : nltk or WordNet is not installed; the error names the command that installs it.
    """
    try:
        score = importlib.import_module("nltk.translate.meteor_score").meteor_score
        importlib.import_module("nltk.corpus").wordnet.ensure_loaded()
    except ImportError as error:
        raise InputError("METEOR needs nltk", remedy="`pip install nltk`") from error
    except LookupError as error:
        raise InputError("METEOR needs WordNet", remedy="`python -m nltk.downloader wordnet`") from error
    pairs = zip(decoded, references_of(decoded, true), strict=True)
    return np.array([score([_words(text) for text in texts], _words(guess)) for guess, texts in pairs])


def caption_cosine(
    decoded: Sequence[str],
    true: References,
    embed: str | Embed,
    *,
    device: str = "auto",
    resampling: Resampling | None = None,
) -> Measure:
    """Cosine of the embeddings of decoded and true captions; of several true captions the nearest counts.

    The null permutes the true captions.

    Parameters
    ----------
    embed : extractor URI of a text model (open_clip: or transformers:, "#text" for the text tower of two), or a
        function from n captions to embeddings (n, ...), which are flattened.

    Raises
    ------
    MissingWeightsError : the weights are not here. InputError : a model that reads no text.
    """
    function = embedding(embed, device) if isinstance(embed, str) else embed
    references = references_of(decoded, true)
    owner = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    flat = [text for texts in references for text in texts]
    similarity = cosine_similarities(function(list(decoded)), function(flat))
    best = np.stack([similarity[:, owner == i].max(1) for i in range(len(references))])
    return (resampling or Resampling()).mean(best.diagonal(), best)


def embedding(uri: str, device: str = "auto", batch_size: int = 64) -> Embed:
    """A text model as a function from captions to embeddings: its own, or the mean over the words of its last block."""
    with quietly():
        extractor = FeatureExtractor.from_uri(uri, device)
    if extractor.modality != "text":
        raise InputError(f"reads {extractor.modality}, not text", where=uri, remedy="Add #text for the text tower")
    readout = "projected" if extractor.backbone.project is not None else "pooled"

    def embed(captions: list[str]) -> np.ndarray:
        (values,) = extractor(captions, readout=readout, batch_size=batch_size).values()
        return values

    return embed


def evaluate_captions(
    decoded: Sequence[str],
    true: References,
    text_networks: Mapping[str, str | Embed] | None = None,
    *,
    device: str = "auto",
    resampling: Resampling | None = None,
) -> tuple[dict[str, Measure], dict[str, str]]:
    """ROUGE-1, ROUGE-L, METEOR and a cosine for each text network, and why what is missing was not computed."""
    resampling = resampling or Resampling()
    found = {name: resampling.mean(values) for name, values in rouge(decoded, true).items()}
    missing = {}
    try:
        found["meteor"] = resampling.mean(meteor(decoded, true))
    except InputError as error:
        missing["meteor"] = str(error)
    for name, network in (text_networks or {}).items():
        try:
            found[f"cosine.{name}"] = caption_cosine(decoded, true, network, device=device, resampling=resampling)
        except MissingWeightsError as error:
            missing[f"cosine.{name}"] = str(error)
    return found, missing


def references_of(decoded: Sequence[str], true: References) -> list[list[str]]:
    """True captions as a list of each stimulus; `ShapeError` if there are not as many as decoded ones, or none."""
    references = [[texts] if isinstance(texts, str) else list(texts) for texts in true]
    if len(references) != len(decoded):
        raise ShapeError(f"{len(decoded)} decoded captions for {len(references)} stimuli")
    empty = [i for i, texts in enumerate(references) if not texts]
    if empty:
        raise ShapeError(f"stimulus {empty[0]} has no true caption ({len(empty)} such)")
    return references


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _shared(guess: list[str], truth: list[str]) -> int:
    return (Counter(guess) & Counter(truth)).total()


def _subsequence(guess: list[str], truth: list[str]) -> int:
    lengths = [0] * (len(truth) + 1)
    for word in guess:
        diagonal = 0
        for k, other in enumerate(truth, 1):
            diagonal, lengths[k] = lengths[k], diagonal + 1 if word == other else max(lengths[k], lengths[k - 1])
    return lengths[-1]


def _f(common: int, guess: list[str], truth: list[str]) -> float:
    return 2 * common / (len(guess) + len(truth)) if common else 0.0
