import numpy as np
import pytest

from omni123_hf.evaluation.joint_metrics import (
    candidate_groups,
    code_histogram,
    code_statistics,
    foreground_mask,
    rank_of_own,
    retrieval_scores,
    silhouette_iou,
)


def test_foreground_is_what_is_not_white():
    image = np.full((8, 8, 3), 255, np.uint8)
    image[2:4, 2:6] = (250, 200, 250)
    image[7, 7] = 247  # a wavering background
    mask = foreground_mask(image)
    assert mask.sum() == 8 and mask[2:4, 2:6].all()
    assert (foreground_mask(image / 255.0) == mask).all()
    with pytest.raises(ValueError, match="alpha"):
        foreground_mask(np.zeros((8, 8, 4)))


def test_silhouette_iou_and_the_empty_silhouette():
    first, second = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert silhouette_iou(first, second) == 0.0
    first[:2], second[1:3] = True, True
    assert silhouette_iou(first, second) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="one size"):
        silhouette_iou(first, second[:2])


def test_rank_counts_ties_and_failures_against_the_own_object():
    assert rank_of_own([0.3, 0.1, 0.5], own=0) == 2
    assert rank_of_own([0.3, 0.3, 0.5], own=0) == 2
    assert rank_of_own([np.inf, np.inf, np.inf], own=0) == 3
    assert retrieval_scores([1, 2, 5, 6]) == {"rank1": 0.25, "within5": 0.75, "mean_rank": 3.5}
    with pytest.raises(ValueError, match="empty"):
        retrieval_scores([])


def test_groups_hold_one_object_of_each_category():
    categories = [f"c{i % 6}" for i in range(18)]
    groups = candidate_groups(categories, size=4, draws=3, rng=np.random.default_rng(0))
    assert len(groups) == 18 * 3
    for position, group in enumerate(groups):
        assert group[0] == position // 3
        assert len({categories[i] for i in group}) == 4
    again = candidate_groups(categories, size=4, draws=3, rng=np.random.default_rng(0))
    assert all((a == b).all() for a, b in zip(groups, again, strict=True))
    with pytest.raises(ValueError, match="has 6"):
        candidate_groups(categories, size=7, draws=1, rng=np.random.default_rng(0))


def test_chance_of_the_retrieval_test_is_one_in_size():
    rng = np.random.default_rng(0)
    ranks = [rank_of_own(rng.random(20), 0) for _ in range(4000)]
    scores = retrieval_scores(ranks)
    assert scores["rank1"] == pytest.approx(0.05, abs=0.012)
    assert scores["within5"] == pytest.approx(0.25, abs=0.025)


def test_code_use_and_perplexity():
    assert code_statistics(np.array([5, 5, 5, 5])) == pytest.approx(
        {"usage": 1.0, "perplexity": 4.0, "tokens": 20, "codes": 4}
    )
    assert code_statistics(code_histogram(np.array([[1, 1], [1, 1]]), 4))["perplexity"] == pytest.approx(1.0)
    assert code_statistics(code_histogram(np.array([0, 1]), 8))["usage"] == 0.25
    with pytest.raises(ValueError, match="leave the codebook"):
        code_histogram(np.array([4]), 4)
    with pytest.raises(ValueError, match="empty"):
        code_statistics(np.zeros(4))
