"""`DecodedInputs`: what was decoded from brains, and the checks that no picture is made of nonsense."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from recordings.errors import DuplicateIdError, InputError, NotFiniteError, ShapeError

from .generator import Generator
from .pixels import check_images, flat_maps, spread
from .presets import Preset

# Of scaled latents; the s.d. over pictures is near 1.
_LATENT_SPREAD = (0.2, 5.0)
_DEPTH_MARGIN = 0.25
_ARRAYS = ("z", "c", "depth", "embedding")


@dataclass
class DecodedInputs:
    """Decoded inputs of n brains, each field None where it was not decoded.

    Attributes
    ----------
    stimulus_ids : (n,) names, unique; they key the random numbers of each brain.
    z : float32 (n, channel, height, width) latents, scaled by the autoencoder's factor.
    c : float32 (n, token, channel) text embeddings.
    depth : float32 (n, H, W) nearness, larger is nearer; for a ControlNet in [0, 1].
    embedding : float32 (n, width) image embeddings.
    image : uint8 (n, H, W, 3) pictures to start from, for example of feature inversion.
    captions : n texts.
    """

    stimulus_ids: Sequence[str]
    z: np.ndarray | None = None
    c: np.ndarray | None = None
    depth: np.ndarray | None = None
    embedding: np.ndarray | None = None
    image: np.ndarray | None = None
    captions: Sequence[str] | None = None

    @classmethod
    def from_decoded(
        cls, stimulus_ids: Sequence[str], decoded: Mapping[str, np.ndarray], generator: Generator, **others: Any
    ) -> Self:
        """Decoded inputs from a mapping of targets to rows, as `BrainDecoder.predict` gives it.

        "z" may be flat; targets that are no input of a generator (such as "tokens") are left out. `others` gives
        `image` or `captions`.
        """
        arrays: dict[str, Any] = {name: np.asarray(decoded[name], np.float32) for name in _ARRAYS if name in decoded}
        if "z" in arrays and arrays["z"].ndim == 2:
            shape = generator.latent_shape
            if arrays["z"].shape[1] != np.prod(shape):
                raise ShapeError(f"decoded z of {arrays['z'].shape[1]} numbers, the generator's latents are {shape}")
            arrays["z"] = arrays["z"].reshape(-1, *shape)
        return cls(stimulus_ids, **arrays, **others)

    def __len__(self) -> int:
        return len(self.stimulus_ids)

    def select(self, rows: Any) -> DecodedInputs:
        """The given rows (slice, index or boolean array) of every field."""
        wanted = np.arange(len(self))[rows]
        taken: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            taken[field.name] = value[wanted] if isinstance(value, np.ndarray) else value and [value[k] for k in wanted]
        return DecodedInputs(**taken)

    def check(self, generator: Generator, preset: Preset | None = None) -> None:
        """Raise a typed error if the inputs cannot condition a generator as the preset wants; None checks all given.

        What is wrong with single brains is no error here: see `broken`. Unscaled latents are warned of.

        Raises
        ------
        InputError : nothing to reconstruct, an input that the preset needs is missing, or the generator cannot take it.
        ShapeError : wrong rank, width, number of rows or tokens, pictures that are not uint8 RGB.
        DuplicateIdError : two brains of one id.
        """
        if not len(self):
            raise InputError("no brains to reconstruct", where="inputs", remedy="Give at least one")
        ids = [str(i) for i in self.stimulus_ids]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise DuplicateIdError(f"stimulus {twice!r} occurs twice", remedy="Average repetitions, or name them apart")
        names = preset.needs if preset else [f.name for f in fields(self)[1:] if getattr(self, f.name) is not None]
        for name in names:
            value = getattr(self, name)
            if value is None:
                raise InputError(
                    f"{preset.name if preset else 'the preset'} needs {name}, which was not decoded",
                    where="inputs",
                    remedy=f"Decode {name}, or replace the preset's settings that ask for it",
                )
            if len(value) != len(ids):
                raise ShapeError(f"{name} has {len(value)} rows for {len(ids)} stimuli", where=name)
            _CHECKS[name](self, generator, preset)
        if preset and preset.depth and generator.takes_depth != preset.depth:
            raise InputError(
                f"the preset {preset.name!r} gives depth by {preset.depth}, the generator takes "
                f"{generator.takes_depth or 'none'}",
                remedy="Load the generator with a controlnet, or one whose UNet sees depth, or leave depth out",
            )
        if preset and not preset.depth and generator.takes_depth == "depth2img":
            raise InputError(
                f"the generator's UNet needs a depth map, which the preset {preset.name!r} does not give",
                remedy="Take depth='depth2img', or another generator",
            )

    def broken(self, names: Sequence[str], generator: Generator) -> dict[str, str]:
        """Why brains cannot be reconstructed from the given fields: stimulus id to the first reason.

        A brain is broken by values that are not finite, and by a depth map that does not vary as the generator sees it
        or, for a ControlNet, lies mostly far from [0, 1]. The inputs should have passed `check`.

        Raises
        ------
        NotFiniteError : none can be, for values that are not finite. InputError : none can be, for other reasons too.
        """
        arrays = {name: getattr(self, name) for name in names if isinstance(getattr(self, name), np.ndarray)}
        finite = {name: np.isfinite(value).reshape(len(self), -1).all(1) for name, value in arrays.items()}
        faults = [(f"decoded {name} is not finite", ~whole) for name, whole in finite.items()]
        if "depth" in arrays:
            # What is not finite has its reason, and no range.
            faults += [(reason, bad & finite["depth"]) for reason, bad in self._depth_faults(generator)]
        reasons: dict[str, str] = {}
        for reason, bad in faults:
            for row in np.flatnonzero(bad).tolist():
                reasons.setdefault(str(self.stimulus_ids[row]), reason)
        if len(reasons) == len(self):
            first = str(self.stimulus_ids[0])
            error = InputError if np.all(list(finite.values()), axis=0).any() else NotFiniteError
            raise error(
                f"stimulus {first!r}: {reasons[first]}, and none of {len(self)} is better",
                remedy="Look at the responses that these were decoded from, or leave the input out",
            )
        return reasons

    def _depth_faults(self, generator: Generator) -> list[tuple[str, np.ndarray]]:
        """Reasons against depth maps, and which they hold for, bool (n,)."""
        assert self.depth is not None
        by_controlnet = generator.takes_depth == "controlnet"
        # As they are seen: what varies may be cut, or too small to be left at the latents' size.
        with np.errstate(invalid="ignore"):
            flat = flat_maps(self.depth, None if by_controlnet else generator.latent_shape[1:])
        # Decoded maps go a little beyond, and are clipped.
        beyond = (self.depth < -_DEPTH_MARGIN) | (self.depth > 1 + _DEPTH_MARGIN)
        far = by_controlnet & (beyond.reshape(len(self), -1).mean(1) > 0.5)
        return [
            ("most of its depth map is far from [0, 1], the range of the maps that the ControlNet was trained on", far),
            ("its depth map is constant as the generator sees it", flat),
        ]

    def _check_z(self, generator: Generator, preset: Preset | None) -> None:
        assert self.z is not None
        shape, free = generator.latent_shape, preset is not None and preset.reproject
        if self.z.ndim != 4 or self.z.shape[1] != shape[0] or not (free or self.z.shape[2:] == shape[1:]):
            raise ShapeError(
                f"decoded z of shape {self.z.shape[1:]}, the generator's latents are {shape}",
                where="z",
                remedy="Decode latents of this generator's autoencoder, or take reproject where only the size differs",
            )
        sd = spread(self.z)
        if not _LATENT_SPREAD[0] <= sd <= _LATENT_SPREAD[1]:
            warnings.warn(
                f"decoded z has an s.d. of {sd:.3g}; latents that are scaled by the autoencoder's factor have about 1",
                stacklevel=4,
            )

    def _check_c(self, generator: Generator, preset: Preset | None) -> None:
        assert self.c is not None
        tokens, width = generator.context_shape
        if self.c.ndim != 3 or self.c.shape[2] != width or self.c.shape[1] != (tokens or self.c.shape[1]):
            raise ShapeError(
                f"decoded c of shape {self.c.shape[1:]}, the generator reads ({tokens or 'any'}, {width})",
                where="c",
                remedy="Decode embeddings of this generator's text encoder",
            )

    def _check_depth(self, generator: Generator, preset: Preset | None) -> None:
        assert self.depth is not None
        if generator.takes_depth is None:
            raise InputError(
                "the generator takes no depth", where="depth", remedy="Load it with a controlnet, or leave depth out"
            )
        if self.depth.ndim != 3:
            raise ShapeError(f"depth maps of shape {self.depth.shape}", where="depth", remedy="Give (n, H, W)")

    def _check_embedding(self, generator: Generator, preset: Preset | None) -> None:
        assert self.embedding is not None
        if generator.embedding_width is None:
            raise InputError(
                "the generator takes no image embedding",
                where="embedding",
                remedy="Load it with an ip_adapter, or leave the embedding out",
            )
        if self.embedding.shape[1:] != (generator.embedding_width,):
            raise ShapeError(
                f"decoded embeddings of shape {self.embedding.shape[1:]}, the IP-Adapter reads "
                f"({generator.embedding_width},)",
                where="embedding",
            )

    def _check_image(self, generator: Generator, preset: Preset | None) -> None:
        assert self.image is not None
        check_images(self.image, "image")

    def _check_captions(self, generator: Generator, preset: Preset | None) -> None:
        assert self.captions is not None
        if isinstance(self.captions, str) or not all(isinstance(text, str) for text in self.captions):
            raise InputError("captions are not texts", where="captions", remedy="Give one text a brain")
        if generator.text_encoder is None:
            raise InputError("the generator has no text encoder", where="captions", remedy="Give c instead")


_CHECKS = {
    "z": DecodedInputs._check_z,
    "c": DecodedInputs._check_c,
    "depth": DecodedInputs._check_depth,
    "embedding": DecodedInputs._check_embedding,
    "image": DecodedInputs._check_image,
    "captions": DecodedInputs._check_captions,
}
