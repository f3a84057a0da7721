"""`load_mesh`: any supported file to one clean mesh, or one `RejectedError`."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from ...errors import Omni123Error, RejectedError
from .archive import model_in_archive, open_archive
from .files import FolderFiles, ModelFile, read_confined
from .gltf import read_gltf
from .limits import LoadBudget, LoadLimits
from .off import read_off
from .ply import read_ply
from .stl import read_stl
from .surface import Surface, to_mesh
from .wavefront import read_wavefront


Reader = Callable[[ModelFile], Surface]

_READERS: dict[str, Reader] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_wavefront,
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}

_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf", "7z"),
)

# What a broken file makes of a reader that has checked sizes and ranges but not the kind of every value.
_BROKEN = (
    LookupError, ValueError, TypeError, AttributeError, ArithmeticError, EOFError, RecursionError, struct.error, zlib.error,
)  # fmt: skip


def register_format(suffixes: tuple[str, ...], reader: Reader) -> None:
    """Let `load_mesh` read files with these suffixes (".dat") by `reader`.

    The rooms above bring their own formats this way: `omni123_hf.data.sources` adds LDraw and Sweet Home 3D.
    """
    for suffix in suffixes:
        _READERS[suffix.lower()] = reader


def supported_suffixes() -> list[str]:
    """Suffixes that `load_mesh` reads now, in order, ".zip" among them."""
    return sorted([*_READERS, ".zip"])


def load_mesh(path: str | Path, limits: LoadLimits | None = None, root: str | Path | None = None) -> trimesh.Trimesh:
    """One mesh with a colour for each face from a model file, y up and +z to the front where the format says so.

    limits: bounds of size (`LoadLimits`). root: the folder that no file named by the model, nor the model itself, may
    leave; by default the folder the model lies in. `mesh.metadata["missing_files"]` lists textures and material
    libraries that are not there. Formats and what is kept of them: `docs/data_formats.md`.

    Raises RejectedError, and nothing else, for a file that cannot be used; its `reason` is in the same document.
    """
    limits = limits or LoadLimits()
    path = Path(path)
    # A broken file may overflow any product on the way; the finished coordinates are checked instead.
    with np.errstate(all="ignore"):
        try:
            return _load(path, limits, root)
        except RejectedError:
            raise
        except MemoryError as error:
            raise RejectedError("out_of_memory", f"{path.name}: not enough memory; lower the limits") from error
        except Omni123Error as error:
            raise RejectedError("broken_file", f"{path.name}: {error}") from error
        except _BROKEN as error:
            detail = f"{type(error).__name__}: {str(error)[:160]}"
            raise RejectedError("broken_file", f"{path.name} is broken ({detail}); export it again") from error


def _load(path: Path, limits: LoadLimits, root: str | Path | None) -> trimesh.Trimesh:
    suffix = path.suffix.lower()
    if suffix not in supported_suffixes():
        raise RejectedError(
            "unsupported_format", f"{path.name!r}: known formats are {', '.join(supported_suffixes())}; convert it"
        )
    folder = Path(os.path.realpath(path.parent))
    confined = Path(os.path.realpath(root)) if root is not None else folder
    # The caller named the model itself, so a link to it may lead anywhere unless a root was named too.
    allowed = confined if root is not None else Path(os.path.realpath(path)).parent
    data = read_confined(path, allowed, limits.max_file_bytes)
    if data is None:
        raise RejectedError("missing_file", f"{path} does not exist")
    budget = LoadBudget(limits)
    budget.spend_file(len(data), path.name)
    model = ModelFile(path.name, data, FolderFiles(folder, confined, budget), budget, folder, confined)
    if suffix == ".zip":
        model = model_in_archive(open_archive(data, path.name, limits), path.name, list(_READERS), budget)
    else:
        _refuse_packed(model)
    surface = _READERS[model.suffix](model)
    mesh = to_mesh(surface, limits, model.name)
    mesh.metadata["missing_files"] = list(model.files.missing)
    return mesh


def _refuse_packed(model: ModelFile) -> None:
    for magic, name in _PACKED:
        if model.data.startswith(magic) and model.suffix != ".sh3f":
            raise RejectedError("compressed_file", f"{model.name} is packed by {name}; unpack it first")
