"""From an occupancy field to a closed triangle mesh: marching cubes on a grid that is evaluated densely or sparsely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.extraction_report import MODES, ExtractionReport
from omni123_hf.geometry.marching import EmptySurfaceError, closed_marching_cubes
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.sparse_extraction import SparseExtraction
from omni123_hf.geometry.sparse_grid import Evaluate


__all__ = [
    "EmptySurfaceError",
    "Field",
    "evaluate_grid",
    "extract_surface",
    "extract_surface_with_report",
    "mesh_from_grid",
]
# (N,3) float32 points to (N,) values. One that also has `on_grid(axis)`, `modeling.shape_grid_field.ShapeField` for one, is asked
# by flat grid indices (N,) int64 instead. On the `device` of one that has it, the cells of the sparse modes are marched.
Field = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]
# A field may be a network, whose matrix products round a row differently in a small batch. Sparse modes ask for few points
# at a time and must get the values that a dense grid gets: batches are filled up to a multiple of this.
ROW_MULTIPLE = 512
PIECE = 2**20


def extract_surface(
    field: Field,
    resolution: int = 96,
    bound: float = FIELD_BOUND,
    chunk: int = 65536,
    progress: Progress | None = None,
    largest_only: bool = False,
    min_component_fraction: float = 0.0,
    mode: str = "dense",
) -> trimesh.Trimesh:
    """Surface where `field` crosses zero, as a watertight mesh whose normals point out.

    field: (N,3) float32 points to (N,) logits, positive inside; called with at most `chunk` points at a time.
    resolution: grid points along each side of ±bound, both ends included. progress: called with (done, total) points;
    the sparse modes end early.
    largest_only keeps the one closed shell of greatest volume and so fills its cavities; min_component_fraction drops
    shells, floaters and cavities alike, with less than that share of the total volume. Both are off by default;
    `mesh.metadata["removed_components"]` counts what went.
    mode: "dense" asks the field at every grid point; "safe" and "fast" where the surface can be (`sparse_extraction`). A
    sparse mode that missed nothing gives the vertices and faces of "dense" exactly.
    Nothing inside raises `EmptySurfaceError`, values that are not finite raise `Omni123Error`.
    """
    return extract_surface_with_report(
        field, resolution, bound, chunk, progress, largest_only, min_component_fraction, mode
    )[0]


def extract_surface_with_report(
    field: Field,
    resolution: int = 96,
    bound: float = FIELD_BOUND,
    chunk: int = 65536,
    progress: Progress | None = None,
    largest_only: bool = False,
    min_component_fraction: float = 0.0,
    mode: str = "dense",
    seed: int = 0,
) -> tuple[trimesh.Trimesh, ExtractionReport]:
    """`extract_surface`, and how the surface was found. seed: of the audit's random points."""
    if resolution < 4:
        raise Omni123Error(f"resolution must be at least 4 grid points a side, got {resolution}")
    if not 0.0 <= min_component_fraction < 1.0:
        raise Omni123Error(f"min_component_fraction must be in [0, 1), got {min_component_fraction}")
    check_mode(mode)
    if mode == "dense":
        grid = evaluate_grid(field, resolution, bound, chunk, progress)
        vertices, faces, _ = closed_marching_cubes(grid)
        report = ExtractionReport(mode, resolution, grid.size, [{"stride": 1, "evaluated": grid.size}])
    else:
        evaluate = grid_evaluator(field, resolution, bound, chunk, progress, ROW_MULTIPLE)
        extraction = SparseExtraction(evaluate, resolution, mode, seed, getattr(field, "device", "cpu"))
        (vertices, faces), report = extraction.run(), extraction.report
        if progress is not None:
            progress(report.points, report.points)
    mesh = _placed(vertices, faces, resolution, bound)
    removed = 0
    if largest_only or min_component_fraction > 0.0:
        mesh, removed = _keep_components(mesh, largest_only, min_component_fraction)
    mesh.metadata["removed_components"] = removed
    return mesh, report


def check_mode(mode: Any) -> None:
    """Raises `Omni123Error` for a mode of extraction that there is not."""
    if mode not in MODES:
        raise Omni123Error(f"unknown extraction mode {mode!r}; use one of {', '.join(MODES)}")


def evaluate_grid(
    field: Field,
    resolution: int,
    bound: float = FIELD_BOUND,
    chunk: int = 65536,
    progress: Progress | None = None,
) -> np.ndarray:
    """Field values (R,R,R) float32 at the grid points, axes in x, y, z order, first at -bound and last at +bound."""
    evaluate = grid_evaluator(field, resolution, bound, chunk, progress)
    total = resolution**3
    values = np.empty(total, dtype=np.float32)
    # Indices of the whole grid at once would take twice the memory of its values.
    piece = max(chunk, PIECE // chunk * chunk)
    for start in range(0, total, piece):
        stop = min(start + piece, total)
        values[start:stop] = evaluate(np.arange(start, stop))
    return values.reshape(resolution, resolution, resolution)


def grid_evaluator(
    field: Field,
    resolution: int,
    bound: float,
    chunk: int,
    progress: Progress | None,
    multiple: int = 1,
) -> Evaluate:
    """`field` as a function of flat grid indices, checked, in chunks. multiple: points a call are a multiple of this.

    Raises `Omni123Error` for values that are not finite or not one a point.
    """
    if chunk < 1:
        raise Omni123Error(f"chunk must be at least 1 point, got {chunk}")
    axis = np.linspace(-bound, bound, resolution, dtype=np.float32)
    total, done = resolution**3, 0
    on_grid = field.on_grid(axis) if hasattr(field, "on_grid") else None
    # Every call of a field on an accelerator ends by waiting for it.
    chunk = max(chunk, getattr(on_grid, "rows", chunk))

    def ask(flat: np.ndarray) -> np.ndarray:
        if on_grid is not None:
            return on_grid(flat)
        padded = flat
        if len(flat) % multiple and multiple <= chunk:
            padded = np.append(flat, np.repeat(flat[-1], min(-len(flat) % multiple, chunk - len(flat))))
        points = np.stack([axis[i] for i in np.unravel_index(padded, (resolution,) * 3)], axis=1)
        answer = np.asarray(field(points), dtype=np.float32)
        if answer.shape != (len(padded),):
            raise Omni123Error(
                f"the field must return one logit a point: expected ({len(padded)},), got {answer.shape}"
            )
        return answer[: len(flat)]

    def evaluate(flat: np.ndarray) -> np.ndarray:
        nonlocal done
        values = np.empty(len(flat), dtype=np.float32)
        for start in range(0, len(flat), chunk):
            part = flat[start : start + chunk]
            values[start : start + len(part)] = ask(part)
            done += len(part)
            if progress is not None:
                progress(min(done, total), total)
        if not np.isfinite(values).all():
            raise Omni123Error(
                "the field returned values that are not finite; check the decoder's weights and precision"
            )
        return values

    return evaluate


def mesh_from_grid(grid: np.ndarray, bound: float = FIELD_BOUND) -> trimesh.Trimesh:
    """Closed mesh of the positive region of a grid (R,R,R) over ±bound; the grid's border counts as outside."""
    vertices, faces, _ = closed_marching_cubes(grid)
    return _placed(vertices, faces, len(grid), bound)


def _placed(vertices: np.ndarray, faces: np.ndarray, resolution: int, bound: float) -> trimesh.Trimesh:
    """The mesh of vertices in grid units, over ±bound, normals out."""
    # Index i of R grid points is at -bound + i * 2 * bound / (R - 1): both ends belong to the grid.
    scaled = vertices.astype(np.float64) * (2.0 * bound / (resolution - 1)) - bound
    mesh = trimesh.Trimesh(scaled, faces, process=False)
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def _keep_components(mesh: trimesh.Trimesh, largest_only: bool, min_fraction: float) -> tuple[trimesh.Trimesh, int]:
    """Drop small shells; returns the mesh and the number of shells dropped."""
    faces = np.asarray(mesh.faces)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(len(mesh.vertices),) * 2)
    count, label = connected_components(graph, directed=False)
    shell = label[faces[:, 0]]
    a, b, c = np.moveaxis(np.asarray(mesh.vertices)[faces], 1, 0)
    volume = np.bincount(shell, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0, minlength=count)
    used = np.bincount(shell, minlength=count) > 0
    keep = np.zeros(count, dtype=bool)
    if largest_only:
        keep[volume.argmax()] = True
    else:
        keep = np.abs(volume) >= min_fraction * volume.sum()
    selected = faces[keep[shell]]
    vertices, compact = np.unique(selected, return_inverse=True)
    kept = trimesh.Trimesh(np.asarray(mesh.vertices)[vertices], compact.reshape(-1, 3), process=False)
    return kept, int((used & ~keep).sum())
