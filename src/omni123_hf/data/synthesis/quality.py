"""The three axes of §3.5, step 5, each "high" or not; only meshes that are high on all of them are kept.

`MeasuredQuality` measures geometry and renders; `JudgedQuality` asks a vision-language model, as the paper does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import trimesh
from PIL import Image
from scipy import ndimage

from omni123_hf.data.captioning.judge import Judge
from omni123_hf.geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS


AXES = {
    "geometric_consistency": "geometry_inconsistent",
    "surface_clarity": "surface_unclear",
    "silhouette_connectivity": "silhouette_broken",
}
"""Axis to the reason of rejection."""

DETAIL_SIGMA = 1.5
"""Pixels of blur: what is finer counts as detail."""


@dataclass(frozen=True)
class AxisRating:
    """score: 0..1, higher is better. note: what lies behind it."""

    score: float
    is_high: bool
    note: str = ""


class QualityRater(Protocol):
    """Rates a mesh on the three axes."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def rate(self, mesh: trimesh.Trimesh, views: np.ndarray, prompt: str) -> dict[str, AxisRating]:
        """mesh: normalised. views: (7,S,S,4) uint8 in the order of `ALL_VIEWS`, RGB on white and coverage."""
        ...


@dataclass(frozen=True)
class MeasuredQuality:
    """Ratings from what can be measured; each field is the least score of its axis.

    What it cannot see: whether the object is what was asked for, and whether a smooth surface is warped. Set
    surface_clarity to 0 for generators whose meshes have no colours: their renders hold shading only.
    """

    geometric_consistency: float = 0.4
    surface_clarity: float = 0.02
    silhouette_connectivity: float = 0.95

    @property
    def identity(self) -> Mapping[str, Any]:
        """Method and thresholds."""
        return {"rater": "measured-1", **vars(self)}

    def rate(self, mesh: trimesh.Trimesh, views: np.ndarray, prompt: str) -> dict[str, AxisRating]:
        """As `QualityRater.rate`."""
        closed, symmetry = closed_share(mesh), best_symmetry(views)
        pieces, outline = largest_piece_share(mesh), connected_outline(views)
        clarity = surface_detail(views)
        notes = {
            "geometric_consistency": (closed * symmetry, f"closed edges {closed:.3f}, best symmetry {symmetry:.3f}"),
            "surface_clarity": (clarity, f"fine detail {clarity:.3f}"),
            "silhouette_connectivity": (min(pieces, outline), f"largest piece {pieces:.3f}, outline {outline:.3f}"),
        }
        return {axis: AxisRating(score, score >= getattr(self, axis), note) for axis, (score, note) in notes.items()}


class JudgedQuality:
    """Binary ratings of a vision-language model on renders; all three axes in one answer."""

    def __init__(self, judge: Judge):
        self.judge = judge

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model and prompt version."""
        return {"rater": "judged-1", "judge": self.judge.identity}

    def rate(self, mesh: trimesh.Trimesh, views: np.ndarray, prompt: str) -> dict[str, AxisRating]:
        """As `QualityRater.rate`; raises as `Judge.ask`."""
        ratings, reason = self.judge.rate("quality", prompt, list(AXES), view_images(views), wanted=repr(prompt))
        return {axis: AxisRating(float(is_high), is_high, reason) for axis, is_high in ratings.items()}


def view_images(views: np.ndarray) -> dict[str, Image.Image]:
    """Name to RGB picture of (7,S,S,4) views."""
    return {name: Image.fromarray(view[..., :3]) for name, view in zip(ALL_VIEWS, views, strict=True)}


def closed_share(mesh: trimesh.Trimesh) -> float:
    """Share of edges that lie between exactly two faces."""
    edges = np.sort(mesh.edges, axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    return float((uses == 2).mean())


def best_symmetry(views: np.ndarray) -> float:
    """Silhouette overlap with the mirror image, of the better of the two upright planes (left-right, front-back)."""
    masks = views[..., 3] > 127
    sides = {name: masks[ALL_VIEWS.index(name)] for name in CANONICAL_VIEWS}
    # A left-right plane shows in the front and the top view as a mirror about the picture's middle column.
    left_right = min(_overlap(sides["front"], sides["front"][:, ::-1]), _overlap(sides["top"], sides["top"][:, ::-1]))
    front_back = min(_overlap(sides["left"], sides["left"][:, ::-1]), _overlap(sides["top"], sides["top"][::-1]))
    return max(left_right, front_back)


def surface_detail(views: np.ndarray) -> float:
    """Mean contrast of detail a pixel or two wide, inside the silhouettes and away from their edges; 0..1."""
    found, pixels = 0.0, 0
    for view in views:
        light = view[..., :3].astype(np.float64).mean(axis=2) / 255.0
        covered = (view[..., 3] > 250).astype(np.float64)
        # Blurred over the object only: the white around it would count as detail.
        weight = ndimage.gaussian_filter(covered, DETAIL_SIGMA)
        smooth = ndimage.gaussian_filter(light * covered, DETAIL_SIGMA) / np.maximum(weight, 1e-9)
        inside = ndimage.binary_erosion(covered > 0, iterations=2)
        found += float(np.abs(light - smooth)[inside].sum())
        pixels += int(inside.sum())
    # A step from black to white every few pixels gives about 0.25 here.
    return min(1.0, 4.0 * found / pixels) if pixels else 0.0


def largest_piece_share(mesh: trimesh.Trimesh) -> float:
    """Share of the surface's area in its largest connected piece: what is missing floats."""
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    areas = np.bincount(labels, weights=mesh.area_faces)
    return float(areas.max() / areas.sum())


def connected_outline(views: np.ndarray) -> float:
    """Least share, over the views, of the silhouette's largest connected piece; 0 for an empty silhouette."""
    shares = []
    for view in views:
        labels, count = ndimage.label(view[..., 3] > 127, structure=np.ones((3, 3)))
        areas = np.bincount(labels.reshape(-1))[1:]
        shares.append(float(areas.max() / areas.sum()) if count else 0.0)
    return min(shares)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0
