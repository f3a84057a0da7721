"""From an occupancy field to a closed triangle mesh: marching cubes on a dense grid (skimage's Lewiner variant)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.normalization import FIELD_BOUND


Field = Callable[[np.ndarray], np.ndarray]
# No grid value may lie closer to the level than this share of a typical step across it: vertices of neighbouring cells
# would fall on one grid point, and a file reader that merges equal vertices would open the mesh.
LEVEL_MARGIN = 1e-3
REPAIR_ROUNDS = 8


class EmptySurfaceError(Omni123Error):
    """The field is nowhere positive on the grid, so there is no surface."""


def extract_surface(
    field: Field,
    resolution: int = 96,
    bound: float = FIELD_BOUND,
    chunk: int = 65536,
    progress: Callable[[int, int], None] | None = None,
    largest_only: bool = False,
    min_component_fraction: float = 0.0,
) -> trimesh.Trimesh:
    """Surface where `field` crosses zero, as a watertight mesh whose normals point out.

    field: (N,3) float32 points to (N,) logits, positive inside; called with at most `chunk` points at a time.
    resolution: grid points along each side of ±bound, both ends included. progress: called with (done, total) points.
    largest_only keeps the one closed shell of greatest volume and so fills its cavities; min_component_fraction drops
    shells, floaters and cavities alike, with less than that share of the total volume. Both are off by default;
    `mesh.metadata["removed_components"]` counts what went. Nothing inside raises `EmptySurfaceError`, values that are not finite raise `Omni123Error`.
    """
    if resolution < 4:
        raise Omni123Error(f"resolution must be at least 4 grid points a side, got {resolution}")
    if not 0.0 <= min_component_fraction < 1.0:
        raise Omni123Error(f"min_component_fraction must be in [0, 1), got {min_component_fraction}")
    grid = evaluate_grid(field, resolution, bound, chunk, progress)
    mesh = mesh_from_grid(grid, bound)
    removed = 0
    if largest_only or min_component_fraction > 0.0:
        mesh, removed = _keep_components(mesh, largest_only, min_component_fraction)
    mesh.metadata["removed_components"] = removed
    return mesh


def evaluate_grid(
    field: Field,
    resolution: int,
    bound: float = FIELD_BOUND,
    chunk: int = 65536,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Field values (R,R,R) float32 at the grid points, axes in x, y, z order, first at -bound and last at +bound."""
    if chunk < 1:
        raise Omni123Error(f"chunk must be at least 1 point, got {chunk}")
    axis = np.linspace(-bound, bound, resolution, dtype=np.float32)
    total = resolution**3
    values = np.empty(total, dtype=np.float32)
    for start in range(0, total, chunk):
        flat = np.arange(start, min(start + chunk, total))
        points = np.stack([axis[i] for i in np.unravel_index(flat, (resolution,) * 3)], axis=1)
        answer = np.asarray(field(points), dtype=np.float32)
        if answer.shape != (len(flat),):
            raise Omni123Error(f"the field must return one logit a point: expected ({len(flat)},), got {answer.shape}")
        values[start : start + len(flat)] = answer
        if progress is not None:
            progress(start + len(flat), total)
    if not np.isfinite(values).all():
        raise Omni123Error("the field returned values that are not finite; check the decoder's weights and precision")
    return values.reshape(resolution, resolution, resolution)


def mesh_from_grid(grid: np.ndarray, bound: float = FIELD_BOUND) -> trimesh.Trimesh:
    """Closed mesh of the positive region of a grid (R,R,R) over ±bound; the grid's border counts as outside."""
    vertices, faces, _ = closed_marching_cubes(grid)
    # Index i of R grid points is at -bound + i * 2 * bound / (R - 1): both ends belong to the grid.
    scaled = vertices.astype(np.float64) * (2.0 * bound / (len(grid) - 1)) - bound
    mesh = trimesh.Trimesh(scaled, faces, process=False)
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def closed_marching_cubes(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V,3) in grid units, faces (F,3), normals out, of the positive region of a grid (R,R,R), always closed.

    The third is the grid whose surface it is: its border is outside, and contacts that no surface could pass between
    are closed.
    """
    grid = np.array(grid, dtype=np.float32)
    if not (grid[1:-1, 1:-1, 1:-1] > 0).any():
        raise EmptySurfaceError(
            "nothing is inside: the field is not positive anywhere on the grid; the tokens decode to "
            "an empty shape, or the resolution is too low for it"
        )
    step = _typical_step(grid)
    border = np.ones(grid.shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    grid[border] = np.minimum(grid[border], -step)
    margin = LEVEL_MARGIN * step
    near = np.abs(grid) < margin
    grid[near] = np.where(grid[near] > 0, margin, -margin)

    for _ in range(REPAIR_ROUNDS):
        vertices, faces, _, _ = marching_cubes(grid, level=0.0, gradient_direction="ascent")
        bad = _open_vertices(faces, len(vertices))
        if not len(bad):
            break
        _separate(grid, vertices[bad], step)
    else:
        raise Omni123Error("marching cubes left open or crossing edges in this field; try another resolution")
    return vertices, faces, grid


def _typical_step(grid: np.ndarray) -> float:
    """Median difference of neighbouring grid values on either side of the level: the scale of the field there."""
    inside = grid > 0
    steps = []
    for axis in range(3):
        crossing = np.diff(inside, axis=axis)
        steps.append(np.abs(np.diff(grid, axis=axis)[crossing]))
    joined = np.concatenate(steps)
    return float(np.median(joined)) if len(joined) else float(np.abs(grid).max())


def _open_vertices(faces: np.ndarray, count: int) -> np.ndarray:
    """Vertices of edges that are not shared by exactly two faces in opposite directions."""
    start, stop = faces.reshape(-1).astype(np.int64), np.roll(faces, -1, axis=1).reshape(-1).astype(np.int64)
    forward, times = np.unique(start * count + stop, return_counts=True)
    backward = (forward % count) * count + forward // count
    bad = forward[(times != 1) | ~np.isin(backward, forward)]
    return np.unique(np.concatenate([bad // count, bad % count]))


def _separate(grid: np.ndarray, vertices: np.ndarray, step: float) -> None:
    """Push the weakest outside values around the given vertices (grid units) inside, closing an ambiguous contact."""
    last = len(grid) - 2
    for low in np.unique(np.floor(vertices).astype(np.int64), axis=0):
        window = tuple(slice(max(i, 1), min(i + 2, last + 1)) for i in low)
        block = grid[window]
        outside = block < 0
        if outside.any():
            block[block == block[outside].max()] = 0.5 * step


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
