"""How well an edit was made, beside doing nothing: pure functions on points, labels and rows of one pair each.

Doing nothing (*copy-source*) scores well on edits, because most of a shape stays. The question is therefore asked pair by pair:
is the output nearer to the target than the source is? Only strictly better counts, in Chamfer distance **and** F1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from omni123_hf.data.editing.regions import EditRegion, make_box
from omni123_hf.evaluation.shape_metrics import WORST_CHAMFER, fscore_of_distances, nearest_distances


PRIMARY_THRESHOLD = 0.05
"""Threshold of the F1 in the bar's figure: the largest of the protocol's three. Two samples of 10,000 points of *one* surface are
about 0.014 apart, and a token of the small tokenizer stands for more than 0.1: at 0.01 and 0.02 the F1 would measure sampling."""

THRESHOLDS = (0.02, 0.05)

OUTSIDE_MARGIN = 0.05
"""The edited region is grown by this much before the rest is compared: where a part begins, the surface around it changes too."""


def edit_scores(prediction: np.ndarray | None, reference: np.ndarray | None) -> dict[str, float]:
    """`chamfer` (sum of both mean distances) and `f1_<t>` of two point sets (N, 3), (M, 3); the worst where either is None."""
    if prediction is None or reference is None:
        return {"chamfer": WORST_CHAMFER} | {f1_name(t): 0.0 for t in THRESHOLDS}
    forward, _ = nearest_distances(prediction, reference)
    backward, _ = nearest_distances(reference, prediction)
    scores = {"chamfer": float(forward.mean() + backward.mean())}
    return scores | {f1_name(t): fscore_of_distances(forward, backward, t) for t in THRESHOLDS}


def f1_name(threshold: float) -> str:
    """Key of an F1 score."""
    return f"f1_{threshold:g}"


def better(scores: Mapping[str, float], other: Mapping[str, float], threshold: float = PRIMARY_THRESHOLD) -> bool:
    """Whether scores are strictly better in both, Chamfer and F1 at `threshold`; a tie in either is none."""
    return scores["chamfer"] < other["chamfer"] and scores[f1_name(threshold)] > other[f1_name(threshold)]


def chamfer_outside(
    first: np.ndarray | None, second: np.ndarray | None, region: EditRegion | None, margin: float = OUTSIDE_MARGIN
) -> float | None:
    """Chamfer (sum) of the points of two surfaces (N, 3), (M, 3) outside a region grown by `margin`: how still the rest stood.

    Each point outside is measured to the nearest point of the *whole* other surface, so that a border of the region between
    two neighbours costs nothing. None where there is no region or either surface has no point outside it.
    """
    if first is None or second is None or region is None:
        return None
    boxes = (make_box(box.name, np.subtract(box.low, margin), np.add(box.high, margin)) for box in region.boxes)
    grown = EditRegion(tuple(boxes), region.exact)
    rests = [points[~grown.contains(points)] for points in (first, second)]
    if not all(len(rest) for rest in rests):
        return None
    return float(nearest_distances(rests[0], second)[0].mean() + nearest_distances(rests[1], first)[0].mean())


def changed_points_right(prediction: np.ndarray, source: np.ndarray, target: np.ndarray) -> float | None:
    """Of the query points (Q,) bool that the edit changes, the share that has the target's label; None where it changes none."""
    changed = source != target
    return float((prediction[changed] == target[changed]).mean()) if changed.any() else None


def other_instructions(instructions: Sequence[str]) -> list[int]:
    """For each pair the place of another pair whose instruction reads differently, as far away in the list as a third of it.

    Raises ValueError when all instructions are the same.
    """
    count = len(instructions)
    places = []
    for place, text in enumerate(instructions):
        others = [(place + count // 3 + 1 + step) % count for step in range(count)]
        found = next((other for other in others if instructions[other] != text), None)
        if found is None:
            raise ValueError("All instructions are the same: there is no other one to give.")
        places.append(found)
    return places


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which stays inside 0..1."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials are no share.")
    share, weight = successes / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def summarize_edits(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and shares over rows of `figures_edits.judge_pair`.

    `better_than_copy` holds the bar's figure (`decoded`) and its relatives, each a share of all pairs:

    | key | output | copy | target |
    |---|---|---|---|
    | `decoded` | the model's | the source's tokens decoded | the target's tokens decoded |
    | `decoded_f1_0.02` | the same with F1 at 0.02 | | |
    | `decoded_chamfer`, `decoded_f1` | the same, one of the two scores alone | | |
    | `true` | the model's | the source's tokens decoded | the true surface |
    | `true_undecoded` | the model's | the true source, which no tokenizer touched | the true surface |
    | `ceiling_undecoded` | the target's tokens decoded | the true source | the true surface |
    | `shuffled`, `shuffled_true` | made by another pair's instruction | as `decoded` and `true` | |
    """
    if not rows:
        raise ValueError("No edits to summarise.")

    def share(test: Callable[[Mapping[str, Any]], bool]) -> float:
        return float(np.mean([test(row) for row in rows]))

    def wins(who: str, than: str, reference: str, threshold: float = PRIMARY_THRESHOLD) -> float:
        return share(lambda row: better(row[reference][who], row[reference][than], threshold))

    decoded, true, f1 = "to_decoded_target", "to_true_target", f1_name(PRIMARY_THRESHOLD)
    summary: dict[str, Any] = {"pairs": len(rows)}
    summary["better_than_copy"] = {
        "decoded": wins("model", "copy", decoded),
        "decoded_f1_0.02": wins("model", "copy", decoded, 0.02),
        "decoded_chamfer": share(lambda row: row[decoded]["model"]["chamfer"] < row[decoded]["copy"]["chamfer"]),
        "decoded_f1": share(lambda row: row[decoded]["model"][f1] > row[decoded]["copy"][f1]),
        "true": wins("model", "copy", true),
        "true_undecoded": wins("model", "copy_undecoded", true),
        "ceiling_undecoded": wins("ceiling", "copy_undecoded", true),
        "shuffled": wins("shuffled", "copy", decoded),
        "shuffled_true": wins("shuffled", "copy", true),
    }
    won = round(summary["better_than_copy"]["decoded"] * len(rows))
    summary["interval"] = list(wilson_interval(won, len(rows)))
    for name in ("unchanged", "target_equals_source", "shuffled_unchanged"):
        summary[name] = float(np.mean([row[name] for row in rows]))
    summary["failed"] = sum(row["failure"] is not None for row in rows)
    summary["target_without_surface"] = sum(row["target_without_surface"] for row in rows)
    for reference in (decoded, true):
        summary[reference] = {
            who: {
                score: float(np.mean([row[reference][who][score] for row in rows]))
                for score in rows[0][reference][who]
            }
            for who in rows[0][reference]
        }
    for name in ("token_agreement", "volume_iou", "changed_points_right", "chamfer_outside"):
        summary[name] = {}
        for who in rows[0][name]:
            values = [row[name][who] for row in rows if row[name][who] is not None]
            summary[name][who] = float(np.mean(values)) if values else None
    return summary
