from __future__ import annotations

import numpy as np
import pytest
import trimesh
from solid_shapes import box, mesh_of, sphere

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.sharp_edges import edge_angles, sample_sharp_edges, sample_surface_and_edges


def test_points_lie_on_the_edges_of_a_box_with_the_mean_normal():
    points, normals = sample_sharp_edges(box((1.0, 0.6, 0.4)), 3000, np.random.default_rng(0))
    assert points.shape == normals.shape == (3000, 3) and points.dtype == normals.dtype == np.float32
    at_side = np.isclose(np.abs(points), [0.5, 0.3, 0.2], atol=1e-6)
    assert (at_side.sum(axis=1) >= 2).all()
    np.testing.assert_allclose(normals, np.where(at_side, np.sign(points), 0) / np.sqrt(2), atol=1e-6)
    along = (~at_side).mean(axis=0)
    np.testing.assert_allclose(along, np.array([1.0, 0.6, 0.4]) / 2.0, atol=0.04)


def test_split_vertices_and_faces_wound_against_each_other_change_nothing():
    made = box((1.0, 0.6, 0.4))
    soup = mesh_of(made.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3))
    mixed = made.faces.copy()
    mixed[::2] = mixed[::2, ::-1]
    for mesh in (made, soup, mesh_of(made.vertices, mixed)):
        angles = np.sort(edge_angles(mesh).degrees)
        np.testing.assert_allclose(angles, [0] * 6 + [90] * 12, atol=1e-4)


def test_the_angle_decides_and_a_smooth_mesh_has_no_sharp_edge():
    prism = trimesh.creation.cylinder(0.5, 1.0, sections=18)
    rng = np.random.default_rng(0)
    rims, _ = sample_sharp_edges(prism, 500, rng, angle=30.0)
    np.testing.assert_allclose(np.abs(rims[:, 2]), 0.5, atol=1e-6)
    every, _ = sample_sharp_edges(prism, 500, rng, angle=15.0)
    assert (np.abs(every[:, 2]) < 0.49).mean() > 0.3
    for mesh in (sphere(), mesh_of(np.zeros((3, 3)), np.array([[0, 1, 2]]))):
        points, normals = sample_sharp_edges(mesh, 100, rng)
        assert points.shape == normals.shape == (0, 3)


def test_a_fold_has_a_unit_normal():
    fold = mesh_of(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.2, 1, 0]], float), np.array([[0, 1, 2], [1, 0, 3]]))
    _, normals = sample_sharp_edges(fold, 10, np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(normals), np.tile([0, 0, 1], (10, 1)), atol=1e-6)


def test_uniform_and_sharp_samples_add_up_and_repeat():
    one = sample_surface_and_edges(box((1, 1, 1)), 1000, np.random.default_rng(3), sharp_share=0.3)
    two = sample_surface_and_edges(box((1, 1, 1)), 1000, np.random.default_rng(3), sharp_share=0.3)
    np.testing.assert_array_equal(one.points, two.points)
    assert one.points.shape == (1000, 3) and one.sharp.sum() == 300 and one.sharp[700:].all()
    assert ((np.abs(one.points) > 0.499999).sum(axis=1) >= 2)[one.sharp].all()
    smooth = sample_surface_and_edges(sphere(), 1000, np.random.default_rng(3), sharp_share=0.3)
    assert len(smooth.points) == len(smooth.normals) == 1000 and not smooth.sharp.any()
    with pytest.raises(Omni123Error, match="sharp_share"):
        sample_surface_and_edges(box((1, 1, 1)), 10, np.random.default_rng(0), sharp_share=1.5)
    with pytest.raises(Omni123Error, match="angle"):
        sample_sharp_edges(box((1, 1, 1)), 10, np.random.default_rng(0), angle=180.0)
