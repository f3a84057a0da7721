"""A folder of meshes, searched in depth, with captions beside them.

`chair.glb` takes its words from `chair.json` (the columns of a manifest) or `chair.txt` (one caption a line); without
either, from the words of its name. Its category is the name of the folder that holds it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from omni123_hf.data.inputs.base import BadMetadataAsset, FileAsset, InputOptions, bad_metadata
from omni123_hf.data.inputs.fields import Fields, asset_values, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.loading import supported_suffixes
from omni123_hf.geometry.loading.files import read_confined


MAX_SIDECAR_BYTES = 10**6


def read_folder(folder: Path, source: str, options: InputOptions) -> list[FileAsset | BadMetadataAsset]:
    """Every mesh under `folder` in the order of their paths; none raises `Omni123Error`."""
    known = supported_suffixes()
    files = [path for path in files_under(folder) if path.suffix.lower() in known]
    if not files:
        raise Omni123Error(f"{folder} holds no mesh; known: {', '.join(known)}")
    return [file_asset(path, folder, source, options) for path in files]


def file_asset(path: Path, root: Path, source: str, options: InputOptions) -> FileAsset | BadMetadataAsset:
    """The asset of one mesh file under `root`, with its sidecar's words; a sidecar that cannot be read makes it a bad one."""
    relative = path.relative_to(root).as_posix()
    try:
        fields, caption_source = sidecar_fields(path, root)
    except Omni123Error as error:
        return bad_metadata(source, relative, error)
    if not fields.category and path.parent != root:
        fields.category = words_of(path.parent.name)
    return FileAsset(
        id=given_id(fields.id) if fields.id else path_id(source, relative),
        path=str(path),
        root=str(root),
        **asset_values(fields, source, options, caption_source, words_of(path.stem)),
    )


def files_under(folder: Path) -> list[Path]:
    """Files in depth, in the order of their paths, without hidden ones. Links to folders are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def sidecar_fields(path: Path, root: Path) -> tuple[Fields, str]:
    """What the file beside `path` says, and "sidecar"; nothing, and "", without one.

    One that cannot be read, or leads out of `root`, raises `Omni123Error`.
    """
    words, lines = path.with_suffix(".json"), path.with_suffix(".txt")
    try:
        if os.path.lexists(words):
            row = json.loads(_read_text(words, root))
            if not isinstance(row, dict):
                raise Omni123Error(f"{words.name} must hold one JSON object")
            return read_fields(row, words.name), "sidecar"
        if os.path.lexists(lines):
            texts = [line for line in _read_text(lines, root).splitlines() if line.strip()]
            return read_fields({"captions": texts}, lines.name), "sidecar"
    except (ValueError, RecursionError) as error:
        if isinstance(error, Omni123Error):
            raise
        raise Omni123Error(f"the words beside {path.name} are not readable: {error}") from error
    return Fields(), ""


def _read_text(path: Path, root: Path) -> str:
    data = read_confined(path, Path(os.path.realpath(root)), MAX_SIDECAR_BYTES)
    if data is None:
        raise Omni123Error(f"{path.name} is a link that leads nowhere")
    return data.decode("utf-8")
