import math

import numpy as np
import pytest
import trimesh

from omni123_hf.evaluation.shape_metrics import (
    chamfer_l1,
    compare_surfaces,
    fscore,
    near_surface_points,
    occupancy_iou,
    uniform_points,
    worst_scores,
)


def test_chamfer_of_two_known_points_is_the_sum_of_directed_means():
    prediction = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    reference = np.array([[0.0, 0, 0]])
    assert chamfer_l1(prediction, reference) == {"sum": 0.5, "average": 0.25}
    assert chamfer_l1(reference, prediction)["sum"] == 0.5


def test_fscore_is_the_harmonic_mean_of_precision_and_recall():
    prediction = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    reference = np.array([[0.0, 0, 0]])
    assert fscore(prediction, reference, 0.05) == pytest.approx(2 * 0.5 * 1.0 / 1.5)
    assert fscore(prediction, reference + 9, 0.05) == 0.0
    with pytest.raises(ValueError, match="positive"):
        fscore(prediction, reference, 0.0)


def test_surface_scores_of_a_shifted_plane():
    rng = np.random.default_rng(0)
    plane = np.c_[rng.uniform(-1, 1, (4000, 2)), np.zeros(4000)]
    normals = np.tile([0.0, 0, 1], (4000, 1))
    shifted = plane + [0, 0, 0.03]
    scores = compare_surfaces(shifted, -normals, plane, normals)
    assert scores["chamfer_l1_sum"] == pytest.approx(0.06, rel=1e-3)
    assert scores["chamfer_l1_average"] == pytest.approx(scores["chamfer_l1_sum"] / 2)
    assert (scores["fscore_0.02"], scores["fscore_0.05"]) == (0.0, 1.0)
    assert scores["normal_consistency"] == pytest.approx(1.0)  # flipped orientation is not an error of the shape
    crossed = compare_surfaces(shifted, np.roll(normals, 1, axis=1), plane, normals)
    assert crossed["normal_consistency"] == pytest.approx(0.0)
    assert set(worst_scores()) == set(scores)
    assert math.isinf(worst_scores()["chamfer_l1_sum"])


def test_volume_iou_of_overlapping_boxes():
    points = uniform_points(60_000, 1.0, np.random.default_rng(0))
    left, right = points[:, 0] < 0.0, points[:, 0] < 0.5
    assert occupancy_iou(left, right) == pytest.approx(1.0 / 1.5, abs=0.01)
    assert occupancy_iou(left, ~left) == 0.0
    assert occupancy_iou(np.zeros(3, bool), np.zeros(3, bool)) == 1.0
    with pytest.raises(ValueError, match="boolean"):
        occupancy_iou(left.astype(float), right)
    with pytest.raises(ValueError, match="shape"):
        occupancy_iou(left[:5], right)


def test_near_surface_points_have_the_stated_spread():
    surface = np.zeros((10, 3))
    points = near_surface_points(surface, 20_000, np.random.default_rng(1), sigma=0.005)
    assert points.std() == pytest.approx(0.005, rel=0.02)


def test_bad_points_are_named():
    good = np.zeros((2, 3))
    with pytest.raises(ValueError, match="non-empty"):
        chamfer_l1(np.zeros((0, 3)), good)
    with pytest.raises(ValueError, match="NaN"):
        chamfer_l1(np.full((2, 3), np.nan), good)


def test_compare_meshes_uses_the_references_frame():
    pytest.importorskip("igl")
    from omni123_hf.evaluation.shape_metrics import compare_meshes

    reference = trimesh.creation.box((4.0, 4.0, 4.0))
    same = compare_meshes(reference.copy(), reference, count=4000)
    assert same["volume_iou"] == 1.0
    assert same["chamfer_l1_sum"] < 0.1
    half = trimesh.creation.box((2.0, 4.0, 4.0))  # a separate normalisation would not change this IoU of one half
    scores = compare_meshes(half, reference, count=8000)
    assert scores["volume_iou"] == pytest.approx(0.5, abs=0.03)
    small = compare_meshes(trimesh.creation.box((2.0, 2.0, 2.0)), reference, count=8000)
    assert small["volume_iou"] == pytest.approx(1 / 8, abs=0.02)  # normalised separately it would be 1
    failed = compare_meshes(None, reference)
    assert math.isinf(failed["chamfer_l1_sum"]) and failed["volume_iou"] == 0.0
    assert set(failed) == set(scores)
