"""The finest grid without an array of it: a lattice that says what its points are filled with, and bricks where more is known.

A brick holds 8 x 8 x 8 points and exists where one of them was asked. Everywhere else a point has the value of the nearest point
of the lattice, as in `sparse_grid`. Places are flat indices on the whole grid, x slowest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni123_hf.geometry.sparse_grid import (
    CORNERS,
    PIECE,
    Evaluate,
    Lattice,
    Refinement,
    active_cells,
    close,
    coordinates,
    lattice_index,
    nearest_on,
    on_border,
    over_corners,
)


BRICK = 8
BRICK_POINTS = BRICK**3
# Bricks, and cells of the lattice, at a time: a million points or less.
BRICKS_AT_ONCE = 1024
CELLS_AT_ONCE = 2**15


class BrickGrid:
    """All points of a grid of `side` points an axis, above a lattice whose stride is 2."""

    stride = 1

    def __init__(self, coarse: Lattice):
        self.coarse, self.side = coarse, coarse.side
        points = np.arange(self.side)
        self.nearest = nearest_on(coarse.index, points)
        self.on_lattice = coarse.index[self.nearest] == points
        self.across = -(-self.side // BRICK)
        # Slot of each brick in the arrays below, -1 where there is none; and the brick of each slot.
        self.table = np.full(self.across**3, -1, dtype=np.int32)
        self.bricks = np.empty(0, dtype=np.int64)
        self.values = np.empty((0, BRICK_POINTS), dtype=np.float32)
        self.known = np.empty((0, BRICK_POINTS), dtype=bool)
        self.left_out = self.side**3 - int(coarse.known.sum())

    def take(self, places: np.ndarray) -> np.ndarray:
        """Values float32 at places of any shape."""
        slot, within = self._locate(places)
        values = np.empty(places.shape, dtype=np.float32)
        held = slot >= 0
        values[held] = self.values[slot[held], within[held]]
        values[~held] = self.coarse.values[self._on_coarse(places[~held])]
        return values

    def is_known(self, places: np.ndarray) -> np.ndarray:
        """Whether the field was asked at places of any shape."""
        slot, within = self._locate(places)
        known = np.empty(places.shape, dtype=bool)
        held = slot >= 0
        known[held] = self.known[slot[held], within[held]]
        x, y, z = coordinates(places[~held], self.side)
        exact = self.on_lattice[x] & self.on_lattice[y] & self.on_lattice[z]
        known[~held] = exact & self.coarse.known[self._on_coarse(places[~held])]
        return known

    def ask(self, places: np.ndarray, evaluate: Evaluate) -> np.ndarray:
        """Evaluate those of `places`, all different, that are not known yet; returns those whose sign is not their fill's.

        All of `places` lie in bricks afterwards.
        """
        self._hold(places)
        slot, within = self._locate(places)
        at = slot.astype(np.int64) * BRICK_POINTS + within
        unknown = ~self.known.reshape(-1)[at]
        places, at = places[unknown], at[unknown]
        if not len(places):
            return places
        answer = evaluate(places)
        values = self.values.reshape(-1)
        wrong = (answer > 0) != (values[at] > 0)
        values[at] = answer
        self.known.reshape(-1)[at] = True
        self.left_out -= len(places)
        return places[wrong]

    def ask_all(self, evaluate: Evaluate) -> np.ndarray:
        """Evaluate every point that is left; returns those whose sign is not that of their fill."""
        self._reserve(self.across**3)
        return np.concatenate(
            [self.ask(places, evaluate) for places in self.unknown()] or [np.empty(0, dtype=np.int64)]
        )

    def close(self, evaluate: Evaluate, changed: np.ndarray) -> None:
        """Evaluate until no cell with a change of sign has a corner that is not known; `changed` as for `sparse_grid.close`."""
        close(self, self.side, evaluate, changed)

    def adopt(self, other: BrickGrid) -> np.ndarray:
        """Take over what the bricks of another grid of this field know; returns the places whose sign is not their fill's."""
        wrong = [np.empty(0, dtype=np.int64)]
        for start in range(0, len(other.bricks), BRICKS_AT_ONCE):
            slots = slice(start, min(start + BRICKS_AT_ONCE, len(other.bricks)))
            x, y, z = (
                axis[(slice(None), *spread)]
                for axis, spread in zip(other._points_of(slots, BRICK), _SPREAD, strict=True)
            )
            within = (x < self.side) & (y < self.side) & (z < self.side)
            known = within & other.known[slots].reshape(within.shape)
            wrong.append(self.ask(((x * self.side + y) * self.side + z)[known], other.take))
        return np.concatenate(wrong)

    def every_second(self) -> Lattice:
        """The lattice of stride 2 as it is known here."""
        index = lattice_index(self.side, 2)
        shape = (len(index),) * 3
        lattice = Lattice(2, self.side, index, np.empty(shape, dtype=np.float32), np.empty(shape, dtype=bool))
        plane = index[:, None] * self.side + index
        for i, x in enumerate(index):
            lattice.values[i] = self.take(x * self.side**2 + plane)
            lattice.known[i] = self.is_known(x * self.side**2 + plane)
        return lattice

    def unknown(self) -> Iterator[np.ndarray]:
        """All places that are not known, ascending, in pieces. Those of later pieces may become known meanwhile."""
        for start in range(0, self.side**3, PIECE):
            places = np.arange(start, min(start + PIECE, self.side**3))
            places = places[~self.is_known(places)]
            if len(places):
                yield places

    def mixed_cells(self) -> np.ndarray:
        """Flat places (N,) of the low corners of all cells with a change of sign, border outside, ascending.

        They are looked for in bricks only: where `close` has ended, there are no others.
        """
        found = [np.empty(0, dtype=np.int64)]
        last = self.side - 1
        for start in range(0, len(self.bricks), BRICKS_AT_ONCE):
            slots = slice(start, min(start + BRICKS_AT_ONCE, len(self.bricks)))
            axes = self._points_of(slots, BRICK + 1)
            inside = self._signs(slots, axes)
            within = inside.copy()
            for axis, spread in zip(axes, _SPREAD, strict=True):
                within &= ((axis > 0) & (axis < last))[(slice(None), *spread)]
            mixed = over_corners(inside, np.logical_or, [1, 2, 3]) & ~over_corners(within, np.logical_and, [1, 2, 3])
            for axis, spread in zip(axes, _SPREAD, strict=True):
                mixed &= (axis[:, :BRICK] < last)[(slice(None), *spread)]
            brick, x, y, z = np.nonzero(mixed)
            found.append((axes[0][brick, x] * self.side + axes[1][brick, y]) * self.side + axes[2][brick, z])
        return np.sort(np.concatenate(found))

    def largest(self) -> float:
        """The largest magnitude of a value, of a grid that is wholly known."""
        return max(
            float(np.abs(self.values[: len(self.bricks)]).max(initial=0.0)), float(np.abs(self.coarse.values).max())
        )

    def _signs(self, slots: slice, axes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Whether the points (m,9,9,9) of bricks and of the next planes above are inside; beyond the grid it means nothing."""
        blocks = self.values.reshape(-1, BRICK, BRICK, BRICK)
        inside = np.empty((len(axes[0]), *(BRICK + 1,) * 3), dtype=bool)
        brick = np.stack(np.unravel_index(self.bricks[slots], (self.across,) * 3), axis=1)
        for shift in CORNERS:
            # All of a brick's own planes, or only the first of the next brick's.
            target = tuple(slice(BRICK, None) if step else slice(0, BRICK) for step in shift)
            source = tuple(slice(0, 1) if step else slice(None) for step in shift)
            x, y, z = (np.minimum(brick + shift, self.across - 1)).T
            slot = self.table[(x * self.across + y) * self.across + z]
            held = slot >= 0
            part = inside[(slice(None), *target)]
            part[held] = blocks[(slot[held], *source)] > 0
            near = [
                self.nearest[np.minimum(axis[~held][:, side], self.side - 1)]
                for axis, side in zip(axes, target, strict=True)
            ]
            part[~held] = (
                self.coarse.values[near[0][:, :, None, None], near[1][:, None, :, None], near[2][:, None, None]] > 0
            )
        return inside

    def _points_of(self, slots: slice, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates (m,count) of the points of bricks in x, y and z, which may lie beyond the grid."""
        x, y, z = (
            BRICK * axis[:, None] + np.arange(count)
            for axis in np.unravel_index(self.bricks[slots], (self.across,) * 3)
        )
        return x, y, z

    def _locate(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slots, -1 where there is no brick, and numbers within the brick."""
        x, y, z = coordinates(places, self.side)
        slot = self.table[((x // BRICK) * self.across + y // BRICK) * self.across + z // BRICK]
        return slot, (x % BRICK * BRICK + y % BRICK) * BRICK + z % BRICK

    def _on_coarse(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices of the lattice's points nearest to places."""
        x, y, z = coordinates(places, self.side)
        return self.nearest[x], self.nearest[y], self.nearest[z]

    def _hold(self, places: np.ndarray) -> None:
        """Make the bricks that hold `places`."""
        x, y, z = coordinates(places, self.side)
        brick = ((x // BRICK) * self.across + y // BRICK) * self.across + z // BRICK
        new = np.unique(brick[self.table[brick] < 0])
        if not len(new):
            return
        begin = len(self.bricks)
        self._reserve(begin + len(new))
        self.table[new] = np.arange(begin, begin + len(new))
        self.bricks = np.append(self.bricks, new)
        for start in range(begin, len(self.bricks), BRICKS_AT_ONCE):
            slots = slice(start, min(start + BRICKS_AT_ONCE, len(self.bricks)))
            axes = [np.minimum(axis, self.side - 1) for axis in self._points_of(slots, BRICK)]
            x, y, z = (self.nearest[axis][(slice(None), *spread)] for axis, spread in zip(axes, _SPREAD, strict=True))
            self.values[slots] = self.coarse.values[x, y, z].reshape(-1, BRICK_POINTS)
            known = self.coarse.known[x, y, z]
            for axis, spread in zip(axes, _SPREAD, strict=True):
                known &= self.on_lattice[axis][(slice(None), *spread)]
            self.known[slots] = known.reshape(-1, BRICK_POINTS)

    def _reserve(self, count: int) -> None:
        """Room for `count` bricks, and for a quarter more where that is not the last time."""
        if count <= len(self.values):
            return
        count = min(max(count, len(self.values) * 5 // 4), self.across**3)
        for name in ("values", "known"):
            old = getattr(self, name)
            new = np.empty((count, BRICK_POINTS), dtype=old.dtype)
            new[: len(self.bricks)] = old[: len(self.bricks)]
            setattr(self, name, new)


# How coordinates (m,n) of x, y and z are laid over (m,x,y,z).
_SPREAD = ((slice(None), None, None), (None, slice(None), None), (None, None, slice(None)))


def finest(coarse: Lattice, evaluate: Evaluate, refinement: Refinement, before: BrickGrid | None = None) -> BrickGrid:
    """The whole grid: evaluated in the cells of a lattice of stride 2 that `refinement` names, filled elsewhere, then closed.

    before: a grid of the same field, of whose points none is asked again.
    """
    grid = BrickGrid(coarse)
    changed = [] if before is None else [grid.adopt(before)]
    cells = np.flatnonzero(active_cells(coarse, refinement))
    count = len(coarse.index) - 1
    for start in range(0, len(cells), CELLS_AT_ONCE):
        axes = []
        for cell in np.unravel_index(cells[start : start + CELLS_AT_ONCE], (count,) * 3):
            # The last cell of an axis may be one step wide.
            low, high = coarse.index[cell], coarse.index[cell + 1]
            axes.append(np.minimum(low[:, None] + np.arange(3), high[:, None]))
        x, y, z = (axis[(slice(None), *spread)] for axis, spread in zip(axes, _SPREAD, strict=True))
        places = np.unique((x * grid.side + y) * grid.side + z)
        changed.append(grid.ask(places, evaluate))
    if changed:
        grid.close(evaluate, np.concatenate(changed))
    return grid


def specks(grid: BrickGrid, mixed: np.ndarray) -> int:
    """Points within the border whose six neighbours all have the other sign; `mixed` cells as the grid gives them."""
    side, count = grid.side, 0
    steps = np.array([side**2, side, 1])
    for start in range(0, len(mixed), PIECE):
        # A point is counted in the one cell that it is the low corner of: all cells around such a point are mixed.
        places = mixed[start : start + PIECE]
        places = places[~on_border(places, side)]
        middle = grid.take(places) > 0
        for step in steps:
            for sign in (-1, 1):
                other = (grid.take(places + sign * step) > 0) != middle
                places, middle = places[other], middle[other]
        count += len(places)
    return count
