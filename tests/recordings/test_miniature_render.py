from __future__ import annotations

import numpy as np
import pytest

from recordings.errors import Cancelled, InputError
from recordings.miniature import CATEGORIES, Rendered, Scenes, render, sdf
from recordings.miniature.render import DISTANCE, HALF_IMAGE, backgrounds, camera_axes, hsv_to_rgb


def one_of_each(seed: int = 0) -> Scenes:
    scenes = Scenes.sample(len(CATEGORIES), seed=seed)
    return scenes.replace(category=np.arange(len(CATEGORIES)))


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.sample(96, seed=11)


@pytest.fixture(scope="module")
def pictures(scenes: Scenes) -> Rendered:
    return render(scenes)


def test_shapes_and_types(pictures: Rendered) -> None:
    assert pictures.image.shape == (96, 64, 64, 3)
    assert pictures.image.dtype == np.uint8
    assert pictures.depth.shape == pictures.silhouette.shape == (96, 64, 64)
    assert pictures.depth.dtype == np.float32
    assert pictures.silhouette.dtype == bool
    np.testing.assert_array_equal(pictures.depth > 0, pictures.silhouette)


@pytest.mark.parametrize("batch", [1, 7])
def test_pixels_do_not_depend_on_the_batch(scenes: Scenes, pictures: Rendered, batch: int) -> None:
    again = render(scenes[30:60], batch=batch)
    for name in ("image", "depth", "silhouette"):
        assert getattr(again, name).tobytes() == getattr(pictures, name)[30:60].tobytes()


def test_every_object_is_in_the_picture_and_none_fills_it(scenes: Scenes, pictures: Rendered) -> None:
    cover = pictures.silhouette.mean((1, 2))
    assert cover.min() > 0.04
    assert cover.max() < 0.35
    border = np.ones((64, 64), bool)
    border[1:-1, 1:-1] = False
    assert pictures.silhouette[:, border].mean() < 0.002


def test_depth_lies_on_the_surface() -> None:
    scenes = one_of_each()
    pictures = render(scenes)
    right, up, forward = np.moveaxis(camera_axes(scenes), 1, 0)
    for i in range(len(scenes)):
        row, column = np.nonzero(pictures.silhouette[i])
        depth = pictures.depth[i, row, column][:, None]
        u = (2 * column[:, None] + 1) / 64 - 1 - scenes.x[i]
        v = 1 - (2 * row[:, None] + 1) / 64 - scenes.y[i]
        camera = depth * HALF_IMAGE * (u * right[i] + v * up[i]) + depth * forward[i]
        points = (camera - DISTANCE * forward[i]) / scenes.scale[i]
        assert np.abs(sdf(scenes, i, points)).max() < 2e-3


def test_position_moves_the_object_and_nothing_else() -> None:
    pixels = 6
    scenes = one_of_each().replace(x=np.full(12, -0.1), y=np.full(12, 0.05))
    moved = scenes.replace(x=scenes.x + 2 * pixels / 64, y=scenes.y - 2 * pixels / 64)
    first, second = render(scenes), render(moved)
    shifted = np.roll(first.silhouette, (pixels, pixels), axis=(1, 2))
    assert (shifted != second.silhouette).mean() < 1e-4
    assert (second.image[..., 0] == second.image[..., 1])[:, :4].all(), "the background stays grey"


def test_colour_scale_and_azimuth_show() -> None:
    scenes = one_of_each()
    plain = render(scenes)
    recoloured = render(scenes.replace(hue=(scenes.hue + 0.5) % 1))
    np.testing.assert_array_equal(plain.depth, recoloured.depth)
    larger = render(scenes.replace(scale=scenes.scale * 1.2))
    turned = render(scenes.replace(azimuth=-scenes.azimuth))
    for i in range(12):
        assert (plain.image[i] != recoloured.image[i])[plain.silhouette[i]].mean() > 0.3
        assert 1.3 < larger.silhouette[i].sum() / plain.silhouette[i].sum() < 1.6
    turns = ["mug", "chair", "table", "plane", "car", "dumbbell", "ring"]
    for i in map(CATEGORIES.index, turns):
        assert (turned.silhouette[i] != plain.silhouette[i]).any()


@pytest.mark.parametrize("name", ["shape_1", "shape_2"])
def test_both_shape_parameters_show(name: str) -> None:
    scenes = one_of_each()
    low, high = (render(scenes.replace(**{name: np.full(12, value)})) for value in (0.05, 0.95))
    changed = (np.abs(low.image.astype(int) - high.image) > 20).any(-1).sum((1, 2))
    assert changed.min() > 15


def test_backgrounds_are_the_image_without_the_object(scenes: Scenes, pictures: Rendered) -> None:
    far = ~pictures.silhouette
    for axis in (1, 2):
        for step in (-1, 1):
            far &= ~np.roll(pictures.silhouette, step, axis)
    inner = np.zeros((64, 64), bool)
    inner[2:-2, 2:-2] = True
    far &= inner
    differs = (backgrounds(scenes, 64) != pictures.image).any(-1)
    assert differs[far].mean() < 1e-3


def test_hues_match_the_standard_library() -> None:
    import colorsys

    hue = np.linspace(0, 1, 50, endpoint=False)
    np.testing.assert_allclose(hsv_to_rgb(hue), [colorsys.hsv_to_rgb(h, 0.8, 0.95) for h in hue], atol=1e-12)


def test_other_sizes() -> None:
    scenes = one_of_each()
    assert render(scenes[:2], size=1).image.shape == (2, 1, 1, 3)
    small, large = render(scenes, size=32), render(scenes, size=96)
    np.testing.assert_allclose(small.silhouette.mean((1, 2)), large.silhouette.mean((1, 2)), atol=0.02)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError):
        render(Scenes.sample(1), size=0)
    with pytest.raises(InputError):
        render(Scenes.sample(1), batch=0)


def test_progress_and_stop() -> None:
    events = []
    render(one_of_each(), on_event=events.append)
    assert [event.done for event in events] == list(range(1, 13))
    with pytest.raises(Cancelled):
        render(one_of_each(), stop=lambda: True)
