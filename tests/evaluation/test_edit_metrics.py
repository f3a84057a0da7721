import numpy as np
import pytest

from omni123_hf.data.editing.regions import EditRegion, RegionBox
from omni123_hf.evaluation.edit_metrics import (
    better,
    chamfer_outside,
    changed_points_right,
    edit_scores,
    other_instructions,
    wilson_interval,
)
from omni123_hf.evaluation.shape_metrics import WORST_CHAMFER


PLANE = np.stack(np.meshgrid(np.linspace(-0.9, 0.9, 40), np.linspace(-0.9, 0.9, 40), [0.0]), axis=-1).reshape(-1, 3)


def test_scores_of_equal_shifted_and_missing_surfaces():
    assert edit_scores(PLANE, PLANE) == {"chamfer": 0.0, "f1_0.02": 1.0, "f1_0.05": 1.0}
    shifted = edit_scores(PLANE + [0, 0, 0.03], PLANE)
    assert shifted["chamfer"] == pytest.approx(0.06)
    assert (shifted["f1_0.02"], shifted["f1_0.05"]) == (0.0, 1.0)
    worst = {"chamfer": WORST_CHAMFER, "f1_0.02": 0.0, "f1_0.05": 0.0}
    assert edit_scores(None, PLANE) == edit_scores(PLANE, None) == worst
    assert WORST_CHAMFER == pytest.approx(2 * np.linalg.norm([2.1, 2.1, 2.1]))


def test_only_strictly_better_in_both_counts():
    copy = {"chamfer": 0.1, "f1_0.05": 0.5, "f1_0.02": 0.5}
    assert better({"chamfer": 0.09, "f1_0.05": 0.51, "f1_0.02": 0.5}, copy)
    assert not better({"chamfer": 0.09, "f1_0.05": 0.51, "f1_0.02": 0.5}, copy, 0.02)
    assert not better({"chamfer": 0.1, "f1_0.05": 0.51}, copy)
    assert not better({"chamfer": 0.09, "f1_0.05": 0.5}, copy)
    perfect = edit_scores(PLANE, PLANE)
    assert not better(perfect, perfect)  # a target that equals its source cannot be won
    assert not better(edit_scores(None, PLANE), edit_scores(None, PLANE))


def test_only_the_rest_counts_for_locality():
    region = EditRegion((RegionBox("right", (0.2, -1, -1), (1, 1, 1)),), True)
    bent = PLANE + np.outer(PLANE[:, 0] > 0.25, [0, 0, 0.5])
    assert chamfer_outside(bent, PLANE, region) == 0.0
    assert chamfer_outside(PLANE + [0, 0, 0.1], PLANE, region) == pytest.approx(0.2)
    whole = EditRegion((RegionBox("all", (-1, -1, -1), (1, 1, 1)),), True)
    assert chamfer_outside(PLANE, PLANE, whole) is None
    assert chamfer_outside(None, PLANE, region) is None and chamfer_outside(PLANE, PLANE, None) is None


def test_changed_points_are_judged_alone():
    source, target = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert changed_points_right(source, source, target) == 0.0
    assert changed_points_right(target, source, target) == 1.0
    assert changed_points_right(np.array([0, 0, 0, 1], bool), source, target) == 0.5
    assert changed_points_right(source, source, source) is None


def test_another_instruction_always_reads_differently():
    texts = ["add a lid", "add a lid", "remove the lid", "add a lid"]
    places = other_instructions(texts)
    assert all(texts[place] != text for place, text in zip(places, texts, strict=True))
    with pytest.raises(ValueError, match="no other"):
        other_instructions(["add a lid"] * 3)


def test_wilson_interval_of_known_shares():
    assert wilson_interval(40, 80) == pytest.approx((0.3929, 0.6071), abs=1e-4)
    low, high = wilson_interval(0, 80)
    assert low == 0.0 and high == pytest.approx(0.0458, abs=1e-3)
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(3, 2)
