"""A z-buffer in NumPy: enough light and colour for training views, previews and metrics, and the same on every machine.

Steps of `render`: project the vertices; drop triangles without area in the picture; cut each triangle into the pixel
rows it covers and each row into its exact span of pixels (so a huge or thin triangle costs what it covers, not its
bounding box); keep the nearest fragment of each pixel with one `np.minimum.at` on a packed (depth, face) key; shade;
average the supersamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera
from omni123_hf.geometry.colors import face_colors
from omni123_hf.geometry.ragged import batches, expand


# In the camera frame (right, up, towards the viewer): a lamp over the viewer's left shoulder.
LIGHT_DIRECTION = np.array([-0.35, 0.55, 0.76]) / np.linalg.norm([-0.35, 0.55, 0.76])
AMBIENT = 0.45
DIFFUSE = 0.6
# Pixel fragments held at once: about 40 bytes each.
FRAGMENT_CHUNK = 1 << 20
NO_FRAGMENT = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class RenderResult:
    """One rendered view; row 0 is the top of the picture.

    color: (H,W,3) uint8 on the background. mask: (H,W) float32 coverage 0..1. depth: (H,W) float32 distance from the
    camera plane, the nearest of a pixel's supersamples, inf outside. normal: (H,W,3) float32 unit normals in the world
    frame turned to the viewer, zero outside.
    """

    color: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def render(
    mesh: trimesh.Trimesh,
    camera: Camera,
    size: int,
    supersample: int = 2,
    background: tuple[int, int, int] = (255, 255, 255),
) -> RenderResult:
    """Render `mesh` as a (size,size) picture with flat, two-sided Lambert shading and a light fixed to the camera.

    `supersample` x `supersample` samples a pixel are averaged. An empty mesh gives an empty picture.
    """
    if size < 1 or supersample < 1:
        raise Omni123Error(f"size and supersample must be at least 1, got size={size}, supersample={supersample}")
    fine = size * supersample
    triangles = np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces)]
    if not np.isfinite(triangles).all():
        raise Omni123Error("the mesh has vertices that are not finite; repair or drop it before rendering")
    face, depth = visible_faces(triangles, camera, fine)
    hit = face >= 0

    normals = _viewer_normals(triangles, camera)
    lit = AMBIENT + DIFFUSE * np.clip(normals @ (LIGHT_DIRECTION @ camera.axes), 0.0, None)
    shaded = np.clip(face_colors(mesh).astype(np.float32) * lit[:, None], 0.0, 255.0).astype(np.float32)

    color = np.empty((fine, fine, 3), dtype=np.float32)
    color[:] = np.asarray(background, dtype=np.float32)
    color[hit] = shaded[face[hit]]
    normal = np.zeros((fine, fine, 3), dtype=np.float32)
    normal[hit] = normals[face[hit]]

    color, mask, normal = (_box_average(x, supersample) for x in (color, hit.astype(np.float32), normal))
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 1e-6)
    nearest = depth.reshape(size, supersample, size, supersample).min(axis=(1, 3))
    return RenderResult(np.rint(color).astype(np.uint8), mask, nearest, normal)


def visible_faces(triangles: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest face (H,W) int64, -1 where there is none, and its depth (H,W) float32, inf where there is none.

    triangles: (F,3,3) world coordinates. A pixel belongs to a triangle when its centre lies in it.
    """
    nearest = np.full(size * size, NO_FRAGMENT, dtype=np.uint64)
    if len(triangles):
        xy, z = camera.project(triangles.reshape(-1, 3))
        x = ((xy[:, 0] + 1.0) * (0.5 * size)).reshape(-1, 3)
        y = ((1.0 - xy[:, 1]) * (0.5 * size)).reshape(-1, 3)
        _draw(nearest, x, y, z.reshape(-1, 3), size)
    empty = nearest == NO_FRAGMENT
    face = (nearest & np.uint64(0xFFFFFFFF)).astype(np.int64)
    depth = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32).copy()
    face[empty], depth[empty] = -1, np.inf
    return face.reshape(size, size), depth.reshape(size, size)


def _draw(nearest: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, size: int) -> None:
    """Draw triangles, pixel coordinates (F,3) with y down, into the packed buffer `nearest` (size*size,)."""
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    # Row r is covered when its centre r + 0.5 lies between the lowest and the highest corner.
    first = np.clip(np.ceil(y.min(axis=1) - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(y.max(axis=1) - 0.5), -1, size - 1).astype(np.int64)
    in_width = (x.max(axis=1) > 0.0) & (x.min(axis=1) < size)
    keep = np.flatnonzero((np.abs(area) > 1e-9) & (last >= first) & in_width)
    if not len(keep):
        return
    x, y, z, area, first, last = x[keep], y[keep], z[keep], area[keep], first[keep], last[keep]

    # Edge functions a*x + b*y + c >= 0 inside, and the plane of depth z = gx*x + gy*y + g0 of each triangle.
    nx, ny = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    sign = np.sign(area)[:, None]
    a, b = (y - ny) * sign, (nx - x) * sign
    c = -(a * x + b * y)
    dz1, dz2 = z[:, 1] - z[:, 0], z[:, 2] - z[:, 0]
    gx = (dz1 * (y[:, 2] - y[:, 0]) - dz2 * (y[:, 1] - y[:, 0])) / area
    gy = (dz2 * (x[:, 1] - x[:, 0]) - dz1 * (x[:, 2] - x[:, 0])) / area
    z_low, z_high = z.min(axis=1), z.max(axis=1)

    rows = last - first + 1
    # A row holds at most `size` fragments, so this bounds the memory of one batch whatever the triangles are.
    bounds = batches(rows * np.minimum(np.ceil(np.ptp(x, axis=1)).astype(np.int64) + 1, size), FRAGMENT_CHUNK)
    for start, stop in bounds:
        tri, step = expand(rows[start:stop])
        tri += start
        row = first[tri] + step
        cy = row + 0.5
        low, high = np.zeros(len(tri)), np.full(len(tri), float(size))
        rest = b[tri] * cy[:, None] + c[tri]
        slope = a[tri]
        for k in range(3):
            with np.errstate(divide="ignore", invalid="ignore"):
                cut = -rest[:, k] / slope[:, k]
            low = np.where(slope[:, k] > 0, np.maximum(low, cut), low)
            high = np.where(slope[:, k] < 0, np.minimum(high, cut), high)
            high = np.where((slope[:, k] == 0) & (rest[:, k] < 0), -1.0, high)
        left = np.ceil(low - 0.5 - 1e-9).astype(np.int64)
        right = np.minimum(np.floor(high - 0.5 + 1e-9).astype(np.int64), size - 1)
        spans = np.maximum(right - left + 1, 0)
        span, offset = expand(spans)
        tri, row, column = tri[span], row[span], left[span] + offset
        depth = z[tri, 0] + gx[tri] * (column + 0.5 - x[tri, 0]) + gy[tri] * (row + 0.5 - y[tri, 0])
        # A triangle seen edge-on has a steep plane: its depth may not leave the range of its corners. Positive floats
        # sort like their bits, which lets one integer minimum pick the nearest fragment and the lowest face of a tie.
        depth = np.clip(depth, z_low[tri], z_high[tri]).clip(0.0).astype(np.float32)
        key = (depth.view(np.uint32).astype(np.uint64) << np.uint64(32)) | keep[tri].astype(np.uint64)
        np.minimum.at(nearest, row * size + column, key)


def _viewer_normals(triangles: np.ndarray, camera: Camera) -> np.ndarray:
    """(F,3) float32 unit face normals turned towards the viewer; zero for a face without area."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    away = normals @ np.asarray(camera.direction) < 0
    normals[away] *= -1.0
    return normals.astype(np.float32)


def _box_average(image: np.ndarray, factor: int) -> np.ndarray:
    """Average factor x factor blocks of (H,W) or (H,W,C)."""
    if factor == 1:
        return image
    # Adding strided slices is several times faster than a mean over the short block axes.
    total = sum(image[row::factor, column::factor] for row in range(factor) for column in range(factor))
    return np.asarray(total, dtype=np.float32) / np.float32(factor * factor)
