"""Whether a source on the command line is meshes or pictures, told without reading its assets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omni123_hf.data.image_store import SUMMARY
from omni123_hf.data.inputs.fields import COLUMNS
from omni123_hf.data.inputs.folder import files_under
from omni123_hf.data.inputs.labels import split_label
from omni123_hf.data.inputs.pictures import IMAGE_COLUMN
from omni123_hf.data.inputs.tables import TABLE_SUFFIXES, BadRow, table_rows
from omni123_hf.data.pictures import PICTURE_SUFFIXES
from omni123_hf.data.sources import IMAGE_SOURCES
from omni123_hf.geometry.loading import supported_suffixes


Kind = Literal["meshes", "pictures"]


def kind_of_source(text: str) -> Kind:
    """A folder or table that names any mesh is meshes: pictures lie beside those as textures and previews. One that names
    pictures and no mesh is pictures. What is neither, and anything on the Hub, is left to the readers of meshes.

    A table that cannot be read raises `Omni123Error`.
    """
    text = split_label(text)[1]
    if text in IMAGE_SOURCES:
        return "pictures"
    path = Path(text)
    if path.is_dir():
        if (path / SUMMARY).is_file():
            return "pictures"
        return _kind_of({file.suffix.lower() for file in files_under(path)})
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return _kind_of(_table_suffixes(path))
    return "pictures" if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES else "meshes"


def _kind_of(suffixes: set[str]) -> Kind:
    if suffixes & set(supported_suffixes()):
        return "meshes"
    return "pictures" if suffixes & set(PICTURE_SUFFIXES) else "meshes"


def _table_suffixes(path: Path) -> set[str]:
    """Suffixes of the files that rows name; the column `image` counts where a row has no path."""
    found = set()
    for _, row in table_rows(path):
        if not isinstance(row, BadRow):
            named = next((row[name] for name in (*COLUMNS["path"], IMAGE_COLUMN) if row.get(name)), "")
            found.add(Path(named).suffix.lower() if isinstance(named, str) else "")
    return found
