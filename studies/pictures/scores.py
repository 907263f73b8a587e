"""What pictures, captions and depth maps from a brain are worth, beside what was shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decoders import CaptionDecoder, PictureEvaluation, Reconstructions, evaluate_pictures, make_targets
from decoders.depth import check_depth
from decoders.evaluation import (
    PUBLISHED_NETWORKS,
    Attributes,
    Measure,
    agreement,
    evaluate_captions,
    published_scores,
)
from decoders.evaluation.published import NOTE
from decoders.miniature.reader import load_reader, true_attributes
from recordings import Recording, Stimuli
from recordings.errors import ArtifactError, MissingWeightsError, UnknownNameError
from recordings.events import OnEvent, Stop
from recordings.miniature import Scenes
from recordings.storage import atomic_path

from ..decoding import held_out_average
from .comparison import load_pictures
from .fitting import PictureDecoder, chosen_stimuli, layers_of
from .targets import TRUTH, Sources, are_scenes

EMBEDDING, DEPTH = "embedding.npy", "depth.json"
NO_CAPTIONS = "captions were not decoded with every picture (decode fit --target tokens), or none are known"
_DEEP = 65535
_SCORE = ("value", "low", "high", "chance", "shuffled", "p_value")
_SE = "shuffled_standard_error"
_BASELINES = ("nearest_training.", "over_nearest_training.")


def evaluate_reconstructions(
    folder: Path,
    stimuli: Stimuli,
    *,
    networks: Sequence[str] = (),
    text_networks: Sequence[str] = (),
    by: str | None = None,
    published: bool = False,
    n_permutations: int = 200,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Score the pictures in a folder against those that were shown; see `decoders.evaluate_pictures` for the names.

    The pictures of the decoder's training stimuli, where `stimuli` has them, are the baseline that every score is set
    beside. Scenes of the miniature world are read by the independent reader as well.

    Parameters
    ----------
    folder : that `studies.pictures.drawing.reconstruct` wrote.
    networks : extractor URIs, names of published networks or "published"; none for the miniature backbone.
    text_networks : extractor URIs of text models ("#text" for the text tower of two), whose cosine of decoded and true
        captions is a score, ``caption.cosine.<URI>``.
    by : column of the stimuli within whose values, and across, pictures are told apart.
    published : add the rows of published tables, which are others' numbers on other pictures.

    Returns
    -------
    JSON values: networks that were used; scores by name as ``metrics``, those of the nearest training pictures as
    ``nearest_training`` and the differences to them as ``over_nearest_training``, each with its value, interval,
    chance, mean with the pictures shuffled and p; by score ``shuffled_standard_error``, how many pictures are
    ``undefined`` and comparisons ``tied``; what was not computed, and why; published rows where asked for.

    Raises
    ------
    FormatError : no such folder. MismatchedIdsError : a picture of a stimulus that `stimuli` does not have.
    UnknownNameError : no such column or network.
    """
    made = Reconstructions.load(folder)
    shown = stimuli.select(made.stimulus_ids)
    if by is not None and by not in stimuli.table:
        raise UnknownNameError(f"stimuli have no column {by!r}", remedy=f"There are: {', '.join(stimuli.table)}")
    known, wanted = set(stimuli.ids), made.settings.get("training_stimulus_ids", [])
    training = [i for i in wanted if i in known]
    pictures = load_pictures(shown, made.stimulus_ids)
    names = [n for name in networks for n in (PUBLISHED_NETWORKS if name == "published" else [name])]
    missing = {} if training else {"nearest_training": "no training stimulus of the decoder is among the stimuli"}
    captions = _captions(made, shown)
    if captions is None:
        missing |= {f"caption.cosine.{name}": NO_CAPTIONS for name in text_networks}
    found = evaluate_pictures(
        made.images,
        pictures,
        stimulus_ids=made.stimulus_ids,
        networks=names or None,
        categories=None if by is None else list(shown.table[by].astype(str)),
        training_pictures=load_pictures(stimuli, training, pictures.shape[1]) if training else None,
        embeddings=_embeddings(folder, made, pictures, device),
        captions=captions,
        text_networks={name: name for name in text_networks},
        **_reader(shown, missing),
        n_permutations=n_permutations,
        device=device,
        seed=seed,
        on_event=on_event,
        stop=stop,
    )
    answer = _summary(found, missing)
    return answer | ({"published_note": NOTE, "published": _published()} if published else {})


def _summary(found: PictureEvaluation, missing: Mapping[str, str]) -> dict[str, Any]:
    answer = found.to_dict()
    metrics = answer.pop("metrics")
    # Names of networks hold dots themselves.
    ending = ".reconstruction_fixed"
    start = "two_way."
    used = {n[len(start) : -len(ending)] for n in metrics if n.startswith(start) and n.endswith(ending)}
    counts = {
        name: {metric: score[f"n_{name}"] for metric, score in metrics.items() if score[f"n_{name}"]}
        for name in ("undefined", "tied")
    }
    counts["shuffled_standard_error"] = {name: score[_SE] for name, score in metrics.items() if _SE in score}
    scores = {name: {key: score[key] for key in _SCORE if key in score} for name, score in metrics.items()}
    own = {name: score for name, score in scores.items() if not name.startswith(_BASELINES)}
    others = {
        baseline[:-1]: {name.removeprefix(baseline): v for name, v in scores.items() if name.startswith(baseline)}
        for baseline in _BASELINES
    }
    answer["not_computed"] |= missing
    tables = {"metrics": own, **others, **counts}
    return {"networks": sorted(used), **answer, **{name: table for name, table in tables.items() if table}}


def _captions(made: Reconstructions, shown: Stimuli) -> tuple[list[str], list[str]] | None:
    decoded = made.settings.get("captions", {})
    if "caption" not in shown.table or not all(i in decoded for i in made.stimulus_ids):
        return None
    return [decoded[i] for i in made.stimulus_ids], shown.captions


def _embeddings(
    folder: Path, made: Reconstructions, pictures: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray] | None:
    if not (folder / EMBEDDING).exists():
        return None
    extractor, readout = Sources(embedding=made.settings["embedding"]).load_embedding(device)
    (own,) = extractor(list(pictures), None, readout).values()
    return np.load(folder / EMBEDDING, allow_pickle=False), own


def _reader(shown: Stimuli, missing: dict[str, str]) -> dict[str, Any]:
    """The reader and the truth for scenes of the miniature world, or why there are none."""
    if not are_scenes(shown):
        return {}
    try:
        reader = load_reader()
    except MissingWeightsError as error:
        missing["attributes"] = str(error)
        return {}
    return {"reader": reader.read, "attributes": scene_attributes(shown)}


def scene_attributes(stimuli: Stimuli) -> Attributes:
    """What scenes of the miniature world show, as the reader tells it."""
    return true_attributes(Scenes.from_frame(stimuli.table), true_nearness(stimuli))


def true_nearness(stimuli: Stimuli) -> np.ndarray:
    """Depth maps of scenes of the miniature world: nearness, float32 (n, H, W)."""
    return make_targets(stimuli, ["depth"], depth=TRUTH)["depth"].read()


def _published() -> dict[str, Any]:
    table = published_scores()
    return {
        f"{row.pop('method')}, in {row.pop('source')}": {k: v for k, v in row.items() if v == v}
        for row in table.drop(columns="note").to_dict("records")
    }


# Words and depth -------------------------------------------------------------------------------------------------


def caption_recording(
    model: Path,
    recording: Recording,
    stimuli: Stimuli | None = None,
    *,
    captioner: str | None = None,
    stimulus_ids: Sequence[str] = (),
    device: str = "auto",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Captions of the stimuli that a decoder was not fitted on, from the tokens decoded of them.

    Parameters
    ----------
    stimuli : what was shown; with captions, the decoded ones are scored against them.
    captioner : another than the one of the fit, that reads the same tokens.

    Returns
    -------
    JSON values: ``captions``, a row a stimulus; ``metrics`` of `evaluate_captions`, and ``not_computed``.

    Raises
    ------
    InputError : no tokens were fitted. ArtifactError : a captioner that reads other tokens.
    """
    watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
    decoder = PictureDecoder.load(model)
    decoder.check("tokens")
    name = captioner or decoder.sources.captioner
    words = CaptionDecoder.from_pretrained(name, device=device)
    fitted = decoder.decoder.decoders_["tokens"].training_["features"]
    if fitted.get("weights") != words.extractor.weights or not fitted.get("readout", "").endswith(words.layer):
        raise ArtifactError(
            f"it reads tokens of {words.extractor.uri}, {words.layer}, not those of the fit",
            where=name,
            remedy=f"Take {decoder.sources.captioner}, or fit tokens with --captioner {name}",
        )
    test = chosen_stimuli(held_out_average(decoder.decoder, recording), stimulus_ids)
    parts = decoder.decode(test, ["tokens"], lambda ids, got: words.decode(got["tokens"], ids, **watched), **watched)
    ids, decoded = [str(i) for i in test.stimulus_ids], [text for part in parts for text in part]
    rows = [{"stimulus": i, "caption": text} for i, text in zip(ids, decoded, strict=True)]
    answer: dict[str, Any] = {"captioner": name, "stimuli": len(ids)}
    if stimuli is not None and "caption" in stimuli.table:
        true = stimuli.select(ids).captions
        rows = [row | {"shown": text} for row, text in zip(rows, true, strict=True)]
        scores, missing = evaluate_captions(decoded, true)
        answer |= {"metrics": {key: score.to_dict() for key, score in scores.items()}, "not_computed": missing}
    return answer | {"captions": rows}


def decode_depth(
    model: Path,
    recording: Recording,
    out: Path,
    stimuli: Stimuli | None = None,
    *,
    arrays: bool = False,
    stimulus_ids: Sequence[str] = (),
    overwrite: bool = False,
    device: str = "auto",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Write the depth maps of the stimuli that a decoder was not fitted on: nearness, larger is nearer.

    `out` gets a file a stimulus, numbered as in ``depth.json``: 16-bit PNG, where 0 and 65535 stand for ``low`` and
    ``high`` of that file, the same for all maps; or with `arrays` float32 .npy.

    Returns
    -------
    JSON values: size of a map, and for scenes of the miniature world ``correlation`` with the true maps over pixels,
    its mean over maps and interval.
    """
    watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
    decoder = PictureDecoder.load(model)
    decoder.check("depth")
    test = chosen_stimuli(held_out_average(decoder.decoder, recording), stimulus_ids)
    network = None if decoder.sources.depth == TRUTH else decoder.sources.load_depth(device)

    def read(ids: list[str], decoded: Mapping[str, np.ndarray]) -> np.ndarray:
        if network is None:
            return check_depth(decoded["depth"], ids)
        return network.decode(layers_of("depth", decoded), ids, **watched)

    maps = np.concatenate(decoder.decode(test, ["depth"], read, **watched))
    ids = [str(i) for i in test.stimulus_ids]
    with atomic_path(out, overwrite=overwrite) as part:
        part.mkdir()
        write_maps(part, maps, ids, arrays)
    answer: dict[str, Any] = {"out": out, "stimuli": len(ids), "height": maps.shape[1], "width": maps.shape[2]}
    if stimuli is not None and are_scenes(stimuli):
        truth = true_nearness(stimuli.select(ids))
        if truth.shape == maps.shape:
            answer["correlation"] = nearness_correlation(maps, truth).to_dict()
    return answer


def nearness_correlation(maps: np.ndarray, truth: np.ndarray) -> Measure:
    """Correlation over pixels of depth maps (n, H, W) with the true ones, mean over maps."""
    return agreement(Attributes(nearness=maps), Attributes(nearness=truth))["nearness"]


def write_maps(folder: Path, maps: np.ndarray, ids: Sequence[str], arrays: bool) -> None:
    """Write depth maps (n, H, W) to a folder that exists, as `decode_depth` says."""
    low, high = float(maps.min()), float(maps.max())
    for row, values in enumerate(maps):
        if arrays:
            np.save(folder / f"{row:06d}.npy", values)
        else:
            deep = np.round((values - low) / (high - low) * _DEEP).astype(np.uint16)
            Image.fromarray(deep).save(folder / f"{row:06d}.png")
    (folder / DEPTH).write_text(json.dumps({"low": low, "high": high, "stimulus_ids": list(ids)}, indent=2) + "\n")
