"""Opening what a command or a study names: recordings, stimuli, RDMs, features and the baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encoders import FeatureExtractor, Features, extract, layers_of
from encoders.features.extractor import OUTPUT
from recordings import Recording, Stimuli, Subject
from recordings.errors import FormatError, InputError, UnknownNameError
from recordings.events import OnEvent, Stop
from recordings.subject import CARD, STIMULI

HDF5 = (".h5", ".hdf5", ".hdf")


def open_recording(path: Path, rois: tuple[str, ...] = ()) -> Recording:
    """The recording at a path, or of a subject's folder; of the named regions only, if any are named.

    Raises
    ------
    FormatError : neither is there. UnknownNameError, EmptyROIError : no such region.
    """
    recording = Subject.load(path).recording if (path / CARD).is_file() else Recording.load(path)
    return recording.roi(*rois) if rois else recording


def open_stimuli(path: Path) -> Stimuli:
    """Stimuli of a subject's folder, a folder of images or clips, a table (.csv) or an HDF5 file.

    Raises
    ------
    FormatError : nothing there, or nothing that can be read.
    """
    if not path.exists():
        raise FormatError("does not exist", where=path, remedy="Give a folder of images, a table or an HDF5 file")
    if (path / CARD).is_file():
        return Stimuli.from_folder(path / STIMULI)
    if path.suffix.lower() in HDF5:
        return Stimuli.from_hdf5(path)
    return Stimuli.from_csv(path) if path.is_file() else Stimuli.from_folder(path)


def stimuli_shown(recording: Path, stimuli: Path | None = None) -> Stimuli | None:
    """The stimuli at a path, else those beside the recording of a subject's folder, else None."""
    if stimuli is None and not (recording / CARD).is_file():
        return None
    return open_stimuli(stimuli or recording)


def open_layers(path: Path, layers: Sequence[str] = ()) -> dict[str, Features]:
    """Layers of a feature store by name, all of them if none is named."""
    return {name: Features.load(path, name) for name in layers or layers_of(path)}


def open_stores(paths: Sequence[Path], layers: Sequence[str] = ()) -> dict[str, Features]:
    """Layers of one or several feature stores; of several by ``store/layer``, the store's name without its ending.

    Raises
    ------
    UnknownNameError : no store has a layer of that name. InputError : two stores of one name.
    """
    if len(paths) == 1:
        return open_layers(paths[0], layers)
    names = [path.stem for path in paths]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two feature stores are called {min(twice)!r}", remedy="Rename one of them")
    held = {path: layers_of(path) for path in paths}
    for layer in layers:
        if not any(layer in names for names in held.values()):
            known = ", ".join(dict.fromkeys(name for names in held.values() for name in names))
            raise UnknownNameError(f"no layer {layer!r}", where=paths[0], remedy=f"There are: {known}")
    return {
        f"{path.stem}/{layer}": Features.load(path, layer)
        for path, names in held.items()
        for layer in names
        if not layers or layer in layers
    }


def extract_layers(
    uri: str,
    stimuli: Stimuli,
    path: Path,
    layers: Sequence[str] = (),
    *,
    readout: str = "pooled",
    batch_size: int = 32,
    device: str = "auto",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Features]:
    """Features of stimuli by layer, kept in a store at `path`; `FeatureExtractor.main_layers` if none is named."""
    extractor = FeatureExtractor.from_uri(uri, device=device)
    names = list(layers) or extractor.main_layers()
    return extract(
        extractor,
        stimuli,
        path,
        layers=names,
        readout=readout,
        batch_size=batch_size,
        on_event=on_event,
        stop=stop,
    )


def extract_baselines(
    uri: str | None, stimuli: Stimuli, folder: Path, *, layer: str | None = None, readout: str = "pooled", **how: Any
) -> dict[str, Features]:
    """What a model must beat: pixels, Gabor energies and, if its URI is given, the same model untrained.

    Parameters
    ----------
    layer, readout : of the untrained model, its default layer if None; pixels and Gabor energies are rows as they are.
    how : device, on_event, stop, see `extract_layers`.
    """
    found = {}
    for name in ("pixels", "gabor"):
        store = folder / f"{name}.zarr"
        found[name] = extract_layers(f"baseline:{name}", stimuli, store, [OUTPUT], readout="flat", **how)[OUTPUT]
    if uri is not None and not uri.startswith(("baseline:", "untrained:")):
        chosen = layer or FeatureExtractor.from_uri(f"untrained:{uri}", device="cpu").default_layer
        store = folder / "untrained.zarr"
        untrained = extract_layers(f"untrained:{uri}", stimuli, store, [chosen], readout=readout, **how)
        # The read-out "projected" has a layer of its own.
        found["untrained"] = next(iter(untrained.values()))
    return found
