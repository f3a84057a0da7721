"""Can a mesh be printed? Facts that a slicer trips over, each with a word."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.filters import thin_share
from omni123_hf.geometry.health import mesh_health


# Rims and edges are always thin; a part that is shows as more than this share of the surface.
MAX_THIN_SHARE = 0.02


@dataclass(frozen=True)
class PrintReport:
    """is_printable: none of the `problems`. watertight, winding_consistent, components, volume: as `MeshHealth` has them.

    overhang_share: share of the surface that faces down steeper than 45 degrees and does not stand on the plate (needs
    support). thin_share: share of the surface whose wall is thinner than the least wall asked for; None where none was.
    """

    is_printable: bool
    problems: tuple[str, ...]
    watertight: bool
    winding_consistent: bool
    components: int
    volume: float | None
    overhang_share: float
    thin_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "problems": list(self.problems)}


def print_report(mesh: trimesh.Trimesh, min_wall: float = 0.0) -> PrintReport:
    """Checks a mesh (y up). min_wall: least wall that the printer makes, in the mesh's unit (needs libigl); 0 asks for none."""
    if not len(mesh.faces):
        raise Omni123Error("the mesh is empty; there is nothing to print")
    health = mesh_health(mesh)
    problems = []
    if not health.watertight:
        problems.append("not watertight")
    if not health.winding_consistent:
        problems.append("faces are wound both ways")
    if health.volume is not None and health.volume <= 0:
        problems.append("inside out")
    if health.components > 1:
        problems.append(f"{health.components} separate pieces")
    thin = thin_share(mesh, min_wall) if min_wall > 0 else None
    if thin is not None and thin > MAX_THIN_SHARE:
        problems.append(f"{thin:.0%} of the surface has a wall thinner than {min_wall:g}")
    return PrintReport(
        not problems,
        tuple(problems),
        health.watertight,
        health.winding_consistent,
        health.components,
        health.volume,
        overhang_share(mesh),
        thin,
    )


def print_facts(mesh: trimesh.Trimesh | None) -> dict[str, Any] | None:
    """`print_report` as plain values, for records; None where there is nothing to print."""
    return None if mesh is None or not len(mesh.faces) else print_report(mesh).to_dict()


def overhang_share(mesh: trimesh.Trimesh) -> float:
    """Share of the area that points down by more than 45 degrees, the ground plane left out."""
    normals, area = np.asarray(mesh.face_normals), np.asarray(mesh.area_faces)
    height = np.asarray(mesh.triangles)[:, :, 1]
    ground = height.max(axis=1) <= mesh.bounds[0, 1] + 1e-3 * float(mesh.extents.max())
    steep = (normals[:, 1] < -np.sqrt(0.5)) & ~ground
    return float(area[steep].sum() / max(area.sum(), 1e-300))
