"""The container of glTF: GLB chunks or JSON, buffers, and accessors whose every range is checked."""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from typing import Any
from urllib.parse import unquote

import numpy as np

from ...errors import RejectedError
from .files import ModelFile, relative_name


_MAGIC = b"glTF"
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

# Extensions a file may require and still be read: they change nothing we keep, or we apply them.
APPLIED_EXTENSIONS = frozenset(
    ["KHR_mesh_quantization", "KHR_texture_transform", "KHR_materials_pbrSpecularGlossiness", "EXT_texture_webp"]
)
IGNORED_EXTENSIONS = frozenset(
    """KHR_materials_unlit KHR_materials_clearcoat KHR_materials_transmission KHR_materials_volume KHR_materials_ior
    KHR_materials_specular KHR_materials_sheen KHR_materials_emissive_strength KHR_materials_iridescence
    KHR_materials_anisotropy KHR_materials_dispersion KHR_materials_variants KHR_lights_punctual KHR_xmp_json_ld
    KHR_animation_pointer EXT_lights_image_based VRM VRMC_vrm""".split()
)
COMPRESSED_EXTENSIONS = frozenset(["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"])


class GltfData:
    """The JSON tree of a glTF file and its binary data, read on demand."""

    def __init__(self, model: ModelFile) -> None:
        self.model = model
        self.limits = model.budget.limits
        text, self._chunk = _split_container(model.data)
        self.tree = _parse_json(text, self.limits.max_json_values)
        self._buffers: dict[int, bytes] = {}
        version = str(self.tree.get("asset", {}).get("version", ""))
        if not version.startswith("2."):
            raise RejectedError("unsupported_format", f"glTF version {version[:20]!r}; export it as glTF 2.0")
        for name in self.tree.get("extensionsRequired", []):
            if name in COMPRESSED_EXTENSIONS:
                raise compressed(name)
            if name not in APPLIED_EXTENSIONS and name not in IGNORED_EXTENSIONS:
                raise RejectedError(
                    "unsupported_extension", f"the file requires {str(name)[:60]!r}; export it without that extension"
                )

    def entry(self, kind: str, index: Any) -> dict[str, Any]:
        """Entry `index` of one of the tree's lists ("meshes", "accessors", ...)."""
        entries = self.tree.get(kind, [])
        if type(index) is not int or not 0 <= index < len(entries) or not isinstance(entries[index], dict):
            raise RejectedError("bad_index", f"the glTF names {kind} {str(index)[:40]}, which it does not hold")
        return entries[index]

    def buffer(self, index: int) -> bytes:
        """Bytes of a buffer: the GLB's own chunk, a data URI or a file beside the model."""
        if index not in self._buffers:
            buffer = self.entry("buffers", index)
            uri = buffer.get("uri")
            if uri is None and index == 0 and self._chunk is not None:
                data = self._chunk
            elif uri is None:
                raise RejectedError("missing_file", f"glTF buffer {index} has no data; export the model again")
            else:
                found = self.resource(uri)
                if found is None:
                    raise RejectedError("missing_file", f"the buffer {str(uri)[:80]!r} is not beside the model")
                data = found
            if len(data) < _whole(buffer, "byteLength"):
                raise RejectedError("truncated", f"glTF buffer {index} has {len(data)} bytes, fewer than it says")
            self._buffers[index] = data
        return self._buffers[index]

    def resource(self, uri: str) -> bytes | None:
        """Bytes of a data URI or of a file beside the model; None when there is no such file."""
        if not uri.startswith("data:"):
            return self.model.files.read(unquote(relative_name(uri)))
        head, _, body = uri.partition(",")
        if not head.endswith(";base64"):
            raise RejectedError("broken_file", "a data URI of the glTF is not base64")
        self.model.budget.spend_file(3 * len(body) // 4, "a data URI")
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise RejectedError("broken_file", f"a data URI of the glTF is broken: {error}") from error

    def view(self, index: int) -> tuple[bytes, int, int, int]:
        """Buffer bytes, offset, length and stride (0: packed) of a buffer view that lies inside its buffer."""
        view = self.entry("bufferViews", index)
        data = self.buffer(view["buffer"])
        offset, length, stride = (_whole(view, key) for key in ("byteOffset", "byteLength", "byteStride"))
        if offset + length > len(data):
            raise RejectedError("truncated", f"glTF buffer view {index} ends behind its buffer")
        return data, offset, length, stride

    def accessor(self, index: int, widths: tuple[int, ...], most: int) -> np.ndarray:
        """Values (count, width) of an accessor, normalised ones as float64; sparse values put in.

        widths: numbers an element may have. most: largest count, checked before anything is allocated.
        """
        accessor = self.entry("accessors", index)
        count, width = _whole(accessor, "count"), _WIDTHS.get(accessor.get("type", ""), 0)
        if width not in widths or accessor.get("componentType") not in _COMPONENTS:
            raise RejectedError("broken_file", f"glTF accessor {index} has the wrong type for its use")
        if count > most:
            kind = "too_many_faces" if widths == (1,) else "too_many_vertices"
            raise RejectedError(
                kind, f"glTF accessor {index} has {count} elements, more than {most}; simplify the model"
            )
        kind_of = np.dtype(_COMPONENTS[accessor["componentType"]])
        if "bufferView" in accessor:
            values = self._values(accessor["bufferView"], _whole(accessor, "byteOffset"), count, width, kind_of)
        else:
            values = np.zeros((count, width), dtype=kind_of)
        if "sparse" in accessor:
            values = self._with_sparse(values, accessor["sparse"])
        if accessor.get("normalized") is True and kind_of.kind in "iu":
            return np.maximum(values / float(np.iinfo(kind_of).max), -1.0)
        return values

    def _values(
        self, view: int, offset: int, count: int, width: int, kind: np.dtype, strided: bool = True
    ) -> np.ndarray:
        data, start, length, stride = self.view(view)
        element = width * kind.itemsize
        step = stride if strided and stride else element
        if step < element or (count and offset + step * (count - 1) + element > length):
            raise RejectedError("truncated", f"a glTF accessor ends behind its buffer view {view}")
        if not count:
            return np.zeros((0, width), dtype=kind)
        return np.ndarray((count, width), kind, data, start + offset, (step, kind.itemsize))

    def _with_sparse(self, values: np.ndarray, sparse: dict[str, Any]) -> np.ndarray:
        count, indices, replaced = _whole(sparse, "count"), sparse["indices"], sparse["values"]
        if indices.get("componentType") not in (5121, 5123, 5125):
            raise RejectedError("broken_file", "the indices of a sparse glTF accessor have the wrong type")
        kind = np.dtype(_COMPONENTS[indices["componentType"]])
        rows = self._values(indices["bufferView"], _whole(indices, "byteOffset"), count, 1, kind, False)[:, 0]
        if count and int(rows.max()) >= len(values):
            raise RejectedError("bad_index", "a sparse glTF accessor replaces an element that does not exist")
        new = self._values(
            replaced["bufferView"], _whole(replaced, "byteOffset"), count, values.shape[1], values.dtype, False
        )
        values = values.copy()
        values[rows] = new
        return values


def compressed(extension: str) -> RejectedError:
    """The refusal of a compressed mesh, with the way out."""
    return RejectedError(
        "compressed_mesh",
        f"the meshes are packed by {extension}, which is not decoded here; unpack them first, for example with"
        " 'gltf-transform cp in.glb out.glb' or by exporting from Blender without compression",
    )


def numbers(value: Any, count: int, what: str) -> np.ndarray:
    """(count,) float64 of a JSON list of finite numbers."""
    if not isinstance(value, list) or len(value) != count:
        raise RejectedError("broken_file", f"{what} of the glTF is not a list of {count} numbers")
    if not all(type(each) in (int, float) and math.isfinite(each) for each in value):
        raise RejectedError("broken_file", f"{what} of the glTF holds something that is not a finite number")
    return np.array(value, dtype=np.float64)


def _whole(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key, 0)
    if type(value) is not int or value < 0:
        raise RejectedError("broken_file", f"{key} of the glTF is {str(value)[:40]!r}, not a whole number from 0")
    return value


def _split_container(data: bytes) -> tuple[bytes, bytes | None]:
    """JSON and binary chunk of a GLB; a file without its magic is taken for bare JSON."""
    if not data.startswith(_MAGIC):
        return data, None
    if len(data) < 20:
        raise RejectedError("truncated", "the GLB ends inside its header")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise RejectedError("unsupported_format", f"GLB version {version}; export it as glTF 2.0")
    if length > len(data):
        raise RejectedError("truncated", f"the GLB has {len(data)} bytes, but its header says {length}")
    text: bytes | None = None
    binary: bytes | None = None
    position = 12
    while position + 8 <= length:
        size, kind = struct.unpack_from("<II", data, position)
        position += 8
        if position + size > length:
            raise RejectedError("truncated", "a chunk of the GLB ends behind the file")
        chunk = data[position : position + size]
        if kind == _JSON_CHUNK and text is None:
            text = chunk
        elif kind == _BINARY_CHUNK and binary is None:
            binary = chunk
        position += size
    if text is None:
        raise RejectedError("broken_file", "the GLB holds no JSON")
    return text, binary


def _parse_json(text: bytes, most: int) -> dict[str, Any]:
    # Each value becomes a Python object of 30 to 60 bytes, so "[[],[],..." grows twenty times: count before parsing.
    if text.count(b",") + text.count(b"[") + text.count(b"{") > most:
        raise RejectedError(
            "too_many_values", f"the JSON of the glTF holds more than {most} values; simplify the model"
        )
    try:
        tree = json.loads(text.decode("utf-8").lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise RejectedError(
            "broken_file",
            f"the JSON of the glTF cannot be read ({str(error)[:120]}); the file is broken or cut short, export it again",
        ) from error
    if not isinstance(tree, dict):
        raise RejectedError("broken_file", "the JSON of the glTF is not an object")
    return tree
