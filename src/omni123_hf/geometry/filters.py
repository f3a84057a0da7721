"""Which assets to leave out before they are prepared (paper §3.3): named reasons, measured values, one configuration.

The paper names low polygon counts, simple topology, noisy scans and large thin-walled structures, without figures. The
thresholds here are ours. Measuring and rejecting are two steps, so that all values can go into a quality report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import trimesh

from omni123_hf.errors import RejectedError
from omni123_hf.geometry.interior import trusted_winding
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.geometry.sharp_edges import edge_angles
from omni123_hf.geometry.shells import shell_labels
from omni123_hf.geometry.solid import SolidLabeler, voxelize_surface, weld
from omni123_hf.geometry.voxels import enclosed, voxel_of, voxel_size


THIN_RESOLUTION = 128
THIN_SAMPLES = 4000
PLANE_DIRECTIONS = 8
# cos 5°: faces within it are parallel to a plane.
PARALLEL = 0.9962
DIRECTION_CELLS = 6


@dataclass(frozen=True)
class FilterConfig:
    """Thresholds; None switches a filter off. The mesh is normalised (longest side 1.92).

    min_faces: "too_few_faces", fewer faces with area. The default keeps simple made objects and drops boxes and cards.
    max_faces: "too_many_faces". max_components: "too_many_components", pieces joined by edges after welding.
    max_thin_share: "thin_walls", share of the surface with the outside on both sides `thin_offset` away: there the sign
    of the distance field flips within the wall. thin_offset: half a percent of the longest side by default; at least
    0.031, two voxels, for a mesh whose inside only a flood can tell.
    max_scan_roughness: "scan", median dihedral angle in degrees of an open mesh of at least `scan_vertices` vertices, of
    which one piece has `scan_piece_share` of the faces; other meshes count 0. A smooth surface of that size stays below
    2 degrees, sensor noise gives 10 and more.
    min_extent_ratio: "flat", shortest side of the bounding box over the longest.
    max_plane_share: "large_plane", largest share of the area in one slab of thickness `plane_thickness`, faces parallel
    to it: ground plates, walls, cards.
    """

    min_faces: int | None = 20
    max_faces: int | None = 300_000
    max_components: int | None = 1000
    max_thin_share: float | None = 0.5
    thin_offset: float = 0.01
    max_scan_roughness: float | None = 6.0
    scan_vertices: int = 20_000
    scan_piece_share: float = 0.95
    min_extent_ratio: float | None = 0.02
    max_plane_share: float | None = 0.8
    plane_thickness: float = 0.02


@dataclass(frozen=True)
class FilterFinding:
    """One measured value against its threshold. `reason` names the rejection if it did not pass."""

    reason: str
    value: float
    threshold: float
    passed: bool

    def to_dict(self) -> dict[str, str | float | bool]:
        """Plain JSON values."""
        return asdict(self)


def check_filters(mesh: trimesh.Trimesh, config: FilterConfig | None = None) -> list[FilterFinding]:
    """Measure a normalised mesh against every filter that is on, in a fixed order, cheap ones first.

    A mesh that is empty or not finite gets that one finding, as nothing else can be measured. With too many faces the
    filters that would be slow are left out. Raises `Omni123Error` for a mesh outside ±1.0.
    """
    config = config or FilterConfig()
    finite = bool(np.isfinite(mesh.vertices).all())
    findings = [FilterFinding("not_finite", float(not finite), 0.0, finite)]
    if not finite:
        return findings
    vertices, faces = weld(mesh)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = 0.5 * np.linalg.norm(normals, axis=1)
    total = float(areas.sum())
    findings.append(FilterFinding("empty", total, 0.0, total > 0.0))
    if not total > 0.0:
        return findings
    count = int((areas > 0.0).sum())
    if config.min_faces is not None:
        findings.append(FilterFinding("too_few_faces", count, config.min_faces, count >= config.min_faces))
    if config.max_faces is not None:
        findings.append(FilterFinding("too_many_faces", count, config.max_faces, count <= config.max_faces))
        if count > config.max_faces:
            return findings
    measures: list[tuple[str, float | None, Callable[[], float], int]] = [
        ("too_many_components", config.max_components, lambda: float(shell_labels(faces).max() + 1), 1),
        ("flat", config.min_extent_ratio, lambda: extent_ratio(corners), -1),
        ("large_plane", config.max_plane_share, lambda: plane_share(corners, config.plane_thickness), 1),
        ("scan", config.max_scan_roughness, lambda: scan_roughness(mesh, config), 1),
        ("thin_walls", config.max_thin_share, lambda: thin_share(mesh, config.thin_offset), 1),
    ]
    for reason, threshold, measure, sense in measures:
        if threshold is not None:
            value = measure()
            findings.append(FilterFinding(reason, value, float(threshold), sense * value <= sense * threshold))
    return findings


def reject_failed(findings: list[FilterFinding]) -> None:
    """Raise `RejectedError` for the first finding that did not pass; its message names all of them."""
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        figures = "; ".join(f"{one.reason}: {one.value:.4g}, threshold {one.threshold:.4g}" for one in failed)
        raise RejectedError(failed[0].reason, figures)


def extent_ratio(triangles: np.ndarray) -> float:
    """Shortest over longest side of the bounding box of triangles (F,3,3)."""
    sides = np.ptp(triangles.reshape(-1, 3), axis=0)
    return float(sides.min() / sides.max())


def plane_share(triangles: np.ndarray, thickness: float) -> float:
    """Largest share of the area of triangles (F,3,3) inside one slab, among the directions with the most area.

    Directions are grouped on a coarse cube map; a group's mean is the slab's normal. Faces within 5 degrees count.
    """
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    doubled = np.linalg.norm(crossed, axis=1)
    triangles, crossed, doubled = triangles[doubled > 0], crossed[doubled > 0], doubled[doubled > 0]
    normals = crossed / doubled[:, None]
    main = np.abs(normals).argmax(axis=1)
    normals *= np.sign(np.take_along_axis(normals, main[:, None], axis=1))
    cell = np.rint(normals * (DIRECTION_CELLS / 2)).astype(np.int64) + DIRECTION_CELLS
    _, group = np.unique(cell @ np.array([1, 64, 4096]), return_inverse=True)
    area_of = np.bincount(group, doubled)
    best = 0.0
    for one in np.argsort(area_of)[::-1][:PLANE_DIRECTIONS]:
        direction = (normals[group == one] * doubled[group == one, None]).sum(axis=0)
        direction /= np.linalg.norm(direction)
        level = np.flatnonzero(np.abs(normals @ direction) > PARALLEL)
        if not len(level):
            continue
        height = triangles[level].mean(axis=1) @ direction
        order = np.argsort(height)
        height, gathered = height[order], np.concatenate([[0.0], np.cumsum(doubled[level][order])])
        end = np.searchsorted(height, height + thickness * (1 + 1e-9), side="right")
        best = max(best, float((gathered[end] - gathered[:-1]).max()))
    return best / float(doubled.sum())


def scan_roughness(mesh: trimesh.Trimesh, config: FilterConfig) -> float:
    """Median dihedral angle in degrees of what may be a scan (see `FilterConfig`), 0 for anything else."""
    vertices, faces = weld(mesh)
    if len(vertices) < config.scan_vertices:
        return 0.0
    largest = np.bincount(shell_labels(faces)).max() / len(faces)
    edges = edge_angles(mesh)
    has_border = 2 * len(edges.degrees) < 3 * len(faces)
    if largest < config.scan_piece_share or not has_border:
        return 0.0
    return float(np.median(edges.degrees))


def thin_share(mesh: trimesh.Trimesh, offset: float, seed: int = 0) -> float:
    """Share of the surface of a normalised mesh that has the outside on both sides, `offset` along the normal.

    Where the winding number cannot be believed (see `interior`) only what a flood cannot reach counts as inside.
    """
    points, normals = sample_surface(mesh, THIN_SAMPLES, np.random.default_rng(seed))
    labeler = SolidLabeler(mesh)
    if labeler.method == "winding":
        return _both_outside(labeler.occupancy, points, normals, offset)
    surface = voxelize_surface(labeler.vertices[labeler.faces], THIN_RESOLUTION)
    field = trusted_winding(labeler.vertices, labeler.faces, surface)
    closed_off = enclosed(surface).reshape(-1)
    if field is None:
        step = max(offset, 2 * voxel_size(THIN_RESOLUTION))
        return _both_outside(lambda p: closed_off[voxel_of(p, THIN_RESOLUTION)], points, normals, step)
    return _both_outside(
        lambda p: (field.number(p) > 0.5) | closed_off[voxel_of(p, THIN_RESOLUTION)], points, normals, offset
    )


def _both_outside(
    inside: Callable[[np.ndarray], np.ndarray], points: np.ndarray, normals: np.ndarray, offset: float
) -> float:
    front, back = (inside(points + sign * offset * normals) for sign in (1.0, -1.0))
    return float((~front & ~back).mean())
