"""Points on a surface, and the query points at which occupancy is learned."""

from __future__ import annotations

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.normalization import FIELD_BOUND


# Two bands around the surface: one to place it exactly, one to shape the field around it.
NEAR_SURFACE_SIGMAS = (0.02, 0.08)


def sample_surface(mesh: trimesh.Trimesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` area-uniform points (N,3) and their unit face normals (N,3), float32, in the frame of the mesh.

    A mesh without area raises `Omni123Error`.
    """
    triangles = np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces)]
    if not np.isfinite(triangles).all():
        raise Omni123Error("the mesh has vertices that are not finite; repair or drop it before sampling")
    edge1, edge2 = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    normals = np.cross(edge1, edge2)
    doubled_area = np.linalg.norm(normals, axis=1)
    cumulative = np.cumsum(doubled_area)
    if not len(cumulative) or cumulative[-1] <= 0.0:
        raise Omni123Error("the mesh has no surface area to sample; it is empty or all its faces are degenerate")
    # side="right" never picks a face without area, whose cumulative value equals its predecessor's.
    face = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right").clip(max=len(cumulative) - 1)
    u, v = rng.random((2, count, 1))
    flip = u + v > 1.0
    u, v = np.where(flip, 1.0 - u, u), np.where(flip, 1.0 - v, v)
    points = triangles[face, 0] + u * edge1[face] + v * edge2[face]
    unit = normals[face] / np.maximum(doubled_area[face], 1e-300)[:, None]
    return points.astype(np.float32), unit.astype(np.float32)


def sample_queries(surface_points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Query points (count,3) float32 in the field box ±1.05.

    The first `count // 2` are uniform in the box; the rest are surface points plus Gaussian noise, the first half of
    them with sigma 0.02 and the others with 0.08, clipped to the box.
    """
    if not len(surface_points):
        raise Omni123Error("no surface points to sample queries around; call sample_surface first")
    uniform = count // 2
    near = count - uniform
    box = rng.uniform(-FIELD_BOUND, FIELD_BOUND, (uniform, 3))
    sigma = np.where(np.arange(near) < near // 2, *NEAR_SURFACE_SIGMAS)[:, None]
    anchors = np.asarray(surface_points, dtype=np.float64)[rng.integers(0, len(surface_points), near)]
    around = np.clip(anchors + sigma * rng.standard_normal((near, 3)), -FIELD_BOUND, FIELD_BOUND)
    return np.concatenate([box, around]).astype(np.float32)
