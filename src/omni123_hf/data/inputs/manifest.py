"""A table with one row an asset: CSV, Parquet or JSON lines; its columns are those of `fields.COLUMNS`."""

from __future__ import annotations

from pathlib import Path

from omni123_hf.data.inputs.base import BadMetadataAsset, FileAsset, InputOptions, bad_metadata
from omni123_hf.data.inputs.fields import COLUMNS, asset_values, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.data.inputs.tables import BadRow, table_rows
from omni123_hf.errors import Omni123Error


def read_manifest(path: Path, source: str, options: InputOptions) -> list[FileAsset | BadMetadataAsset]:
    """One asset a row. Paths are relative to the table's folder and stay inside it.

    A row that cannot be read becomes a `BadMetadataAsset`. A table that cannot be read, has no rows, or names no path in
    any of them raises `Omni123Error`.
    """
    root = path.parent
    assets: list[FileAsset | BadMetadataAsset] = []
    has_path = False
    for number, row in table_rows(path):
        where = f"{path.name} row {number}"
        try:
            if isinstance(row, BadRow):
                raise Omni123Error(f"{where} {row.problem}")
            has_path = has_path or any(row.get(name) for name in COLUMNS["path"])
            fields = read_fields(row, where)
            if not fields.path:
                raise Omni123Error(f"{where} has no path")
        except Omni123Error as error:
            assets.append(bad_metadata(source, where, error))
            continue
        file = root / fields.path
        assets.append(
            FileAsset(
                id=given_id(fields.id) if fields.id else path_id(source, fields.path),
                path=str(file),
                root=str(root),
                **asset_values(fields, source, options, "manifest", words_of(file.stem)),
            )
        )
    if not assets:
        raise Omni123Error(f"{path} has no rows")
    if not has_path:
        problem = next(asset.problem for asset in assets if isinstance(asset, BadMetadataAsset))
        raise Omni123Error(f"no row of {path} names a mesh; the table needs a column 'path' (the first: {problem})")
    return assets
