"""What is done to a mesh after extraction keeps it closed, and does what it says."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.health import mesh_health
from omni123_hf.geometry.postprocess import (
    FinishSettings,
    collapse,
    decimate,
    finish_mesh,
    remove_floaters,
    resize,
    smooth,
)
from omni123_hf.geometry.printable import print_report


def ball_with_dust() -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(4, radius=0.9)
    dust = trimesh.creation.icosphere(1, radius=0.02)
    dust.apply_translation((0.95, 0.95, 0.95))
    return trimesh.util.concatenate([ball, dust])


def test_floaters_below_the_threshold_go_and_the_largest_piece_stays():
    mesh = ball_with_dust()
    kept = remove_floaters(mesh, 0.01)
    assert mesh_health(kept).components == 1 and kept.is_watertight
    assert np.abs(kept.bounds).max() < 0.91
    assert remove_floaters(mesh, 1e-6) is mesh
    assert len(remove_floaters(trimesh.creation.icosphere(2), 0.99).faces) == 320


@pytest.mark.parametrize("target", [5000, 500, 60])
def test_decimation_meets_the_budget_and_stays_closed(target):
    mesh = trimesh.creation.torus(0.6, 0.25, major_sections=96, minor_sections=48)
    small = decimate(mesh, target)
    health = mesh_health(small)
    assert 0.9 * target <= len(small.faces) <= target
    assert health.watertight and health.winding_consistent and health.genus == 1
    assert small.volume == pytest.approx(mesh.volume, rel=0.02 if target >= 500 else 0.2)
    assert decimate(small, target) is small


def test_a_thin_handle_is_not_pinched():
    """Of the meshes that quadric error alone breaks: closed, with one handle, a tenth of a grid cell thick at its thinnest."""
    read = np.load(Path(__file__).parent / "thin_handle.npz")
    mesh = trimesh.Trimesh(read["vertices"].astype(np.float64), read["faces"].astype(np.int64), process=False)
    before = mesh_health(mesh)
    assert before.watertight and before.genus == 1
    alone = collapse(np.asarray(mesh.vertices), np.asarray(mesh.faces, dtype=np.int32), 2000)
    assert not mesh_health(alone).watertight
    result = decimate(mesh, 2000)
    after = mesh_health(result)
    assert after.watertight and after.winding_consistent and (after.components, after.genus) == (1, 1)
    assert len(result.faces) <= 2000 and after.volume == pytest.approx(before.volume, rel=0.03)


def test_what_cannot_be_decimated_is_named():
    with pytest.raises(Omni123Error, match="not closed"):
        decimate(
            trimesh.Trimesh(*[getattr(trimesh.creation.icosphere(3), n) for n in ("vertices", "faces")]).slice_plane(
                (0, 0, 0), (0, 0, 1)
            ),
            100,
        )
    many = trimesh.util.concatenate(
        [trimesh.creation.icosphere(2, radius=0.05).apply_translation((x, 0, 0)) for x in range(9)]
    )
    with pytest.raises(Omni123Error, match="cannot be brought to 8 faces"):
        decimate(many, 8)


def test_smoothing_evens_out_and_keeps_the_volume():
    mesh = trimesh.creation.icosphere(4, radius=0.9)
    rough = mesh.copy()
    rough.vertices = mesh.vertices * (1 + 0.02 * np.random.default_rng(0).standard_normal((len(mesh.vertices), 1)))
    even = smooth(rough, 20)
    deviation = [np.linalg.norm(m.vertices, axis=1).std() for m in (rough, even)]
    assert deviation[1] < deviation[0] / 2
    assert even.volume == pytest.approx(rough.volume, rel=0.02) and even.is_watertight


def test_size_and_order_of_the_whole():
    mesh = finish_mesh(ball_with_dust(), FinishSettings(0.01, 2, 800, 12.5))
    assert mesh_health(mesh).components == 1 and len(mesh.faces) <= 800
    assert mesh.extents.max() == pytest.approx(12.5) and mesh.bounds[0, 1] == pytest.approx(0)
    assert resize(mesh, 1.0).extents.max() == pytest.approx(1.0)
    assert FinishSettings().changes_nothing and not FinishSettings(smoothing=1).changes_nothing


@pytest.mark.parametrize(
    "settings",
    [
        {"floater_share": 1.0},
        {"smoothing": -1},
        {"smoothing": 0.5},
        {"target_faces": 3},
        {"longest_side": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_named(settings):
    with pytest.raises(Omni123Error):
        FinishSettings(**settings)


def test_print_reports_name_the_problems():
    box = trimesh.creation.box((1, 1, 1)).subdivide()
    good = print_report(box)
    assert good.is_printable and good.problems == () and good.overhang_share == 0
    assert print_report(ball_with_dust()).problems == ("2 separate pieces",)
    assert "not watertight" in print_report(box.slice_plane((0, 0, 0), (0, 1, 0))).problems
    inverted = box.copy()
    inverted.invert()
    assert print_report(inverted).problems == ("inside out",)
    ball = print_report(trimesh.creation.icosphere(4))
    # The cap of a ball below 45 degrees: (1 - cos 45°) / 2 of its area.
    assert ball.overhang_share == pytest.approx((1 - np.sqrt(0.5)) / 2, abs=0.01)
    plate = trimesh.creation.box((1, 0.02, 1)).subdivide().subdivide()
    assert print_report(plate, min_wall=0.05).thin_share > 0.8 and not print_report(plate, min_wall=0.05).is_printable
    assert print_report(box, min_wall=0.05).is_printable
    with pytest.raises(Omni123Error, match="empty"):
        print_report(trimesh.Trimesh())
