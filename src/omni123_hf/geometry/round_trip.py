"""Does the solid survive its own labels? Extract the surface again from a labelled grid and compare (paper §3.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.grid_surface import distance_field, surface_of_field
from omni123_hf.geometry.interior import check_resolution, inside_of_closed
from omni123_hf.geometry.mesh_queries import NearestSurface, WindingField
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.geometry.shells import shell_volumes
from omni123_hf.geometry.solid import SolidLabeler, voxelize_surface
from omni123_hf.geometry.voxels import grow, voxel_centres, voxel_size


COMPARED_POINTS = 40_000
CHAMFER_POINTS = 10_000
INNER_FACE_OFFSET = 1e-3


@dataclass(frozen=True)
class RoundTrip:
    """volume_iou: of the solid and the extracted one. chamfer: mean distance of surface points of either to the other
    surface, averaged over the two directions, in normalised units. faces: of the extracted mesh.
    """

    volume_iou: float
    chamfer: float
    faces: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain JSON values."""
        return asdict(self)


def round_trip(mesh: trimesh.Trimesh, resolution: int = 256, seed: int = 0) -> RoundTrip:
    """Label a watertight normalised mesh on a grid, extract the surface from the labels, compare.

    resolution: voxels along each side of ±1.0, one of 64, 128, 256, 512. The figures are estimated from `seed`; the
    points for the volume lie only where the two can differ, so the estimate is good to about 0.001 IoU. A mesh that is
    not closed raises `Omni123Error`, one that no voxel centre falls into `EmptySurfaceError`.
    """
    check_resolution(resolution)
    labeler = SolidLabeler(mesh)
    if labeler.method != "winding":
        raise Omni123Error("the mesh is not closed and consistently wound; call make_watertight before round_trip")
    surface = voxelize_surface(labeler.vertices[labeler.faces], resolution)
    nearest = NearestSurface(labeler.vertices, labeler.faces)
    inside = inside_of_closed(labeler.winding, surface)
    extracted = surface_of_field(distance_field(inside, nearest)[0])
    vertices, faces = np.asarray(extracted.vertices), np.asarray(extracted.faces)
    other_winding, other_nearest = WindingField(vertices, faces), NearestSurface(vertices, faces)

    rng = np.random.default_rng(seed)
    # A voxel between the two surfaces touches one of them, or is a neighbour of a voxel that does.
    band = np.flatnonzero(grow(surface, 1, corners=True))
    place = voxel_centres(band[rng.integers(0, len(band), COMPARED_POINTS)], resolution)
    place += (rng.random(place.shape) - 0.5) * voxel_size(resolution)
    differs = (labeler.winding.number(place) > 0.5) != (other_winding.number(place) > 0.5)
    different = float(differs.mean()) * len(band) * voxel_size(resolution) ** 3
    extracted_volume = float(shell_volumes(vertices, faces, np.zeros(len(faces), dtype=np.int64))[0])
    together = _solid_volume(inside, labeler) + extracted_volume
    there = nearest.distance(sample_surface(extracted, CHAMFER_POINTS, rng)[0]).mean()
    original, normals = sample_surface(mesh, CHAMFER_POINTS, rng)
    # Faces of one shell inside another are no surface of the solid.
    on_boundary = labeler.winding.number(original + INNER_FACE_OFFSET * normals.astype(np.float64)) < 0.5
    back = other_nearest.distance(original[on_boundary]).mean()
    return RoundTrip((together - different) / (together + different), float(there + back) / 2.0, len(faces))


def _solid_volume(inside: np.ndarray, labeler: SolidLabeler) -> float:
    """Volume of the labelled solid. Shells that overlap count twice in the mesh's own volume, once in the labels."""
    counted = float(inside.mean()) * 8.0
    return labeler.volume if abs(labeler.volume - counted) < 0.02 * counted else counted
