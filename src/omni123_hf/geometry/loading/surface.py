"""What every reader gives, and how it becomes one clean mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from ...errors import RejectedError
from .limits import LoadLimits


DEFAULT_COLOR = (190, 190, 190)

# Beyond these, sums of squares leave float32 and a scale would be meaningless.
MAX_COORDINATE = 1e9
MIN_EXTENT = 1e-9

# Weld grid: vertices nearer than one part in a million of the longest side are the same vertex.
WELD_STEPS = 1_000_000


@dataclass
class Surface:
    """Triangles as read: vertices (V,3) float64, faces (F,3) int64, face colours (F,3) uint8 in sRGB."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray


def plain_colors(count: int) -> np.ndarray:
    """(count,3) uint8 of the light grey that stands for "no colour given"."""
    return np.tile(np.array(DEFAULT_COLOR, dtype=np.uint8), (count, 1))


def join_surfaces(parts: list[Surface]) -> Surface:
    """One surface of several."""
    if not parts:
        return Surface(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.uint8))
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Surface(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.colors for part in parts]),
    )


def to_mesh(surface: Surface, limits: LoadLimits, label: str) -> trimesh.Trimesh:
    """Checked, welded mesh with a colour for each face.

    Faces without area, faces listed twice and unused vertices are dropped. Raises RejectedError, naming `label`, when
    there is no face, an index or coordinate is wrong, or the limits are passed.
    """
    faces = surface.faces
    if not len(faces):
        raise RejectedError("no_faces", f"{label}: no faces; points and lines alone make no surface, export a mesh")
    check_counts(len(surface.vertices), len(faces), limits, label)
    used = np.unique(faces)
    if used[0] < 0 or used[-1] >= len(surface.vertices):
        raise RejectedError(
            "bad_index", f"{label}: a face names a vertex that does not exist; the file is broken, export it again"
        )
    points = np.asarray(surface.vertices[used], dtype=np.float64)
    if not np.isfinite(points).all():
        raise RejectedError(
            "not_finite", f"{label}: a face has coordinates that are not finite; the file is broken, export it again"
        )
    low, high = points.min(axis=0), points.max(axis=0)
    longest = float((high - low).max())
    if max(-float(low.min()), float(high.max())) > MAX_COORDINATE or 0.0 < longest < MIN_EXTENT:
        raise RejectedError(
            "coordinates_out_of_range",
            f"{label}: coordinates reach {np.abs(points).max():.3g} over an extent of {longest:.3g}; allowed are"
            f" coordinates to {MAX_COORDINATE:g} and an extent from {MIN_EXTENT:g}; rescale the model",
        )
    if longest == 0.0:
        raise RejectedError("no_area", f"{label}: all vertices coincide")
    corners = points[np.searchsorted(used, faces)]
    doubled_area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    # Smaller than a cell of the weld grid is nothing.
    solid = doubled_area > (longest / WELD_STEPS) ** 2
    first, welded, keep = weld(points, np.searchsorted(used, faces[solid]), longest)
    if not keep.any():
        raise RejectedError("no_area", f"{label}: every face is degenerate")
    return colored_mesh(points[first], welded[keep], surface.colors[solid][keep])


def check_counts(vertices: int, faces: int, limits: LoadLimits, label: str) -> None:
    """Raise RejectedError when there are more vertices or faces than the limits allow."""
    if faces > limits.max_faces:
        raise RejectedError("too_many_faces", f"{label}: {faces} faces, more than {limits.max_faces}; simplify it")
    if vertices > limits.max_vertices:
        raise RejectedError(
            "too_many_vertices", f"{label}: {vertices} vertices, more than {limits.max_vertices}; simplify it"
        )


def weld(points: np.ndarray, faces: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join points (V,3) of one cell of the weld grid; `longest` is the longest side of their box.

    Gives the row of `points` (W,) that stands for each welded vertex, the faces (F,3) over welded vertices, and which
    of them (F,) to keep: not collapsed, and the first of those over the same three vertices.
    """
    cells = np.rint((points - points.min(axis=0)) * (WELD_STEPS / longest)).astype(np.int64)
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    _, first, welded = np.unique(keys, return_index=True, return_inverse=True)
    corners = welded[faces]
    keep = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]) & (corners[:, 2] != corners[:, 0])
    # A stable sort: the first face of each group is the one that came first in the file.
    ordered = np.sort(corners, axis=1)
    order = np.lexsort((ordered[:, 2], ordered[:, 1], ordered[:, 0]))
    repeated = np.zeros(len(corners), dtype=bool)
    repeated[order[1:]] = (np.diff(ordered[order], axis=0) == 0).all(axis=1)
    return first, corners, keep & ~repeated


def colored_mesh(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> trimesh.Trimesh:
    """A mesh of exactly these faces with face colours (F,3) uint8, without vertices that no face uses."""
    mesh = trimesh.Trimesh(vertices=vertices, faces=faces, process=False)
    mesh.remove_unreferenced_vertices()
    rgba = np.concatenate([colors, np.full((len(colors), 1), 255)], axis=1).astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh=mesh, face_colors=rgba)
    return mesh
