"""What is sound and what is not about a mesh, as numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class MeshHealth:
    """Facts about a mesh as it is stored, without merging vertices first.

    components: pieces connected through shared edges. genus: handles over all pieces, None unless watertight and
    consistently wound. volume:
    enclosed volume in cubic units, None unless watertight and consistently wound. Self-intersection is not tested.
    """

    watertight: bool
    winding_consistent: bool
    components: int
    genus: int | None
    volume: float | None
    faces: int
    vertices: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def mesh_health(mesh: trimesh.Trimesh) -> MeshHealth:
    """Measure `mesh`. An empty mesh is reported as not watertight with no component."""
    faces = np.asarray(mesh.faces, dtype=np.int64)
    if not len(faces):
        return MeshHealth(False, False, 0, None, None, 0, len(mesh.vertices))
    corner = np.arange(faces.size).reshape(-1, 3)
    start, stop = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    start_corner, stop_corner = corner.reshape(-1), np.roll(corner, -1, axis=1).reshape(-1)
    forward = start < stop
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    _, edge, uses = np.unique(low * (faces.max() + 1) + high, return_inverse=True, return_counts=True)
    directed = np.bincount(edge, weights=np.where(forward, 1.0, -1.0))
    watertight = bool((uses == 2).all() and (start != stop).all())
    consistent = bool(((uses != 2) | (directed == 0)).all())

    # Corners that meet through a shared edge are one vertex of one fan: counting fans instead of vertices keeps Euler's
    # formula right where two pieces touch in a single vertex.
    order = np.argsort(edge, kind="stable")
    same = np.flatnonzero(edge[order][1:] == edge[order][:-1])
    one, other = order[same], order[same + 1]
    low_corner = np.where(forward, start_corner, stop_corner)
    high_corner = np.where(forward, stop_corner, start_corner)
    fans = _components(
        np.concatenate([low_corner[one], high_corner[one]]),
        np.concatenate([low_corner[other], high_corner[other]]),
        faces.size,
    )
    components = _components(one // 3, other // 3, len(faces))
    genus = components - (fans - len(uses) + len(faces)) // 2 if watertight and consistent else None
    volume = float(mesh.volume) if watertight and consistent else None
    return MeshHealth(watertight, consistent, components, genus, volume, len(faces), len(mesh.vertices))


def _components(one: np.ndarray, other: np.ndarray, count: int) -> int:
    graph = coo_matrix((np.ones(len(one), dtype=bool), (one, other)), shape=(count, count))
    return int(connected_components(graph, directed=False)[0])
