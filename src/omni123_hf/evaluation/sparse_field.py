"""A field that is only evaluated where its surface can be: evaluation extracts hundreds of meshes on a CPU.

A coarse grid is evaluated in full. Its cells with a change of sign (grown by one cell) or a value close to zero are *active*:
points in them get the field's true value. All other points get the value of the nearest coarse corner, which has the same sign.
The surface equals that of a dense evaluation except for details that no coarse corner comes near.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import binary_dilation

from omni123_hf.geometry.extraction import evaluate_grid
from omni123_hf.geometry.normalization import FIELD_BOUND


COARSE = 33
"""Corners a side of the coarse grid: 0.066 units apart, less than the thinnest part the generator builds."""

CLOSE = 2.0
"""Logits nearer to zero than this (probabilities 0.12 to 0.88) mark a cell as active without a change of sign."""


class SparseField:
    """Callable (N, 3) float32 points to (N,) float32 logits around `field`, which has the same signature.

    `evaluated` counts the points at which the field itself was asked.
    """

    def __init__(self, field: Callable[[np.ndarray], np.ndarray], bound: float = FIELD_BOUND):
        self.field, self.bound = field, bound
        self.corners = evaluate_grid(field, COARSE, bound)
        self.active = active_cells(self.corners)
        self.evaluated = self.corners.size

    def __call__(self, points: np.ndarray) -> np.ndarray:
        place = (np.asarray(points, dtype=np.float64) / self.bound + 1) / 2 * (COARSE - 1)
        cell = np.clip(np.floor(place).astype(int), 0, COARSE - 2)
        corner = np.clip(np.round(place).astype(int), 0, COARSE - 1)
        values = self.corners[tuple(corner.T)].copy()
        near = self.active[tuple(cell.T)]
        if near.any():
            values[near] = self.field(np.ascontiguousarray(points[near]))
            self.evaluated += int(near.sum())
        return values


def active_cells(corners: np.ndarray) -> np.ndarray:
    """Boolean cells (C-1, C-1, C-1) of a grid of corner values (C, C, C) that the surface may pass through."""
    low, high = _over_cells(corners, np.minimum), _over_cells(corners, np.maximum)
    crossing = (low < 0) & (high >= 0)
    close = _over_cells(np.abs(corners), np.minimum) < CLOSE
    return binary_dilation(crossing, np.ones((3, 3, 3), dtype=bool)) | close


def _over_cells(corners: np.ndarray, reduce: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Reduce the eight corners of every cell, one axis after the other."""
    for axis in range(3):
        first = np.take(corners, range(corners.shape[axis] - 1), axis)
        corners = reduce(first, np.take(corners, range(1, corners.shape[axis]), axis))
    return corners
