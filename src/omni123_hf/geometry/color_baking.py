"""Colour for a mesh from pictures of it: posed views are projected back onto the vertices.

A vertex takes its colour from the views that see it, weighted by how squarely they do. What no view sees is filled in along
the surface: the unknown colours are the harmonic extension of the known ones (the smoothest that meets them), and a piece
without any known vertex takes the colours of the nearest known ones. Pictures need not fit the mesh exactly, as generated
ones never do: samples from the background of a picture do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.ndimage import binary_dilation, distance_transform_edt, map_coordinates
from scipy.sparse import coo_matrix, diags
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera, get_camera
from omni123_hf.geometry.rasterizer import mesh_triangles, visible_faces


# Depth that a vertex may lie behind what the camera sees there, in world units: about two pixels of the depth map.
DEPTH_TOLERANCE = 0.02
DEPTH_SIZE = 256
# Views at a grazing angle smear: below this cosine they do not count, above it by the cosine to this power.
MIN_COSINE, COSINE_POWER = 0.1, 3.0
# A picture's background is white; a sample this near to it (of 255, each channel) is taken for background.
BACKGROUND_TOLERANCE = 8
# Pixels from the outline within which inner colours stand for those of the outline; thinner parts keep their own.
RING_REACH = 2.0


@dataclass(frozen=True)
class BakedColors:
    """colors: (V, 3) float64 in 0..255. weight: (V,) the summed weight of the views that saw each vertex, 0 where unseen."""

    colors: np.ndarray
    weight: np.ndarray

    @property
    def seen_share(self) -> float:
        """Share of the vertices that took their colour from a picture."""
        return float((self.weight > 0).mean())


def bake_vertex_colors(
    mesh: trimesh.Trimesh, views: Mapping[str, np.ndarray], background: bool = True
) -> tuple[trimesh.Trimesh, BakedColors]:
    """A copy of `mesh` (normalised frame) with vertex colours from `views`: view name to (H, W, 3) or (H, W, 4) uint8.

    background: whether white samples count as background; a fourth channel is coverage and is used instead. Raises
    `Omni123Error` for an unknown view, no view at all, a picture of another form, and when no vertex is seen.
    """
    if not views:
        raise Omni123Error("there are no views to take colours from; give at least one")
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    triangles = mesh_triangles(mesh)
    normals = np.asarray(mesh.vertex_normals, dtype=np.float64)
    total, weight = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    for name, picture in views.items():
        camera = get_camera(name)
        check_picture(name, picture)
        xy, depth = camera.project(vertices)
        seen = is_visible(triangles, camera, xy, depth)
        cosine = normals @ np.asarray(camera.direction)
        colors, is_object = sample(picture, xy, background)
        part = np.where(seen & is_object & (cosine > MIN_COSINE), np.clip(cosine, 0, 1) ** COSINE_POWER, 0.0)
        total += part[:, None] * colors
        weight += part
    if not (weight > 0).any():
        raise Omni123Error("no vertex of the mesh lies on the object in any view; do views and mesh belong together?")
    known = weight > 0
    colors = np.where(known[:, None], total / np.maximum(weight, 1e-12)[:, None], 0.0)
    colors = inpaint(vertices, np.asarray(mesh.faces), colors, known)
    result = mesh.copy()
    alpha = np.full((len(colors), 1), 255.0)
    result.visual = trimesh.visual.ColorVisuals(
        result, vertex_colors=np.rint(np.concatenate([colors.clip(0, 255), alpha], axis=1)).astype(np.uint8)
    )
    return result, BakedColors(colors, weight)


def check_picture(name: str, picture: np.ndarray) -> None:
    """Raises `Omni123Error` unless it is (H, W, 3) or (H, W, 4) uint8."""
    if picture.ndim != 3 or picture.shape[2] not in (3, 4) or picture.dtype != np.uint8 or min(picture.shape[:2]) < 2:
        raise Omni123Error(
            f"the picture of view {name!r} is {picture.shape} of {picture.dtype}; give (H, W, 3) or (H, W, 4) of uint8"
        )


def is_visible(triangles: np.ndarray, camera: Camera, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(V,) bool: whether nothing stands between the camera and the points at `xy` (V, 2) and `depth` (V,)."""
    nearest = visible_faces(triangles, camera, DEPTH_SIZE)[1]
    column, row = pixel_places(xy, nearest.shape).round().astype(int)
    inside = (column >= 0) & (column < DEPTH_SIZE) & (row >= 0) & (row < DEPTH_SIZE)
    column, row = column.clip(0, DEPTH_SIZE - 1), row.clip(0, DEPTH_SIZE - 1)
    # At an outline the pixel's centre may miss the mesh (infinite depth): such a vertex has nothing before it.
    return inside & (depth <= nearest[row, column] + DEPTH_TOLERANCE)


def pixel_places(xy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(2, V) column and row, in pixels from the centre of the top left one, of picture coordinates in [-1, 1], y up."""
    height, width = shape[:2]
    return np.stack([(xy[:, 0] + 1) / 2 * width - 0.5, (1 - xy[:, 1]) / 2 * height - 0.5])


def sample(picture: np.ndarray, xy: np.ndarray, background: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear colours (V, 3) of a picture at `xy`, and (V,) whether they belong to the object."""
    column, row = pixel_places(xy, picture.shape)
    values = picture.astype(np.float64)
    if picture.shape[2] == 4:
        is_object = map_coordinates(values[..., 3], [row, column], order=1, mode="constant") > 127
    elif background:
        white = np.asarray((picture >= 255 - BACKGROUND_TOLERANCE).all(axis=2))
        is_object = map_coordinates(white.astype(np.float64), [row, column], order=1, mode="nearest") < 0.5
        # Half-white pixels of an outline would bleach the rim: background lends its neighbours' colour.
        values = fill_background(values, white)
    else:
        is_object = np.ones(len(xy), dtype=bool)
    channels = [map_coordinates(values[..., c], [row, column], order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, axis=1), is_object


def fill_background(values: np.ndarray, white: np.ndarray) -> np.ndarray:
    """The picture with each background pixel in the colour of the object's nearest pixel.

    So is the outermost ring of the object, where there is more of it behind: its pixels are half background.
    """
    if white.all() or not white.any():
        return values
    ring = binary_dilation(white, np.ones((3, 3), dtype=bool)) & ~white
    distance, (rows, columns) = distance_transform_edt(white | ring, return_indices=True)
    mended = ring & (distance < RING_REACH) & ~(white | ring)[rows, columns]
    values = np.where(mended[..., None], values[rows, columns], values)
    rows, columns = distance_transform_edt(white, return_distances=False, return_indices=True)
    return values[rows, columns]


def inpaint(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Colours (V, 3) with the unknown ones filled in along the edges of the mesh, from the known ones."""
    if known.all():
        return colors
    count = len(vertices)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    nearness = 1.0 / np.maximum(length, 1e-6)
    both = np.concatenate([edges, edges[:, ::-1]])
    graph = coo_matrix((np.concatenate([nearness, nearness]), (both[:, 0], both[:, 1])), shape=(count, count)).tocsr()
    _, piece = connected_components(graph, directed=False)
    reached = np.isin(piece, np.unique(piece[known]))
    result = colors.copy()
    wanted = np.flatnonzero(~known & reached)
    if len(wanted):
        laplacian = (diags(np.asarray(graph.sum(axis=1)).ravel()) - graph).tocsr()
        inner = laplacian[wanted][:, wanted].tocsc()
        pull = -(laplacian[wanted][:, np.flatnonzero(known)] @ colors[known])
        result[wanted] = np.stack([spsolve(inner, pull[:, channel]) for channel in range(3)], axis=1)
    alone = np.flatnonzero(~reached)
    if len(alone):
        source = np.flatnonzero(reached)
        result[alone] = result[source][cKDTree(vertices[source]).query(vertices[alone])[1]]
    return result
