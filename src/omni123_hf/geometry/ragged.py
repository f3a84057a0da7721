"""The NumPy idiom behind the vectorised loops of this room: owners with varying numbers of items."""

from __future__ import annotations

import numpy as np


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts (n,), the owner 0..n-1 of every item and the item's number within its owner, both (sum,) int64."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def batches(costs: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Split items into consecutive ranges whose cost stays about below `limit`; a dearer item stands alone."""
    group = ((np.cumsum(costs) - 1) // limit).astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(costs)]
    return list(zip(edges[:-1], edges[1:], strict=True))
