"""The one normalisation: longest side 1.92, centred on the bounding box, y up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error


HALF_EXTENT = 0.96
FIELD_BOUND = 1.05


@dataclass(frozen=True)
class NormalizationTransform:
    """`normalised = (original - center) * scale`; keeps what is needed to return to the original units."""

    center: tuple[float, float, float]
    scale: float

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(N,3) original to normalised."""
        return (np.asarray(points, dtype=np.float64) - np.asarray(self.center)) * self.scale

    def invert(self, points: np.ndarray) -> np.ndarray:
        """(N,3) normalised to original."""
        return np.asarray(points, dtype=np.float64) / self.scale + np.asarray(self.center)


def normalize_mesh(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, NormalizationTransform]:
    """A copy of `mesh` centred on its bounding box with its longest side `2 * HALF_EXTENT`, and the transform used.

    Only vertices that a face uses count. Colours and materials are kept; the mesh is not turned. An empty, infinite or
    point-like mesh raises `Omni123Error`.
    """
    faces = np.asarray(mesh.faces)
    if not len(faces):
        raise Omni123Error("the mesh has no faces; give a surface mesh, not a point cloud or an empty file")
    corners = np.asarray(mesh.vertices, dtype=np.float64)[faces].reshape(-1, 3)
    if not np.isfinite(corners).all():
        raise Omni123Error("the mesh has vertices that are not finite; repair or re-export it")
    low, high = corners.min(axis=0), corners.max(axis=0)
    longest = float((high - low).max())
    if longest <= 1e-9:
        raise Omni123Error("the mesh has no extent: all its vertices coincide")
    center = (low + high) / 2.0
    transform = NormalizationTransform(
        (float(center[0]), float(center[1]), float(center[2])), 2 * HALF_EXTENT / longest
    )
    normalised = mesh.copy()
    normalised.vertices = transform.apply(mesh.vertices)
    return normalised, transform
