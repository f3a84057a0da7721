"""A folder of meshes, searched in depth, with captions beside them.

`chair.glb` takes its words from `chair.json` (the columns of a manifest) or `chair.txt` (one caption a line); without
either, from the words of its name. Its category is the name of the folder that holds it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from omni123_hf.data.inputs.base import FileAsset, InputOptions
from omni123_hf.data.inputs.fields import Fields, asset_values, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.loading import supported_suffixes


def read_folder(folder: Path, source: str, options: InputOptions) -> list[FileAsset]:
    """Every mesh under `folder` in the order of their paths; none raises `Omni123Error`."""
    known = supported_suffixes()
    files = [path for path in _files(folder) if path.suffix.lower() in known]
    if not files:
        raise Omni123Error(f"{folder} holds no mesh; known: {', '.join(known)}")
    return [file_asset(path, folder, source, options) for path in files]


def file_asset(path: Path, root: Path, source: str, options: InputOptions) -> FileAsset:
    """The asset of one mesh file under `root`, with its sidecar's words."""
    fields, caption_source = _sidecar(path)
    if not fields.category and path.parent != root:
        fields.category = words_of(path.parent.name)
    relative = path.relative_to(root).as_posix()
    return FileAsset(
        id=given_id(fields.id) if fields.id else path_id(source, relative),
        path=str(path),
        root=str(root),
        **asset_values(fields, source, options, caption_source, words_of(path.stem)),
    )


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _sidecar(path: Path) -> tuple[Fields, str]:
    words, lines = path.with_suffix(".json"), path.with_suffix(".txt")
    try:
        if words.is_file():
            row = json.loads(words.read_text(encoding="utf-8"))
            if not isinstance(row, dict):
                raise Omni123Error(f"{words} must hold one JSON object")
            return read_fields(row, str(words)), "sidecar"
        if lines.is_file():
            texts = [line for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
            return read_fields({"captions": texts}, str(lines)), "sidecar"
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Omni123Error(f"the words beside {path} are not readable: {error}") from error
    return Fields(), ""
