from __future__ import annotations

import hashlib

import numpy as np
import pytest
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry import rasterizer
from omni123_hf.geometry.cameras import ALL_VIEWS, Camera, get_camera, orbit_camera
from omni123_hf.geometry.colors import DEFAULT_COLOR, face_colors
from omni123_hf.geometry.rasterizer import render, visible_faces


FRONT = get_camera("front")


def colored_box(extents, center, color) -> trimesh.Trimesh:
    mesh = trimesh.creation.box(extents)
    mesh.apply_translation(center)
    mesh.visual.face_colors = np.tile((*color, 255), (len(mesh.faces), 1))
    return mesh


def brute_force(triangles: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Depth picture by one ray a pixel through the middle of it, one triangle at a time."""
    depth = np.full((size, size), np.inf)
    xy, z = camera.project(triangles.reshape(-1, 3))
    xy, z = xy.reshape(-1, 3, 2), z.reshape(-1, 3)
    for row in range(size):
        for column in range(size):
            p = np.array([(column + 0.5) / size * 2 - 1, 1 - (row + 0.5) / size * 2])
            for corners, heights in zip(xy, z, strict=True):
                try:
                    w = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), [*p, 1.0])
                except np.linalg.LinAlgError:
                    continue
                if (w >= 0).all():
                    depth[row, column] = min(depth[row, column], w @ heights)
    return depth


@pytest.mark.parametrize("name", ["front", "top", "three_quarter"])
def test_depth_agrees_with_brute_force_on_random_triangles(name):
    triangles = np.random.default_rng(1).uniform(-1.4, 1.4, (12, 3, 3))
    _, depth = visible_faces(triangles, get_camera(name), 24)
    want = brute_force(triangles, get_camera(name), 24)
    assert (np.isfinite(depth) == np.isfinite(want)).all()
    hit = np.isfinite(want) & (want > 0)
    np.testing.assert_allclose(depth[hit], want[hit], atol=1e-5)


def test_coverage_is_the_projected_area_of_a_sphere():
    mesh = trimesh.creation.icosphere(4, 0.7)
    for name in ALL_VIEWS:
        mask = render(mesh, get_camera(name), 96).mask
        want = np.pi * 0.7**2 / (2 * get_camera(name).half_extent) ** 2
        assert mask.mean() == pytest.approx(want, rel=0.01)


def test_a_closed_surface_shows_no_holes_at_shared_edges():
    mask = render(colored_box((1.6, 1.6, 1.6), (0, 0, 0), (10, 20, 30)), get_camera("three_quarter"), 64, 1).mask
    for line in mask:
        covered = np.flatnonzero(line)
        assert len(covered) == 0 or len(covered) == covered[-1] - covered[0] + 1


def test_the_nearer_box_hides_the_farther_one_in_every_view():
    red, blue = colored_box((0.5,) * 3, (0, 0, 0.6), (255, 0, 0)), colored_box((0.5,) * 3, (0, 0, -0.6), (0, 0, 255))
    mesh = trimesh.util.concatenate([red, blue])
    front, back = (render(mesh, get_camera(v), 32).color[16, 16].astype(int) for v in ("front", "back"))
    assert front[0] > 100 and front[2] == 0 and back[2] > 100 and back[0] == 0
    left = render(mesh, get_camera("left"), 32).color[16].astype(int)
    assert left[24, 0] > left[24, 2] and left[7, 2] > left[7, 0]


def test_depth_and_normals_of_a_facing_plane():
    result = render(colored_box((1, 1, 1), (0, 0, 0), (200, 200, 200)), FRONT, 32)
    assert result.depth[16, 16] == pytest.approx(2.0 - 0.5, abs=1e-6) and np.isinf(result.depth[0, 0])
    np.testing.assert_allclose(result.normal[16, 16], (0, 0, 1), atol=1e-6)
    assert result.normal[0, 0].tolist() == [0, 0, 0] and result.color[0, 0].tolist() == [255, 255, 255]


def test_shading_is_two_sided():
    mesh = colored_box((1, 1, 1), (0, 0, 0), (200, 100, 50))
    turned = mesh.copy()
    turned.faces = turned.faces[:, ::-1]
    turned.visual.face_colors = mesh.visual.face_colors
    np.testing.assert_array_equal(render(mesh, FRONT, 32).color, render(turned, FRONT, 32).color)


def test_huge_and_needle_triangles_in_small_batches(monkeypatch):
    triangles = np.array([
        [[-1e4, -1e4, 0.2], [1e4, -1e4, 0.2], [0, 2e4, 0.2]],
        [[-1.0, -1.0, 0.5], [1.0, 1.0, 0.5], [1.0, 1.0001, 0.5]],
        [[0.3, 0.3, 0.9], [0.3, 0.3, 0.9], [0.3, 0.3, 0.9]],
    ])  # fmt: skip
    want = visible_faces(triangles, FRONT, 64)
    assert (want[0] >= 0).all() and (want[0] == 0).mean() > 0.9
    monkeypatch.setattr(rasterizer, "FRAGMENT_CHUNK", 50)
    got = visible_faces(triangles, FRONT, 64)
    np.testing.assert_array_equal(got[0], want[0])


def test_empty_and_bad_input():
    assert render(trimesh.Trimesh(), FRONT, 8).mask.max() == 0
    with pytest.raises(Omni123Error, match="size"):
        render(trimesh.creation.box(), FRONT, 0)
    broken = trimesh.creation.box()
    broken.vertices[0] = np.inf
    with pytest.raises(Omni123Error, match="finite"):
        render(broken, FRONT, 8)


def test_face_colors_of_every_kind_of_visual():
    mesh = trimesh.creation.box()
    assert (face_colors(mesh) == DEFAULT_COLOR).all()
    mesh.visual.vertex_colors = np.tile((10, 20, 30, 255), (8, 1))
    assert (face_colors(mesh) == (10, 20, 30)).all()

    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    texels = np.zeros((2, 2, 3), np.uint8)
    texels[1, 1], texels[0, 0] = (200, 0, 0), (0, 100, 0)  # bottom right and top left of the picture
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texels))
    square.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    assert face_colors(square).tolist() == [[200, 0, 0], [0, 100, 0]]
    material.baseColorFactor = [0.5, 0.5, 0.5, 1.0]
    assert np.abs(face_colors(square).astype(int) - [[100, 0, 0], [0, 50, 0]]).max() <= 1
    square.visual = trimesh.visual.TextureVisuals(
        uv=uv, material=trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 128, 255])
    )
    assert (face_colors(square) == (255, 0, 128)).all()


def pinned_mesh() -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(2, 0.6)
    ball.vertices *= 1.0 + 0.25 * np.round(np.asarray(ball.vertices)[:, [1, 2, 0]] * 4) / 4
    box = trimesh.creation.box((0.5, 1.8, 0.3))
    box.apply_translation((0.6, 0.0, 0.35))
    mesh = trimesh.util.concatenate([ball, box])
    steps = np.arange(len(mesh.faces))
    colors = [steps * 37 % 256, steps * 91 % 256, steps * 53 % 256, np.full_like(steps, 255)]
    mesh.visual.face_colors = np.stack(colors, axis=1).astype(np.uint8)
    return mesh


@pytest.mark.parametrize(
    "supersample, background, want",
    [
        (2, (255, 255, 255), "33c12a08efa54c63 785511ef50b49f9a 77a9f65309cb4698 714d1b5095196d52"),
        (3, (1, 2, 3), "c63470d6f8882587 c7bf547075996e92 014e54f8e5d16558 157c01cbb993918f"),
    ],
)
def test_pictures_stay_those_of_the_prepared_data_sets(supersample, background, want):
    # Taken when the first data sets were prepared. Another value means that they and the evaluation must be made anew.
    mesh = pinned_mesh()
    results = [render(mesh, get_camera(name), 48, supersample, background) for name in ALL_VIEWS]
    got = []
    for part in ("color", "mask", "depth", "normal"):
        digest = hashlib.sha256(b"".join(getattr(result, part).tobytes() for result in results))
        got.append(digest.hexdigest()[:16])
    assert got == want.split()


def cast_rays(triangles: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Depth picture of a perspective camera: one ray from the eye a pixel, one triangle at a time."""
    depth = np.full((size, size), np.inf)
    right, up, back = camera.axes
    eye, reach = back * camera.distance, np.tan(np.radians(camera.field_of_view / 2))
    for row in range(size):
        for column in range(size):
            x, y = (column + 0.5) / size * 2 - 1, 1 - (row + 0.5) / size * 2
            ray = x * reach * right + y * reach * up - back  # length one along the axis
            for corners in triangles:
                system = np.column_stack([corners[1] - corners[0], corners[2] - corners[0], -ray])
                u, v, t = np.linalg.solve(system, eye - corners[0])
                if min(u, v, 1 - u - v) >= 0 and t > 0:
                    depth[row, column] = min(depth[row, column], t)
    return depth


def test_perspective_depth_agrees_with_cast_rays():
    camera = orbit_camera("near", 20.0, 10.0, 1.0, field_of_view=70.0)
    triangles = np.random.default_rng(2).uniform(-0.75, 0.75, (10, 3, 3))
    _, depth = visible_faces(triangles, camera, 24)
    want = cast_rays(triangles, camera, 24)
    assert np.isfinite(want).sum() > 50
    assert (np.isfinite(depth) == np.isfinite(want)).all()
    np.testing.assert_allclose(depth[np.isfinite(want)], want[np.isfinite(want)], rtol=1e-5)


def test_a_mesh_behind_the_perspective_camera_is_refused():
    camera = orbit_camera("near", 0.0, 0.0, 1.0, field_of_view=90.0)
    with pytest.raises(Omni123Error, match="behind"):
        render(trimesh.creation.box((3, 3, 3)), camera, 16)
