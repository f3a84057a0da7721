"""Base colours of glTF materials: factor, texture and vertex colours, mixed in linear light as the format says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..color_space import linear_from_srgb, srgb_from_linear
from .gltf_data import GltfData, numbers
from .surface import plain_colors
from .textures import decode_image, sample_texture


_CLAMP_TO_EDGE = 33071


@dataclass
class GltfMaterial:
    """`factor` RGBA in linear light; `texture` the index of its texture, if any; `transform` of its uv (2,3)."""

    factor: np.ndarray
    texture: int | None = None
    texture_points: int = 0
    transform: np.ndarray | None = None
    uses_opacity: bool = False
    is_plain: bool = False

    @property
    def is_invisible(self) -> bool:
        """Whether nobody sees its faces."""
        return self.uses_opacity and float(self.factor[3]) <= 0.0


class GltfMaterials:
    """Materials of one file; each picture is decoded once."""

    def __init__(self, data: GltfData) -> None:
        self.data = data
        self._materials: dict[Any, GltfMaterial] = {}
        self._images: dict[int, Image.Image | None] = {}
        # trimesh, and our own `export_glb` before it left that name out, writes display colours where the format wants linear.
        generator = str(data.tree.get("asset", {}).get("generator", ""))
        self.is_linear = "trimesh" not in generator

    def get(self, index: int | None) -> GltfMaterial:
        """The material of a primitive; None gives the plain one."""
        if index is None:
            return GltfMaterial(np.ones(4), is_plain=True)
        if index not in self._materials:
            self._materials[index] = self._read(self.data.entry("materials", index))
        return self._materials[index]

    def _read(self, entry: dict[str, Any]) -> GltfMaterial:
        glossy = entry.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            factor, texture = glossy.get("diffuseFactor"), glossy.get("diffuseTexture")
        else:
            metallic = entry.get("pbrMetallicRoughness", {})
            factor, texture = metallic.get("baseColorFactor"), metallic.get("baseColorTexture")
        rgba = np.ones(4) if factor is None else np.clip(numbers(factor, 4, "a material's colour"), 0.0, 1.0)
        material = GltfMaterial(rgba, uses_opacity=entry.get("alphaMode", "OPAQUE") != "OPAQUE")
        if texture is not None:
            placed = texture.get("extensions", {}).get("KHR_texture_transform", {})
            material.texture = texture["index"]
            material.texture_points = placed.get("texCoord", texture.get("texCoord", 0))
            material.transform = _uv_transform(placed) if placed else None
        return material

    def texture_points(self, material: GltfMaterial, attributes: dict[str, Any], count: int) -> np.ndarray | None:
        """(V,2) uv of a primitive's vertices for the material's texture, v up; None without texture or points."""
        name = f"TEXCOORD_{material.texture_points}"
        if material.texture is None or name not in attributes:
            return None
        uv = self.data.accessor(attributes[name], (2,), self.data.limits.max_vertices).astype(np.float64)
        if len(uv) != count:
            return None
        if material.transform is not None:
            uv = uv @ material.transform[:, :2].T + material.transform[:, 2]
        texture = self.data.entry("textures", material.texture)
        sampler = self.data.entry("samplers", texture["sampler"]) if "sampler" in texture else {}
        for axis, key in enumerate(("wrapS", "wrapT")):
            if sampler.get(key) == _CLAMP_TO_EDGE:
                uv[:, axis] = np.clip(uv[:, axis], 0.0, 1.0 - 1e-6)
        return np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)

    def face_colors(
        self, material: GltfMaterial, faces: np.ndarray, uv: np.ndarray | None, vertex_colors: np.ndarray | None
    ) -> np.ndarray:
        """(F,3) uint8 sRGB: factor times texture times the mean of the vertex colours (V,3 or 4, in 0..1)."""
        image = self._image(material) if uv is not None else None
        if material.is_plain and vertex_colors is None:
            return plain_colors(len(faces))
        color = np.tile(material.factor[:3], (len(faces), 1))
        if image is not None and uv is not None:
            color *= self._decoded(sample_texture(image, uv[faces]) / 255.0)
        if vertex_colors is not None:
            color *= np.nan_to_num(np.clip(vertex_colors[:, :3], 0.0, 1.0))[faces].mean(axis=1)
        return np.rint(np.clip(self._encoded(color), 0.0, 1.0) * 255.0).astype(np.uint8)

    def _decoded(self, color: np.ndarray) -> np.ndarray:
        return linear_from_srgb(color) if self.is_linear else color

    def _encoded(self, color: np.ndarray) -> np.ndarray:
        return srgb_from_linear(color) if self.is_linear else color

    def _image(self, material: GltfMaterial) -> Image.Image | None:
        """The picture of the material's texture; None when its file is not there."""
        texture = self.data.entry("textures", material.texture)
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        index = webp.get("source", texture.get("source"))
        if index is None:
            self.data.model.files.missing.append("a texture in a format of an unsupported extension")
            return None
        if index not in self._images:
            self._images[index] = self._read_image(index)
        image = self._images[index]
        # The opacity of an opaque material means nothing; often it holds another map.
        return image if image is None or material.uses_opacity else image.convert("RGB")

    def _read_image(self, index: int) -> Image.Image | None:
        entry = self.data.entry("images", index)
        name = f"glTF image {index}"
        if "bufferView" in entry:
            data, start, length, _ = self.data.view(entry["bufferView"])
            return decode_image(data[start : start + length], name, self.data.model.budget)
        content = self.data.resource(entry["uri"])
        if content is None:
            self.data.model.files.missing.append(str(entry["uri"])[:200])
            return None
        return decode_image(content, name, self.data.model.budget)


def _uv_transform(placed: dict[str, Any]) -> np.ndarray:
    """(2,3) matrix of KHR_texture_transform: scale, then rotate, then move."""
    offset = numbers(placed.get("offset", [0, 0]), 2, "a texture's offset")
    scale = numbers(placed.get("scale", [1, 1]), 2, "a texture's scale")
    angle = float(placed.get("rotation", 0.0))
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array(
        [[cosine * scale[0], sine * scale[1], offset[0]], [-sine * scale[0], cosine * scale[1], offset[1]]]
    )
