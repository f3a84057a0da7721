"""How local an edit is: what changed between two solids, and how still the rest of them stood.

Both solids are given as occupancy at the points of one regular grid. The changed region is the part of the grid where they
differ, in connected pieces; pieces smaller than `min_region_share` of the union are no region but drift of the surface.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.normalization import FIELD_BOUND


@dataclass(frozen=True)
class EditLocality:
    """changed_volume_share: volume that differs over the volume of both together. added_share, removed_share: its two parts.

    regions: least and greatest corner (6 numbers, y up frame) of each changed piece, largest first, grown by one cell.
    chamfer_outside: symmetric mean distance, in world units, between the two surfaces outside all regions; None when one of
    them has no surface there. is_unchanged: not one grid point differs.
    """

    changed_volume_share: float
    added_share: float
    removed_share: float
    regions: tuple[tuple[float, ...], ...]
    chamfer_outside: float | None
    is_unchanged: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "regions": [list(box) for box in self.regions]}


def edit_locality(
    before: np.ndarray, after: np.ndarray, bound: float = FIELD_BOUND, min_region_share: float = 0.002
) -> EditLocality:
    """Compare two occupancy grids (R, R, R) bool over ±bound, x first."""
    if before.shape != after.shape or before.ndim != 3 or min(before.shape) < 2:
        raise Omni123Error(f"two grids of one size are needed; got {before.shape} and {after.shape}")
    union = int((before | after).sum())
    if not union:
        raise Omni123Error("both solids are empty; there is nothing to compare")
    differs = before != after
    cell = 2 * bound / (np.array(before.shape) - 1)
    labels, count = ndimage.label(differs)
    sizes = ndimage.sum_labels(differs, labels, np.arange(1, count + 1)) if count else np.zeros(0)
    order = [number for number in np.argsort(-sizes, kind="stable") if sizes[number] >= min_region_share * union]
    boxes = ndimage.find_objects(labels)
    regions, outside = [], np.ones(before.shape, dtype=bool)
    for number in order:
        low = np.array([part.start for part in boxes[number]]) - 1
        high = np.array([part.stop for part in boxes[number]])
        regions.append(tuple(float(value) for value in np.concatenate([low * cell - bound, high * cell - bound])))
        outside[tuple(slice(max(0, a), b + 1) for a, b in zip(low, high, strict=True))] = False
    return EditLocality(
        float(differs.sum() / union),
        float((after & ~before).sum() / union),
        float((before & ~after).sum() / union),
        tuple(regions),
        surface_chamfer(before & outside, after & outside, outside, cell),
        not differs.any(),
    )


def surface_chamfer(before: np.ndarray, after: np.ndarray, kept: np.ndarray, cell: np.ndarray) -> float | None:
    """Mean of the two mean distances between boundary points of two grids, counting faces inside `kept` only."""
    points = [boundary_points(grid, kept) * cell for grid in (before, after)]
    if not all(len(part) for part in points):
        return None
    ways = [cKDTree(points[1]).query(points[0])[0], cKDTree(points[0]).query(points[1])[0]]
    return float(np.mean([way.mean() for way in ways]))


def boundary_points(grid: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(N, 3) in cells: middles of the faces between an inside and an outside point, both in `kept`."""
    found = []
    for axis in range(3):
        one = [slice(None)] * 3
        two = [slice(None)] * 3
        one[axis], two[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(one), tuple(two)
        crossing = (grid[here] != grid[there]) & kept[here] & kept[there]
        points = np.argwhere(crossing).astype(np.float64)
        points[:, axis] += 0.5
        found.append(points)
    return np.concatenate(found)
