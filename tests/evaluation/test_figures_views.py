"""Agreement of posed images and meshes, and novel views, of answers that are known."""

import numpy as np
import pytest
import trimesh

from omni123_hf.evaluation.figures_novel_view import picture_scores, view_pairs
from omni123_hf.evaluation.figures_views import (
    chain_views,
    mesh_silhouettes,
    view_figures,
    views_then_shape,
)
from omni123_hf.evaluation.joint_metrics import iou_matrix, silhouette_iou
from omni123_hf.geometry.cameras import CANONICAL_VIEWS


@pytest.fixture(scope="module")
def silhouettes() -> np.ndarray:
    boxes = [trimesh.creation.box(extents) for extents in ((1.8, 0.3, 1.8), (0.3, 1.8, 0.3), (1.8, 1.8, 0.2))]
    return mesh_silhouettes(boxes, ["front", "left"], 32)


def test_silhouettes_are_those_of_the_cameras(silhouettes):
    shares = silhouettes.mean(axis=(2, 3))
    assert shares[2, 0] == pytest.approx((1.8 / 2.1) ** 2, abs=0.08)
    assert shares[2, 1] == pytest.approx(1.8 * 0.2 / 2.1**2, abs=0.04)
    assert not mesh_silhouettes([None], ["front"], 8).any()


def test_equal_silhouettes_agree_and_other_objects_do_not(silhouettes):
    figures = view_figures(["front", "left"], silhouettes, silhouettes, silhouettes, silhouettes[::-1])
    iou = figures["silhouette_iou"]
    assert iou["model"] == iou["median"] == figures["image_reference_iou"] == 1.0
    expected = np.mean(
        [
            silhouette_iou(silhouettes[a, v], silhouettes[b, v])
            for v in range(2)
            for a in range(3)
            for b in range(3)
            if a != b
        ]
    )
    assert iou["chance"] == pytest.approx(expected) and iou["chance"] < 0.5
    assert iou["category_mean"] < 1.0 and set(figures["by_view"]) == {"front", "left"}


def test_empty_images_and_failed_shapes_agree_with_nothing(silhouettes):
    nothing = np.zeros_like(silhouettes)
    figures = view_figures(["front", "left"], nothing, nothing, silhouettes, silhouettes)
    assert figures["silhouette_iou"]["model"] == 0.0
    assert (figures["empty_images"], figures["failed"]) == (6, 3)


def test_the_matrix_of_ious_equals_single_ious(silhouettes):
    masks = silhouettes.reshape(-1, 32, 32)
    masks = np.concatenate([masks, np.zeros((1, 32, 32), bool)])
    matrix = iou_matrix(masks, masks[:3])
    single = [[silhouette_iou(a, b) for b in masks[:3]] for a in masks]
    assert matrix == pytest.approx(np.array(single))
    with pytest.raises(ValueError, match="one size"):
        iou_matrix(masks, masks[:, :8])


def test_the_sequence_ends_with_the_shape():
    task = views_then_shape(3)
    assert [segment.name for segment in task.targets] == ["image_1", "image_2", "image_3", "shape"]
    assert chain_views(2) == ["front", "left"] and sorted(chain_views(6)) == sorted(CANONICAL_VIEWS)
    with pytest.raises(ValueError, match="1 to 6"):
        chain_views(7)


def test_view_pairs_are_by_hash_and_never_the_same_view():
    ids = [f"object/{number}" for number in range(300)]
    pairs = view_pairs(ids)
    assert all(given != wanted for given, wanted in pairs) and len(set(pairs)) == 30
    assert view_pairs(ids[::-1]) == pairs[::-1] and view_pairs(ids, 1) != pairs


def test_novel_views_that_are_true_beat_the_copy_and_a_copy_does_not():
    rng = np.random.default_rng(0)
    target, source = rng.random((4, 16, 16, 3)), rng.random((4, 16, 16, 3))
    figures = picture_scores({"model": target, "copy": source, "ceiling": target}, target)
    assert figures["psnr"]["model"] == 100.0 > figures["psnr"]["copy"]
    assert figures["better_than"] == {"copy": 1.0, "ceiling": 0.0} and figures["silhouette_iou"]["model"] == 1.0
    assert picture_scores({"model": source, "copy": source}, target)["better_than"]["copy"] == 0.0
