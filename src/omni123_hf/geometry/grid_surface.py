"""Smooth closed surfaces from voxels: distances to the original faces place the surface between voxel centres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from omni123_hf.geometry.interior import Interior
from omni123_hf.geometry.marching import closed_marching_cubes
from omni123_hf.geometry.mesh_queries import NearestSurface
from omni123_hf.geometry.shells import is_closed
from omni123_hf.geometry.solid import FLOOD_BOUND
from omni123_hf.geometry.voxels import boundary, enclosed, grow, voxel_centres, voxel_of, voxel_size, window_of


# No value may come closer to the level than this share of a voxel: vertices of neighbouring cells would fall together.
LEVEL_MARGIN = 1e-3
# A thinner wall could pass between voxel centres.
LEAST_SHEET_VOXELS = 2.0
# How far thickened sheets reach into the solids that they touch, so that no gap opens at the seam.
SEAM_VOXELS = 3


@dataclass(frozen=True)
class Walls:
    """Sheets that become walls. zone: (R,R,R) bool, voxels where a closest face belongs to a sheet. half: half thickness."""

    zone: np.ndarray
    half: float


def distance_field(
    solid: np.ndarray, nearest: NearestSurface, winding: np.ndarray | None = None, walls: Walls | None = None
) -> tuple[np.ndarray, float]:
    """Field (R,R,R) float32, positive in `solid`, whose zero level is the surface, and the share that bridges a hole.

    Only voxels beside a change of side are measured; the others hold plus or minus one voxel. Where no face lies
    near, across a bridged hole, the winding number takes the place of the distance.
    """
    resolution = len(solid)
    size = voxel_size(resolution)
    field = np.where(solid, np.float32(size), np.float32(-size))
    flat = np.flatnonzero(boundary(solid))
    distance, foot = nearest.closest(voxel_centres(flat, resolution))
    if walls is not None:
        of_wall = walls.zone.reshape(-1)[voxel_of(foot, resolution)]
        distance = np.where(of_wall, np.abs(walls.half - distance), distance)
    bridged = distance > 1.5 * size
    bridge = np.full(len(flat), 0.5 * size) if winding is None else np.abs(winding.reshape(-1)[flat] - 0.5)
    magnitude = np.where(bridged, bridge, distance).clip(LEVEL_MARGIN * size, size)
    field.reshape(-1)[flat] = np.where(solid.reshape(-1)[flat], magnitude, -magnitude)
    return field, float(bridged.mean()) if len(flat) else 0.0


def interior_field(interior: Interior, nearest: NearestSurface, sheet_thickness: float) -> tuple[np.ndarray, float]:
    """Field and bridging share (see `distance_field`) of an interior whose loose sheets become walls.

    A sheet stays in the middle of its wall of `sheet_thickness`, whose free edges are round. The wall is at least two
    voxels thick. Cavities that the walls close are filled. A thickness of 0 drops the sheets.
    """
    if not sheet_thickness or not interior.sheet.any():
        return distance_field(interior.inside, nearest, interior.winding)
    resolution = len(interior.inside)
    size = voxel_size(resolution)
    half = 0.5 * max(sheet_thickness, LEAST_SHEET_VOXELS * size)
    walls = Walls(grow(interior.sheet, SEAM_VOXELS, corners=True), half)
    flat = np.flatnonzero(grow(interior.sheet, math.ceil(half / size) + 1, corners=True))
    distance, foot = nearest.closest(voxel_centres(flat, resolution))
    solid = interior.inside.copy()
    solid.reshape(-1)[flat] |= (distance < half) & walls.zone.reshape(-1)[voxel_of(foot, resolution)]
    solid |= enclosed(solid)
    return distance_field(solid, nearest, interior.winding, walls)


def surface_of_field(field: np.ndarray) -> trimesh.Trimesh:
    """Closed mesh of the positive region of a field (R,R,R) at voxel centres over ±1.0, normals out.

    The outermost voxels must be negative. Raises `EmptySurfaceError` when nothing is positive.
    """
    vertices, faces, _ = marching_cubes_of(field)
    size = voxel_size(len(field))
    return trimesh.Trimesh(vertices * size - (FLOOD_BOUND - 0.5 * size), faces, process=False)


def marching_cubes_of(field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V,3) float64 in voxels from the first centre, faces (F,3) int64 and the field whose surface it is.

    As `marching.closed_marching_cubes`, but only where something is positive.
    """
    positive = field > 0
    window = window_of(positive)
    if window is not None:
        vertices, faces, _, _ = marching_cubes(field[window], level=0.0, gradient_direction="ascent")
        faces = faces.astype(np.int64)
        # Marching cubes crosses a few edges where two pieces touch at a voxel's corner; the repair costs ten times as much.
        if is_closed(faces):
            return vertices + np.array([side.start for side in window]), faces, field
    vertices, faces, field = closed_marching_cubes(field)
    return vertices.astype(np.float64), faces.astype(np.int64), field
