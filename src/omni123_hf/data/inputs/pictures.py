"""What SOURCE may be when it is pictures: a name, a folder of captioned pictures, a table of them, or one picture.

`cat.jpg` takes its words from `cat.json` (the columns of a table) or `cat.txt` (one caption a line). The words of a file's
name are no caption here, unlike for meshes: cameras name most pictures. A folder with `metadata.csv`, `.jsonl` or
`.parquet` at its top is read by that table, as `datasets` reads an image folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from omni123_hf.data.image_store import SUMMARY
from omni123_hf.data.inputs.base import BadMetadataAsset, InputOptions, bad_metadata, place_under
from omni123_hf.data.inputs.fields import COLUMNS, Fields, asset_values, clean_text, read_fields, words_of
from omni123_hf.data.inputs.folder import files_under, sidecar_fields
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.data.inputs.labels import split_label
from omni123_hf.data.inputs.named import source_names, take_turns
from omni123_hf.data.inputs.tables import TABLE_SUFFIXES, BadRow, table_rows
from omni123_hf.data.pictures import PICTURE_SUFFIXES, PictureLimits, decode_picture
from omni123_hf.data.sources import IMAGE_SOURCES, iter_images
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading.files import read_confined


# Of a table, before the usual names of a path.
IMAGE_COLUMN = "image"
METADATA_TABLES = tuple(f"metadata{suffix}" for suffix in (".csv", ".jsonl", ".parquet"))


@dataclass(frozen=True)
class FilePicture:
    """A picture file with words and a licence. root: the folder that the file may not leave."""

    id: str
    source: str
    name: str
    category: str
    captions: dict[str, list[str]]
    licence: str
    attribution: str
    path: str
    root: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it lies in its source, with nothing of this machine's folders."""
        return place_under(self.path, self.root)

    @property
    def file(self) -> Path:
        """The file whose change makes it another asset."""
        return Path(self.path)

    def load(self) -> Image.Image:
        """The picture as RGBA. Raises `RejectedError` as `pictures.decode_picture`, "missing_file", "path_outside_root"."""
        limits = PictureLimits()
        data = read_confined(Path(self.path), Path(os.path.realpath(self.root)), limits.max_file_bytes)
        if data is None:
            raise RejectedError("missing_file", f"{self.place} does not exist")
        return decode_picture(data, self.place, limits)


Picture = FilePicture | BadMetadataAsset


def read_pictures(text: str, options: InputOptions | None = None) -> list[Any]:
    """Pictures of one source: `NAME`, `PATH`, or `LABEL=PATH` to choose the name under which they are recorded.

    Raises `Omni123Error` when it is none of these or cannot be read.
    """
    options = options or InputOptions()
    label, text = split_label(text)
    if text in IMAGE_SOURCES:
        return _limited(list(iter_images(text, options.raw / text)), options)
    path = Path(text)
    if path.exists():
        source = label or clean_text(path.resolve().name.split(".")[0]) or "files"
        return _limited(list(_read_path(path, source, options)), options)
    if text in source_names():
        raise Omni123Error(f"{text} is a source of meshes; run 'omni123 data prepare {text}'")
    raise Omni123Error(
        f"unknown source of pictures {text!r}; give {', '.join(IMAGE_SOURCES)}, a folder of pictures or a table of them"
    )


def _limited(assets: list[Any], options: InputOptions) -> list[Any]:
    return assets if options.per_category is None and options.limit is None else take_turns(assets, options)


def _read_path(path: Path, source: str, options: InputOptions) -> Iterator[Picture]:
    if path.is_dir():
        if (path / SUMMARY).is_file():
            raise Omni123Error(f"{path} is a prepared image store already; tokenize it with 'omni123 data tokenize'")
        table = metadata_table(path)
        if table is not None:
            return _read_table(table, source, options)
        files = [file for file in files_under(path) if file.suffix.lower() in PICTURE_SUFFIXES]
        if not files:
            raise Omni123Error(f"{path} holds no picture; known: {', '.join(PICTURE_SUFFIXES)}")
        return (_file_picture(file, path, source, options) for file in files)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _read_table(path, source, options)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return iter([_file_picture(path, path.parent, source, options)])
    raise Omni123Error(
        f"{path} is neither a table nor a picture; known: {', '.join([*TABLE_SUFFIXES, *PICTURE_SUFFIXES])}"
    )


def metadata_table(folder: Path) -> Path | None:
    """The table at the top of a folder that describes its pictures, if there is one."""
    return next((folder / name for name in METADATA_TABLES if (folder / name).is_file()), None)


def row_path(row: Mapping[str, Any]) -> Any:
    """What a row names as its picture: the column `image`, else the first of the usual names of a path."""
    return next((row[name] for name in (IMAGE_COLUMN, *COLUMNS["path"]) if row.get(name)), None)


def _read_table(path: Path, source: str, options: InputOptions) -> Iterator[Picture]:
    """One picture a row; paths are relative to the table's folder and stay inside it. A row that cannot be read becomes a
    `BadMetadataAsset`; a table without rows, or that names no picture in any of them, raises `Omni123Error`."""
    root = path.parent
    has_path, count = False, 0
    for number, row in table_rows(path):
        where = f"{path.name} row {number}"
        count += 1
        try:
            if isinstance(row, BadRow):
                raise Omni123Error(f"{where} {row.problem}")
            named = row_path(row)
            if named is None:
                raise Omni123Error(f"{where} has no picture")
            if not isinstance(named, str):
                raise Omni123Error(f"{where}: {IMAGE_COLUMN} must be the path of a file, got {type(named).__name__}")
            has_path = True
            fields = read_fields({**row, IMAGE_COLUMN: None, **dict.fromkeys(COLUMNS["path"]), "path": named}, where)
        except Omni123Error as error:
            yield bad_metadata(source, where, error)
            continue
        name = given_id(fields.id) if fields.id else path_id(source, fields.path)
        yield _picture(name, root / fields.path, root, fields, source, options, "table")
    if not count:
        raise Omni123Error(f"{path} has no rows")
    if not has_path:
        raise Omni123Error(f"no row of {path} names a picture; the table needs a column '{IMAGE_COLUMN}' or 'path'")


def _file_picture(path: Path, root: Path, source: str, options: InputOptions) -> Picture:
    relative = path.relative_to(root).as_posix()
    try:
        fields, caption_source = sidecar_fields(path, root)
    except Omni123Error as error:
        return bad_metadata(source, relative, error)
    if not fields.category and path.parent != root:
        fields.category = words_of(path.parent.name)
    name = given_id(fields.id) if fields.id else path_id(source, relative)
    return _picture(name, path, root, fields, source, options, caption_source)


def _picture(
    name: str, path: Path, root: Path, fields: Fields, source: str, options: InputOptions, caption_source: str
) -> FilePicture:
    if fields.up:
        # Of no meaning for a picture: kept as any other column.
        fields.others["up"] = fields.up
    values = asset_values(fields, source, options, caption_source, "")
    del values["up"]
    return FilePicture(id=name, path=str(path), root=str(root), **values)
