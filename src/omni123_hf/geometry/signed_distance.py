"""Labels of many points of one solid: inside or not, and the distance to the surface cut off at a band (paper §3.3).

Half a million labels cost about a second because most points are answered by their voxel. A region that no face crosses
is inside or outside as a whole, and a point whose voxel is farther from the surface than the band needs no distance.
"""

from __future__ import annotations

import math

import numpy as np
import trimesh
from scipy import ndimage

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.mesh_queries import NearestSurface
from omni123_hf.geometry.solid import SolidLabeler, voxelize_surface
from omni123_hf.geometry.voxels import coarsen, grow, regions, voxel_centres, voxel_of, voxel_size


LABEL_RESOLUTION = 128
DEFAULT_TRUNCATION = 0.1
SMALLEST_INSIDE = np.float32(1e-12)


class SolidField:
    """Occupancy and truncated signed distance of one normalised solid; trees and voxels are built once.

    The sign is that of `SolidLabeler`, for every point. For a mesh that is not closed ("flood") the labelled solid is made
    of voxels and its boundary lies up to a voxel off the mesh, while distances are to the mesh: convert such a mesh
    with `make_watertight` first where the field must be smooth.
    """

    def __init__(self, solid: SolidLabeler | trimesh.Trimesh):
        """A labeller, or a mesh within ±1.0 to make one of (then errors are those of `SolidLabeler`)."""
        self.labeler = solid if isinstance(solid, SolidLabeler) else SolidLabeler(solid)
        vertices, faces = self.labeler.vertices, self.labeler.faces
        surface = voxelize_surface(vertices[faces], LABEL_RESOLUTION)
        self.nearest = NearestSurface(vertices, faces)
        self._least_distance = _least_distance(surface)
        if self.labeler.method == "winding":
            # A face may clip a voxel that holds no sample of it, but then a neighbour holds one.
            self._near = grow(surface, 1, corners=True)
            labels, member = regions(~self._near)
            numbers = self.labeler.winding.number(voxel_centres(member, LABEL_RESOLUTION))
            self._inside_voxels = (numbers > 0.5)[labels]

    def occupancy(self, points: np.ndarray) -> np.ndarray:
        """(N,3) to bool (N,), equal to `SolidLabeler.occupancy`. Points that are not finite raise `Omni123Error`."""
        points = _checked(points)
        if self.labeler.method == "flood":
            return self.labeler.occupancy(points)
        voxel = voxel_of(points, LABEL_RESOLUTION)
        inside = self._inside_voxels.reshape(-1)[voxel]
        close = np.flatnonzero(self._near.reshape(-1)[voxel])
        if len(close):
            inside[close] = self.labeler.winding.number(points[close]) > 0.5
        return inside

    def signed_distance(self, points: np.ndarray, truncation: float = DEFAULT_TRUNCATION) -> np.ndarray:
        """(N,3) to (N,) float32 in normalised units, positive inside, cut off at ±truncation.

        `signed_distance(p) > 0` equals `occupancy(p)` for every point, those on the surface included.
        """
        points = _checked(points)
        if not truncation > 0.0 or not math.isfinite(truncation):
            raise Omni123Error(f"truncation must be a positive length, got {truncation}")
        distance = np.full(len(points), truncation)
        least = self._least_distance.reshape(-1)[voxel_of(points, len(self._least_distance))]
        close = np.flatnonzero(least < truncation)
        distance[close] = np.minimum(self.nearest.distance(points[close]), truncation)
        inside = self.occupancy(points)
        magnitude = distance.astype(np.float32)
        return np.where(inside, np.maximum(magnitude, SMALLEST_INSIDE), -magnitude)


def signed_distance(
    solid: SolidField | SolidLabeler | trimesh.Trimesh, points: np.ndarray, truncation: float = DEFAULT_TRUNCATION
) -> np.ndarray:
    """Truncated signed distance (N,) float32 of points (N,3), see `SolidField.signed_distance`.

    For several sets of points make one `SolidField` and ask that.
    """
    field = solid if isinstance(solid, SolidField) else SolidField(solid)
    return field.signed_distance(points, truncation)


def _checked(points: np.ndarray) -> np.ndarray:
    points = np.ascontiguousarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise Omni123Error(f"query points must be finite and of shape (N, 3), got shape {points.shape}")
    return points


def _least_distance(surface: np.ndarray) -> np.ndarray:
    """For coarser voxels, a distance (R/2,R/2,R/2) that no point of the voxel falls short of."""
    coarse = coarsen(surface)
    size = voxel_size(len(coarse))
    # Both ends may lie half a diagonal from their voxel's centre, and a face half a fine voxel from its sample.
    slack = math.sqrt(3.0) * size + 0.25 * size
    return np.asarray(ndimage.distance_transform_edt(~coarse)) * size - slack
