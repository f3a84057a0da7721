"""Smooth shading: one normal a face corner, equal across soft edges and different across creases."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from omni123_hf.geometry.rasterizer import unit_normals, unit_or_zero


def corner_normals(triangles: np.ndarray, crease_angle: float) -> np.ndarray:
    """(F,3,3) float32 unit normals of the corners of triangles (F,3,3); zero where a face has no area.

    Around a vertex, faces joined by edges that bend by at most `crease_angle` degrees share the mean of their normals,
    weighted by their angles at the vertex. Corners at the same place are one vertex, whether or not the mesh shares it
    (a seam of the texture is no crease). Neighbours of opposite winding keep apart, as at a crease.
    """
    count = len(triangles)
    if not count:
        return np.zeros((0, 3, 3), dtype=np.float32)
    edges = np.roll(triangles, -1, axis=1) - triangles
    normals = unit_normals(triangles)
    vertices = _vertices(triangles)

    # Half edge h = 3 f + k runs from corner k to corner k + 1 of face f. Equal keys are the two sides of one edge.
    start, end = vertices.ravel(), np.roll(vertices, -1, axis=1).ravel()
    key = np.minimum(start, end) * np.int64(3 * count) + np.maximum(start, end)
    order = np.argsort(key)
    pairs = np.flatnonzero(np.diff(key[order]) == 0)
    one, other = order[pairs], order[pairs + 1]
    bend = np.einsum("ij,ij->i", normals[one // 3], normals[other // 3])
    opposed = start[one] == end[other]
    soft = opposed & (bend >= math.cos(math.radians(crease_angle)) - 1e-9)
    one, other = one[soft], other[soft]

    def after(half_edge: np.ndarray) -> np.ndarray:
        return half_edge - half_edge % 3 + (half_edge % 3 + 1) % 3

    # The start of one side meets the end of the other, and the other way round.
    rows, columns = np.concatenate([one, after(one)]), np.concatenate([after(other), other])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(3 * count, 3 * count))
    groups, group = connected_components(graph, directed=False)

    weighted = (normals[:, None] * _angles(edges)[:, :, None]).reshape(-1, 3)
    total = np.stack([np.bincount(group, weighted[:, axis], groups) for axis in range(3)], axis=1)
    return unit_or_zero(total)[group].reshape(-1, 3, 3).astype(np.float32)


def _vertices(triangles: np.ndarray) -> np.ndarray:
    """(F,3) numbers of the corners; corners at the same place have the same number."""
    points = triangles.reshape(-1, 3) + 0.0  # -0.0 becomes 0.0
    order = np.lexsort(points.T)
    ordered = points[order]
    new = np.concatenate([[False], (ordered[1:] != ordered[:-1]).any(axis=1)])
    numbers = np.empty(len(points), dtype=np.int64)
    numbers[order] = np.cumsum(new)
    return numbers.reshape(-1, 3)


def _angles(edges: np.ndarray) -> np.ndarray:
    """(F,3) angles of the corners in radians, from the edges (F,3,3) that start at them."""
    into = -np.roll(edges, 1, axis=1)
    cross = np.linalg.norm(np.cross(edges, into), axis=2)
    return np.arctan2(cross, np.einsum("fkc,fkc->fk", edges, into))
