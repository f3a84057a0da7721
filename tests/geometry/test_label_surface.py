"""Surfaces from labels: vertices lie on the solid, and the inside is told as a winding number tells it."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from solid_shapes import bowl, box, joined, sphere

from omni123_hf.geometry.grid_surface import marching_cubes_of
from omni123_hf.geometry.label_surface import LabelSurface, grid_scale, label_surface
from omni123_hf.geometry.mesh_queries import NearestSurface, WindingField
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.shells import is_closed
from omni123_hf.geometry.solid import weld


def of(mesh: trimesh.Trimesh, resolution: int = 64) -> LabelSurface:
    vertices, faces = weld(mesh)
    return label_surface(vertices, faces, WindingField(vertices, faces), NearestSurface(vertices, faces), resolution)


TURNED = box((1.2, 0.05, 1.0)).apply_transform(trimesh.transformations.rotation_matrix(0.5, (1, 2, 3)))
SOLIDS = {
    "sphere": sphere(0.9),
    "bowl": bowl(wall=0.08),
    "turned plate": TURNED,
    "table": joined(box((1.8, 0.1, 1.8), (0, 0.4, 0)), box((0.1, 0.8, 0.1), (0.7, -0.05, 0.7))),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_the_inside_is_that_of_the_winding_number(name):
    found = of(SOLIDS[name])
    assert is_closed(found.faces) and found.mesh.volume > 0
    rng = np.random.default_rng(0)
    around = found.vertices[rng.integers(0, len(found.vertices), 20_000)] + rng.normal(0.0, 0.7, (20_000, 3))
    points = np.concatenate([around, rng.uniform(-1.0, 65.0, (5_000, 3))])
    number = WindingField(found.vertices, found.faces).number(points)
    np.testing.assert_array_equal(found.encloses(points), number > 0.5)


def test_contacts_that_were_closed_count_as_inside():
    # A field in which marching cubes crosses edges; random signs make triangles in most cells.
    rng = np.random.default_rng(0)
    field = np.where(rng.random((32,) * 3) < 0.1, 1.0, -1.0) * rng.choice([0.01, 1.0, 100.0], (32,) * 3)
    vertices, faces, closed = marching_cubes_of(field.astype(np.float32))
    assert is_closed(faces) and ((closed > 0) != (field > 0))[1:-1, 1:-1, 1:-1].any()
    found = LabelSurface(closed > 0, closed > 0, closed > 0, vertices, faces)
    points = rng.uniform(0.0, 31.0, (20_000, 3))
    np.testing.assert_array_equal(found.encloses(points), WindingField(vertices, faces).number(points, 4.0) > 0.5)


def test_vertices_lie_on_the_faces_where_distances_to_other_faces_are_shorter():
    # A plate of three quarters of a grid step, turned: from within, the other side is as near.
    step = 2 * FIELD_BOUND / 63
    plate = box((1.2, 2.2 * step, 1.0)).apply_transform(trimesh.transformations.rotation_matrix(0.5, (1, 2, 3)))
    found = of(plate).mesh
    distance = NearestSurface(plate.vertices, plate.faces).distance(np.asarray(found.vertices)) / step
    assert np.quantile(distance, 0.9) < 0.03
    assert found.volume == pytest.approx(plate.volume, rel=0.03)


def test_the_grid_is_that_of_the_field_box_and_fields_can_be_scaled():
    ball = sphere(0.5)
    found = of(ball)
    radius = np.linalg.norm(found.mesh.vertices, axis=1)
    assert np.abs(radius - 0.5).max() < 0.003
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (500, 3))
    scale = grid_scale(64)
    grown = sphere(0.5 * scale)
    number, twice = WindingField(ball.vertices, ball.faces), NearestSurface(ball.vertices, ball.faces).scaled(2.0)
    want = WindingField(grown.vertices, grown.faces).number(points)
    np.testing.assert_allclose(number.scaled(2.0).scaled(scale / 2.0).number(points), want, atol=0.01)
    nearest = NearestSurface(grown.vertices, grown.faces).closest(points)
    for got, expected in zip(twice.scaled(scale / 2.0).closest(points), nearest, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-9)
