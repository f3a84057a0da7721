"""A z-buffer in NumPy: enough light and colour for training views, previews and metrics, and the same on every machine.

Steps of `render`: project the vertices; drop triangles without area in the picture; cut each triangle into the pixel
rows it covers and each row into its exact span of pixels (so a huge or thin triangle costs what it covers, not its
bounding box); keep the nearest fragment of each pixel with one `np.minimum.at` on a packed (depth, face) key; shade;
average the supersamples. `geometry.rendering` builds on the same z-buffer and offers more than one flat colour a face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera
from omni123_hf.geometry.colors import face_colors
from omni123_hf.geometry.lighting import DEFAULT_LIGHTING
from omni123_hf.geometry.ragged import batches, expand


# Pixel fragments held at once: about 40 bytes each.
FRAGMENT_CHUNK = 1 << 20
NO_FRAGMENT = np.uint64(0xFFFFFFFFFFFFFFFF)
# Which fragments of faces (N,) at picture points (N,) and (N,) count; the others let what lies behind them show.
Keep = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


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
    triangles = mesh_triangles(mesh)
    face, depth = visible_faces(triangles, camera, fine)
    hit = face >= 0

    normals = unit_normals(triangles)
    normals[facing_away(normals, triangles, camera)] *= -1.0
    normals = normals.astype(np.float32)
    lit = DEFAULT_LIGHTING.factors(normals, camera)
    shaded = np.clip(face_colors(mesh).astype(np.float32) * lit, 0.0, 255.0).astype(np.float32)

    color = np.empty((fine, fine, 3), dtype=np.float32)
    color[:] = np.asarray(background, dtype=np.float32)
    color[hit] = shaded[face[hit]]
    normal = np.zeros((fine, fine, 3), dtype=np.float32)
    normal[hit] = normals[face[hit]]

    color, mask, normal = (box_average(x, supersample) for x in (color, hit.astype(np.float32), normal))
    nearest = depth.reshape(size, supersample, size, supersample).min(axis=(1, 3))
    return RenderResult(np.rint(color).astype(np.uint8), mask, nearest, unit_or_zero(normal))


@dataclass(frozen=True)
class ScreenTriangles:
    """Triangles in the picture: `x`, `y` (3,F) pixel coordinates of the corners with y down, `depth` (3,F)."""

    x: np.ndarray
    y: np.ndarray
    depth: np.ndarray
    perspective: bool

    def weights(self, face: np.ndarray, px: np.ndarray, py: np.ndarray) -> np.ndarray:
        """(N,3) float32 barycentric weights on the surface of the picture points (px, py) of triangles `face` (N,)."""
        x, y = self.x[:, face], self.y[:, face]
        x1, y1, x2, y2 = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
        area = x1 * y2 - x2 * y1
        px, py = px - x[0], py - y[0]
        second, third = (px * y2 - x2 * py) / area, (x1 * py - px * y1) / area
        # A pixel centre on an edge may lie outside by a rounding error, which a sliver magnifies.
        weights = np.stack([1.0 - second - third, second, third]).clip(0.0)
        if self.perspective:
            weights /= self.depth[:, face]
        return (weights / weights.sum(axis=0)).T.astype(np.float32)


def mesh_triangles(mesh: trimesh.Trimesh) -> np.ndarray:
    """(F,3,3) float64 corners; a vertex that is not finite raises `Omni123Error`."""
    triangles = np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces)]
    if not np.isfinite(triangles).all():
        raise Omni123Error("the mesh has vertices that are not finite; repair or drop it before rendering")
    return triangles


def project_triangles(triangles: np.ndarray, camera: Camera, size: int) -> ScreenTriangles:
    """Triangles (F,3,3) of the world in a picture of `size` pixels a side.

    A corner that is not in front of a perspective camera raises `Omni123Error`: nothing is clipped.
    """
    points = triangles.reshape(-1, 3)
    if camera.field_of_view and not (camera.distance - points @ camera.axes[2] > 1e-3 * camera.distance).all():
        raise Omni123Error(
            f"the mesh reaches behind the perspective camera {camera.name!r}; normalise the mesh or move the camera away"
        )
    xy, depth = camera.project(points)
    x = ((xy[:, 0] + 1.0) * (0.5 * size)).reshape(-1, 3).T
    y = ((1.0 - xy[:, 1]) * (0.5 * size)).reshape(-1, 3).T
    # One row a corner: every step below then runs over contiguous memory.
    x, y, depth = (np.ascontiguousarray(values) for values in (x, y, depth.reshape(-1, 3).T))
    return ScreenTriangles(x, y, depth, camera.field_of_view > 0.0)


def visible_faces(triangles: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest face (H,W) int64, -1 where there is none, and its depth (H,W) float32, inf where there is none.

    triangles: (F,3,3) world coordinates. A pixel belongs to a triangle when its centre lies in it.
    """
    return nearest_faces(project_triangles(triangles, camera, size), size)


def nearest_faces(screen: ScreenTriangles, size: int, keep: Keep | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`visible_faces` of projected triangles; `keep` says which fragments count (cut-out textures)."""
    nearest = np.full(size * size, NO_FRAGMENT, dtype=np.uint64)
    if screen.x.shape[1]:
        _draw(nearest, screen, size, keep)
    empty = nearest == NO_FRAGMENT
    face = (nearest & np.uint64(0xFFFFFFFF)).astype(np.int64)
    depth = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32).copy()
    face[empty], depth[empty] = -1, np.inf
    return face.reshape(size, size), depth.reshape(size, size)


def _draw(nearest: np.ndarray, screen: ScreenTriangles, size: int, keep: Keep | None) -> None:
    """Draw triangles into the packed buffer `nearest` (size*size,)."""
    x, y = screen.x, screen.y
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    # Row r is covered when its centre r + 0.5 lies between the lowest and the highest corner.
    first = np.clip(np.ceil(y.min(axis=0) - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(y.max(axis=0) - 0.5), -1, size - 1).astype(np.int64)
    in_width = (x.max(axis=0) > 0.0) & (x.min(axis=0) < size)
    drawn = np.flatnonzero((np.abs(area) > 1e-9) & (last >= first) & in_width)
    if not len(drawn):
        return
    x, y, area, first, last = x[:, drawn], y[:, drawn], area[drawn], first[drawn], last[drawn]
    # On a plane, 1 / depth is linear in a perspective picture, as depth is in an orthographic one.
    z = 1.0 / screen.depth[:, drawn] if screen.perspective else screen.depth[:, drawn]

    # Edge functions a*x + b*y + c >= 0 inside, and the plane of depth z = gx*x + gy*y + g0 of each triangle.
    nx, ny = np.roll(x, -1, axis=0), np.roll(y, -1, axis=0)
    sign = np.sign(area)
    a, b = (y - ny) * sign, (nx - x) * sign
    c = -(a * x + b * y)
    dz1, dz2 = z[1] - z[0], z[2] - z[0]
    gx = (dz1 * (y[2] - y[0]) - dz2 * (y[1] - y[0])) / area
    gy = (dz2 * (x[1] - x[0]) - dz1 * (x[2] - x[0])) / area
    z_low, z_high = z.min(axis=0), z.max(axis=0)

    rows = last - first + 1
    # A row holds at most `size` fragments, so this bounds the memory of one batch whatever the triangles are.
    bounds = batches(rows * np.minimum(np.ceil(np.ptp(x, axis=0)).astype(np.int64) + 1, size), FRAGMENT_CHUNK)
    for start, stop in bounds:
        tri, step = expand(rows[start:stop])
        tri += start
        row = first[tri] + step
        cy = row + 0.5
        low, high = np.zeros(len(tri)), np.full(len(tri), float(size))
        for k in range(3):
            rest, slope = b[k][tri] * cy + c[k][tri], a[k][tri]
            with np.errstate(divide="ignore", invalid="ignore"):
                cut = -rest / slope
            low = np.where(slope > 0, np.maximum(low, cut), low)
            high = np.where(slope < 0, np.minimum(high, cut), high)
            high = np.where((slope == 0) & (rest < 0), -1.0, high)
        left = np.ceil(low - 0.5 - 1e-9).astype(np.int64)
        right = np.minimum(np.floor(high - 0.5 + 1e-9).astype(np.int64), size - 1)
        spans = np.maximum(right - left + 1, 0)
        span, offset = expand(spans)
        tri, row, column = tri[span], row[span], left[span] + offset
        if keep is not None:
            kept = keep(drawn[tri], column + 0.5, row + 0.5)
            tri, row, column = tri[kept], row[kept], column[kept]
        depth = z[0][tri] + gx[tri] * (column + 0.5 - x[0][tri]) + gy[tri] * (row + 0.5 - y[0][tri])
        # A triangle seen edge-on has a steep plane: its depth may not leave the range of its corners. Positive floats
        # sort like their bits, which lets one integer minimum pick the nearest fragment and the lowest face of a tie.
        depth = np.clip(depth, z_low[tri], z_high[tri])
        depth = (1.0 / depth if screen.perspective else depth.clip(0.0)).astype(np.float32)
        key = (depth.view(np.uint32).astype(np.uint64) << np.uint64(32)) | drawn[tri].astype(np.uint64)
        np.minimum.at(nearest, row * size + column, key)


def unit_normals(triangles: np.ndarray) -> np.ndarray:
    """(F,3) float64 unit face normals; zero for a face without area."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


def facing_away(normals: np.ndarray, triangles: np.ndarray, camera: Camera) -> np.ndarray:
    """(F,) bool: the faces that the viewer sees from behind."""
    if not camera.field_of_view:
        return normals @ np.asarray(camera.direction) < 0
    return np.einsum("ij,ij->i", normals, camera.toward_viewer(triangles[:, 0])) < 0


def unit_or_zero(normals: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) at length one; those that are almost zero become zero."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-6)


def box_average(image: np.ndarray, factor: int) -> np.ndarray:
    """Average factor x factor blocks of (H,W) or (H,W,C)."""
    if factor == 1:
        return image
    # Adding strided slices is several times faster than a mean over the short block axes.
    total = sum(image[row::factor, column::factor] for row in range(factor) for column in range(factor))
    return np.asarray(total, dtype=np.float32) / np.float32(factor * factor)
