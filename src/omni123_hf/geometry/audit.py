"""What a sparse extraction left out, asked at random: cells and points are drawn, evaluated, and compared with their fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from omni123_hf.geometry.brick_grid import BrickGrid
from omni123_hf.geometry.sparse_grid import Evaluate, cells_at, corner_places


# With no miss among n drawn at random, fewer than LOG_20 / n of all are missed, at 95 % confidence.
LOG_20 = float(np.log(20.0))


@dataclass(frozen=True)
class Audit:
    """cells, points: how many were drawn. asked: points evaluated, corners of the cells among them. missed_cells: cells drawn
    with a corner whose sign was not that of its fill. misses: flat places of all such points.
    """

    cells: int
    points: int
    asked: int
    missed_cells: int
    misses: np.ndarray


def audit(grid: BrickGrid, evaluate: Evaluate, cells: int, points: int, rng: np.random.Generator) -> Audit:
    """Evaluate `points` random points that are not known, then all corners of `cells` random cells that have one that is not.

    All, where there are fewer. What was asked is known now: `grid.close(evaluate, misses)` follows the surface that the misses
    belong to.
    """
    before = grid.left_out
    places = draw_points(grid, points, rng)
    misses = [grid.ask(places, evaluate)]
    corners = corner_places(draw_cells(grid, cells, rng), grid.side)
    inside = grid.take(corners) > 0
    misses.append(grid.ask(np.unique(corners), evaluate))
    missed_cells = ((grid.take(corners) > 0) != inside).any(axis=1)
    asked = before - grid.left_out
    return Audit(len(corners), len(places), asked, int(missed_cells.sum()), np.concatenate(misses))


def draw_cells(grid: BrickGrid, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flat places (N,) of the low corners of `count` cells with a corner that is not known, each as likely as any other."""
    side = grid.side

    def cells_of(number: np.ndarray) -> np.ndarray:
        x, y, z = np.unravel_index(number, (side - 1,) * 3)
        return np.asarray((x * side + y) * side + z)

    def listed() -> np.ndarray:
        return np.unique(np.concatenate([cells_at(places, side) for places in grid.unknown()]))

    def wanted(number: np.ndarray) -> np.ndarray:
        known: np.ndarray = grid.is_known(corner_places(cells_of(number), side))
        return known.sum(axis=1) < 8

    # Every point that is not known is a corner of a cell, and a cell has eight.
    drawn = draw((side - 1) ** 3, grid.left_out // 8, count, rng, wanted)
    if drawn is not None:
        return np.sort(cells_of(drawn))
    return choose(listed(), count, rng) if grid.left_out else np.empty(0, dtype=np.int64)


def draw_points(grid: BrickGrid, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flat places (N,), ascending, of `count` points that are not known, each as likely as any other."""
    drawn = draw(grid.side**3, grid.left_out, count, rng, lambda places: ~grid.is_known(places))
    if drawn is not None:
        return np.sort(drawn)
    return choose(np.concatenate([np.empty(0, dtype=np.int64), *grid.unknown()]), count, rng)


def draw(
    total: int, at_least: int, count: int, rng: np.random.Generator, wanted: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray | None:
    """`count` different numbers below `total` that are `wanted`, of which there are `at_least` so many, in the order of drawing.

    None where they are so few that listing them is quicker. Drawing and dropping spares a list of millions otherwise.
    """
    if at_least <= 2 * count:
        return None
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < count:
        more = rng.integers(total, size=int(1.5 * count * total / at_least))
        # In the order of drawing: cutting a sorted list short would favour its beginning.
        joined = np.concatenate([drawn, more[wanted(more)]])
        _, first = np.unique(joined, return_index=True)
        drawn = joined[np.sort(first)]
    return drawn[:count]


def choose(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the given ascending places, ascending; all of them if there are fewer."""
    return places if len(places) <= count else np.sort(rng.choice(places, count, replace=False))


def missed_share_bound(audited: int, unknown: int) -> float:
    """The share of points left out that is wrong at most, at 95 % confidence, after an audit without a miss.

    audited: points drawn, each as likely as any other.
    """
    if unknown == 0:
        return 0.0
    return min(1.0, LOG_20 / audited) if audited else 1.0
