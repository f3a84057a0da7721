"""What a sparse extraction left out, asked at random: points are drawn, evaluated, and compared with their fill."""

from __future__ import annotations

import numpy as np

from omni123_hf.geometry.sparse_grid import Evaluate, Lattice


# With no miss among n points drawn at random, fewer than LOG_20 / n of all points are missed, at 95 % confidence.
LOG_20 = float(np.log(20.0))


def audit(lattice: Lattice, evaluate: Evaluate, count: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Evaluate `count` random points that are not known (all, if there are fewer).

    Returns how many were asked and the flat places of those whose sign is not that of their fill. They are known now:
    `Lattice.close(evaluate, misses)` follows the surface that they belong to.
    """
    places = draw_unknown(lattice.known.reshape(-1), count, rng)
    return len(places), lattice.ask(places, evaluate)


def draw_unknown(known: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flat places (N,), sorted, of `count` unknown points, each as likely as any other; all of them if there are fewer."""
    unknown = len(known) - int(known.sum())
    if unknown <= 2 * count:
        places = np.flatnonzero(~known)
        return places if unknown <= count else np.sort(rng.choice(places, count, replace=False))
    # Drawing from the whole grid and dropping what is known spares a list of millions of places.
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < count:
        more = rng.integers(len(known), size=int(1.5 * count * len(known) / unknown))
        more = more[~known[more]]
        # In the order of drawing: cutting a sorted list short would favour its beginning.
        joined = np.concatenate([drawn, more])
        _, first = np.unique(joined, return_index=True)
        drawn = joined[np.sort(first)]
    return np.sort(drawn[:count])


def missed_share_bound(audited: int, unknown: int) -> float:
    """The share of points left out that is wrong at most, at 95 % confidence, after an audit without a miss."""
    if unknown == 0:
        return 0.0
    return min(1.0, LOG_20 / audited) if audited else 1.0
