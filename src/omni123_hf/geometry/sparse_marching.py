"""A closed surface from the cells that it passes through: what `closed_marching_cubes` gives for the whole array, without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.marching import (
    LEVEL_MARGIN,
    OPEN_SURFACE,
    REPAIR_ROUNDS,
    EmptySurfaceError,
    cells_around,
    open_vertices,
    separate,
)
from omni123_hf.geometry.sparse_grid import CORNERS, PIECE, corner_places, on_border


if TYPE_CHECKING:
    import torch

# Cells (N,) by the flat places of their low corners, whose corners must be known now; True where one had another sign.
Complete = Callable[[np.ndarray], bool]


class MarchedPoints(Protocol):
    """What is asked of a grid: `sparse_grid.Lattice` of stride 1 and `brick_grid.BrickGrid` give it."""

    side: int

    def take(self, places: np.ndarray) -> np.ndarray: ...

    def mixed_cells(self) -> np.ndarray: ...

    def largest(self) -> float: ...


def closed_marching_cells(
    points: MarchedPoints, complete: Complete, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray] | None:
    """Vertices (V,3) float32 in grid units, faces (F,3) int32, normals out, of the positive region, always closed.

    The same numbers as `marching.closed_marching_cubes` of the whole array; cells are marched on `device`. None when a repair
    came upon a point whose sign was not the one it had been given: the cells with a change of sign are others then.
    """
    # Neither this package's data preparation nor its rendering needs torch, which takes seconds to load.
    import torch

    from omni123_hf.geometry.cell_marching import march_cells

    side = points.side
    cells = points.mixed_cells()
    if not any_within(points, cells):
        raise EmptySurfaceError()
    values = ClosedValues(points, _typical_step(points, cells))
    for _ in range(REPAIR_ROUNDS):
        corners = np.empty((len(cells), 8), dtype=np.float32)
        for start in range(0, len(cells), PIECE):
            corners[start : start + PIECE] = values[corner_places(cells[start : start + PIECE], side)]
        marched = march_cells(torch.from_numpy(cells).to(device), torch.from_numpy(corners).to(device), side)
        vertices, faces = (part.cpu().numpy() for part in marched)
        bad = open_vertices(faces, len(vertices))
        if not len(bad):
            return vertices, faces
        around = cells_around(vertices[bad], side)
        around = (around[:, 0] * side + around[:, 1]) * side + around[:, 2]
        if complete(around):
            return None
        separate(values, vertices[bad], side, values.step)
        cells = np.union1d(cells, around)
    raise Omni123Error(OPEN_SURFACE)


def any_within(points: MarchedPoints, mixed: np.ndarray) -> bool:
    """Whether anything within the border is inside: the way from there to the border, which is outside, has a mixed cell."""
    for start in range(0, len(mixed), PIECE):
        places = corner_places(mixed[start : start + PIECE], points.side)
        if ((points.take(places) > 0) & ~on_border(places, points.side)).any():
            return True
    return False


def any_outside(points: MarchedPoints, mixed: np.ndarray) -> bool:
    """Whether anything is outside, on a grid where something is inside."""
    return any(
        (points.take(corner_places(mixed[start : start + PIECE], points.side)) <= 0).any()
        for start in range(0, len(mixed), PIECE)
    )


class ClosedValues:
    """The values that are marched, by flat places: outside at the border, none close to the level, and what was repaired."""

    def __init__(self, points: MarchedPoints, step: float):
        self.points, self.step = points, step
        self.margin = LEVEL_MARGIN * step
        self.repaired = np.empty(0, dtype=np.int64)
        self.repairs = np.empty(0, dtype=np.float32)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        values = self.points.take(places)
        border = on_border(places, self.points.side)
        values[border] = np.minimum(values[border], -self.step)
        near = np.abs(values) < self.margin
        values[near] = np.where(values[near] > 0, self.margin, -self.margin)
        if len(self.repaired):
            at = np.minimum(np.searchsorted(self.repaired, places), len(self.repaired) - 1)
            values = np.where(self.repaired[at] == places, self.repairs[at], values)
        return values

    def __setitem__(self, places: np.ndarray, value: float) -> None:
        kept = ~np.isin(self.repaired, places)
        repaired = np.concatenate([self.repaired[kept], places])
        repairs = np.concatenate([self.repairs[kept], np.full(len(places), value, dtype=np.float32)])
        order = np.argsort(repaired)
        self.repaired, self.repairs = repaired[order], repairs[order]


def _typical_step(points: MarchedPoints, mixed: np.ndarray) -> float:
    """Median difference of neighbouring grid values on either side of the level: the scale of the field there."""
    side, steps = points.side, [np.empty(0, dtype=np.float32)]
    for start in range(0, len(mixed), PIECE):
        cells = mixed[start : start + PIECE]
        values = points.take(corner_places(cells, side))
        inside = values > 0
        at_end = np.stack(np.unravel_index(cells, (side,) * 3), axis=1) == side - 2
        for axis in range(3):
            for low in np.flatnonzero(CORNERS[:, axis] == 0):
                high = low + (4, 2, 1)[axis]
                # An edge counts in the cell that it is a low edge of; at the end of an axis there is none but the last.
                own = (~CORNERS[low].astype(bool) | at_end | (np.arange(3) == axis)).all(axis=1)
                crossing = own & (inside[:, low] != inside[:, high])
                steps.append(np.abs(values[crossing, high] - values[crossing, low]))
    joined = np.concatenate(steps)
    return float(np.median(joined)) if len(joined) else points.largest()
