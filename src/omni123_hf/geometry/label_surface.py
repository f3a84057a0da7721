"""The surface that the labels of a closed solid describe on a grid, and which points that surface encloses.

The grid is that of `extraction.extract_surface`: R points along each side of ±1.05, both ends included. It shares no
point with the grid of `watertight`, on which a rebuilt solid would be reproduced better than any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from omni123_hf.geometry.grid_surface import LEVEL_MARGIN, distance_field, marching_cubes_of
from omni123_hf.geometry.interior import inside_of_closed
from omni123_hf.geometry.mesh_queries import NearestSurface, WindingField
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.ragged import batches, expand
from omni123_hf.geometry.solid import FLOOD_BOUND, voxelize_surface
from omni123_hf.geometry.voxels import voxel_size


# A crossing known to this share of a grid step is not asked for again.
CROSSING_TOLERANCE = 0.02
PAIR_CHUNK = 1 << 21


def grid_scale(resolution: int) -> float:
    """Factor that takes the grid over ±1.05 to the centres of `resolution` voxels over ±1.0, where voxels are kept."""
    return (FLOOD_BOUND - 0.5 * voxel_size(resolution)) / FIELD_BOUND


@dataclass
class LabelSurface:
    """Marching cubes of labels, in units of grid steps from the first grid point.

    surface: (R,R,R) bool, voxels about grid points that the solid's faces pass. inside: (R,R,R) bool, labels of the grid
    points. sign: the same after contacts were closed that no surface can pass between. vertices: (V,3) float64.
    """

    surface: np.ndarray
    inside: np.ndarray
    sign: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The surface in the normalised frame."""
        step = 2.0 * FIELD_BOUND / (len(self.sign) - 1)
        return trimesh.Trimesh(self.vertices * step - FIELD_BOUND, self.faces, process=False)

    def encloses(self, points: np.ndarray) -> np.ndarray:
        """Points (N,3) in grid units to bool (N,), exactly.

        The triangles of a cell lie in the cell, so the way from a point to a corner of its cell, whose side is known,
        crosses only those.
        """
        cell = np.floor(points).astype(np.int64).clip(0, len(self.sign) - 2)
        corners = np.stack([self._sign_at(cell + offset) for offset in np.ndindex(2, 2, 2)])
        answer = corners[0].copy()
        mixed = np.flatnonzero((corners != corners[0]).any(axis=0))
        if not len(mixed):
            return answer
        triangles = self.vertices[self.faces]
        cell_of = self._flat(np.floor(triangles.mean(axis=1)).astype(np.int64))
        order = np.argsort(cell_of, kind="stable")
        asked = self._flat(cell[mixed])
        first, last = (np.searchsorted(cell_of[order], asked, side) for side in ("left", "right"))
        corner = np.rint(points[mixed]).astype(np.int64).clip(cell[mixed], cell[mixed] + 1)
        crossings = np.zeros(len(mixed), dtype=np.int64)
        for begin, end in batches(np.maximum(last - first, 1), PAIR_CHUNK):
            owner, number = expand((last - first)[begin:end])
            owner += begin
            met = triangles[order[first[owner] + number]]
            crossed = _crosses(points[mixed[owner]], corner[owner].astype(np.float64), met)
            crossings += np.bincount(owner[crossed], minlength=len(mixed))
        answer[mixed] = self._sign_at(corner) ^ (crossings % 2 == 1)
        return answer

    def _sign_at(self, grid_point: np.ndarray) -> np.ndarray:
        return self.sign[grid_point[:, 0], grid_point[:, 1], grid_point[:, 2]]

    def _flat(self, cell: np.ndarray) -> np.ndarray:
        size = len(self.sign)
        return (cell[:, 0] * size + cell[:, 1]) * size + cell[:, 2]


def label_surface(
    vertices: np.ndarray, faces: np.ndarray, winding: WindingField, nearest: NearestSurface, resolution: int
) -> LabelSurface:
    """Label the grid points of a closed solid and extract the surface between them.

    vertices, faces: welded, with their winding number and closest points, all in the normalised frame. Raises
    `EmptySurfaceError` when no grid point is inside.
    """
    scale = grid_scale(resolution)
    surface = voxelize_surface(scale * vertices[faces], resolution)
    nearest = nearest.scaled(scale)
    inside = inside_of_closed(winding.scaled(scale), surface)
    field, _ = distance_field(inside, nearest)
    grid_vertices, triangles, closed_field = marching_cubes_of(field)
    placed = _on_crossings(grid_vertices, inside, field, nearest)
    return LabelSurface(surface, inside, closed_field > 0, placed, triangles)


def _on_crossings(vertices: np.ndarray, inside: np.ndarray, field: np.ndarray, nearest: NearestSurface) -> np.ndarray:
    """Vertices (V,3), in grid units, moved along their grid edges to where the signed distance vanishes.

    The distances of an edge's two ends place the crossing well only where both belong to the face that is crossed; in a
    thin wall or near an edge of the solid, another face is nearer. But no face lies within the distance of an end, so
    the crossing is between a step of that length from one end and one from the other. Where the two steps leave a gap,
    the distance is asked for at both sides of it.
    """
    step = voxel_size(len(inside))
    row = np.arange(len(vertices))
    off_grid = np.abs(vertices - np.rint(vertices))
    axis = off_grid.argmax(axis=1)
    low = np.rint(vertices)
    low[row, axis] = np.floor(vertices[row, axis])
    high = low.copy()
    high[row, axis] += 1.0
    # Vertices inside a cell, and edges where a contact was closed, have no crossing of labels.
    ends = [tuple(end.astype(np.int64).T) for end in (low, high)]
    crossed = (inside[ends[0]] != inside[ends[1]]) & ((off_grid > 0.1 * LEVEL_MARGIN).sum(axis=1) == 1)
    free_low, free_high = (np.abs(field[each]).astype(np.float64) / step for each in ends)
    begin = np.minimum(free_low, 1.0)
    end = np.maximum(1.0 - free_high, begin)
    place = 0.5 * (begin + end)
    doubtful = np.flatnonzero(crossed & (end - begin > CROSSING_TOLERANCE))
    if len(doubtful):
        before, after = (
            _distance_at(low[doubtful], axis[doubtful], share[doubtful], step, nearest) for share in (begin, end)
        )
        gap = (end - begin)[doubtful]
        place[doubtful] = begin[doubtful] + gap * before / np.maximum(before + after, 1e-12)
    placed = vertices.copy()
    # Vertices of neighbouring cells must not fall together on a grid point.
    placed[row[crossed], axis[crossed]] = (low[row, axis] + place.clip(LEVEL_MARGIN, 1.0 - LEVEL_MARGIN))[crossed]
    return placed


def _distance_at(
    low: np.ndarray, axis: np.ndarray, share: np.ndarray, step: float, nearest: NearestSurface
) -> np.ndarray:
    points = low.copy()
    points[np.arange(len(low)), axis] += share
    return nearest.distance((points + 0.5) * step - FLOOD_BOUND)


def _crosses(start: np.ndarray, end: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether the ways from (N,3) to (N,3) pass through triangles (N,3,3), of which they pass no edge exactly."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    normal = np.cross(b - a, c - a)
    sides = [np.einsum("ij,ij->i", normal, point - a) > 0.0 for point in (start, end)]
    way = end - start
    turns = [np.einsum("ij,ij->i", way, np.cross(one - start, other - start)) > 0.0 for one, other in ((a, b), (b, c), (c, a))]  # fmt: skip
    return (sides[0] != sides[1]) & (turns[0] == turns[1]) & (turns[1] == turns[2])
