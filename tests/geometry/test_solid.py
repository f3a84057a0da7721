from __future__ import annotations

import sys

import numpy as np
import pytest
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.mesh_queries import WindingField
from omni123_hf.geometry.normalization import normalize_mesh
from omni123_hf.geometry.sampling import sample_queries, sample_surface
from omni123_hf.geometry.solid import SolidLabeler, voxelize_surface


def queries(seed: int = 0, count: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.05, 1.05, (count, 3))


def double_shell() -> trimesh.Trimesh:
    """A sphere inside a sphere, both facing out: a hollow wall as many files have it, made open by one split face."""
    outer, inner = trimesh.creation.icosphere(3, 0.96), trimesh.creation.icosphere(3, 0.9)
    mesh = trimesh.util.concatenate([outer, inner])
    return trimesh.Trimesh(mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:1]]), process=False)


def test_a_closed_mesh_is_labelled_by_winding():
    mesh, _ = normalize_mesh(trimesh.creation.box((1.0, 2.0, 3.0)))
    labeler = SolidLabeler(mesh)
    points = queries()
    assert labeler.method == "winding"
    want = (np.abs(points) < np.array([0.32, 0.64, 0.96])).all(axis=1)
    np.testing.assert_array_equal(labeler.occupancy(points), want)
    assert labeler.volume == pytest.approx(8 * 0.32 * 0.64 * 0.96)


def test_the_kept_tree_answers_like_a_fresh_one_and_split_faces_change_nothing():
    igl = pytest.importorskip("igl")
    mesh = trimesh.util.concatenate([trimesh.creation.box((1.8, 0.3, 1.2)), trimesh.creation.icosphere(3, 0.7)])
    labeler, points = SolidLabeler(mesh), queries()
    fresh = igl.fast_winding_number(labeler.vertices, labeler.faces, points)
    np.testing.assert_array_equal(labeler.winding.number(points), fresh)
    np.testing.assert_array_equal(labeler.occupancy(points), fresh > 0.5)
    split = WindingField(labeler.vertices, labeler.faces, split=True).number(points)
    np.testing.assert_allclose(split, np.rint(fresh), atol=0.02)


def test_split_vertices_do_not_make_a_solid_open():
    box, _ = normalize_mesh(trimesh.creation.box())
    soup = trimesh.Trimesh(box.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False)
    assert not soup.is_watertight and SolidLabeler(soup).method == "winding"


def test_inside_out_and_inconsistent_meshes_are_flooded():
    sphere, _ = normalize_mesh(trimesh.creation.icosphere(3))
    inverted = trimesh.Trimesh(sphere.vertices, sphere.faces[:, ::-1], process=False)
    mixed = sphere.faces.copy()
    mixed[::2] = mixed[::2, ::-1]
    points = queries()
    radius = np.linalg.norm(points, axis=1)
    clear = np.abs(radius - 0.96) > 0.03
    for mesh in (inverted, trimesh.Trimesh(sphere.vertices, mixed, process=False), double_shell()):
        labeler = SolidLabeler(mesh)
        assert labeler.method == "flood"
        np.testing.assert_array_equal(labeler.occupancy(points)[clear], radius[clear] < 0.96)
        assert labeler.volume == pytest.approx(4 / 3 * np.pi * 0.96**3, rel=0.05)


def test_an_open_cup_stays_open():
    cup = trimesh.creation.box((1.6, 1.6, 1.6))
    cup = trimesh.Trimesh(cup.vertices, cup.faces[cup.face_normals[:, 1] < 0.9], process=False)
    inside = SolidLabeler(cup).occupancy(np.array([[0, 0, 0], [0, -0.8, 0], [0.8, 0, 0], [0, 0.8, 0]]))
    assert inside.tolist() == [False, True, True, False]


def test_flood_does_not_leak_through_slanted_walls():
    rng = np.random.default_rng(3)
    for _ in range(5):
        box = trimesh.creation.box((1.0, 0.9, 1.1))
        box.apply_transform(trimesh.transformations.random_rotation_matrix(rng.random(3)))
        open_box = trimesh.Trimesh(box.vertices, np.concatenate([box.faces, box.faces[:1]]), process=False)
        labeler = SolidLabeler(open_box, resolution=64)
        assert labeler.method == "flood" and labeler.volume > 0.99


def test_sampling_in_batches_gives_the_same_voxels(monkeypatch):
    triangles = np.random.default_rng(0).uniform(-0.9, 0.9, (20, 3, 3))
    whole = voxelize_surface(triangles, 32)
    monkeypatch.setattr("omni123_hf.geometry.solid.SAMPLE_CHUNK", 200)
    np.testing.assert_array_equal(voxelize_surface(triangles, 32), whole)
    centre = ((triangles.mean(axis=1) + 1.0) * 16).astype(int)
    assert whole[tuple(centre.T)].mean() > 0.5


def test_bad_meshes_and_a_missing_library_are_named(monkeypatch):
    with pytest.raises(Omni123Error, match="normalize_mesh"):
        SolidLabeler(trimesh.creation.box((5, 5, 5)))
    with pytest.raises(Omni123Error, match="no faces"):
        SolidLabeler(trimesh.Trimesh())
    monkeypatch.setitem(sys.modules, "igl", None)
    with pytest.raises(Omni123Error, match=r"omni123-hf\[data\]"):
        SolidLabeler(trimesh.creation.box()).occupancy(queries(count=8))


def test_normalisation_centres_scales_and_inverts():
    mesh = trimesh.creation.box((2.0, 4.0, 1.0))
    mesh.apply_translation((5, 6, 7))
    stray = trimesh.Trimesh(np.vstack([mesh.vertices, [[99, 99, 99]]]), mesh.faces, process=False)
    normalised, transform = normalize_mesh(stray)
    np.testing.assert_allclose(normalised.bounds, [[-0.48, -0.96, -0.24], [0.48, 0.96, 0.24]], atol=1e-12)
    np.testing.assert_allclose(transform.invert(normalised.vertices), stray.vertices, atol=1e-9)
    np.testing.assert_allclose(transform.apply(stray.vertices), normalised.vertices)
    for bad in (trimesh.Trimesh(), trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False)):
        with pytest.raises(Omni123Error):
            normalize_mesh(bad)


def test_surface_samples_are_area_uniform_and_on_the_surface():
    mesh = trimesh.creation.box((1.0, 2.0, 0.5))
    points, normals = sample_surface(mesh, 20_000, np.random.default_rng(0))
    assert points.dtype == normals.dtype == np.float32
    on_face = np.abs(np.einsum("ij,ij->i", points, normals) - np.abs(normals) @ [0.5, 1.0, 0.25])
    assert on_face.max() < 1e-6
    areas = np.array([2 * 2.0 * 0.5, 2 * 1.0 * 0.5, 2 * 1.0 * 2.0])
    np.testing.assert_allclose(np.abs(normals).mean(axis=0), areas / areas.sum(), atol=0.012)
    again, _ = sample_surface(mesh, 20_000, np.random.default_rng(0))
    np.testing.assert_array_equal(points, again)
    with pytest.raises(Omni123Error, match="area"):
        sample_surface(trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), 5, np.random.default_rng(0))


def test_queries_are_half_uniform_and_half_near_the_surface():
    points, _ = sample_surface(trimesh.creation.icosphere(4, 0.6), 4000, np.random.default_rng(0))
    got = sample_queries(points, 8000, np.random.default_rng(1))
    assert got.shape == (8000, 3) and np.abs(got).max() <= 1.05 + 1e-6
    np.testing.assert_allclose(got[:4000].std(axis=0), 2.1 / np.sqrt(12), rtol=0.03)
    distance = np.abs(np.linalg.norm(got[4000:], axis=1) - 0.6)
    assert distance[:2000].mean() < 0.02 < distance[2000:].mean() < 0.08
