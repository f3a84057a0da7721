"""Shape metrics as pure functions on points, occupancies and meshes.

Two rules hold everywhere:
- prediction and reference share one frame, the reference's (longest side 1.92, centred); they are never normalised separately;
- a failed prediction is `None` and gets the worst score (`worst_scores`); it is never dropped.

Distances are in units of the normalised frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from omni123_hf.geometry.normalization import FIELD_BOUND


if TYPE_CHECKING:
    import trimesh


FSCORE_THRESHOLDS = (0.01, 0.02, 0.05)

WORST_CHAMFER = 2 * 2 * FIELD_BOUND * 3**0.5
"""Chamfer L1 (sum) of a failed generation where a finite number is needed for a mean: both ways the diagonal of the field box."""


def _check_points(name: str, points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(
            f"{name} must be a non-empty (N, 3) array, got shape {points.shape}: pass sampled surface points."
        )
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds NaN or infinite coordinates: clean the mesh before measuring it.")
    return points


def nearest_distances(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) from each source point (N, 3) to its nearest target point (M, 3), and that point's index (N,)."""
    source, target = _check_points("source", source), _check_points("target", target)
    distances, indices = cKDTree(target).query(source)
    return distances, indices


def chamfer_l1(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Chamfer distance of two point sets (N, 3), (M, 3): `sum` of the two directed means of Euclidean distances, and `average`."""
    forward, _ = nearest_distances(prediction, reference)
    backward, _ = nearest_distances(reference, prediction)
    total = float(forward.mean() + backward.mean())
    return {"sum": total, "average": total / 2}


def fscore(prediction: np.ndarray, reference: np.ndarray, threshold: float) -> float:
    """Harmonic mean of precision and recall at distance `threshold` between two point sets, 0..1."""
    forward, _ = nearest_distances(prediction, reference)
    backward, _ = nearest_distances(reference, prediction)
    return fscore_of_distances(forward, backward, threshold)


def fscore_of_distances(forward: np.ndarray, backward: np.ndarray, threshold: float) -> float:
    """As `fscore`, from the nearest distances in both directions, (N,) and (M,)."""
    if not threshold > 0:
        raise ValueError(f"The F-score threshold must be positive, got {threshold}.")
    precision, recall = float((forward <= threshold).mean()), float((backward <= threshold).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def compare_surfaces(
    prediction: np.ndarray,
    prediction_normals: np.ndarray,
    reference: np.ndarray,
    reference_normals: np.ndarray,
    thresholds: tuple[float, ...] = FSCORE_THRESHOLDS,
) -> dict[str, float]:
    """All surface scores of two sampled surfaces, from two nearest-neighbour searches.

    Points and unit normals are (N, 3) and (M, 3). Returns `chamfer_l1_sum`, `chamfer_l1_average`, `fscore_<t>` and
    `normal_consistency` (mean absolute cosine between each normal and its nearest neighbour's, both directions averaged).
    """
    if np.shape(prediction) != np.shape(prediction_normals) or np.shape(reference) != np.shape(reference_normals):
        raise ValueError("Points and normals must have the same (N, 3) shape: sample them together.")
    forward, to_reference = nearest_distances(prediction, reference)
    backward, to_prediction = nearest_distances(reference, prediction)
    forward_cosine = np.abs(np.sum(prediction_normals * np.asarray(reference_normals)[to_reference], axis=1))
    backward_cosine = np.abs(np.sum(reference_normals * np.asarray(prediction_normals)[to_prediction], axis=1))
    total = float(forward.mean() + backward.mean())
    scores = {"chamfer_l1_sum": total, "chamfer_l1_average": total / 2}
    scores.update({f"fscore_{t:g}": fscore_of_distances(forward, backward, t) for t in thresholds})
    scores["normal_consistency"] = float((forward_cosine.mean() + backward_cosine.mean()) / 2)
    return scores


def worst_scores(thresholds: tuple[float, ...] = FSCORE_THRESHOLDS) -> dict[str, float]:
    """What a failed generation scores: infinite Chamfer, zero everywhere else."""
    scores = {"chamfer_l1_sum": math.inf, "chamfer_l1_average": math.inf}
    scores.update({f"fscore_{t:g}": 0.0 for t in thresholds})
    return scores | {"normal_consistency": 0.0}


def occupancy_iou(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Intersection over union of two boolean arrays of one shape, 0..1; two empty sets agree (1.0).

    On points uniform in the field box this is the *volume IoU*, on points near the reference's surface the *near-surface IoU*.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise ValueError(
            f"Occupancies differ in shape: {prediction.shape} and {reference.shape}; label the same points."
        )
    if prediction.dtype != bool or reference.dtype != bool:
        raise ValueError("Occupancies must be boolean: compare logits with 0 or probabilities with 0.5 first.")
    union = int((prediction | reference).sum())
    return 1.0 if union == 0 else int((prediction & reference).sum()) / union


def uniform_points(count: int, bound: float, rng: np.random.Generator) -> np.ndarray:
    """`count` points (count, 3) uniform in the cube ±bound, for the volume IoU (100,000 is usual)."""
    return rng.uniform(-bound, bound, size=(count, 3))


def near_surface_points(surface: np.ndarray, count: int, rng: np.random.Generator, sigma: float = 0.005) -> np.ndarray:
    """`count` points (count, 3): surface points (N, 3) drawn with replacement plus Gaussian noise, for the near-surface IoU."""
    surface = _check_points("surface", surface)
    return surface[rng.integers(len(surface), size=count)] + rng.normal(scale=sigma, size=(count, 3))


def compare_meshes(
    prediction: trimesh.Trimesh | None,
    reference: trimesh.Trimesh,
    count: int = 100_000,
    seed: int = 0,
    volume: bool = True,
) -> dict[str, float]:
    """Every shape score of a predicted mesh against a reference mesh that share one frame.

    The transform that normalises the *reference* (longest box side to 1.92, centred) is applied to both. `count` points a
    surface and a volume (100,000 is usual, 10,000 a quick look). With `volume` the solids are labelled as
    well (`volume_iou`, `near_surface_iou`), which needs `omni123-hf[data]`. `None` scores worst.
    """
    from omni123_hf.geometry.normalization import normalize_mesh
    from omni123_hf.geometry.sampling import sample_surface
    from omni123_hf.geometry.solid import SolidLabeler

    if prediction is None or len(prediction.faces) == 0:
        return worst_scores() | ({"volume_iou": 0.0, "near_surface_iou": 0.0} if volume else {})
    rng = np.random.default_rng(seed)
    reference, transform = normalize_mesh(reference)
    aligned = prediction.copy()
    aligned.vertices = transform.apply(prediction.vertices)
    predicted_points, predicted_normals = sample_surface(aligned, count, rng)
    reference_points, reference_normals = sample_surface(reference, count, rng)
    scores = compare_surfaces(predicted_points, predicted_normals, reference_points, reference_normals)
    if volume:
        labelers = SolidLabeler(aligned), SolidLabeler(reference)
        for name, points in {
            "volume_iou": uniform_points(count, FIELD_BOUND, rng),
            "near_surface_iou": near_surface_points(reference_points, count, rng),
        }.items():
            scores[name] = occupancy_iou(*(labeler.occupancy(points) for labeler in labelers))
    return scores
