"""What a model that never looks at its input would score: baselines fitted on the training split.

Groups are `source/category`; a group with fewer than `MINIMUM_GROUP` training objects falls back to its whole source.
- *Category mean*: the mean occupancy grid of the group's training objects, cut at the threshold that maximises its own expected
  IoU, for the tokenizer's IoU figures.
- *Category-mean view*: the mean picture of each view (half size), for the image figures; its silhouette where the mean coverage
  is at least one half.
- *Category medoid*: the group's training object nearest to the others by Chamfer, for the retrieval figures. It knows the
  prompt's true category and nothing else.
- *Text-blind medoid*: one training object, the same for every prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from omni123_hf.data.records import AssetRecord
from omni123_hf.evaluation.shape_metrics import chamfer_l1
from omni123_hf.geometry.normalization import FIELD_BOUND


if TYPE_CHECKING:
    from omni123_hf.data.store import AssetStore


GRID = 24
"""Cells a side of the mean occupancy grids: 0.0875 units of the 2.1-unit box, fine enough for a mean over different objects."""

SMOOTHING = 0.5
MINIMUM_GROUP = 8
GROUP_LIMIT = 200
"""Training objects a group's mean is taken over (chosen by seed); more change it little."""

MEDOID_CANDIDATES, MEDOID_POINTS = 24, 256
"""Training objects among which a medoid is chosen, and the points of each that the choice looks at."""

SURFACE_POINTS = 1024
"""Surface points kept of a medoid: as many as retrieval compares."""

ALL = "all"


def baseline_key(record: AssetRecord) -> str:
    """Group of a record: `source/category`."""
    return f"{record.source}/{record.category}"


def mean_occupancy_grid(queries: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Mean label (GRID, GRID, GRID) float32 of points (N, 3) uniform in the field box.

    Labels and counts are blurred by half a cell before they are divided, so that a cell that few points fell into borrows
    from its neighbours.
    """
    cells = np.clip(np.floor(grid_coordinates(queries) + 0.5).astype(int), 0, GRID - 1)
    flat = (cells[0] * GRID + cells[1]) * GRID + cells[2]
    total = np.bincount(flat, weights=occupancy, minlength=GRID**3).reshape(GRID, GRID, GRID)
    count = np.bincount(flat, minlength=GRID**3).reshape(GRID, GRID, GRID).astype(np.float64)
    blurred = gaussian_filter(total, SMOOTHING) / np.maximum(gaussian_filter(count, SMOOTHING), 1e-6)
    return blurred.clip(0, 1).astype(np.float32)


def grid_coordinates(points: np.ndarray) -> np.ndarray:
    """Grid coordinates (3, N) of points (N, 3): whole numbers at the centres of the cells."""
    return (np.asarray(points, np.float64).T / FIELD_BOUND + 1) / 2 * GRID - 0.5


def halve_views(views: np.ndarray) -> np.ndarray:
    """Views (V, S, S, C) box-averaged to half the size; S must be even."""
    count, size, _, channels = views.shape
    return views.reshape(count, size // 2, 2, size // 2, 2, channels).mean(axis=(2, 4))


def best_threshold(grid: np.ndarray) -> float:
    """Cut of a mean occupancy grid that maximises the expected IoU of the cut with an object drawn from the group."""
    candidates = np.linspace(0.1, 0.9, 33)
    scores = [grid[grid >= t].sum() / max((grid >= t).sum() + grid[grid < t].sum(), 1e-9) for t in candidates]
    return float(candidates[int(np.argmax(scores))])


def medoid(surfaces: np.ndarray) -> int:
    """Index of the point set (K, P, 3) with the smallest summed Chamfer distance to the others."""
    count = len(surfaces)
    distances = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            distances[i, j] = distances[j, i] = chamfer_l1(surfaces[i], surfaces[j])["sum"]
    return int(distances.sum(axis=1).argmin())


@dataclass
class TrainingBaselines:
    """Mean grid and medoid of each group of training objects.

    Attributes:
        keys: G group names, `ALL` the last one (every training object).
        grids: (G, GRID, GRID, GRID) uint8, mean occupancy times 255.
        views: (G, V, S/2, S/2, 4) uint8 mean pictures, RGB on white and coverage.
        medoids: (G, P, 3) float16 surface points.
        counts: (G,) training objects a group stands on.
    """

    keys: list[str]
    grids: np.ndarray
    views: np.ndarray
    medoids: np.ndarray
    counts: np.ndarray

    @classmethod
    def fit(cls, store: AssetStore, keys: list[str], seed: int = 0) -> TrainingBaselines:
        """Fit on the training split of a store, for the groups `keys` (about a second a group)."""
        rng = np.random.default_rng(seed)
        training = [record for record in store.records if record.split == "train"]
        grids, views, medoids, counts = [], [], [], []
        for key in [*keys, ALL]:
            group = training if key == ALL else [record for record in training if baseline_key(record) == key]
            if len(group) < MINIMUM_GROUP:
                group = [record for record in training if record.source == key.partition("/")[0]] or training
            rows = np.array([record.index for record in group])
            rows = np.sort(rng.permutation(rows)[:GROUP_LIMIT])
            half = len(store.occupancy(int(rows[0]))) // 2
            grids.append(
                mean_occupancy_grid(
                    np.concatenate([np.asarray(store.queries(int(row)))[:half] for row in rows]),
                    np.concatenate([np.asarray(store.occupancy(int(row)))[:half] for row in rows]),
                )
            )
            views.append(halve_views(np.mean([np.asarray(store.views(int(row))) for row in rows], axis=0)))
            candidates = rng.permutation(rows)[:MEDOID_CANDIDATES]
            surfaces = [np.asarray(store.surface(int(row)), dtype=np.float32)[:, :3] for row in candidates]
            best = medoid(np.stack([surface[:MEDOID_POINTS] for surface in surfaces]))
            medoids.append(surfaces[best][:SURFACE_POINTS])
            counts.append(len(group))
        return cls(
            keys=[*keys, ALL],
            grids=np.round(np.stack(grids) * 255).astype(np.uint8),
            views=np.round(np.stack(views)).astype(np.uint8),
            medoids=np.stack(medoids).astype(np.float16),
            counts=np.array(counts),
        )

    def mean_occupancy(self, key: str, points: np.ndarray) -> np.ndarray:
        """Boolean occupancy (N,) that the group's mean predicts at points (N, 3)."""
        grid = self.grids[self.keys.index(key)].astype(np.float32) / 255
        values = map_coordinates(grid, grid_coordinates(points), order=1, mode="nearest")
        return values >= best_threshold(grid)

    def mean_view(self, key: str) -> np.ndarray:
        """The group's mean pictures (V, S, S, 4) float64 in [0, 1]: RGB on white and coverage."""
        views = self.views[self.keys.index(key)].astype(np.float64) / 255
        return views.repeat(2, axis=1).repeat(2, axis=2)

    def medoid_surface(self, key: str) -> np.ndarray:
        """Surface points (P, 3) float32 of the group's medoid."""
        return self.medoids[self.keys.index(key)].astype(np.float32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays without pickled objects, for an `.npz`."""
        return {
            "keys": np.array(self.keys),
            "grids": self.grids,
            "views": self.views,
            "medoids": self.medoids,
            "counts": self.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> TrainingBaselines:
        """Inverse of `to_arrays`."""
        keys = [str(key) for key in arrays["keys"]]
        return cls(keys, arrays["grids"], arrays["views"], arrays["medoids"], arrays["counts"])
