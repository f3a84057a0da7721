"""Nested grids: a field evaluated on a coarse lattice everywhere, and on finer ones only where its surface may be.

A lattice of stride s holds every s-th grid point of an axis, and the last one. A point that is not evaluated is *filled*
with the value of the nearest point of the lattice above, whose cell has one sign at all eight corners. The border of the
grid counts as outside, as it does for marching cubes, so a solid that touches it has its surface there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter


# Flat indices (N,) of grid points, x slowest, to values (N,) float32.
Evaluate = Callable[[np.ndarray], np.ndarray]
CORNERS = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
# Points, and planes of cells, at a time where all at once would take more memory than what they are read from.
PIECE = 2**18
SLAB = 16


@dataclass(frozen=True)
class Refinement:
    """Which cells of a lattice are looked into, beside those with a change of sign.

    grow: cells around a change of sign. slope: cells where the field could reach zero at their centre if it fell `slope`
    times as steeply as it does at most among the lattice points around (0: none).
    """

    grow: int
    slope: float


@dataclass
class Lattice:
    """Every `stride`-th point of a grid of `side` points an axis: index (n,), values (n,n,n) float32, known (n,n,n) bool.

    Points that are not `known` are filled.
    """

    stride: int
    side: int
    index: np.ndarray
    values: np.ndarray
    known: np.ndarray

    def flat(self, places: np.ndarray) -> np.ndarray:
        """Flat indices on the whole grid of flat `places` on the lattice."""
        x, y, z = coordinates(places, len(self.index))
        return (self.index[x] * self.side + self.index[y]) * self.side + self.index[z]

    def take(self, places: np.ndarray) -> np.ndarray:
        """Values (of the shape of `places`) at flat `places` on the lattice."""
        return self.values.reshape(-1)[places]

    def ask(self, places: np.ndarray, evaluate: Evaluate) -> np.ndarray:
        """Evaluate flat `places` that are not known yet; returns those whose sign is not that of their fill."""
        values, known = self.values.reshape(-1), self.known.reshape(-1)
        places = places[~known[places]]
        if not len(places):
            return places
        answer = evaluate(self.flat(places))
        wrong = (answer > 0) != (values[places] > 0)
        values[places], known[places] = answer, True
        return places[wrong]

    def mixed(self) -> np.ndarray:
        """Cells (n-1,n-1,n-1) with a change of sign, be it of the field itself or with the border outside."""
        return mixed_cells_of(self.values, first=True, last=True)

    def mixed_cells(self) -> np.ndarray:
        """Flat places (N,) of the low corners of the cells that are `mixed`, ascending."""
        n = len(self.index)
        x, y, z = np.nonzero(self.mixed())
        return (x * n + y) * n + z

    def largest(self) -> float:
        """The largest magnitude of a value."""
        return float(np.abs(self.values).max())

    def close(self, evaluate: Evaluate, changed: np.ndarray) -> None:
        """Evaluate until no cell with a change of sign has a corner that is not known; `changed` as for `close`."""
        close(self, len(self.index), evaluate, changed)


class Points(Protocol):
    """Values of a grid at flat places, some of which are known and the others filled."""

    def take(self, places: np.ndarray) -> np.ndarray: ...

    def ask(self, places: np.ndarray, evaluate: Evaluate) -> np.ndarray: ...


def close(points: Points, side: int, evaluate: Evaluate, changed: np.ndarray) -> None:
    """Evaluate until no cell with a change of sign has a corner that is not known.

    side: points an axis. changed: flat places whose sign is new since this was so. Where every cell that had a change of sign
    when the points were filled has been asked since, those whose sign was not that of their fill are enough.
    """
    while len(changed):
        wrong = []
        for start in range(0, len(changed), PIECE):
            # Only the eight cells around a point whose sign has changed can have become mixed.
            cells = cells_at(changed[start : start + PIECE], side)
            places = corner_places(cells, side)
            inside = points.take(places) > 0
            mixed = inside.any(axis=1) & ~(inside & ~on_border(places, side)).all(axis=1)
            wrong.append(points.ask(np.unique(places[mixed]), evaluate))
        changed = np.concatenate(wrong)


def cells_at(places: np.ndarray, side: int) -> np.ndarray:
    """Flat places (M,) of the low corners of all cells that have any of `places` (N,) as a corner, ascending."""
    corner = np.stack(np.unravel_index(places, (side,) * 3), axis=1)
    low = (corner[:, None] - CORNERS).reshape(-1, 3)
    low = low[((low >= 0) & (low <= side - 2)).all(axis=1)]
    return np.unique((low[:, 0] * side + low[:, 1]) * side + low[:, 2])


def corner_places(cells: np.ndarray, side: int) -> np.ndarray:
    """Flat places (N,8) of the corners, in the order of `CORNERS`, of cells by the flat places of their low corners (N,)."""
    return cells[:, None] + (CORNERS[:, 0] * side + CORNERS[:, 1]) * side + CORNERS[:, 2]


def coordinates(places: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of flat places of any shape on a grid of `side` points an axis."""
    return places // side**2, places // side % side, places % side


def on_border(places: np.ndarray, side: int) -> np.ndarray:
    """Whether flat places lie on the border of their grid."""
    border = np.zeros(places.shape, dtype=bool)
    for axis in coordinates(places, side):
        border |= (axis == 0) | (axis == side - 1)
    return border


def first_lattice(side: int, stride: int, evaluate: Evaluate) -> Lattice:
    """The lattice of `stride`, evaluated at all its points."""
    index = lattice_index(side, stride)
    shape = (len(index),) * 3
    lattice = Lattice(stride, side, index, np.empty(shape, dtype=np.float32), np.ones(shape, dtype=bool))
    values = lattice.values.reshape(-1)
    for start in range(0, len(values), PIECE):
        stop = min(start + PIECE, len(values))
        values[start:stop] = evaluate(lattice.flat(np.arange(start, stop)))
    return lattice


def refine(coarse: Lattice, evaluate: Evaluate, refinement: Refinement) -> Lattice:
    """The lattice of half the stride: evaluated in the cells that `refinement` names, filled elsewhere, then closed."""
    index = lattice_index(coarse.side, coarse.stride // 2)
    nearest = nearest_on(coarse.index, index)
    fine = Lattice(
        coarse.stride // 2,
        coarse.side,
        index,
        coarse.values[np.ix_(nearest, nearest, nearest)],
        np.zeros((len(index),) * 3, dtype=bool),
    )
    shared = np.searchsorted(index, coarse.index)
    fine.known[np.ix_(shared, shared, shared)] = coarse.known
    active = active_cells(coarse, refinement)
    cell = np.searchsorted(coarse.index, index[:-1], side="right") - 1
    wanted = corners_of(active[np.ix_(cell, cell, cell)])
    fine.close(evaluate, fine.ask(np.flatnonzero(wanted & ~fine.known), evaluate))
    return fine


def active_cells(lattice: Lattice, refinement: Refinement) -> np.ndarray:
    """Cells (n-1,n-1,n-1) that the surface may pass through."""
    count = len(lattice.index) - 1
    active = np.empty((count,) * 3, dtype=bool)
    # In slabs with what lies around them: what is computed on the way would take several times the memory of the lattice.
    halo = max(refinement.grow, 1)
    for start in range(0, count, SLAB):
        stop = min(start + SLAB, count)
        low, high = max(start - halo, 0), min(stop + halo, count)
        slab = _active_slab(lattice.values[low : high + 1], refinement, first=low == 0, last=high == count)
        active[start:stop] = slab[start - low : stop - low]
    return active


def _active_slab(values: np.ndarray, refinement: Refinement, first: bool, last: bool) -> np.ndarray:
    active = mixed_cells_of(values, first, last)
    if refinement.grow:
        active = binary_dilation(active, np.ones((3, 3, 3), dtype=bool), iterations=refinement.grow)
    if refinement.slope:
        fall = np.zeros(active.shape, dtype=np.float32)
        for axis in range(3):
            # Half a cell in each axis leads from the nearest corner to any point of the cell.
            step = 0.5 * np.abs(np.diff(values, axis=axis))
            fall += over_corners(step, np.maximum, [other for other in range(3) if other != axis])
        closest = over_corners(np.abs(values), np.minimum)
        active |= closest <= refinement.slope * maximum_filter(fall, size=3, mode="nearest")
    return active


def mixed_cells_of(values: np.ndarray, first: bool, last: bool) -> np.ndarray:
    """Cells (m-1,n-1,n-1) of a slab (m,n,n) with a change of sign, or inside at the border, which counts as outside.

    first, last: whether the slab begins and ends at the border.
    """
    inside = values > 0
    within = inside.copy()
    within[:, [0, -1]] = within[:, :, [0, -1]] = False
    within[0] &= not first
    within[-1] &= not last
    return over_corners(inside, np.logical_or) & ~over_corners(within, np.logical_and)


def nearest_on(index: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which of the ascending coordinates `index` is nearest to each of `points`, which lie between; the lower of two."""
    below = np.searchsorted(index, points, side="right") - 1
    above = np.minimum(below + 1, len(index) - 1)
    return np.where(index[above] - points < points - index[below], above, below)


def lattice_index(side: int, stride: int) -> np.ndarray:
    """Grid indices of an axis: every `stride`-th, and the last."""
    return np.unique(np.append(np.arange(0, side, stride), side - 1))


def over_corners(points: np.ndarray, reduce: Callable[..., np.ndarray], axes: list[int] | None = None) -> np.ndarray:
    """Reduce the corners of every cell, one axis after the other."""
    for axis in range(3) if axes is None else axes:
        low, high = [slice(None)] * points.ndim, [slice(None)] * points.ndim
        low[axis], high[axis] = slice(0, -1), slice(1, None)
        points = reduce(points[tuple(low)], points[tuple(high)])
    return points


def corners_of(cells: np.ndarray) -> np.ndarray:
    """Points (n,n,n) that are a corner of any of the given cells (n-1,n-1,n-1)."""
    points = cells
    for axis in range(3):
        edge = [(0, 0)] * 3
        edge[axis] = (1, 1)
        points = over_corners(np.pad(points, edge), np.logical_or, [axis])
    return points
