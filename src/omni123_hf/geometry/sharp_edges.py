"""Samples on sharp edges, which area-uniform samples almost never hit although they carry the shape of made things."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.geometry.solid import weld


SHARP_ANGLE = 30.0
# A face without area has no normal; in the normalised frame (longest side 1.92) this is far below any real face.
LEAST_DOUBLED_AREA = 1e-14


@dataclass(frozen=True)
class EdgeAngles:
    """Edges shared by exactly two faces with area.

    ends: (E,2,3). normals: (E,2,3), unit normals of the two faces, turned to agree where the faces are wound against
    each other. degrees: (E,), 0 where the faces are level and 180 where they fold onto each other.
    """

    ends: np.ndarray
    normals: np.ndarray
    degrees: np.ndarray


@dataclass(frozen=True)
class SurfaceSamples:
    """points (N,3), unit normals (N,3), both float32; sharp (N,) bool says which lie on sharp edges."""

    points: np.ndarray
    normals: np.ndarray
    sharp: np.ndarray


def edge_angles(mesh: trimesh.Trimesh) -> EdgeAngles:
    """Dihedral angles of a mesh; vertices split along seams are welded first."""
    vertices, faces = weld(mesh)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    has_area = length > LEAST_DOUBLED_AREA
    faces, normals = faces[has_area], normals[has_area] / length[has_area, None]
    if not len(faces):
        return EdgeAngles(np.empty((0, 2, 3)), np.empty((0, 2, 3)), np.empty(0))
    start, stop = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    key = low * len(vertices) + high
    order = np.argsort(key, kind="stable")
    _, first, uses = np.unique(key[order], return_index=True, return_counts=True)
    one, other = order[first[uses == 2]], order[first[uses == 2] + 1]
    same_way = start[one] == start[other]
    pair = np.stack([normals[one // 3], np.where(same_way, -1.0, 1.0)[:, None] * normals[other // 3]], axis=1)
    cosine = np.einsum("ij,ij->i", pair[:, 0], pair[:, 1]).clip(-1.0, 1.0)
    return EdgeAngles(vertices[np.stack([low[one], high[one]], axis=1)], pair, np.degrees(np.arccos(cosine)))


def sample_sharp_edges(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator, angle: float = SHARP_ANGLE
) -> tuple[np.ndarray, np.ndarray]:
    """`count` points (N,3) on edges that bend by more than `angle` degrees, and unit normals (N,3), both float32.

    Points are uniform along the length of the edges. A normal is the mean of the two faces' normals; where they fold
    onto each other it is that of one face. A mesh without such edges gives none: N is 0.
    """
    if count < 0 or not 0.0 < angle < 180.0:
        raise Omni123Error(f"need count >= 0 and 0 < angle < 180 degrees, got {count} and {angle}")
    edges = edge_angles(mesh)
    sharp = edges.degrees > angle
    ends, pairs = edges.ends[sharp], edges.normals[sharp]
    cumulative = np.cumsum(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1))
    if not len(cumulative):
        return np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)
    edge = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right").clip(max=len(cumulative) - 1)
    points = ends[edge, 0] + rng.random((count, 1)) * (ends[edge, 1] - ends[edge, 0])
    mean = pairs.sum(axis=1)
    length = np.linalg.norm(mean, axis=1)
    unit = np.where((length > 1e-6)[:, None], mean / np.maximum(length, 1e-6)[:, None], pairs[:, 0])
    return points.astype(np.float32), unit[edge].astype(np.float32)


def sample_surface_and_edges(
    mesh: trimesh.Trimesh,
    count: int,
    rng: np.random.Generator,
    sharp_share: float = 0.25,
    angle: float = SHARP_ANGLE,
) -> SurfaceSamples:
    """`count` samples, of which `sharp_share` lie on sharp edges; without such edges all are area-uniform.

    Uniform samples come first. The result depends on `rng` and the mesh only.
    """
    if not 0.0 <= sharp_share <= 1.0:
        raise Omni123Error(f"sharp_share must be in [0, 1], got {sharp_share}")
    edge_points, edge_normals = sample_sharp_edges(mesh, round(count * sharp_share), rng, angle)
    points, normals = sample_surface(mesh, count - len(edge_points), rng)
    return SurfaceSamples(
        np.concatenate([points, edge_points]),
        np.concatenate([normals, edge_normals]),
        np.arange(count) >= len(points),
    )
