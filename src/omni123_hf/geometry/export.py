"""Writing a mesh as GLB, OBJ, STL or PLY, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.exchange.gltf import export_glb as _encode_glb

from omni123_hf import __version__
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.color_space import linear_from_srgb


# trimesh writes attributes with a leading underscore as they are.
LINEAR_COLOR = "_COLOR_0"


def export_glb(mesh: trimesh.Trimesh, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write `mesh` to `path` (.glb) with `metadata` in the file's `asset.extras`; returns the path. `asset.generator` is this package.

    Vertex and face colours of a mesh are display values (sRGB); the file gets them as glTF wants them, in linear light: `COLOR_0` as
    float32, because 8 bits of linear light leave steps of 13 display levels at black. Textures and a material's factor are written as
    they stand. Meshes that trimesh itself has read from a GLB hold what stood there, in linear light; `load_mesh` converts.

    The bytes go to a temporary file in the same folder that then takes the name, so a reader never sees half a file.
    An empty mesh, another suffix or metadata that is not JSON raise `Omni123Error`.
    """
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise Omni123Error(f"{path.name!r} is not a .glb name; export_glb writes binary glTF only")
    if not len(mesh.faces):
        raise Omni123Error("the mesh is empty; there is nothing to export")
    try:
        extras = json.loads(json.dumps(dict(metadata or {})))
    except TypeError as error:
        raise Omni123Error(f"metadata must be plain JSON values: {error}") from error

    def finish(tree: dict[str, Any]) -> None:
        # Without the word "trimesh", by which the reader knows display colours in the place of linear ones.
        tree["asset"]["generator"] = f"omni123-hf {__version__}"
        tree["asset"]["extras"] = extras
        for primitive in (primitive for entry in tree["meshes"] for primitive in entry["primitives"]):
            if LINEAR_COLOR in primitive["attributes"]:
                primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop(LINEAR_COLOR)

    write_atomic(path, _encode_glb(trimesh.Scene(with_linear_colors(mesh)), tree_postprocessor=finish))
    return path


def with_linear_colors(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy whose vertex or face colours are a vertex attribute (V, 4) float32 of linear light; without such colours, itself."""
    visual: Any = mesh.visual
    if visual.kind not in ("vertex", "face"):
        return mesh
    rgba = np.asarray(visual.vertex_colors, dtype=np.float64) / 255.0
    rgba[:, :3] = linear_from_srgb(rgba[:, :3])
    copy = mesh.copy(include_cache=True)
    copy.visual = trimesh.visual.ColorVisuals(copy)
    copy.vertex_attributes[LINEAR_COLOR] = rgba.astype(np.float32)
    return copy


FORMATS = (".glb", ".obj", ".stl", ".ply")


def export_mesh(mesh: trimesh.Trimesh, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write `mesh` in the format of the suffix; returns the path. Metadata and, in STL, colours have no place outside GLB.

    OBJ is one file with colours at the vertices and no material. Raises `Omni123Error` as `export_glb` does.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise Omni123Error(f"{path.name!r} has no format for meshes; use one of {', '.join(FORMATS)}")
    if suffix == ".glb":
        return export_glb(mesh, path, metadata)
    if not len(mesh.faces):
        raise Omni123Error("the mesh is empty; there is nothing to export")
    options: dict[str, Any] = {"include_texture": False} if suffix == ".obj" else {}
    data: Any = mesh.export(file_type=suffix[1:], **options)
    write_atomic(path, data.encode() if isinstance(data, str) else data)
    return path


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it; makes the folder when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
