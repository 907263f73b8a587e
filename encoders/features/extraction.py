"""From stimuli to a feature store, in batches that do not depend on where a run was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from recordings import Stimuli
from recordings.errors import ArtifactError, InputError, disk_full_as_error
from recordings.events import OnEvent, Stop
from recordings.storage import remove

from .batches import Job, Rows
from .extractor import FeatureExtractor
from .features import Features
from .reduction import Reduction, fit_pca, parse_reduction, random_projection
from .store import JOURNAL, LayerStore, open_store, part_of


def extract(
    extractor: FeatureExtractor,
    stimuli: Stimuli,
    path: str | PathLike[str],
    layers: Sequence[str] | None = None,
    readout: str = "pooled",
    batch_size: int = 32,
    store_dtype: str = "float32",
    reduction: str | Reduction | None = None,
    n_frames: int | None = None,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Features]:
    """Features of stimuli, kept in a store; only what the store lacks is computed.

    A run that was interrupted goes on where it was: batches always hold the same stimuli, and a batch that was not
    written whole is computed again, so that the store equals an uninterrupted one bit for bit. Stimuli that the store
    does not know are appended. A stimulus whose content changed is computed again, with its batch.

    Parameters
    ----------
    path : the store. A new one grows beside it under a hidden name and gets its own when it is whole.
    layers : module paths, see `FeatureExtractor.layers`; the model's default if None.
    readout : "pooled", "tokens", "cls", "flat" or "projected", see `read_out`.
    batch_size : stimuli at a time; a layer that is in the store already keeps its own.
    store_dtype : "float32" or "float16".
    reduction : None; "srp:K", a sparse random projection to K features; "pca:K", K principal components, fitted on
        these stimuli in chunks; or a fitted `Reduction`. Kept in the store, so that new stimuli get the same map.
    n_frames : frames that an image model takes of each clip.
    overwrite : replace a store that is there.

    Returns
    -------
    Features of these stimuli, in their order, by layer; values stay on disk.

    Raises
    ------
    CorruptImageError, ImageTooLargeError : a file cannot be read. All others are computed first and kept; the store
        gets its name once the file is replaced or left out.
    ArtifactError : the store at `path` is of another model, other weights, read-out or preprocessing.
    NotFiniteError : NaN or infinite features, or too large for float16. UnknownNameError : no such layer.
    Cancelled : `stop` answered True; the same call goes on from there.
    """
    path = Path(path)
    names = extractor.resolve_layers(layers, readout)
    if store_dtype not in ("float32", "float16"):
        raise InputError(f"no storing in {store_dtype!r}", remedy="Take float32 or float16")
    if overwrite:
        remove(path)
        remove(part_of(path))
    rows = Rows(extractor, stimuli, n_frames)
    work = path if path.exists() else part_of(path)
    with disk_full_as_error(path), _nothing_left_of_nothing(work, path):
        open_store(work, _attrs(extractor, n_frames))
        job = Job(rows, work, readout, batch_size, store_dtype, on_event, stop)
        for name in names:
            _check_layer(job, name, reduction)
        if reduction is not None:
            _prepare_reductions(job, names, reduction)
        unreadable = job.run(names)
        if unreadable is not None:
            raise unreadable
        remove(work / UNREDUCED)
        if work != path:
            work.rename(path)
    return {name: Features.load(path, name).select(stimuli.ids) for name in names}


UNREDUCED = ".unreduced"


@contextmanager
def _nothing_left_of_nothing(work: Path, path: Path) -> Iterator[None]:
    """Remove a new store again if an error comes before its first chunk."""
    try:
        yield
    except Exception:
        if work != path and not any(work.rglob(JOURNAL)):
            remove(work)
        raise


def _attrs(extractor: FeatureExtractor, n_frames: int | None) -> dict[str, Any]:
    return {
        "uri": extractor.uri,
        "weights": extractor.weights,
        "preprocessing": extractor.backbone.preprocessing,
        "compute_dtype": extractor.dtype,
        "n_frames": n_frames or extractor.backbone.n_frames,
    }


def _check_layer(job: Job, layer: str, reduction: str | Reduction | None) -> None:
    store = LayerStore(job.path, layer)
    if not store.exists:
        return
    now = {"readout": job.readout, "dtype": job.dtype, "asked_reduction": _name(reduction)}
    stored = store.attrs | {"dtype": str(store.array.dtype)}
    for what, value in now.items():
        if stored.get(what) != value:
            raise ArtifactError(
                f"layer {layer!r} is stored with {what} {stored.get(what)!r}, now it is {value!r}",
                where=job.path,
                remedy="Write to another path, or pass overwrite to replace the store",
            )


def _name(reduction: str | Reduction | None) -> str | None:
    return reduction.name if isinstance(reduction, Reduction) else reduction


def _prepare_reductions(job: Job, layers: Sequence[str], reduction: str | Reduction) -> None:
    """Load, take over or make the map of each layer, and keep it in the store."""
    job.asked_reduction = _name(reduction)
    homes = {layer: job.path / "reductions" / layer for layer in layers}
    for layer in layers:
        if homes[layer].exists():
            job.reductions[layer] = Reduction.from_pretrained(homes[layer])
    new = [layer for layer in layers if layer not in job.reductions]
    made = dict.fromkeys(new, reduction) if isinstance(reduction, Reduction) else _fit(job, new, reduction)
    for layer, fitted in made.items():
        fitted.save_pretrained(homes[layer])
        job.reductions[layer] = fitted


def _fit(job: Job, layers: Sequence[str], asked: str) -> dict[str, Reduction]:
    kind, k = parse_reduction(asked)
    shapes = job.rows.extractor.readout_shapes(layers, job.readout) if layers else {}
    widths = {layer: shape[-1] for layer, shape in shapes.items() if shape[-1] > k}
    if kind == "srp":
        return {layer: random_projection(width, k) for layer, width in widths.items()}
    if widths:
        # Features are computed once: unreduced into a store of their own, from which maps are fitted and applied.
        job.unreduced = _unreduced(job, list(widths))
    return {layer: fit_pca(job.unreduced[layer], k, on_event=job.on_event, stop=job.stop) for layer in widths}


def _unreduced(job: Job, layers: Sequence[str]) -> dict[str, Features]:
    rows = job.rows
    return extract(
        rows.extractor,
        rows.stimuli,
        job.path / UNREDUCED,
        None if job.readout == "projected" else layers,
        job.readout,
        job.batch_size,
        n_frames=rows.n_frames,
        on_event=job.on_event,
        stop=job.stop,
    )
