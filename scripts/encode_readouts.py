"""``penfield encode attend``, ``attribute`` and ``contrast``: where a fitted model looks, and what it answers to."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .encode_options import Attribution, Layers, Pictures, Shown, Stores, encode

if TYPE_CHECKING:
    from encoders import Encoder, Features
    from recordings import Stimuli

SHOWN_QUERIES = 200
Maps = Annotated[Path | None, typer.Option(help="Folder for maps of the brain, GIFTI or NIfTI; needs --recording.")]
Neuroids = Annotated[
    Path | None, typer.Option("--recording", "-r", help="Recording or subject whose neuroids the model predicts.")
]


@console.verb(encode, "attend", "penfield encode attend -m model -f tokens.zarr --stimulus s0001 --out attention.npz")
def attend(
    run: console.Run,
    model: console.Fitted,
    features: Stores,
    out: Annotated[Path, typer.Option(help="File of attention maps to write, .npz or .zarr.")],
    layer: Layers = None,
    stimulus: Pictures = None,
    query: Annotated[
        list[str] | None, typer.Option(help="Region, or neuroid where each has a query; once each. All by default.")
    ] = None,
    per_head: Annotated[bool, typer.Option("--per-head", help="Keep heads apart instead of averaging them.")] = False,
    overlays: Annotated[
        Path | None, typer.Option(help="Folder for each picture with each query's map over it; needs --stimuli.")
    ] = None,
    stimuli: Shown = None,
    maps: Maps = None,
    recording: Neuroids = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Write where a transformer's queries look in each picture, and say it by query.

    For each query: centre (x right, y up) and sigma of its mean map, in units of half the image; floor, what is spread
    evenly; r2, how much of the map that explains; entropy, 1 where attention is even; content, 0 where attention is the
    same for all pictures and 1 where the picture alone moves it. --maps writes each neuroid's receptive field: x, y,
    sigma, eccentricity and polar_angle.
    """
    from encoders import TransformerEncoder, load_encoder
    from encoders.attention.fields import receptive_fields
    from encoders.responses import run_labels
    from recordings.artifacts import check_neuroids
    from recordings.errors import InputError
    from studies.attending import check_size, save_maps, summarise_attention, write_brain_maps, write_overlays
    from studies.encoding import select_features
    from studies.sources import open_recording, open_stimuli, open_stores

    for place in filter(None, (out, overlays, maps)):
        console.check_absent(place, overwrite)
    encoder = load_encoder(model)
    if not isinstance(encoder, TransformerEncoder):
        raise InputError(f"a {type(encoder).__name__} has no attention", where=model, remedy="See encode attribute")
    if overlays and not stimuli:
        raise InputError("overlays need the pictures", remedy="Give --stimuli")
    if maps and not recording:
        raise InputError("maps of the brain need to know where neuroids lie", remedy="Give --recording")
    if encoder.delays and not recording:
        raise InputError("attention over delays needs the order of moments", remedy="Give --recording")
    spaces = open_stores(features, layer or ())
    given = select_features(encoder, spaces)
    whole = open_recording(recording) if recording else None
    ids, runs = stimulus or list(map(str, next(iter(spaces.values())).stimulus_ids)), None
    if encoder.delays and whole:
        ids, runs = list(map(str, whole.stimulus_ids)), run_labels(whole)
    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    names = encoder.recording_["neuroid_ids"] if encoder.module_.by_neuroid else encoder.regions_.names
    heads = encoder.n_heads if per_head else 1
    check_size(len(ids), len(query or names) * heads, math.prod(encoder.module_.grid))
    found = encoder.attention(given, ids, queries=query, per_head=per_head, runs=runs, **watched)
    if runs is not None and stimulus:
        found = found.select(stimulus)
    named: dict[str, Any] = {"stimulus_id": found.stimulus_ids, "query": found.queries}
    save_maps(found.weights, out, per_head=per_head, overwrite=overwrite, **named)
    answer: dict[str, Any] = {"out": out, "stimuli": len(found), "queries": len(found.queries)}
    if overlays and stimuli:
        answer["overlays"] = write_overlays(found, open_stimuli(stimuli), overlays, overwrite=overwrite)
    if maps and whole:
        check_neuroids(encoder.recording_, whole, responses=False)
        fields = receptive_fields(encoder, given, ids, runs=runs, **watched)
        columns = ("x", "y", "sigma", "eccentricity", "polar_angle")
        answer["maps"] = write_brain_maps(whole, {c: fields[c] for c in columns}, maps, overwrite=overwrite)
    table = summarise_attention(found)
    shown = table if len(table) <= SHOWN_QUERIES else table.median().to_frame("median").T
    return answer | {"attention": shown.to_dict("index")}


@console.verb(
    encode,
    "attribute",
    "penfield encode attribute -m model -f tokens.zarr -r world/subject-01 --roi V1 --stimulus s0001 --out maps.npz",
)
def attribute(
    run: console.Run,
    model: console.Fitted,
    features: Stores,
    out: Annotated[Path, typer.Option(help="File of maps to write, .npz or .zarr.")],
    layer: Layers = None,
    method: Annotated[
        Attribution, typer.Option(help="From tokens alone, or through the image model (needs --stimuli).")
    ] = Attribution.integrated_gradients,
    stimulus: Pictures = None,
    roi: console.Rois = None,
    recording: Neuroids = None,
    stimuli: Shown = None,
    steps: Annotated[int, typer.Option(min=2, help="Points between baseline and stimulus.")] = 50,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Write where in each picture the summed prediction comes from, of all neuroids or of a region.

    A check on attention that works with every kind of encoding model. Integrated gradients add up to the prediction
    minus that of the mean stimulus.
    """
    import numpy as np

    from encoders import load_encoder
    from encoders.attribution import by_place, integrated_gradients
    from recordings.artifacts import check_neuroids
    from recordings.errors import InputError
    from studies.attending import save_maps
    from studies.encoding import select_features
    from studies.sources import open_recording, open_stimuli, open_stores

    console.check_absent(out, overwrite)
    encoder, spaces = load_encoder(model), open_stores(features, layer or ())
    neuroids: Any = slice(None)
    if roi:
        if recording is None:
            raise InputError("regions need the recording", remedy="Give --recording")
        whole = open_recording(recording)
        check_neuroids(encoder.recording_, whole, responses=False)
        neuroids = whole.roi_mask(*roi)
    given = select_features(encoder, spaces)
    ids = stimulus or list(map(str, next(iter(spaces.values())).stimulus_ids))
    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    if method is Attribution.integrated_gradients:
        sources = _sources(encoder, given)
        grids = {tuple(source.attrs.get("grid", ())) for source in sources.values()}
        if len(grids) > 1 or grids == {()}:
            raise InputError("the features have no places, or each their own", remedy="Take tokens of one grid")
        found: Any = integrated_gradients(encoder, sources, ids, neuroids, n_steps=steps, **watched)
        values = np.sum([by_place(part, *grids) for part in found.values()], 0)
    else:
        from encoders import FeatureExtractor
        from encoders.grad_cam import grad_cam

        if stimuli is None:
            raise InputError(f"{method.value} goes through the image model", remedy="Give --stimuli")
        extractor = FeatureExtractor.from_uri(next(iter(spaces.values())).attrs["uri"], device=run.device)
        shown = open_stimuli(stimuli).select(ids)
        how: Any = method.value
        values = grad_cam(encoder, extractor, given, shown, neuroids, method=how, **watched)
    save_maps(values, out, overwrite=overwrite, stimulus_id=ids)
    return {
        "out": out,
        "method": method.value,
        "stimuli": len(ids),
        "sum": float(values.sum((*range(1, values.ndim),)).mean()),
    }


@console.verb(
    encode,
    "contrast",
    "penfield encode contrast -m model -f tokens.zarr -r world/subject-01 --by category --of car+plane,chair+table",
)
def contrast(
    run: console.Run,
    model: console.Fitted,
    features: Stores,
    recording: console.Recorded,
    layer: Layers = None,
    by: Annotated[str | None, typer.Option(help="Column of the stimuli whose labels --of names.")] = None,
    of: Annotated[str | None, typer.Option(help="Two kinds of stimuli, LABEL,LABEL; labels of one kind by +.")] = None,
    prompts: Annotated[
        tuple[str, str] | None, typer.Option(help="Instead, two descriptions, such as a face and a house.")
    ] = None,
    prompt_model: Annotated[
        str | None, typer.Option(help="URI of a model of text and images, which compares pictures with prompts.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=2, help="Pictures a prompt, those that go with it most.")] = 20,
    stimuli: Shown = None,
    permutations: Annotated[int, typer.Option(min=1, help="Of pictures between both kinds, for p.")] = 9999,
    maps: Maps = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Contrast the predicted responses of each region to two kinds of pictures, named by labels or by prompts.

    --stimuli lie beside the recording by default. --maps writes each neuroid's d'.
    """
    from encoders import load_encoder
    from recordings.errors import InputError
    from studies.attending import write_brain_maps
    from studies.contrasts import labelled_stimuli, neuroid_contrast, region_contrast
    from studies.encoding import select_features
    from studies.sources import open_recording, open_stimuli, open_stores

    if maps:
        console.check_absent(maps, overwrite)
    if (by is None) == (prompts is None) or (by is None) != (of is None) or (prompts is None) != (prompt_model is None):
        raise InputError(
            "two kinds of stimuli are needed", remedy="Give --by and --of, or --prompts and --prompt-model"
        )
    encoder, spaces = load_encoder(model), open_stores(features, layer or ())
    given, whole = select_features(encoder, spaces), open_recording(recording)
    known = {str(i) for i in next(iter(spaces.values())).stimulus_ids}
    shown = open_stimuli(stimuli or recording)
    shown = shown.select([i for i in shown.ids if i in known])
    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    if by and of:
        names = of.split(",")
        if len(names) != 2:
            raise InputError(f"{of!r} does not name two kinds", where="--of", remedy="Write LABEL,LABEL")
        kinds = labelled_stimuli(shown, {name: name.split("+") for name in names}, by)
    else:
        assert prompts is not None and prompt_model is not None
        kinds = _by_prompt(shown, prompts, prompt_model, k, run)
    first, second = kinds.values()
    table = region_contrast(encoder, given, first, second, whole, n_permutations=permutations, seed=run.seed, **watched)
    answer = {"contrast": " > ".join(kinds), "stimuli": {name: len(ids) for name, ids in kinds.items()}}
    if maps:
        answer["maps"] = write_brain_maps(
            whole, {"d_prime": neuroid_contrast(encoder, given, first, second, **watched)}, maps, overwrite=overwrite
        )
    return answer | {"roi": table.set_index("roi").to_dict("index")}


def _by_prompt(stimuli: Stimuli, prompts: tuple[str, str], uri: str, k: int, run: console.Run) -> dict[str, list[str]]:
    """Ids of the k stimuli that go with each of two prompts."""
    from encoders import FeatureExtractor, extract
    from studies.contrasts import prompt_similarity, text_tower, top_stimuli

    with tempfile.TemporaryDirectory() as folder:
        found = extract(
            FeatureExtractor.from_uri(uri, device=run.device),
            stimuli,
            Path(folder) / "embedded.zarr",
            readout="projected",
            on_event=run.on_event,
            stop=run.stop,
        )
        images = next(iter(found.values()))
        similarity = prompt_similarity(images, text_tower(images, run.device), {prompt: prompt for prompt in prompts})
        return top_stimuli(similarity, k)


def _sources(encoder: Encoder, given: Any) -> dict[str, Features]:
    """Features by the name that the encoder, or every member of it, has given them."""
    from encoders import Ensemble
    from encoders.bands import named
    from recordings.errors import InputError

    if not isinstance(encoder, Ensemble):
        return named(given)
    first, *others = ({n: f.fingerprint() for n, f in named(given[name]).items()} for name in encoder.members)
    if any(other != first for other in others):
        raise InputError("members of the ensemble read different features", remedy="Attribute one member at a time")
    return named(next(iter(given.values())))


if __name__ == "__main__":
    from .penfield import main

    main("encode")
