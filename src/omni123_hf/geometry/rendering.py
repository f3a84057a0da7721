"""Rendered views of a mesh: colour, depth, normals and silhouette from any camera under any light (paper §3.3).

`Renderer` is what data preparation asks for; `SoftwareRenderer` draws with the z-buffer of `geometry.rasterizer` and
`geometry.blender.BlenderRenderer` takes the colours from Blender. What does not depend on the camera (face normals,
smooth normals, colours) is prepared once a mesh and shared by its views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera
from omni123_hf.geometry.colors import SurfaceColors, face_colors, surface_colors
from omni123_hf.geometry.lighting import DEFAULT_LIGHTING, Lighting
from omni123_hf.geometry.rasterizer import (
    Keep,
    ScreenTriangles,
    box_average,
    facing_away,
    mesh_triangles,
    nearest_faces,
    project_triangles,
    unit_normals,
    unit_or_zero,
)
from omni123_hf.geometry.rendered_view import RenderedView
from omni123_hf.geometry.smooth_normals import corner_normals


class Renderer(Protocol):
    """Turns a mesh into views."""

    def render_views(
        self, mesh: trimesh.Trimesh, cameras: Sequence[Camera], size: int, lighting: Lighting = DEFAULT_LIGHTING
    ) -> list[RenderedView]:
        """One view of (size,size) pixels a camera, in their order."""
        ...

    def render_view(
        self, mesh: trimesh.Trimesh, camera: Camera, size: int, lighting: Lighting = DEFAULT_LIGHTING
    ) -> RenderedView:
        """One view of (size,size) pixels."""
        ...


@dataclass(frozen=True)
class SoftwareRenderer:
    """The NumPy renderer: no dependencies, the same pictures on every machine.

    supersample: samples along a pixel's side. crease_angle: smooth shading across edges that bend by at most this many
    degrees; None is flat. per_pixel_color: sample textures and blend vertex colours at every sample, and leave out what
    a texture's opacity cuts out; otherwise each face has one opaque colour (`colors.face_colors`).

    With the defaults, coverage, depth and normals are those of `rasterizer.render`, and so is the colour under
    `DEFAULT_LIGHTING`.
    """

    supersample: int = 2
    crease_angle: float | None = None
    per_pixel_color: bool = False

    def render_views(
        self, mesh: trimesh.Trimesh, cameras: Sequence[Camera], size: int, lighting: Lighting = DEFAULT_LIGHTING
    ) -> list[RenderedView]:
        """One view of (size,size) pixels a camera, in their order; an empty mesh gives empty pictures."""
        if size < 1 or self.supersample < 1:
            raise Omni123Error(
                f"size and supersample must be at least 1, got size={size}, supersample={self.supersample}"
            )
        surface = _Surface.of(mesh, self.crease_angle, self.per_pixel_color)
        return [_draw_view(surface, camera, size, self.supersample, lighting) for camera in cameras]

    def render_view(
        self, mesh: trimesh.Trimesh, camera: Camera, size: int, lighting: Lighting = DEFAULT_LIGHTING
    ) -> RenderedView:
        """One view of (size,size) pixels."""
        return self.render_views(mesh, [camera], size, lighting)[0]


def render_view(
    mesh: trimesh.Trimesh,
    camera: Camera,
    size: int,
    lighting: Lighting = DEFAULT_LIGHTING,
    supersample: int = 2,
    crease_angle: float | None = None,
    per_pixel_color: bool = False,
) -> RenderedView:
    """One view by `SoftwareRenderer`; several views of one mesh are cheaper through its `render_views`."""
    return SoftwareRenderer(supersample, crease_angle, per_pixel_color).render_view(mesh, camera, size, lighting)


@dataclass(frozen=True)
class _Surface:
    """What the views of a mesh share: corners (F,3,3), unit face normals (F,3), and either one colour (F,3)
    float32 a face or colours at points; corner normals (F,3,3) when the shading is smooth."""

    triangles: np.ndarray
    normals: np.ndarray
    corner_normals: np.ndarray | None
    face_colors: np.ndarray
    point_colors: SurfaceColors | None

    @classmethod
    def of(cls, mesh: trimesh.Trimesh, crease_angle: float | None, per_pixel_color: bool) -> _Surface:
        triangles = mesh_triangles(mesh)
        return cls(
            triangles=triangles,
            normals=unit_normals(triangles),
            corner_normals=None if crease_angle is None else corner_normals(triangles, crease_angle),
            face_colors=face_colors(mesh).astype(np.float32),
            point_colors=surface_colors(mesh) if per_pixel_color else None,
        )

    def presence(self, screen: ScreenTriangles) -> Keep | None:
        """Which fragments count, when a texture cuts out parts of the surface."""
        colors = self.point_colors
        if colors is None or not colors.is_cut_out:
            return None
        return lambda face, px, py: colors.present(face, screen.weights(face, px, py))


def _draw_view(surface: _Surface, camera: Camera, size: int, supersample: int, lighting: Lighting) -> RenderedView:
    fine = size * supersample
    screen = project_triangles(surface.triangles, camera, fine)
    face, depth = nearest_faces(screen, fine, surface.presence(screen))
    sample = np.flatnonzero(face.ravel() >= 0)
    normals, colors = _shade(surface, screen, camera, lighting, face.ravel()[sample], sample, fine)

    color = _scatter(colors, sample, fine, supersample)
    normal = unit_or_zero(_scatter(normals, sample, fine, supersample))
    mask = box_average((face >= 0).astype(np.float32), supersample)
    rgba = np.zeros((size, size, 4), dtype=np.uint8)
    # Straight alpha: the mean over the samples that hit, not over the pixel.
    rgba[..., :3] = np.rint(np.divide(color, mask[..., None], out=np.zeros_like(color), where=mask[..., None] > 0))
    rgba[..., 3] = np.rint(mask * 255.0)
    nearest = depth.reshape(size, supersample, size, supersample).min(axis=(1, 3))
    silhouette = np.where(mask >= 0.5, 255, 0).astype(np.uint8)
    return RenderedView(rgba, nearest, normal, silhouette, camera)


def _shade(
    surface: _Surface,
    screen: ScreenTriangles,
    camera: Camera,
    lighting: Lighting,
    face: np.ndarray,
    sample: np.ndarray,
    fine: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Normals (N,3) turned to the viewer and lit colours (N,3) float32 of the samples that show `face` (N,)."""
    turn = np.where(facing_away(surface.normals, surface.triangles, camera), np.float32(-1.0), np.float32(1.0))
    if surface.corner_normals is None and surface.point_colors is None:
        normals = (surface.normals * turn[:, None]).astype(np.float32)
        colors = surface.face_colors * lighting.factors(normals, camera)
        return normals[face], np.clip(colors, 0.0, 255.0).astype(np.float32)[face]

    weights = screen.weights(face, sample % fine + 0.5, sample // fine + 0.5)
    if surface.corner_normals is None:
        normals = surface.normals[face].astype(np.float32)
    else:
        normals = unit_or_zero(np.einsum("nk,nkc->nc", weights, surface.corner_normals[face]))
    # A whole face turns, so that smooth normals do not flip where they pass the horizon.
    normals = normals * turn[face, None]
    points = surface.point_colors
    base = surface.face_colors[face] if points is None else points.at(face, weights)
    return normals, np.clip(base * lighting.factors(normals, camera), 0.0, 255.0).astype(np.float32)


def _scatter(values: np.ndarray, sample: np.ndarray, fine: int, supersample: int) -> np.ndarray:
    """Values (N,3) of samples, and zero elsewhere, averaged to pixels."""
    picture = np.zeros((fine * fine, 3), dtype=np.float32)
    picture[sample] = values
    return box_average(picture.reshape(fine, fine, 3), supersample)
