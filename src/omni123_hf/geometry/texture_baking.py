"""Colour for a mesh from pictures of it, as a texture: a uv atlas, and posed views projected onto its texels.

The atlas needs no unwrapping. A face that one of the six axis views sees whole lies in that view's chart, which is the view's own
orthographic picture: it is stretched by at most sqrt(3), and a chart has as much detail as the picture that colours it. The
faces that no such view sees whole, those in cavities and behind something, take small cells of their own in the rest of the
texture. So seams run along the edges of what views see, where colours change hands anyway. An unwrapping library (xatlas) makes
fewer and flatter charts, at the price of a dependency and of far more time than the projection itself takes.

Colour of a texel: the mean of the views that see its place, weighted by how squarely they do, as for vertices in
`geometry.color_baking`; a texel that no view sees takes its colour from the seen ones
around, along the surface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import trimesh
from PIL import Image
from scipy.ndimage import distance_transform_edt

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS, get_camera
from omni123_hf.geometry.color_baking import (
    COSINE_POWER,
    MIN_COSINE,
    check_picture,
    inpaint,
    is_visible,
    sample,
)
from omni123_hf.geometry.rasterizer import (
    ScreenTriangles,
    mesh_triangles,
    nearest_faces,
    unit_normals,
)
from omni123_hf.geometry.smooth_normals import corner_normals


TEXTURE_SIZE = 1024
MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE = 64, 8192
CHART_COLUMNS, CHART_ROWS = 3, 2
# Texels between a chart's content and its border, and the smallest and largest side of the cell of two hidden faces.
CHART_MARGIN = 2
MIN_CELL, MAX_CELL = 4, 32
# Normals of a texel are smooth across softer edges only: extraction leaves steps that would show as stripes.
CREASE_ANGLE = 50.0


@dataclass(frozen=True)
class BakedTexture:
    """texture: (S, S, 3) uint8. seen_share: share of the surface whose colour is from a picture."""

    texture: np.ndarray
    seen_share: float


def bake_texture(
    mesh: trimesh.Trimesh, views: Mapping[str, np.ndarray], size: int = TEXTURE_SIZE, background: bool = True
) -> tuple[trimesh.Trimesh, BakedTexture]:
    """A textured copy of `mesh` (normalised frame) from `views`, as `color_baking.bake_vertex_colors` takes them.

    size: texels on a side. The copy has the same faces in the same order; vertices on seams are there once a chart, so it
    is closed only after `merge_vertices(merge_tex=True)`. Raises `Omni123Error` as `bake_vertex_colors` does, for a size that
    cannot be, and for one that the faces no view sees do not fit in.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not MIN_TEXTURE_SIZE <= size <= MAX_TEXTURE_SIZE:
        raise Omni123Error(f"the texture size must be {MIN_TEXTURE_SIZE} to {MAX_TEXTURE_SIZE} texels; got {size!r}")
    if not views:
        raise Omni123Error("there are no views to take colours from; give at least one")
    triangles = mesh_triangles(mesh)
    corners, owner = atlas(triangles, size)
    row, column, face, weights = texels(corners, size)

    faces = np.asarray(mesh.faces)
    points = np.einsum("nk,nkc->nc", weights, triangles[face])
    normals = np.einsum("nk,nkc->nc", weights, corner_normals(triangles, CREASE_ANGLE)[face])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    total, weight = np.zeros((len(points), 3)), np.zeros(len(points))
    for name, picture in views.items():
        camera = get_camera(name)
        check_picture(name, picture)
        xy, depth = camera.project(points)
        cosine = normals @ np.asarray(camera.direction)
        seen = is_visible(triangles, camera, xy, depth)
        colors, is_object = sample(picture, xy, background)
        part = np.where(seen & is_object & (cosine > MIN_COSINE), np.clip(cosine, 0, 1) ** COSINE_POWER, 0.0)
        total += part[:, None] * colors
        weight += part
    known = weight > 0
    if not known.any():
        raise Omni123Error("nothing of the mesh lies on the object in any view; do views and mesh belong together?")
    colors = np.where(known[:, None], total / np.maximum(weight, 1e-12)[:, None], 0.0)
    filled = vertex_colors(mesh, faces[face[known]], weights[known], colors[known])
    colors[~known] = np.einsum("nk,nkc->nc", weights[~known], filled[faces[face[~known]]])

    texture, used = np.zeros((size, size, 3)), np.zeros((size, size), dtype=bool)
    texture[row, column], used[row, column] = colors, True
    # Bilinear sampling and mip levels reach over the border of a chart: its colours go on there.
    nearest = distance_transform_edt(~used, return_distances=False, return_indices=True)
    image = np.rint(texture[tuple(nearest)].clip(0, 255)).astype(np.uint8)
    return textured(mesh, corners, owner, image), BakedTexture(image, seen_share(mesh, face, known))


def atlas(triangles: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (F, 3, 2) of every face in the texture, in texels from its top left, and (F,) the chart each face lies in.

    Charts 0 to 5 are those of the axis views; from 6 on every face has its own.
    """
    side = size // CHART_COLUMNS
    normals = unit_normals(triangles)
    directions = np.array([get_camera(name).direction for name in CANONICAL_VIEWS])
    best = (normals @ directions.T).argmax(axis=1)
    owner = np.full(len(triangles), -1)
    corners = np.zeros((len(triangles), 3, 2))
    # Inner points of a face: what hides one of them hides a part of it.
    probes = np.einsum(
        "pk,fkc->fpc", np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]]) / [[3], [6], [6], [6]], triangles
    )
    reach = max(float(np.abs(triangles).max()), 1e-9)
    for number, name in enumerate(CANONICAL_VIEWS):
        mine = np.flatnonzero(best == number)
        camera = get_camera(name)
        xy, depth = camera.project(probes[mine].reshape(-1, 3))
        whole = is_visible(triangles, camera, xy, depth).reshape(-1, probes.shape[1]).all(axis=1)
        mine = mine[whole]
        owner[mine] = number
        plane = triangles[mine].reshape(-1, 3) @ camera.axes[:2].T
        places = np.stack([plane[:, 0] / reach + 1, 1 - plane[:, 1] / reach], axis=1) / 2 * (side - 2 * CHART_MARGIN)
        origin = np.array([number % CHART_COLUMNS, number // CHART_COLUMNS]) * side + CHART_MARGIN
        corners[mine] = (places + origin).reshape(-1, 3, 2)
    hidden = np.flatnonzero(owner < 0)
    owner[hidden] = len(CANONICAL_VIEWS) + np.arange(len(hidden))
    corners[hidden] = cells(len(hidden), size, CHART_ROWS * side)
    return corners, owner


def cells(count: int, size: int, top: int) -> np.ndarray:
    """Corners (count, 3, 2) of faces in pairs, two to a square cell, in the rows from `top` on."""
    if not count:
        return np.zeros((0, 3, 2))
    pairs = -(-count // 2)
    side = min(MAX_CELL, int(np.sqrt(size * (size - top) / pairs)))
    while side >= MIN_CELL and (size // side) * ((size - top) // side) < pairs:
        side -= 1
    if side < MIN_CELL:
        raise Omni123Error(
            f"{count:,} faces that no view sees whole do not fit into a texture of {size}; use a larger one, or fewer faces"
        )
    # On texel centres, with a gap between the two: neither's colours reach the other's.
    near, far = 0.5, side - 2.5
    lower = np.array([[near, near], [far, near], [near, far]])
    upper = side - lower
    number = np.arange(count) // 2
    origin = np.stack([number % (size // side), number // (size // side)], axis=1) * side + [0, top]
    shape = np.where((np.arange(count) % 2 == 0)[:, None, None], lower, upper)
    return shape + origin[:, None]


def texels(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and face (N,) of every texel whose centre lies in a face, and its weights (N, 3) there."""
    x, y = (np.ascontiguousarray(corners[..., axis].T) for axis in (0, 1))
    screen = ScreenTriangles(x, y, np.ones_like(x), perspective=False)
    found, _ = nearest_faces(screen, size)
    row, column = np.nonzero(found >= 0)
    face = found[row, column]
    return row, column, face, screen.weights(face, column + 0.5, row + 0.5).astype(np.float64)


def seen_share(mesh: trimesh.Trimesh, face: np.ndarray, known: np.ndarray) -> float:
    """Share of the area, from the texels (N,) of each face that a picture coloured."""
    count = np.bincount(face, minlength=len(mesh.faces))
    seen = np.bincount(face, known.astype(float), len(mesh.faces)) / np.maximum(count, 1)
    area = np.where(count > 0, mesh.area_faces, 0.0)
    return float((seen * area).sum() / area.sum())


def vertex_colors(mesh: trimesh.Trimesh, corners: np.ndarray, weights: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(V, 3) the mean of the texels around each vertex, filled in along the surface where there are none.

    corners (N, 3): vertices around each texel, weights (N, 3): how near they are, colors (N, 3): of the texel.
    """
    count = len(mesh.vertices)
    share = np.bincount(corners.ravel(), weights.ravel(), count)
    total = np.stack(
        [
            np.bincount(corners.ravel(), (weights * colors[:, channel : channel + 1]).ravel(), count)
            for channel in range(3)
        ],
        axis=1,
    )
    mean = total / np.maximum(share, 1e-12)[:, None]
    return inpaint(np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces), mean, share > 1e-9)


def textured(mesh: trimesh.Trimesh, corners: np.ndarray, owner: np.ndarray, image: np.ndarray) -> trimesh.Trimesh:
    """The mesh with a vertex a chart and place, uv and the texture as the base colour of a matt material."""
    size = len(image)
    faces = np.asarray(mesh.faces)
    keys = np.stack([faces.ravel(), np.repeat(owner, 3)], axis=1)
    unique, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    uv = corners.reshape(-1, 2)[first] / size
    # Row 0 of the picture is v = 1.
    uv[:, 1] = 1 - uv[:, 1]
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(image), metallicFactor=0.0, roughnessFactor=1.0
    )
    result = trimesh.Trimesh(
        np.asarray(mesh.vertices)[unique[:, 0]], inverse.reshape(-1, 3), process=False, metadata=dict(mesh.metadata)
    )
    result.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return result
