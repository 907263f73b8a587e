"""A 4-D NIfTI image with a label for each volume, a table of events, or a table of presentations.

Tried on real files: the Haxby et al. (2001) slice that PyMVPA ships, with its ``attributes_literal.txt``.

Layout: ``bold.nii.gz`` (x, y, z, time), all runs one after the other; ``mask.nii.gz`` (x, y, z), voxels above 0 are
neuroids; and one of

- labels: one line a volume, condition and run, separated by spaces or commas, with or without a header (PyMVPA's
  attributes file; nilearn's ``labels chunks``);
- events: a tab-separated table as in BIDS with onset and duration in seconds from the start of the run, trial_type,
  and, if the image holds several runs, a column run that counts from 0 and the option `volumes_per_run`;
- presentations: a CSV table with one row a volume, where the volumes are betas of single trials.

Every volume, block and trial whose picture is unknown is a stimulus of its own ("face-run03"), with the coordinate
``category``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import Field

from ..errors import InputError
from .bold import masked_neuroids, open_bold, read_volumes, repetition_time
from .registry import Contents, Reader
from .series import series_blocks, series_presentations
from .timing import TimingOptions, cut_runs


class NiftiOptions(TimingOptions):
    """Options of the format nifti. Labels are taken from attributes_literal.txt beside the source if it is there."""

    mask: Path | None = None
    """3-D image whose voxels above 0 are read; by default mask.nii.gz beside the source."""
    rois: dict[str, Path] = Field(default_factory=dict)
    """Mask image of each region of interest, by name."""


def read_nifti(source: Path, options: NiftiOptions) -> Contents:
    """A 4-D image as one row a volume, block, trial or single-trial beta; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : the mask has another grid, or a
    table another length. InputError : the unit needs labels or events that are not given.
    """
    if source.is_dir():
        source = source / "bold.nii.gz"
    image = open_bold(source)
    neuroids, space, grid, rois = masked_neuroids(options.mask or _mask_beside(source), options.rois)
    beside = source.with_name("attributes_literal.txt")
    if options.labels is None and options.events is None and options.presentations is None and beside.exists():
        options = options.model_copy(update={"labels": beside})
    tr = 1.0 if options.presentations else repetition_time(image, options.tr)
    runs = cut_runs(partial(read_volumes, image, grid), image.shape[3], tr, options, source)
    return Contents(
        presentations=series_presentations(runs, options),
        neuroids=neuroids,
        blocks=series_blocks(runs, options),
        space=space,
        rois=rois,
        attrs={} if options.presentations else {"tr": tr},
    )


def _mask_beside(source: Path) -> Path:
    found = [source.with_name(name) for name in ("mask.nii.gz", "mask.nii") if source.with_name(name).exists()]
    if not found:
        raise InputError("no mask beside it", where=source, remedy="Give the option mask")
    return found[0]


NIFTI = Reader(
    "nifti",
    read_nifti,
    NiftiOptions,
    "4-D NIfTI image with a mask and labels or events: volumes, block means, trial means or single-trial betas",
    tried_on_real_files=True,
)
