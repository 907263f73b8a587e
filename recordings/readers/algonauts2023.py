"""The Algonauts 2023 challenge: NSD responses on the surface, one averaged response an image.

Never tried on real files.

Layout of a subject's folder:

- ``training_split/training_fmri/{lh,rh}_training_fmri.npy``: (image, challenge vertex) float32;
- ``training_split/training_images/*.png``: one an image, in the order of their names;
- ``roi_masks/{lh,rh}.<group>_challenge_space.npy``: (challenge vertex,) numbers of regions, 0 outside;
  ``roi_masks/mapping_<group>.npy``: a pickled dict, number to name, read through `restricted_pickle`;
- ``roi_masks/{lh,rh}.all-vertices_fsaverage_space.npy``: (163842,) 1 where fsaverage's vertex is a challenge vertex.

Vertices are those of fsaverage if the last files are there, else positions in the challenge space. A vertex may be in
regions of several groups; some regions are empty in some subjects and stay declared. The test split has no responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import FormatError, ShapeError
from ..space import Space
from ..stimuli import Stimuli
from .files import blocks_of, need, open_array
from .registry import Contents, Options, Reader
from .restricted_pickle import load_mapping

SIDES = {"L": "lh", "R": "rh"}


class AlgonautsOptions(Options):
    """Options of the format algonauts2023."""

    groups: tuple[str, ...] = ()
    """ROI groups to read, such as prf-visualrois; by default all that are there."""


def read_algonauts2023(source: Path, options: AlgonautsOptions) -> Contents:
    """Training responses and images of one subject; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut, or a mapping holds more than names.
    ShapeError : a hemisphere has another number of images, or a mask another number of vertices.
    """
    fmri = need(source) / "training_split" / "training_fmri"
    responses = {side: open_array(fmri / f"{lh}_training_fmri.npy", (2,)) for side, lh in SIDES.items()}
    stimuli = Stimuli.from_folder(source / "training_split" / "training_images")
    for side, array in responses.items():
        if len(array) != len(stimuli):
            raise ShapeError(
                f"{len(array)} responses to {len(stimuli)} images",
                where=fmri / f"{SIDES[side]}_training_fmri.npy",
                remedy="Both hemispheres have one row an image of training_images; download what is short again",
            )
    masks = source / "roi_masks"
    tables, names, whole = [], [], True
    for side, array in responses.items():
        table, declared, known = _vertices(masks, side, array.shape[1], options)
        tables.append(table)
        names += declared
        whole &= known
    sizes = (163842, 163842) if whole else (responses["L"].shape[1], responses["R"].shape[1])
    return Contents(
        presentations=pd.DataFrame({"stimulus_id": stimuli.ids}),
        neuroids=pd.concat(tables, ignore_index=True),
        blocks=_blocks(list(responses.values())),
        space=Space.surface("fsaverage" if whole else "algonauts2023", sizes),
        rois=list(dict.fromkeys(names)),
        attrs={"subject": source.name},
        stimuli=stimuli,
    )


def _blocks(hemispheres: list[np.ndarray]) -> Iterator[np.ndarray]:
    width = sum(h.shape[1] for h in hemispheres)
    for rows in blocks_of(len(hemispheres[0]), width * 4):
        yield np.concatenate([np.asarray(h[rows], np.float32) for h in hemispheres], axis=1)


def _vertices(masks: Path, side: str, n: int, options: AlgonautsOptions) -> tuple[pd.DataFrame, list[str], bool]:
    vertex, known = _fsaverage_vertices(masks / f"{SIDES[side]}.all-vertices_fsaverage_space.npy", n)
    labels = np.full(n, "", object)
    declared: list[str] = []
    for group in options.groups or _groups(masks):
        path = masks / f"{SIDES[side]}.{group}_challenge_space.npy"
        numbers = open_array(path, (1,))
        if len(numbers) != n:
            raise ShapeError(
                f"{len(numbers)} vertices, the responses have {n}",
                where=path,
                remedy="Give the mask in challenge space, not in fsaverage space",
            )
        mapping = {k: v for k, v in load_mapping(masks / f"mapping_{group}.npy").items() if k != 0}
        unknown = set(np.unique(numbers).astype(int)) - {0, *mapping}
        if unknown:
            raise FormatError(f"region {min(unknown)} has no name in mapping_{group}.npy", where=path)
        declared += mapping.values()
        for number, name in mapping.items():
            labels[np.asarray(numbers) == number] += f"|{name}"
    table = pd.DataFrame({"hemisphere": side, "vertex": vertex, "roi": [label.removeprefix("|") for label in labels]})
    table.insert(0, "neuroid_id", [f"{side}{v}" for v in vertex])
    return table, declared, known


def _groups(masks: Path) -> list[str]:
    groups = sorted(f.stem.removeprefix("mapping_") for f in need(masks).glob("mapping_*.npy"))
    if not groups:
        raise FormatError("no mapping_*.npy in it", where=masks)
    return groups


def _fsaverage_vertices(path: Path, n: int) -> tuple[np.ndarray, bool]:
    if not path.exists():
        return np.arange(n), False
    vertex = np.flatnonzero(open_array(path, (1,)))
    if len(vertex) != n:
        raise ShapeError(f"{len(vertex)} challenge vertices, the responses have {n}", where=path)
    return vertex, True


ALGONAUTS2023 = Reader(
    "algonauts2023",
    read_algonauts2023,
    AlgonautsOptions,
    "Algonauts 2023: training responses and images of one subject",
)
