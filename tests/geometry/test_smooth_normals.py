from __future__ import annotations

import numpy as np
import trimesh

from omni123_hf.geometry.smooth_normals import corner_normals


def triangles_of(mesh: trimesh.Trimesh) -> np.ndarray:
    return np.asarray(mesh.vertices)[mesh.faces]


def radial(triangles: np.ndarray) -> np.ndarray:
    return triangles / np.linalg.norm(triangles, axis=2, keepdims=True)


def test_a_ball_becomes_round_and_a_box_stays_sharp():
    ball, box = triangles_of(trimesh.creation.icosphere(3, 0.7)), trimesh.creation.box()
    np.testing.assert_allclose(corner_normals(ball, 30.0), radial(ball), atol=0.01)
    flat = np.repeat(np.asarray(box.face_normals)[:, None], 3, axis=1)
    np.testing.assert_allclose(corner_normals(triangles_of(box), 89.0), flat, atol=1e-6)


def test_edges_that_bend_just_as_much_as_the_angle_are_soft():
    box = triangles_of(trimesh.creation.box())
    # Weighted by angle, the three sides count the same, however their squares are cut into triangles.
    np.testing.assert_allclose(corner_normals(box, 90.0), radial(box), atol=1e-6)


def test_a_cylinder_is_round_on_its_side_and_sharp_at_its_rim():
    mesh = trimesh.creation.cylinder(0.5, 1.0, sections=24)
    triangles = triangles_of(mesh)
    normals = corner_normals(triangles, 40.0)
    cap = np.abs(mesh.face_normals[:, 2]) > 0.5
    np.testing.assert_allclose(np.abs(normals[cap][..., 2]), 1.0, atol=1e-6)
    side = triangles[~cap] * (1, 1, 0)
    np.testing.assert_allclose(normals[~cap], side / np.linalg.norm(side, axis=2, keepdims=True), atol=0.02)


def test_corners_at_one_place_are_one_vertex():
    ball = trimesh.creation.icosphere(2, 0.7)
    loose = trimesh.Trimesh(
        triangles_of(ball).reshape(-1, 3), np.arange(3 * len(ball.faces)).reshape(-1, 3), process=False
    )
    np.testing.assert_array_equal(corner_normals(triangles_of(loose), 40), corner_normals(triangles_of(ball), 40))


def test_faces_of_opposite_winding_keep_apart_and_empty_faces_have_no_normal():
    triangles = np.array([
        [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [1, 1, 0]],  # turned: shares its edge in the same direction
        [[0, 0, 0], [1, 0, 0], [2, 0, 0]],
    ], float)  # fmt: skip
    normals = corner_normals(triangles, 60.0)
    np.testing.assert_allclose(normals[0], [[0, 0, 1]] * 3)
    np.testing.assert_allclose(normals[1], [[0, 0, -1]] * 3)
    assert not normals[2].any()
    assert corner_normals(np.empty((0, 3, 3)), 60.0).shape == (0, 3, 3)
