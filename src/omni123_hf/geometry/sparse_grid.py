"""Nested grids: a field evaluated on a coarse lattice everywhere, and on finer ones only where its surface may be.

A lattice of stride s holds every s-th grid point of an axis, and the last one. A point that is not evaluated is *filled*
with the value of the nearest point of the lattice above, whose cell has one sign at all eight corners. The border of the
grid counts as outside, as it does for marching cubes, so a solid that touches it has its surface there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter


# Flat indices (N,) of grid points, x slowest, to values (N,) float32.
Evaluate = Callable[[np.ndarray], np.ndarray]
CORNERS = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


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
        n = len(self.index)
        x, y, z = places // n**2, places // n % n, places % n
        return (self.index[x] * self.side + self.index[y]) * self.side + self.index[z]

    def every(self, stride: int) -> Lattice:
        """A copy of every `stride`-th point of this lattice, which is the whole grid."""
        index = lattice_index(self.side, stride)
        window = np.ix_(index, index, index)
        return Lattice(stride, self.side, index, self.values[window], self.known[window])

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
        inside = self.values > 0
        within = np.zeros_like(inside)
        within[1:-1, 1:-1, 1:-1] = inside[1:-1, 1:-1, 1:-1]
        return over_corners(inside, np.logical_or) & ~over_corners(within, np.logical_and)

    def close(self, evaluate: Evaluate, changed: np.ndarray | None = None) -> None:
        """Evaluate until no cell with a change of sign has a corner that is not known.

        changed: flat places whose sign is new since the lattice was closed; None: it never was.
        """
        if changed is None:
            changed = self.ask(np.flatnonzero(corners_of(self.mixed()) & ~self.known), evaluate)
        n = len(self.index)
        values = self.values.reshape(-1)
        while len(changed):
            # Only the eight cells around a point whose sign has changed can have become mixed.
            corner = np.stack(np.unravel_index(changed, (n,) * 3), axis=1)
            cells = (corner[:, None] - CORNERS).reshape(-1, 3)
            cells = np.unique(cells[((cells >= 0) & (cells <= n - 2)).all(axis=1)], axis=0)
            corners = cells[:, None] + CORNERS
            places = (corners[..., 0] * n + corners[..., 1]) * n + corners[..., 2]
            inside = values[places] > 0
            within = inside & ((corners > 0) & (corners < n - 1)).all(axis=-1)
            mixed = inside.any(axis=1) & ~within.all(axis=1)
            changed = self.ask(np.unique(places[mixed]), evaluate)

    def specks(self) -> int:
        """Points within the border whose six neighbours all have the other sign."""
        inside = self.values > 0
        middle = inside[1:-1, 1:-1, 1:-1]
        alone = np.ones_like(middle)
        for axis in range(3):
            for shift in (slice(0, -2), slice(2, None)):
                window = [slice(1, -1)] * 3
                window[axis] = shift
                alone &= inside[tuple(window)] != middle
        return int(alone.sum())


def first_lattice(side: int, stride: int, evaluate: Evaluate) -> Lattice:
    """The lattice of `stride`, evaluated at all its points."""
    index = lattice_index(side, stride)
    values = evaluate(Lattice(stride, side, index, index, index).flat(np.arange(len(index) ** 3)))
    shape = (len(index),) * 3
    return Lattice(stride, side, index, values.reshape(shape), np.ones(shape, dtype=bool))


def refine(coarse: Lattice, evaluate: Evaluate, refinement: Refinement) -> Lattice:
    """The lattice of half the stride: evaluated in the cells that `refinement` names, filled elsewhere, then closed."""
    index = lattice_index(coarse.side, coarse.stride // 2)
    nearest = np.searchsorted(coarse.index, index, side="right") - 1
    above = np.minimum(nearest + 1, len(coarse.index) - 1)
    cell = np.minimum(nearest, len(coarse.index) - 2)
    nearest = np.where(coarse.index[above] - index < index - coarse.index[nearest], above, nearest)
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
    wanted = corners_of(active[np.ix_(cell[:-1], cell[:-1], cell[:-1])])
    fine.ask(np.flatnonzero(wanted & ~fine.known), evaluate)
    fine.close(evaluate)
    return fine


def active_cells(lattice: Lattice, refinement: Refinement) -> np.ndarray:
    """Cells (n-1,n-1,n-1) that the surface may pass through."""
    active = lattice.mixed()
    if refinement.grow:
        active = binary_dilation(active, np.ones((3, 3, 3), dtype=bool), iterations=refinement.grow)
    if refinement.slope:
        fall = np.zeros(active.shape, dtype=np.float32)
        for axis in range(3):
            # Half a cell in each axis leads from the nearest corner to any point of the cell.
            step = 0.5 * np.abs(np.diff(lattice.values, axis=axis))
            fall += over_corners(step, np.maximum, [other for other in range(3) if other != axis])
        closest = over_corners(np.abs(lattice.values), np.minimum)
        active |= closest <= refinement.slope * maximum_filter(fall, size=3, mode="nearest")
    return active


def lattice_index(side: int, stride: int) -> np.ndarray:
    """Grid indices of an axis: every `stride`-th, and the last."""
    return np.unique(np.append(np.arange(0, side, stride), side - 1))


def over_corners(points: np.ndarray, reduce: Callable[..., np.ndarray], axes: list[int] | None = None) -> np.ndarray:
    """Reduce the corners of every cell, one axis after the other."""
    for axis in range(3) if axes is None else axes:
        low, high = [slice(None)] * 3, [slice(None)] * 3
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
