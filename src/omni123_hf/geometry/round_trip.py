"""Does the solid survive its own labels? Extract the surface again from a labelled grid and compare (paper §3.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.interior import check_resolution
from omni123_hf.geometry.label_surface import LabelSurface, grid_scale, label_surface
from omni123_hf.geometry.mesh_queries import NearestSurface, WindingField
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.geometry.signed_distance import SolidField
from omni123_hf.geometry.solid import FLOOD_BOUND, SolidLabeler
from omni123_hf.geometry.voxels import grow, voxel_centres, voxel_size


COMPARED_POINTS = 40_000
# Of those points, in voxels that the solid's faces pass; few points differ beside them.
SURFACE_SHARE = 0.75
CHAMFER_POINTS = 10_000
INNER_FACE_OFFSET = 1e-3


@dataclass(frozen=True)
class RoundTrip:
    """volume_iou: of the solid and the extracted one. chamfer: mean distance of surface points of either to the other
    surface, averaged over the two directions, in normalised units. faces: of the extracted mesh. thin_share: share of
    the surface where the solid behind it is thinner than one step of the grid, so that the labels may miss it.
    """

    volume_iou: float
    chamfer: float
    faces: int
    thin_share: float

    def to_dict(self) -> dict[str, float | int]:
        """Plain JSON values."""
        return asdict(self)


def round_trip(
    mesh: trimesh.Trimesh, resolution: int = 256, seed: int = 0, field: SolidField | None = None
) -> RoundTrip:
    """Label a watertight normalised mesh on a grid, extract the surface from the labels, compare.

    resolution: grid points along each side of ±1.05, one of 64, 128, 256, 512. field: of this mesh, if there is one
    already. The figures are estimated from `seed`; the points for the volume lie only where the two can differ, so the
    estimate is good to about 0.001 IoU. A mesh that is not closed raises `Omni123Error`, one that no grid point falls
    into `EmptySurfaceError`.
    """
    check_resolution(resolution)
    labeler = SolidLabeler(mesh) if field is None else field.labeler
    if labeler.method != "winding":
        raise Omni123Error("the mesh is not closed and consistently wound; call make_watertight before round_trip")
    nearest = NearestSurface(labeler.vertices, labeler.faces) if field is None else field.nearest
    found = label_surface(labeler.vertices, labeler.faces, labeler.winding, nearest, resolution)

    rng = np.random.default_rng(seed)
    volume_iou = _volume_iou(found, labeler.winding.scaled(grid_scale(resolution)), rng)
    extracted = found.mesh
    there = nearest.distance(sample_surface(extracted, CHAMFER_POINTS, rng)[0]).mean()
    original, normals = sample_surface(mesh, CHAMFER_POINTS, rng)
    # Faces of one shell inside another are no surface of the solid.
    outward = normals.astype(np.float64)
    on_boundary = labeler.winding.number(original + INNER_FACE_OFFSET * outward) < 0.5
    original, outward = original[on_boundary], outward[on_boundary]
    step = 2.0 * FIELD_BOUND / (resolution - 1)
    thin = labeler.winding.number(original - step * outward) < 0.5
    back = NearestSurface(np.asarray(extracted.vertices), np.asarray(extracted.faces)).distance(original).mean()
    return RoundTrip(volume_iou, float(there + back) / 2.0, len(found.faces), float(thin.mean()))


def _volume_iou(found: LabelSurface, winding: WindingField, rng: np.random.Generator) -> float:
    """Of the solid with this winding number in the frame of the grid, and of the extracted surface."""
    resolution = len(found.inside)
    size = voxel_size(resolution)
    # A voxel between the two surfaces touches one of them, or is a neighbour of a voxel that does.
    near = grow(found.surface, 1, corners=True)
    both = either = float((found.inside & ~near).sum())
    for voxels, share in ((found.surface, SURFACE_SHARE), (near & ~found.surface, 1.0 - SURFACE_SHARE)):
        flat, count = np.flatnonzero(voxels), round(share * COMPARED_POINTS)
        # Evenly over the voxels in their order: what differs lies together, so this varies less than chance.
        chosen = flat[((np.arange(count) + rng.random(count)) * (len(flat) / count)).astype(np.int64)]
        place = voxel_centres(chosen, resolution) + (rng.random((count, 3)) - 0.5) * size
        before = winding.number(place) > 0.5
        after = found.encloses((place + FLOOD_BOUND) / size - 0.5)
        both += float((before & after).mean()) * len(flat)
        either += float((before | after).mean()) * len(flat)
    return both / either
