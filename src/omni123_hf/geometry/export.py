"""Writing a mesh as GLB, OBJ, STL or PLY, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trimesh
from trimesh.exchange.gltf import export_glb as _encode_glb

from omni123_hf import __version__
from omni123_hf.errors import Omni123Error


def export_glb(mesh: trimesh.Trimesh, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write `mesh` to `path` (.glb) with `metadata` in the file's `asset.extras`; returns the path. `asset.generator` is this package.

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

    def add_extras(tree: dict[str, Any]) -> None:
        # The reader knows by "trimesh" that colours are as trimesh writes them.
        tree["asset"]["generator"] = f"omni123-hf {__version__} (trimesh {trimesh.__version__})"
        tree["asset"]["extras"] = extras

    data = _encode_glb(trimesh.Scene(mesh), tree_postprocessor=add_extras)
    write_atomic(path, data)
    return path


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
