from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from solid_shapes import below, bowl, box, joined, mesh_of, sphere

from omni123_hf.errors import RejectedError
from omni123_hf.geometry.filters import FilterConfig, check_filters, plane_share, reject_failed, thin_share


def values(mesh: trimesh.Trimesh, **options) -> dict[str, tuple[float, bool]]:
    return {one.reason: (one.value, one.passed) for one in check_filters(mesh, FilterConfig(**options))}


def terrain(noise: float, side: int = 150) -> trimesh.Trimesh:
    """An open height field of `side` squared vertices with sensor noise of `noise` grid steps."""
    x, z = np.meshgrid(np.linspace(-0.96, 0.96, side), np.linspace(-0.96, 0.96, side), indexing="ij")
    rough = np.random.default_rng(0).standard_normal(x.shape) * noise * 1.92 / side
    y = 0.4 * np.sin(2 * x) * np.cos(2 * z) + rough
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
    low = np.stack([corner, corner + 1, corner + side], axis=1)
    high = np.stack([corner + 1, corner + side + 1, corner + side], axis=1)
    return mesh_of(np.stack([x, y, z], axis=2).reshape(-1, 3), np.concatenate([low, high]))


def test_a_sound_object_passes_and_every_value_is_json():
    findings = check_filters(bowl())
    assert all(one.passed for one in findings)
    assert [one.reason for one in findings] == [
        "not_finite", "empty", "too_few_faces", "too_many_faces", "too_many_components", "flat", "large_plane", "scan",
        "thin_walls",
    ]  # fmt: skip
    assert json.loads(json.dumps([one.to_dict() for one in findings]))[0]["passed"] is True
    reject_failed(findings)


def test_empty_and_infinite_meshes_stop_at_once():
    nothing = mesh_of(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    infinite = mesh_of(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))
    for mesh, reason in ((nothing, "empty"), (infinite, "not_finite")):
        findings = check_filters(mesh)
        assert findings[-1].reason == reason and not findings[-1].passed
        with pytest.raises(RejectedError) as refused:
            reject_failed(findings)
        assert refused.value.reason == reason


def test_face_and_component_counts_have_both_ends():
    cube = box((1.9, 1.9, 1.9))
    assert values(cube)["too_few_faces"] == (12, False) and values(cube, min_faces=12)["too_few_faces"][1]
    many = values(sphere(), max_faces=5119)
    assert many["too_many_faces"] == (5120, False) and "thin_walls" not in many
    assert values(sphere(), max_faces=5120)["too_many_faces"][1]
    crowd = joined(*(box((0.1, 0.1, 0.1), (0.3 * k - 0.6, 0, 0)) for k in range(5)))
    assert values(crowd, max_components=4)["too_many_components"] == (5, False)
    assert values(crowd, max_components=5)["too_many_components"][1]


def test_thin_walls_are_measured_for_closed_and_open_meshes():
    assert values(bowl(wall=0.1))["thin_walls"] == (0.0, True)
    thin, passed = values(bowl(wall=0.005))["thin_walls"]
    assert thin > 0.95 and not passed
    assert values(below(sphere(subdivisions=5), 0.88))["thin_walls"][0] < 0.02
    assert values(below(sphere(), 0.0))["thin_walls"] == (1.0, False)
    wing = mesh_of(
        np.array([[0.5, 0, -0.3], [0.5, 0, 0.3], [0.96, 0, 0.3], [0.96, 0, -0.3]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    part = joined(sphere(0.6), wing)
    assert thin_share(part, 0.01) == pytest.approx(0.24 / part.area, abs=0.02)


def test_a_noisy_open_sheet_is_a_scan_and_a_smooth_or_closed_or_small_one_is_not():
    noisy, passed = values(terrain(0.2), max_thin_share=None)["scan"]
    assert noisy > 6.0 and not passed
    smooth, passed = values(terrain(0.0), max_thin_share=None)["scan"]
    assert 0.0 < smooth < 2.0 and passed
    assert values(terrain(0.2, side=60), max_thin_share=None)["scan"] == (0.0, True)
    ball = sphere(subdivisions=6)
    ball.vertices *= 1 + 0.01 * np.random.default_rng(0).random((len(ball.vertices), 1)) - 0.01
    assert values(ball, max_thin_share=None)["scan"] == (0.0, True)


def test_flat_things_and_ground_plates_are_found_at_any_angle():
    assert values(box((1.9, 0.02, 1.5)))["flat"] == (pytest.approx(0.02 / 1.9), False)
    assert values(box((1.9, 0.1, 1.5)))["flat"][1]
    plate = joined(box((1.2, 0.01, 1.2)), sphere(0.1, 2).apply_translation((0, 0.1, 0)))
    turn = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))
    assert not values(plate.apply_transform(turn), max_thin_share=None)["large_plane"][1]
    assert plane_share(box((1.0, 0.5, 0.25)).triangles, 0.02) == pytest.approx(0.5 / 1.75, rel=1e-6)
    assert plane_share(sphere().triangles, 0.02) < 0.05


def test_every_filter_can_be_switched_off():
    off = FilterConfig(
        min_faces=None, max_faces=None, max_components=None, max_thin_share=None, max_scan_roughness=None,
        min_extent_ratio=None, max_plane_share=None,
    )  # fmt: skip
    assert [one.reason for one in check_filters(box((1.9, 0.001, 1.9)), off)] == ["not_finite", "empty"]


def test_a_rejection_names_the_first_reason_and_all_figures():
    with pytest.raises(RejectedError, match=r"flat: 0\.005.*large_plane.*thin_walls") as refused:
        reject_failed(check_filters(box((1.9, 0.005 * 1.9, 1.9)), FilterConfig(min_faces=None)))
    assert refused.value.reason == "flat"
