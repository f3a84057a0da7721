"""Metrics across modalities: silhouettes of image and mesh, retrieval ranks, use of a codebook. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


FOREGROUND_THRESHOLD = 0.06
"""A pixel is foreground when a channel is darker than white by more than this share of the range (about 15 of 255 levels).

Renders stand on pure white and the lightest material is well below it; a decoded image's background wavers by 1-2%."""


def foreground_mask(image: np.ndarray, threshold: float = FOREGROUND_THRESHOLD) -> np.ndarray:
    """Boolean silhouette (H, W) of an object on white: any channel of `image` (H, W, 3), float [0, 1] or uint8, below 1 - threshold."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"The image must be (H, W, 3) RGB on white, got {image.shape}: composite any alpha first.")
    values = image.astype(np.float64) / 255 if image.dtype == np.uint8 else image.astype(np.float64)
    return values.min(axis=2) < 1 - threshold


def silhouette_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boolean silhouettes (H, W), 0..1. An empty silhouette is a failure: 0, also against another."""
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.dtype != bool or second.dtype != bool:
        raise ValueError(
            f"Silhouettes must be boolean and of one size, got {first.shape} and {second.shape}: render at one size."
        )
    union = int((first | second).sum())
    return 0.0 if union == 0 else int((first & second).sum()) / union


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`silhouette_iou` of every pair of two stacks (A, H, W), (B, H, W) bool: (A, B) float64."""
    if first.shape[1:] != second.shape[1:] or first.dtype != bool or second.dtype != bool:
        raise ValueError(f"Silhouettes must be boolean and of one size, got {first.shape} and {second.shape}.")
    one, two = (masks.reshape(len(masks), -1).astype(np.float64) for masks in (first, second))
    common = one @ two.T
    union = one.sum(axis=1)[:, None] + two.sum(axis=1)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def rank_of_own(distances: Sequence[float] | np.ndarray, own: int) -> int:
    """Rank (1 = best) of candidate `own` by distance. Ties and non-finite distances count against it, so a failure ranks last."""
    values = np.asarray(distances, dtype=np.float64)
    if values.ndim != 1 or not 0 <= own < len(values):
        raise ValueError(f"own={own} must index the one-dimensional candidate list of length {values.size}.")
    if not np.isfinite(values[own]):
        return len(values)
    others = np.delete(values, own)
    return 1 + int((others <= values[own]).sum())


def retrieval_scores(ranks: Sequence[int] | np.ndarray, within: int = 5) -> dict[str, float]:
    """Shares of ranks equal to 1 (`rank1`) and at most `within` (`within<k>`), and the `mean_rank`."""
    if len(ranks) == 0:
        raise ValueError("No ranks to summarise: the test set is empty.")
    values = np.asarray(ranks)
    return {
        "rank1": float((values == 1).mean()),
        f"within{within}": float((values <= within).mean()),
        "mean_rank": float(values.mean()),
    }


def candidate_groups(categories: Sequence[str], size: int, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Retrieval tests: for each object and draw, `size` object indices, the own first, one of each of `size` categories.

    Returns, in the order of the objects, `draws` arrays (size,) each. Needs at least `size` distinct categories.
    """
    by_category: dict[str, list[int]] = {}
    for index, category in enumerate(categories):
        by_category.setdefault(category, []).append(index)
    if len(by_category) < size:
        raise ValueError(f"One of each of {size} categories needs {size} categories, the set has {len(by_category)}.")
    names = sorted(by_category)
    groups = []
    for index, category in enumerate(categories):
        others = [name for name in names if name != category]
        for _ in range(draws):
            chosen = rng.choice(len(others), size=size - 1, replace=False)
            members = [by_category[others[c]][rng.integers(len(by_category[others[c]]))] for c in chosen]
            groups.append(np.array([index, *members]))
    return groups


def code_histogram(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """Counts (codebook_size,) int64 of integer codes of any shape; codes outside the book raise ValueError."""
    flat = np.asarray(codes).reshape(-1).astype(np.int64)
    if flat.size and (flat.min() < 0 or flat.max() >= codebook_size):
        raise ValueError(f"Codes {flat.min()}..{flat.max()} leave the codebook of {codebook_size}.")
    return np.bincount(flat, minlength=codebook_size)


def code_statistics(histogram: np.ndarray) -> dict[str, float]:
    """`usage` (share of codes seen), `perplexity` (exp of the entropy, in codes), `tokens` counted and `codes` of a histogram (K,)."""
    counts = np.asarray(histogram, dtype=np.float64)
    if counts.ndim != 1 or counts.sum() <= 0:
        raise ValueError("The code histogram is empty: encode at least one asset.")
    shares = counts[counts > 0] / counts.sum()
    return {
        "usage": float((counts > 0).mean()),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "tokens": int(counts.sum()),
        "codes": len(counts),
    }
