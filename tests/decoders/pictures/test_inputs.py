"""One brain's bad input fails that brain by name and spares the rest; where none is left, the call is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from decoders.pictures import DecodedInputs, Generator, ImageReconstructor
from recordings.errors import InputError, NotFiniteError

from .tiny import make_inputs

Make = Callable[..., Generator]
CONTROLNET, DEPTH2IMG = ("controlnet", "adapter"), ("depth2img",)


def maps(**changed: np.ndarray) -> DecodedInputs:
    """Three brains with depth maps, of which some are replaced: `row1` that of the second."""
    inputs = make_inputs(3)
    assert inputs.depth is not None
    for name, depth in changed.items():
        inputs.depth[int(name.removeprefix("row"))] = depth
    return inputs


def speck() -> np.ndarray:
    """A map that varies in one pixel, which a depth-to-image UNet's 8 x 8 view leaves out."""
    depth = np.full((64, 64), 0.5, np.float32)
    depth[7, 7] = 0.6
    return depth


@pytest.mark.parametrize(
    ("takes", "depth", "reason"),
    [
        (CONTROLNET, np.full((64, 64), 0.5), "constant as the generator sees it"),
        (CONTROLNET, np.linspace(-0.2, 0, 4096).reshape(64, 64), "constant as the generator sees it"),
        (CONTROLNET, np.linspace(20, 30, 4096).reshape(64, 64), "far from [0, 1]"),
        (CONTROLNET, np.full((64, 64), np.nan), "decoded depth is not finite"),
        (DEPTH2IMG, np.full((64, 64), 0.5), "constant as the generator sees it"),
        (DEPTH2IMG, speck(), "constant as the generator sees it"),
    ],
)
def test_one_bad_depth_map_fails_its_brain_and_spares_the_rest(
    make: Make, takes: tuple[str, ...], depth: np.ndarray, reason: str
) -> None:
    inputs, preset = maps(row1=depth), "penfield" if takes == CONTROLNET else "takagi-depth"
    reconstructor = ImageReconstructor(make(*takes), preset, steps=3, samples=1)
    made = reconstructor.reconstruct(inputs)
    assert list(made.failed) == ["scene-1"] and reason in made.failed["scene-1"]
    assert made.stimulus_ids == ["scene-0", "scene-2"]
    assert np.array_equal(made.images, reconstructor.reconstruct(maps().select([0, 2])).images)


def test_what_another_generator_sees_well_is_no_fault(make: Make) -> None:
    # A speck at full size, and nearness of any scale, which a depth-to-image UNet brings to its own.
    assert not maps(row1=speck()).broken(["depth"], make(*CONTROLNET))
    assert not maps(row1=np.linspace(20, 30, 4096).reshape(64, 64)).broken(["depth"], make(*DEPTH2IMG))
    # A preset without depth does not look at it.
    assert not maps(row1=np.zeros((64, 64))).broken(["z", "c"], make())


def test_no_brain_left_is_an_error(make: Make) -> None:
    generator, flat, nan = make(*CONTROLNET), np.zeros((64, 64)), np.full((64, 64), np.nan)
    with pytest.raises(InputError, match=r"'scene-0': its depth map is constant.*none of 3") as error:
        maps(row0=flat, row1=flat, row2=nan).broken(["depth"], generator)
    assert not isinstance(error.value, NotFiniteError)
    with pytest.raises(NotFiniteError, match=r"'scene-0': decoded depth is not finite"):
        maps(row0=nan, row1=nan, row2=nan).broken(["depth"], generator)
    with pytest.raises(InputError, match="none of 1"):
        ImageReconstructor(generator, steps=3).reconstruct(maps(row0=flat).select([0]))


def test_the_first_reason_of_each_brain_is_told(make: Make) -> None:
    inputs = maps(row1=np.zeros((64, 64)), row2=np.full((64, 64), 30.0))
    assert inputs.z is not None
    spoilt = inputs.z.copy()
    spoilt[1, 0, 0, 0] = np.inf
    reasons = replace(inputs, z=spoilt).broken(["z", "depth"], make(*CONTROLNET))
    assert reasons["scene-1"] == "decoded z is not finite" and "far from" in reasons["scene-2"]
