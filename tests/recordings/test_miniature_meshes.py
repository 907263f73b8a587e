from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.ndimage import binary_fill_holes

from recordings.errors import InputError, ShapeError, UnknownNameError
from recordings.miniature import CATEGORIES, Scenes, mesh, render, sdf
from recordings.miniature.render import DISTANCE, HALF_IMAGE


def scene_of(category: str, seed: int = 2) -> Scenes:
    return Scenes.sample(1, seed=seed, categories=[category])


@pytest.mark.parametrize("category", CATEGORIES)
def test_meshes_are_closed_solids(category: str) -> None:
    scene = scene_of(category)
    solid = mesh(scene, 0)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.body_count == 1
    assert np.linalg.norm(solid.vertices, axis=1).max() <= 1
    axis = np.linspace(-0.98, 0.98, 70)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    voxels = (sdf(scene, 0, points) < 0).sum() * (axis[1] - axis[0]) ** 3
    assert solid.volume == pytest.approx(voxels, rel=0.15)
    assert solid.visual.vertex_colors.shape == (len(solid.vertices), 4)
    assert solid.metadata["category"] == category


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_extreme_shapes_are_closed_too(corner: tuple[float, float]) -> None:
    scenes = Scenes.sample(12).replace(
        category=np.arange(12), shape_1=np.full(12, corner[0]), shape_2=np.full(12, corner[1])
    )
    for i in range(12):
        solid = mesh(scenes, i, grid=48)
        assert solid.is_watertight
        assert solid.volume > 0
        assert solid.body_count == 1


@pytest.mark.parametrize("category", CATEGORIES)
def test_sdf_never_oversteps(category: str) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1.2, 1.2, (20000, 3))
    nearby = points + rng.normal(0, 0.02, points.shape)
    first, second = sdf(scene_of(category), 0, points), sdf(scene_of(category), 0, nearby)
    outside = (first > 0) & (second > 0)
    slope = np.abs(first - second)[outside] / np.linalg.norm(points - nearby, axis=1)[outside]
    assert slope.max() < 1.001
    sphere = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert (sdf(scene_of(category), 0, sphere) > 0).all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_world_mesh_projects_onto_the_silhouette(category: str) -> None:
    scene = scene_of(category)
    solid = mesh(scene, 0, grid=64, frame="world")
    points, _ = trimesh.sample.sample_surface(solid, 60000, seed=0)
    sin_e, cos_e = np.sin(scene.elevation[0]), np.cos(scene.elevation[0])
    depth = DISTANCE - points @ [0, sin_e, cos_e]
    u = points[:, 0] / depth / HALF_IMAGE + scene.x[0]
    v = points @ [0, cos_e, -sin_e] / depth / HALF_IMAGE + scene.y[0]
    projected = np.zeros((64, 64), bool)
    rows, columns = ((1 - v) * 32).astype(int), ((u + 1) * 32).astype(int)
    inside = (rows >= 0) & (rows < 64) & (columns >= 0) & (columns < 64)
    projected[rows[inside], columns[inside]] = True
    silhouette = render(scene).silhouette[0]
    # Points count a pixel at its rim that the ray through its centre misses: compare within one pixel.
    assert not (silhouette & ~projected).any()
    grown = silhouette.copy()
    for axis in (0, 1):
        grown |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
    assert not (projected & ~grown).any()
    assert binary_fill_holes(projected).sum() < 1.5 * binary_fill_holes(silhouette).sum()


def test_frames_differ_by_pose_and_scale() -> None:
    scene = scene_of("car").replace(azimuth=np.array([0.7]), scale=np.array([0.9]))
    upright, posed = mesh(scene, 0, grid=32), mesh(scene, 0, grid=32, frame="world")
    assert posed.volume == pytest.approx(upright.volume * 0.9**3, rel=1e-5)
    np.testing.assert_allclose(posed.vertices[:, 1], 0.9 * upright.vertices[:, 1], atol=1e-6)
    assert upright.extents[0] > posed.extents[0]


def test_sdf_keeps_leading_axes_and_chunks() -> None:
    scene = scene_of("mug")
    points = np.random.default_rng(1).uniform(-1, 1, (70000, 3))
    whole = sdf(scene, 0, points)
    np.testing.assert_array_equal(whole.reshape(700, 100), sdf(scene, 0, points.reshape(700, 100, 3)))
    np.testing.assert_array_equal(whole[:10], sdf(scene, 0, points[:10]))
    assert sdf(scene, 0, np.array([0.0, 0.3, 0.0])) > 0, "a mug is hollow"


def test_bad_requests_are_refused() -> None:
    scene = scene_of("ball")
    with pytest.raises(InputError, match="grid=8"):
        mesh(scene, 0, grid=8)
    with pytest.raises(InputError, match="grid=512"):
        mesh(scene, 0, grid=512)
    with pytest.raises(UnknownNameError):
        mesh(scene, 0, frame="camera")  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        sdf(scene, 0, np.zeros((4, 2)))
    with pytest.raises(IndexError):
        mesh(scene, 1)
