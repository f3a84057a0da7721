from __future__ import annotations

import numpy as np
import pytest
from solid_shapes import below, box, joined, sphere

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.signed_distance import SolidField, signed_distance
from omni123_hf.geometry.solid import SolidLabeler


def everywhere(mesh, count: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(0)
    near = mesh.vertices[rng.integers(0, len(mesh.vertices), count)] + 0.02 * rng.standard_normal((count, 3))
    return np.concatenate([rng.uniform(-1.05, 1.05, (count, 3)), near])


def test_the_distance_to_a_sphere_is_exact_within_the_band_and_cut_off_beyond():
    points = everywhere(sphere(0.7, 5))
    want = (0.7 - np.linalg.norm(points, axis=1)).clip(-0.15, 0.15)
    got = signed_distance(sphere(0.7, 5), points, truncation=0.15)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-3)
    assert (np.abs(got) == np.float32(0.15)).mean() > 0.3


def test_the_distance_to_a_box_is_exact_at_edges_and_corners():
    half = np.array([0.9, 0.2, 0.5])
    points = np.concatenate([everywhere(box((1.8, 0.4, 1.0))), np.random.default_rng(1).uniform(-1, 1, (4000, 3))])
    beyond = np.abs(points) - half
    want = -(np.linalg.norm(beyond.clip(min=0), axis=1) + np.minimum(beyond.max(axis=1), 0))
    np.testing.assert_allclose(signed_distance(box((1.8, 0.4, 1.0)), points, 0.1), want.clip(-0.1, 0.1), atol=1e-6)


@pytest.mark.parametrize(
    "mesh",
    [sphere(), joined(box((1, 1, 1), (-0.4, 0, 0)), box((1, 1, 1), (0.1, 0.3, 0.2))), box((1.9, 0.004, 1.9)), below(sphere(), 0.8)],
    ids=["sphere", "overlap", "thin", "open"],
)  # fmt: skip
def test_signs_and_occupancy_equal_those_of_the_labeller(mesh):
    points = np.concatenate([everywhere(mesh), mesh.vertices])
    field, labeler = SolidField(mesh), SolidLabeler(mesh)
    want = labeler.occupancy(points)
    np.testing.assert_array_equal(field.occupancy(points), want)
    np.testing.assert_array_equal(field.signed_distance(points, 0.05) > 0, want)
    np.testing.assert_array_equal(signed_distance(labeler, points) > 0, want)


def test_a_region_without_faces_is_not_searched(monkeypatch):
    field = SolidField(sphere(0.7))
    asked = []
    real = field.nearest.distance
    monkeypatch.setattr(field.nearest, "distance", lambda points: asked.append(len(points)) or real(points))
    field.signed_distance(np.random.default_rng(0).uniform(-1, 1, (10_000, 3)), 0.02)
    assert 0 < asked[0] < 4000


def test_bad_questions_are_named():
    field = SolidField(sphere())
    for points in (np.zeros((3, 2)), np.full((1, 3), np.nan)):
        with pytest.raises(Omni123Error, match="finite"):
            field.occupancy(points)
    with pytest.raises(Omni123Error, match="truncation"):
        field.signed_distance(np.zeros((1, 3)), 0.0)
    assert field.signed_distance(np.empty((0, 3))).shape == (0,)
