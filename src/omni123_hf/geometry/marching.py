"""Marching cubes on a grid (skimage's Lewiner variant) that always gives a closed surface."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from skimage.measure import marching_cubes

from omni123_hf.errors import Omni123Error


# No grid value may lie closer to the level than this share of a typical step across it: vertices of neighbouring cells
# would fall on one grid point, and a file reader that merges equal vertices would open the mesh.
LEVEL_MARGIN = 1e-3
REPAIR_ROUNDS = 8
OPEN_SURFACE = "marching cubes left open or crossing edges in this field; try another resolution"


class Values(Protocol):
    """Grid values by flat index, as a flat array has them."""

    def __getitem__(self, places: np.ndarray) -> np.ndarray: ...

    def __setitem__(self, places: np.ndarray, value: float) -> None: ...


class EmptySurfaceError(Omni123Error):
    """The field is nowhere positive on the grid, so there is no surface."""

    def __init__(
        self,
        message: str = "nothing is inside: the field is not positive anywhere on the grid; the tokens decode to "
        "an empty shape, or the resolution is too low for it",
    ):
        super().__init__(message)


def closed_marching_cubes(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V,3) in grid units, faces (F,3), normals out, of the positive region of a grid (R,R,R), always closed.

    The third is the grid whose surface it is: its border is outside, and contacts that no surface could pass between
    are closed. `sparse_marching` gives the same of the cells that the surface passes through.
    """
    grid = np.array(grid, dtype=np.float32)
    if not (grid[1:-1, 1:-1, 1:-1] > 0).any():
        raise EmptySurfaceError()
    step = _typical_step(grid)
    border = np.ones(grid.shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    grid[border] = np.minimum(grid[border], -step)
    margin = LEVEL_MARGIN * step
    near = np.abs(grid) < margin
    grid[near] = np.where(grid[near] > 0, margin, -margin)

    for _ in range(REPAIR_ROUNDS):
        vertices, faces, _, _ = marching_cubes(grid, level=0.0, gradient_direction="ascent")
        bad = open_vertices(faces, len(vertices))
        if not len(bad):
            break
        separate(grid.reshape(-1), vertices[bad], len(grid), step)
    else:
        raise Omni123Error(OPEN_SURFACE)
    return vertices, faces, grid


def _typical_step(grid: np.ndarray) -> float:
    """Median difference of neighbouring grid values on either side of the level: the scale of the field there."""
    inside = grid > 0
    values, stride = grid.reshape(-1), (grid.shape[1] * grid.shape[2], grid.shape[2], 1)
    steps = []
    for axis in range(3):
        low = [slice(None)] * 3
        low[axis] = slice(0, -1)
        crossing = np.zeros(grid.shape, dtype=bool)
        crossing[tuple(low)] = np.diff(inside, axis=axis)
        start = np.flatnonzero(crossing)
        steps.append(np.abs(values[start + stride[axis]] - values[start]))
    joined = np.concatenate(steps)
    return float(np.median(joined)) if len(joined) else float(np.abs(grid).max())


def open_vertices(faces: np.ndarray, count: int) -> np.ndarray:
    """Vertices of edges that are not shared by exactly two faces in opposite directions."""
    start, stop = faces.reshape(-1).astype(np.int64), np.roll(faces, -1, axis=1).reshape(-1).astype(np.int64)
    forward, times = np.unique(start * count + stop, return_counts=True)
    backward = (forward % count) * count + forward // count
    bad = forward[(times != 1) | ~np.isin(backward, forward)]
    return np.unique(np.concatenate([bad // count, bad % count]))


def cells_around(vertices: np.ndarray, side: int) -> np.ndarray:
    """Low corners (N,3) of every cell that a repair at these vertices (grid units) may read or change."""
    low = np.unique(np.floor(vertices).astype(np.int64), axis=0)
    offsets = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = (low[:, None] + offsets).reshape(-1, 3)
    return np.unique(cells[((cells >= 0) & (cells <= side - 2)).all(axis=1)], axis=0)


def separate(values: Values, vertices: np.ndarray, side: int, step: float) -> None:
    """Push the weakest outside values around the given vertices (grid units) inside, closing an ambiguous contact."""
    for low in np.unique(np.floor(vertices).astype(np.int64), axis=0):
        x, y, z = (np.arange(max(i, 1), min(i + 2, side - 1)) for i in low)
        places = ((x[:, None, None] * side + y[:, None]) * side + z).reshape(-1)
        block = values[places]
        outside = block < 0
        if outside.any():
            values[places[block == block[outside].max()]] = 0.5 * step
