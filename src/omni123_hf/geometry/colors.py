"""The colours of a surface, whatever way a mesh carries them: one a face, or one a picture point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import trimesh


DEFAULT_COLOR = (190, 190, 190)


def face_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    """(F,3) uint8 colour of every face: face colours, the mean of vertex colours, or the material.

    A texture is sampled at the centre of the face in uv and multiplied by the material's factor; a material without a
    texture gives its main colour; a mesh without any colour is light grey. Opacity is ignored.
    """
    count = len(mesh.faces)
    visual: Any = mesh.visual
    kind = visual.kind if visual.defined else None
    if kind == "face":
        return np.ascontiguousarray(visual.face_colors[:, :3], dtype=np.uint8)
    if kind == "vertex":
        corners = np.asarray(visual.vertex_colors)[np.asarray(mesh.faces), :3].astype(np.float32)
        return np.rint(corners.mean(axis=1)).astype(np.uint8)
    if kind == "texture":
        return _material_colors(mesh)
    return np.full((count, 3), DEFAULT_COLOR, dtype=np.uint8)


class SurfaceColors(Protocol):
    """Colour at points of the surface, given as faces (N,) and barycentric weights (N,3)."""

    @property
    def is_cut_out(self) -> bool:
        """Whether parts of the surface may be missing."""
        ...

    def at(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(N,3) float32 RGB in 0..255."""
        ...

    def present(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(N,) bool: the points that are there."""
        ...


@dataclass(frozen=True)
class CornerColors:
    """Colours (F,3,3) float32 of the corners of each face, blended across it."""

    corners: np.ndarray
    is_cut_out: bool = False

    def at(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nkc->nc", weights, self.corners[face])

    def present(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.ones(len(face), dtype=bool)


@dataclass(frozen=True)
class TextureColors:
    """A base colour texture, sampled bilinearly and repeated outside [0,1].

    texels: (H,W,4) uint8 RGB and opacity. factor: (4,) float32, multiplies them. corners: (F,3,2) uv. cutoff: points of
    less opacity (0..1) are missing; None for a material without opacity.
    """

    texels: np.ndarray
    factor: np.ndarray
    corners: np.ndarray
    cutoff: float | None

    @property
    def is_cut_out(self) -> bool:
        return self.cutoff is not None

    def at(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        rgba, share = self._neighbours(face, weights)
        if self.cutoff is not None:
            # What stands in fully transparent texels is arbitrary, often black: it may not darken the edge of a leaf.
            share = share * np.maximum(rgba[..., 3], 1e-6)
            share = share / share.sum(axis=1, keepdims=True)
        return np.einsum("nk,nkc->nc", share, rgba[..., :3])

    def present(self, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        rgba, share = self._neighbours(face, weights)
        return (rgba[..., 3] * share).sum(axis=1) >= 255.0 * (self.cutoff or 0.0)

    def _neighbours(self, face: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The four texels (N,4,4) float32 around each point and their shares (N,4)."""
        height, width = self.texels.shape[:2]
        uv = np.einsum("nk,nkc->nc", weights, self.corners[face])
        # Row 0 of the picture is v = 1; a texel's colour stands at its centre.
        x, y = uv[:, 0] * width - 0.5, (1.0 - uv[:, 1]) * height - 0.5
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        tx, ty = (x - column).astype(np.float32), (y - row).astype(np.float32)
        rows = np.stack([row, row, row + 1, row + 1], axis=1) % height
        columns = np.stack([column, column + 1, column, column + 1], axis=1) % width
        shares = np.stack([(1 - tx) * (1 - ty), tx * (1 - ty), (1 - tx) * ty, tx * ty], axis=1)
        return self.texels[rows, columns] * self.factor, shares


def surface_colors(mesh: trimesh.Trimesh) -> SurfaceColors:
    """Colours that vary within a face: the base colour texture or vertex colours; otherwise those of `face_colors`.

    Opacity counts as cut-out and nothing is blended: a glTF material in mode MASK at its cut-off; in mode BLEND, or an
    OBJ material with opacity in its picture, at one half of the picture's opacity (the factor of a pane of glass does
    not make it vanish).
    """
    visual: Any = mesh.visual
    kind = visual.kind if visual.defined else None
    faces = np.asarray(mesh.faces)
    if kind == "vertex":
        return CornerColors(np.asarray(visual.vertex_colors)[faces, :3].astype(np.float32))
    if kind != "texture":
        return _flat(mesh)
    image, factor = _texture_and_factor(visual.material)
    if image is None or visual.uv is None:
        return _flat(mesh)
    scale = np.ones(4, dtype=np.float32)
    if factor is not None:
        given = _unit_factor(factor)
        scale[: len(given)] = given
    cutoff = _cutoff(visual.material, image)
    if getattr(visual.material, "alphaMode", None) != "MASK":
        scale[3] = 1.0
    uv = np.nan_to_num(np.asarray(visual.uv, dtype=np.float64)[faces])
    return TextureColors(np.asarray(image.convert("RGBA")), scale, uv, cutoff)


def _flat(mesh: trimesh.Trimesh) -> SurfaceColors:
    return CornerColors(np.repeat(face_colors(mesh)[:, None].astype(np.float32), 3, axis=1))


def _cutoff(material: Any, image: Any) -> float | None:
    if not hasattr(material, "baseColorTexture"):
        return 0.5 if image.has_transparency_data else None
    if material.alphaMode == "MASK":
        return 0.5 if material.alphaCutoff is None else float(material.alphaCutoff)
    return 0.5 if material.alphaMode == "BLEND" else None


def _texture_and_factor(material: Any) -> tuple[Any, Any]:
    """The picture of the base colour and what multiplies it; either may be None."""
    if hasattr(material, "baseColorTexture"):
        return material.baseColorTexture, material.baseColorFactor
    return getattr(material, "image", None), None


def _unit_factor(factor: Any) -> np.ndarray:
    """A colour factor (3 or 4 values) in 0..1, whether it was given in 0..1 or in 0..255."""
    values = np.asarray(factor).reshape(-1)
    scale = np.asarray(values, dtype=np.float32)
    return np.clip(scale / 255.0 if values.dtype.kind in "iu" else scale, 0.0, 1.0)


def _material_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    visual: Any = mesh.visual
    material, uv = visual.material, visual.uv
    image, factor = _texture_and_factor(material)
    if image is None or uv is None:
        main = np.asarray(material.main_color, dtype=np.uint8).reshape(-1)[:3]
        return np.tile(main, (len(mesh.faces), 1))
    texels = np.asarray(image.convert("RGB"))
    height, width = texels.shape[:2]
    centres = np.nan_to_num(np.asarray(uv, dtype=np.float64)[np.asarray(mesh.faces)].mean(axis=1))
    # Textures repeat outside [0,1], and row 0 of the picture is v = 1.
    columns = np.minimum((centres[:, 0] % 1.0 * width).astype(np.int64), width - 1)
    rows = np.minimum(((1.0 - centres[:, 1] % 1.0) * height).astype(np.int64), height - 1)
    colors = texels[rows, columns]
    if factor is None:
        return colors
    return np.rint(colors * _unit_factor(factor)[:3]).astype(np.uint8)
