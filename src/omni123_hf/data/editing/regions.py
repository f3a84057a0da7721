"""Where an edit may change a shape: named boxes in the normalised frame, and the test of points against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.normalization import FIELD_BOUND


# Boxes come from float32 solids and queries are stored as float16, which moves a point by up to 0.0005.
PADDING = 0.002
DIFFERENCE_RESOLUTION = 64
MAX_BOXES = 16


@dataclass(frozen=True)
class RegionBox:
    """An axis-aligned box of the normalised frame; `name` is the part that it belongs to."""

    name: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "low": list(self.low), "high": list(self.high)}


@dataclass(frozen=True)
class EditRegion:
    """The boxes outside which source and target agree.

    exact: the boxes follow from the parts that differ; otherwise they follow from a comparison of the two shapes on a
    grid, and a change thinner than a voxel may lie outside.
    """

    boxes: tuple[RegionBox, ...]
    exact: bool

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,3) points to bool (N,): whether the occupancy there may change."""
        points = np.asarray(points, dtype=np.float64)
        inside = np.zeros(len(points), dtype=bool)
        for box in self.boxes:
            inside |= ((points >= box.low) & (points <= box.high)).all(axis=1)
        return inside

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest corner of all boxes together."""
        low = np.min([box.low for box in self.boxes], axis=0)
        high = np.max([box.high for box in self.boxes], axis=0)
        return _corner(low), _corner(high)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"boxes": [box.to_dict() for box in self.boxes], "exact": self.exact}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EditRegion:
        """Inverse of `to_dict`; boxes that are no boxes of the frame raise `Omni123Error`."""
        try:
            boxes = tuple(make_box(str(box["name"]), box["low"], box["high"]) for box in values["boxes"])
            return cls(boxes, bool(values["exact"]))
        except (KeyError, TypeError) as error:
            raise Omni123Error(
                f"a region needs 'boxes' (name, low, high) and 'exact'; this one lacks {error}"
            ) from error


def make_box(name: str, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> RegionBox:
    """A checked box, clipped to the field box ±1.05; corners that are not finite or swapped raise `Omni123Error`."""
    corners = np.array([low, high], dtype=np.float64)
    if corners.shape != (2, 3) or not np.isfinite(corners).all() or (corners[0] > corners[1]).any():
        raise Omni123Error(f"the region box {name!r} needs finite corners (3,) with low <= high, got {low} and {high}")
    corners = corners.clip(-FIELD_BOUND, FIELD_BOUND)
    return RegionBox(name, _corner(corners[0]), _corner(corners[1]))


def region_from_grids(source: np.ndarray, target: np.ndarray, bound: float) -> EditRegion:
    """Region of two occupancy grids (R,R,R) over ±`bound`, voxel centres labelled: one box for each connected
    difference, grown by a voxel. Equal grids give a region without boxes."""
    # Grown before the components are counted: specks beside a changed part belong to its box.
    changed = ndimage.binary_dilation(source ^ target, np.ones((3, 3, 3), dtype=bool))
    labels, count = ndimage.label(changed)
    voxel = 2 * bound / len(source)
    slices = ndimage.find_objects(labels)
    if count > MAX_BOXES:
        slices = [tuple(slice(s.min(), s.max() + 1) for s in np.nonzero(changed))]
    boxes = []
    for part in slices:
        low = np.array([axis.start for axis in part]) * voxel - bound
        high = np.array([axis.stop for axis in part]) * voxel - bound
        boxes.append(make_box("difference", low, high))
    return EditRegion(tuple(boxes), exact=False)


def grid_points(resolution: int, bound: float) -> np.ndarray:
    """(R³,3) voxel centres over ±`bound`, in the order of an array [x, y, z]."""
    axis = (np.arange(resolution) + 0.5) * (2 * bound / resolution) - bound
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def _corner(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 5) for value in values)
    return x, y, z
