"""From any triangle mesh to one closed, consistently oriented solid without cavities (paper §3.3, post-processing).

In order, the first that applies: a closed mesh stays as it is; closed shells that overlap or face inward are united
exactly (manifold3d); anything else is rebuilt from voxels, where the inside comes from the winding number or a flood
(see `interior`) and the distance to the original faces places the surface.

What is filled: every cavity that the outside cannot reach, so a shell inside a shell is dropped, whichever way it faces.
(Closed shells are held to this exactly: a jar whose lid leaves a hair's gap stays hollow. Rebuilding closes such gaps.)
What is not filled: a bowl, a cup, a box without its lid. Their sheets become walls of `sheet_thickness`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.grid_surface import interior_field, surface_of_field
from omni123_hf.geometry.interior import check_resolution, find_interior
from omni123_hf.geometry.mesh_queries import NearestSurface, WindingField
from omni123_hf.geometry.normalization import HALF_EXTENT
from omni123_hf.geometry.shells import (
    is_closed,
    oriented,
    outward,
    separated,
    shell_boxes,
    shell_labels,
    shell_volumes,
    without_doubles,
)
from omni123_hf.geometry.solid import voxelize_surface, weld
from omni123_hf.geometry.voxels import grow, regions, voxel_centres


SHEET_THICKNESS = 0.02
# Pieces of a rebuilt surface whose longest side is below this are crumbs: 1.6% of the object. The rule is by length and
# not by volume, because a chair's leg has little volume and must stay.
MIN_SHELL_LENGTH = 0.03
CROSSING_RESOLUTION = 128
WHOLE_NUMBER_TOLERANCE = 0.25
VOLUME_TOLERANCE = 1e-6
ROOM_FOR_WALLS = HALF_EXTENT + 1e-6


@dataclass(frozen=True)
class WatertightResult:
    """A closed solid and how it came about.

    method: "closed" (as it was, or only turned over or welded), "union" (exact boolean), "winding" or "flood" (rebuilt).
    reason: why the mesh was not kept: "" (it was), "inconsistent" (faces turned or doubled), "inward_shells",
    "overlapping_shells", "self_intersecting" or "open".
    sheet_share: share of the original surface that enclosed nothing and was thickened. bridged_share: share of the
    result that closes holes, with no face nearby. dropped_shells: cavities and crumbs left out.
    """

    mesh: trimesh.Trimesh
    method: Literal["closed", "union", "winding", "flood"]
    reason: str = ""
    sheet_share: float = 0.0
    bridged_share: float = 0.0
    dropped_shells: int = 0


def make_watertight(
    mesh: trimesh.Trimesh,
    resolution: int = 256,
    sheet_thickness: float = SHEET_THICKNESS,
    max_sheet_share: float = 1.0,
    min_shell_length: float = MIN_SHELL_LENGTH,
) -> WatertightResult:
    """The solid that a normalised mesh describes. A closed mesh is returned itself, colours and all.

    resolution: voxels along each side of ±1.0 for rebuilding, one of 64, 128, 256, 512. sheet_thickness: of the walls
    made from loose sheets, at least two voxels; 0 drops the sheets. max_sheet_share: above it the asset is refused as
    "thin". min_shell_length: longest side below which a piece of a rebuilt surface is dropped.

    Raises `RejectedError` with "empty" (no face with area), "thin" or "no_solid" (nothing left), and `Omni123Error` for a
    mesh that is not normalised or a resolution that does not exist.
    """
    check_resolution(resolution)
    vertices, faces = weld(mesh)
    if not len(faces):
        raise RejectedError("empty", "the mesh has no faces with area, so it encloses nothing")
    if not np.isfinite(vertices).all() or np.abs(vertices[faces]).max() > ROOM_FOR_WALLS:
        raise Omni123Error(f"the mesh leaves the box ±{HALF_EXTENT}; call normalize_mesh before make_watertight")
    closed = _closed_surface(vertices, faces)
    reason = "open"
    if closed is not None:
        vertices, faces, unchanged = closed
        result, reason = _solid_of_closed(mesh, vertices, faces, unchanged)
        if result is not None:
            return result
    else:
        faces = without_doubles(faces)
    return _rebuild(vertices, faces, reason, resolution, sheet_thickness, max_sheet_share, min_shell_length)


def _closed_surface(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Closed, consistently wound vertices and faces without adding or moving anything, or None.

    The third says that no face was turned or left out. Welding joins what only touches, so it may also make a closed
    surface look open: such places are separated again.
    """
    once = without_doubles(faces)
    return _apart(vertices, once, once is faces) or _apart(vertices, oriented(vertices, once), False)


def _apart(vertices: np.ndarray, faces: np.ndarray, unchanged: bool) -> tuple[np.ndarray, np.ndarray, bool] | None:
    if is_closed(faces):
        return vertices, faces, unchanged
    split = separated(vertices, faces)
    return None if split is None else (*split, unchanged)


def _solid_of_closed(
    mesh: trimesh.Trimesh, vertices: np.ndarray, faces: np.ndarray, unchanged: bool
) -> tuple[WatertightResult | None, str]:
    """A closed mesh as a solid without voxels; None and the reason where its own faces cross."""
    label = shell_labels(faces)
    volumes = shell_volumes(vertices, faces, label)
    inward = volumes < 0.0
    facing_out = outward(faces, label, inward)
    reason = "inward_shells" if inward.any() else "" if unchanged else "inconsistent"
    result_vertices, result_faces, method = vertices, facing_out, "closed"
    dropped = 0
    if _boxes_overlap(shell_boxes(vertices, faces, label)):
        united = _union(vertices, facing_out, label)
        if united is None:
            return None, "self_intersecting"
        united_vertices, united_faces = united
        united_label = shell_labels(united_faces)
        united_volumes = shell_volumes(united_vertices, united_faces, united_label)
        cavity = united_volumes < 0.0
        # Shells whose boxes meet but which do not overlap keep their own triangles.
        separate = np.abs(volumes).sum()
        if cavity.any() or abs(united_volumes.sum() - separate) > VOLUME_TOLERANCE * separate:
            reason = "inward_shells" if inward.any() else "overlapping_shells"
            result_vertices, result_faces, method = united_vertices, united_faces[~cavity[united_label]], "union"
            dropped = max(len(volumes) - int((~cavity).sum()), 0)
    if _crosses_itself(result_vertices, result_faces):
        return None, "self_intersecting"
    if method == "closed" and unchanged and not inward.any():
        return WatertightResult(mesh, "closed"), ""
    solid = trimesh.Trimesh(result_vertices, result_faces, process=False)
    solid.remove_unreferenced_vertices()
    return WatertightResult(solid, "union" if method == "union" else "closed", reason, dropped_shells=dropped), reason


def _boxes_overlap(boxes: np.ndarray) -> bool:
    """Any two bounding boxes (n,2,3) meet; a sweep along x keeps thousands of shells cheap."""
    boxes = boxes[np.argsort(boxes[:, 0, 0])]
    last = np.searchsorted(boxes[:, 0, 0], boxes[:, 1, 0], side="right")
    for one in range(len(boxes)):
        others = boxes[one + 1 : last[one]]
        meet = (others[:, 0, 1:] <= boxes[one, 1, 1:]) & (others[:, 1, 1:] >= boxes[one, 0, 1:])
        if meet.all(axis=1).any():
            return True
    return False


def _union(vertices: np.ndarray, faces: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Exact union of closed shells, None when manifold3d does not accept one of them."""
    try:
        from manifold3d import Error, Manifold, Mesh64, OpType
    except ImportError as error:
        raise Omni123Error(
            "uniting shells needs manifold3d; install it with: pip install 'omni123-hf[data]'"
        ) from error
    order = np.argsort(label, kind="stable")
    solids = []
    for part in np.split(faces[order], np.cumsum(np.bincount(label))[:-1]):
        used, compact = np.unique(part, return_inverse=True)
        solid = Manifold(Mesh64(vertices[used], compact.reshape(-1, 3).astype(np.uint64)))
        if solid.status() != Error.NoError:
            return None
        solids.append(solid)
    united = Manifold.batch_boolean(solids, OpType.Add)
    if united.status() != Error.NoError or united.is_empty():
        return None
    result = united.to_mesh64()
    triangles = np.ascontiguousarray(result.tri_verts, dtype=np.int64)
    return np.ascontiguousarray(result.vert_properties[:, :3], dtype=np.float64), triangles


def _crosses_itself(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Some region between the faces, at least a voxel wide, is inside twice or inside out.

    At a contact between two parts the region may be cut off from the border by less than a voxel: that counts as sound.
    """
    surface = grow(voxelize_surface(vertices[faces], CROSSING_RESOLUTION), 1, corners=True)
    _, member = regions(~surface)
    if len(member) == 1:
        return False
    numbers = WindingField(vertices, faces).number(voxel_centres(member[1:], CROSSING_RESOLUTION))
    return bool((np.abs(numbers - 0.5) > 0.5 + WHOLE_NUMBER_TOLERANCE).any())


def _rebuild(
    vertices: np.ndarray,
    faces: np.ndarray,
    reason: str,
    resolution: int,
    sheet_thickness: float,
    max_sheet_share: float,
    min_shell_length: float,
) -> WatertightResult:
    nearest = NearestSurface(vertices, faces)
    interior = find_interior(vertices, faces, resolution, nearest)
    if interior.sheet_share > max_sheet_share:
        raise RejectedError(
            "thin", f"{interior.sheet_share:.0%} of the surface encloses nothing, more than {max_sheet_share:.0%}"
        )
    if not interior.inside.any() and not sheet_thickness:
        raise RejectedError("no_solid", "no part of the surface encloses anything, and sheets are dropped")
    field, bridged_share = interior_field(interior, nearest, sheet_thickness)
    mesh = surface_of_field(field)
    points, triangles = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    label = shell_labels(triangles)
    boxes = shell_boxes(points, triangles, label)
    kept = ((boxes[:, 1] - boxes[:, 0]).max(axis=1) >= min_shell_length) & (
        shell_volumes(points, triangles, label) > 0.0
    )
    if not kept.any():
        raise RejectedError("no_solid", f"every piece of the rebuilt solid is shorter than {min_shell_length}")
    if not kept.all():
        mesh = trimesh.Trimesh(points, triangles[kept[label]], process=False)
        mesh.remove_unreferenced_vertices()
    return WatertightResult(mesh, interior.method, reason, interior.sheet_share, bridged_share, int((~kept).sum()))
