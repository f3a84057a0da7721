from __future__ import annotations

import json
import os

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy import ndimage

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry import marching
from omni123_hf.geometry.export import export_glb
from omni123_hf.geometry.extraction import EmptySurfaceError, extract_surface, mesh_from_grid
from omni123_hf.geometry.health import mesh_health
from omni123_hf.geometry.preview import contact_sheet


def ball(center, radius):
    return lambda p: radius - np.linalg.norm(p - np.asarray(center, dtype=np.float32), axis=1)


def cube(center, half):
    return lambda p: half - np.abs(p - np.asarray(center, dtype=np.float32)).max(axis=1)


def union(*fields):
    return lambda p: np.max([f(p) for f in fields], axis=0)


def test_a_sphere_has_its_radius_volume_and_place():
    mesh = extract_surface(ball((0.1, -0.2, 0.05), 0.7), resolution=64)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)
    distance = np.linalg.norm(mesh.vertices - [0.1, -0.2, 0.05], axis=1)
    assert np.abs(distance - 0.7).max() < 0.005
    assert mesh_health(mesh).genus == 0


def test_axes_are_in_order_and_both_ends_belong_to_the_grid():
    mesh = extract_surface(lambda p: np.where(p[:, 0] > 0, 1.0, -1.0), resolution=21, bound=1.0)
    # 21 points from -1 to 1 are 0.1 apart: the step from x = 0 to x = 0.1 is cut in its middle, and the other sides lie
    # between the forced border at 1 (value -2) and the last inner point at 0.9 (value 1).
    np.testing.assert_allclose(mesh.bounds, [[0.05, -0.9 - 0.1 / 3, -0.9 - 0.1 / 3], [0.9 + 0.1 / 3] * 3], atol=1e-6)


def test_a_torus_has_one_handle():
    mesh = extract_surface(lambda p: 0.04 - (np.hypot(p[:, 0], p[:, 2]) - 0.6) ** 2 - p[:, 1] ** 2, resolution=48)
    health = mesh_health(mesh)
    assert health.watertight and health.genus == 1 and health.components == 1


@pytest.mark.parametrize("offset", [(0.3, 0.3, 0.0), (0.3, 0.3, 0.3)])
@pytest.mark.parametrize("resolution", [40, 41])
def test_boxes_touching_at_an_edge_or_a_corner_stay_closed(offset, resolution):
    field = union(cube(np.negative(offset), 0.3), cube(offset, 0.3))
    mesh = extract_surface(field, resolution=resolution, bound=1.0)
    health = mesh_health(mesh)
    assert health.watertight and health.winding_consistent and mesh.volume > 0


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("binary", [False, True])
def test_noise_fields_are_closed_and_stay_closed_in_a_file(sigma, binary, tmp_path):
    for seed in range(3):
        grid = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((28, 28, 28)), sigma)
        mesh = mesh_from_grid(np.sign(grid) if binary else grid)
        health = mesh_health(mesh)
        assert health.watertight and health.winding_consistent and mesh.volume > 0
        again = trimesh.load(export_glb(mesh, tmp_path / "noise.glb"), force="mesh")
        assert again.is_watertight and len(again.faces) == len(mesh.faces)


def test_crossing_edges_of_marching_cubes_are_repaired(monkeypatch):
    repairs = []
    real = marching.separate
    monkeypatch.setattr(marching, "separate", lambda *args: (repairs.append(1), real(*args)))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        grid = np.where(rng.random((32,) * 3) < 0.1, 1.0, -1.0) * rng.choice([0.01, 1.0, 100.0], (32,) * 3)
        health = mesh_health(mesh_from_grid(grid))
        assert health.watertight and health.winding_consistent
    assert repairs, "the fields of this test no longer need the repair"


def test_values_of_exactly_zero_do_not_open_the_mesh():
    grid = np.round(ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((24,) * 3), 1.5) * 8)
    assert (grid == 0).mean() > 0.2
    assert mesh_health(mesh_from_grid(grid)).watertight


def test_a_solid_that_fills_the_box_is_closed_at_the_border():
    health = mesh_health(extract_surface(lambda p: np.ones(len(p)), resolution=16))
    assert health.watertight and health.genus == 0


def test_a_cavity_is_a_second_shell_and_reduces_the_volume():
    mesh = extract_surface(lambda p: 0.2 - np.abs(np.linalg.norm(p, axis=1) - 0.6), resolution=64)
    assert mesh_health(mesh).components == 2
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * (0.8**3 - 0.4**3), rel=0.01)


def test_floaters_are_kept_unless_asked_and_counted_when_removed():
    field = union(ball((-0.2, 0, 0), 0.6), ball((0.8, 0.8, 0), 0.1))
    kept = extract_surface(field, resolution=48)
    assert mesh_health(kept).components == 2 and kept.metadata["removed_components"] == 0
    for options in ({"min_component_fraction": 0.02}, {"largest_only": True}):
        mesh = extract_surface(field, resolution=48, **options)
        assert mesh_health(mesh).components == 1 and mesh.metadata["removed_components"] == 1
        assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)


def test_progress_chunks_and_errors():
    seen = []
    extract_surface(
        ball((0, 0, 0), 0.5), resolution=10, chunk=300, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(300, 1000), (600, 1000), (900, 1000), (1000, 1000)]
    with pytest.raises(EmptySurfaceError, match="nothing is inside"):
        extract_surface(lambda p: -np.ones(len(p)), resolution=8)
    with pytest.raises(Omni123Error, match="finite"):
        extract_surface(lambda p: np.full(len(p), np.nan), resolution=8)
    with pytest.raises(Omni123Error, match="one logit a point"):
        extract_surface(lambda p: p, resolution=8)
    with pytest.raises(Omni123Error, match="resolution"):
        extract_surface(ball((0, 0, 0), 0.5), resolution=2)


def test_health_of_broken_meshes_and_of_pieces_that_touch_in_a_vertex():
    box = trimesh.creation.box()
    opened = trimesh.Trimesh(box.vertices, box.faces[1:], process=False)
    health = mesh_health(opened)
    assert not health.watertight and health.genus is None and health.volume is None and health.winding_consistent
    flipped = box.faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert not mesh_health(trimesh.Trimesh(box.vertices, flipped, process=False)).winding_consistent
    other = box.copy()
    other.apply_translation((1, 1, 1))
    pair = trimesh.Trimesh(np.vstack([box.vertices, other.vertices]), np.vstack([box.faces, other.faces + 8]))
    assert len(pair.vertices) == 15
    health = mesh_health(pair)
    assert (health.watertight, health.components, health.genus) == (True, 2, 0)
    assert json.loads(json.dumps(health.to_dict()))["volume"] == pytest.approx(2.0)
    assert mesh_health(trimesh.Trimesh()).faces == 0


def test_glb_keeps_metadata_and_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = export_glb(trimesh.creation.box(), tmp_path / "out" / "box.glb", {"prompt": "ein Würfel", "seed": 3})
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert tree["asset"]["extras"] == {"prompt": "ein Würfel", "seed": 3}
    loaded = trimesh.load(path, force="mesh")
    assert loaded.is_watertight and len(loaded.faces) == 12

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        export_glb(trimesh.creation.icosphere(), path)
    assert path.read_bytes() == data and [p.name for p in path.parent.iterdir()] == ["box.glb"]
    with pytest.raises(Omni123Error, match="glb"):
        export_glb(trimesh.creation.box(), tmp_path / "box.obj")
    with pytest.raises(Omni123Error, match="JSON"):
        export_glb(trimesh.creation.box(), path, {"array": np.zeros(2)})


def test_the_contact_sheet_shows_six_views_and_the_picture():
    mesh = trimesh.creation.box((1.6, 1.2, 0.4))
    sheet = contact_sheet(mesh, size=48)
    assert sheet.size == (144, 96)
    cells = np.asarray(sheet).reshape(2, 48, 3, 48, 3).swapaxes(1, 2)
    assert (cells[:, :, 24, 24] < 250).all()
    with_image = contact_sheet(mesh, Image.new("RGBA", (20, 10), (255, 0, 0, 255)), size=48)
    assert with_image.size == (240, 96) and with_image.getpixel((48, 48)) == (255, 0, 0)
    assert with_image.getpixel((48, 90)) == (255, 255, 255)
