"""What each simulated region is told about a scene: image filters and scene parameters, never a network's activations.

The channels of V1 to V4 are maps over the image, pooled by Gaussian bumps on a grid; a receptive field is a Gaussian
weighting of these bumps, so that its response is linear in the channels. The channels of the category patches carry
what the object is and how it looks but not where it stands; those of MTL its kind, 3D shape and view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from .render import Rendered
from .scenes import CATEGORIES, GROUPS, Scenes

N_ORIENTATIONS = 4
N_IDENTITY = 8
N_CONCEPTS = 5
_IMAGE = 64
_PAD = 12


@dataclass(frozen=True)
class Retina:
    """How a retinotopic region samples the image.

    Attributes
    ----------
    grid : bumps a side. bump, spread : s.d. of a bump, and of a receptive field's weighting of bumps, in pixels; the
        receptive field's own s.d. is the root of the sum of their squares.
    """

    grid: int
    bump: float
    spread: float

    @property
    def size(self) -> float:
        """S.d. of a receptive field, in units of half the image."""
        return float(np.hypot(self.bump, self.spread) / (_IMAGE / 2))

    @property
    def centres(self) -> np.ndarray:
        """(grid^2, 2) centres of the bumps, right and up positive, in units of half the image."""
        at = (np.arange(self.grid) + 0.5) / self.grid * 2 - 1
        y, x = np.meshgrid(-at, at, indexing="ij")
        return np.column_stack([x.ravel(), y.ravel()])

    def pool(self, maps: np.ndarray) -> np.ndarray:
        """Maps (n, channel, side, side) to pooled channels (n, grid^2, channel), float32."""
        side = maps.shape[-1]
        pixel = (np.arange(side) + 0.5) / side * 2 - 1
        y, x = np.meshgrid(-pixel, pixel, indexing="ij")
        bumps = gaussian(np.column_stack([x.ravel(), y.ravel()]), self.centres, self.bump / (_IMAGE / 2))
        n, channels = maps.shape[:2]
        pooled = maps.reshape(n * channels, -1) @ bumps.astype(np.float32)
        return pooled.reshape(n, channels, -1).swapaxes(1, 2)


RETINAS = {
    "V1": Retina(8, 4.8, 4.0),
    "V2": Retina(6, 6.4, 6.0),
    "V3": Retina(5, 7.7, 8.5),
    "V4": Retina(4, 9.6, 11.0),
}
_FREQUENCIES = {"V1": 0.25, "V2": 0.12, "V3": 0.08}


def gaussian(points: np.ndarray, centres: np.ndarray, sd: float) -> np.ndarray:
    """Gaussian weights (point, centre), each centre's summing to 1."""
    squared = ((points[:, None] - centres[None]) ** 2).sum(-1)
    weights = np.exp(-squared / (2 * sd**2))
    return weights / weights.sum(0)


def _concepts() -> np.ndarray:
    # Categories of one group stand closer together, so that they are the first to be mistaken for each other.
    rng = np.random.default_rng(11)
    code = rng.normal(size=(len(CATEGORIES), N_CONCEPTS))
    for names in GROUPS.values():
        members = np.isin(CATEGORIES, names)
        code[members] = 0.8 * code[members] + rng.normal(size=N_CONCEPTS)
    return code


_CONCEPTS = _concepts()


def channels(scenes: Scenes, rendered: Rendered, seen: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Channels by region: (n, bump, channel) for V1 to V4, (n, channel) for the category patches and MTL; float32.

    V1, V2: Gabor amplitude of luminance at four orientations. V3: silhouette occupancy and low-frequency amplitude.
    V4: chromaticity, rgb / sum - 1/3. Category patches: which group the object belongs to, and its hue and first shape
    parameter if that is the patch's own. MTL: a code of the category, shape parameters, azimuth and a smooth code of
    the individual shape.

    Parameters
    ----------
    seen : (n,), fraction of each object that nothing hides, all of it by default. What category patches are told fades
        with it; MTL knows of an object that is hidden.
    """
    image = rendered.image.astype(np.float32) / 255
    luminance = image.mean(-1)
    # Low frequencies lose nothing at half the resolution, for a quarter of the work.
    half = luminance.reshape(len(image), _IMAGE // 2, 2, _IMAGE // 2, 2).mean((2, 4))
    low = gabor_amplitude(half, 2 * _FREQUENCIES["V3"]).mean(1, keepdims=True)
    occupied = rendered.silhouette.reshape(len(image), 1, _IMAGE // 2, 2, _IMAGE // 2, 2).mean((3, 5), dtype=np.float32)
    chroma = image / np.maximum(image.sum(-1, keepdims=True), 1e-3) - 1 / 3
    maps = {
        "V1": gabor_amplitude(luminance, _FREQUENCIES["V1"]),
        "V2": gabor_amplitude(half, 2 * _FREQUENCIES["V2"]),
        "V3": np.concatenate([occupied, low], 1),
        "V4": np.moveaxis(chroma, -1, 1),
    }
    pooled = {name: RETINAS[name].pool(m) for name, m in maps.items()}
    visible = np.ones(len(scenes), np.float32) if seen is None else np.asarray(seen, np.float32)
    objects = {group: _category(scenes, group) * visible[:, None] for group in GROUPS}
    return pooled | objects | {"MTL": _shape(scenes)}


def gabor_amplitude(luminance: np.ndarray, frequency: float) -> np.ndarray:
    """Amplitude of quadrature Gabor filters, (n, side, side) to (n, orientation, side, side).

    `frequency` is in cycles a pixel; the envelope's s.d. is half a cycle (a bandwidth of about one octave). Edges
    are continued, so that the image's border gives no response.
    """
    padded = np.pad(luminance, ((0, 0), (_PAD, _PAD), (_PAD, _PAD)), mode="edge")
    spectrum = fft.fft2(padded - padded.mean((1, 2), keepdims=True), workers=-1)
    fy, fx = np.meshgrid(fft.fftfreq(padded.shape[1]), fft.fftfreq(padded.shape[2]), indexing="ij")
    sd = frequency / np.pi
    amplitude = np.empty((len(luminance), N_ORIENTATIONS, *luminance.shape[1:]), np.float32)
    for k in range(N_ORIENTATIONS):
        angle = np.pi * k / N_ORIENTATIONS
        distance = (fx - frequency * np.cos(angle)) ** 2 + (fy - frequency * np.sin(angle)) ** 2
        # Positive frequencies alone: the result is analytic, and its modulus the quadrature amplitude.
        passed = fft.ifft2(spectrum * np.exp(-distance / (2 * sd**2)).astype(np.float32), workers=-1)
        amplitude[:, k] = np.abs(passed[:, _PAD:-_PAD, _PAD:-_PAD])
    return amplitude


def _category(scenes: Scenes, group: str) -> np.ndarray:
    present = np.column_stack([scenes.groups == name for name in GROUPS])
    turn = 2 * np.pi * scenes.hue
    look = np.column_stack([np.cos(turn), np.sin(turn), 2 * scenes.shape_1 - 1])
    return np.column_stack([present, (scenes.groups == group)[:, None] * look]).astype(np.float32)


def _shape(scenes: Scenes) -> np.ndarray:
    shape = np.column_stack([2 * scenes.shape_1 - 1, 2 * scenes.shape_2 - 1])
    view = np.column_stack([np.sin(2 * scenes.azimuth), np.cos(2 * scenes.azimuth)])
    # Random cosine features: a smooth code of which individual of its category the object is.
    rng = np.random.default_rng(12)
    slopes, phases = rng.normal(0, 2, (len(CATEGORIES), 2, N_IDENTITY)), rng.uniform(0, 2 * np.pi, N_IDENTITY)
    identity = np.cos(np.einsum("ij,ijk->ik", shape, slopes[scenes.category]) + phases)
    return np.column_stack([_CONCEPTS[scenes.category], shape, view, identity]).astype(np.float32)
