"""Cubes of voxels over ±1.0: places, growth, coarser levels and connected regions, as plain boolean arrays (R,R,R)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from omni123_hf.geometry.solid import FLOOD_BOUND


def voxel_size(resolution: int) -> float:
    """Side of one voxel."""
    return 2 * FLOOD_BOUND / resolution


def voxel_centres(flat: np.ndarray, resolution: int) -> np.ndarray:
    """Centres (N,3) float64 of the voxels with flat numbers (N,)."""
    cell = np.stack(np.unravel_index(flat, (resolution,) * 3), axis=1)
    return (cell + 0.5) * voxel_size(resolution) - FLOOD_BOUND


def voxel_of(points: np.ndarray, resolution: int) -> np.ndarray:
    """Flat numbers (N,) of the voxels of points (N,3); points outside the box belong to the nearest voxel."""
    cell = ((points + FLOOD_BOUND) * (resolution / (2 * FLOOD_BOUND))).clip(0, resolution - 1).astype(np.int64)
    return (cell[:, 0] * resolution + cell[:, 1]) * resolution + cell[:, 2]


def grow(mask: np.ndarray, steps: int = 1, corners: bool = False) -> np.ndarray:
    """`mask` and its neighbours up to `steps` away: over faces only, or over edges and corners too."""
    for _ in range(steps):
        grown = mask.copy()
        for axis in range(3):
            source = grown.copy() if corners else mask
            low, high = along(axis)
            grown[high] |= source[low]
            grown[low] |= source[high]
        mask = grown
    return mask


def boundary(mask: np.ndarray) -> np.ndarray:
    """Voxels on either side of a face between `mask` and what is not."""
    edge = np.zeros_like(mask)
    for axis in range(3):
        low, high = along(axis)
        differs = mask[low] != mask[high]
        edge[low] |= differs
        edge[high] |= differs
    return edge


def coarsen(mask: np.ndarray) -> np.ndarray:
    """Half the resolution (R even): a voxel is set when any of its eight parts is."""
    for axis in range(3):
        even: list[slice] = [slice(None)] * 3
        odd: list[slice] = [slice(None)] * 3
        even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
        mask = mask[tuple(even)] | mask[tuple(odd)]
    return mask


def refine(values: np.ndarray) -> np.ndarray:
    """Twice the resolution: every voxel becomes eight equal ones."""
    for axis in range(3):
        values = np.repeat(values, 2, axis=axis)
    return values


def regions(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions of `free` voxels connected over faces: labels (R,R,R), 0 where not free, and one flat voxel of each (N+1,).

    The entry of label 0 means nothing.
    """
    labels, count = ndimage.label(free)
    member = np.zeros(count + 1, dtype=np.int64)
    flat = labels.reshape(-1)
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    member[flat[begins]] = begins
    return labels, member


def window_of(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Index of the smallest box around `mask` with a voxel of room on every side, as far as there is one; None if empty."""
    sides = []
    for others in ((1, 2), (0, 2), (0, 1)):
        used = np.flatnonzero(mask.any(axis=others))
        if not len(used):
            return None
        sides.append(slice(max(int(used[0]) - 1, 0), int(used[-1]) + 2))
    return sides[0], sides[1], sides[2]


def enclosed(blocked: np.ndarray) -> np.ndarray:
    """Voxels that are not `blocked` and that a walk over faces from the border of the box cannot reach."""
    labels, count = ndimage.label(~blocked)
    open_to_border = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        for end in (0, -1):
            open_to_border[np.unique(np.take(labels, end, axis=axis))] = True
    open_to_border[0] = True
    return ~open_to_border[labels]


def along(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Index of all voxels but the last, and of all but the first, along `axis`."""
    low: list[slice] = [slice(None)] * 3
    high: list[slice] = [slice(None)] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)
