"""One colour a face, whatever way a mesh carries its colours."""

from __future__ import annotations

from typing import Any

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


def _material_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    visual: Any = mesh.visual
    material, uv = visual.material, visual.uv
    if hasattr(material, "baseColorTexture"):
        image, factor = material.baseColorTexture, material.baseColorFactor
    else:
        image, factor = getattr(material, "image", None), None
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
    scale = np.asarray(factor, dtype=np.float32).reshape(-1)[:3]
    scale = scale / 255.0 if np.asarray(factor).dtype.kind in "iu" else scale
    return np.rint(colors * np.clip(scale, 0.0, 1.0)).astype(np.uint8)
