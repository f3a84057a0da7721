"""A table with one row an asset: CSV, Parquet or JSON lines; its columns are those of `fields.COLUMNS`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni123_hf.data.inputs.base import FileAsset, InputOptions
from omni123_hf.data.inputs.fields import asset_values, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.errors import Omni123Error


MANIFEST_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


def read_manifest(path: Path, source: str, options: InputOptions) -> list[FileAsset]:
    """One asset a row. Paths are relative to the table's folder and stay inside it.

    A row without a path and a table that cannot be read raise `Omni123Error` with the row's number.
    """
    root = path.parent
    assets = []
    for number, row in _rows(path):
        where = f"{path.name} row {number}"
        fields = read_fields(row, where)
        if not fields.path:
            raise Omni123Error(f"{where} has no path; the table needs a column 'path'")
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
    return assets


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows and their numbers, counted from 1 without a header."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from enumerate(_parquet_rows(path), start=1)
        elif path.suffix.lower() == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as file:
                for number, row in enumerate(csv.DictReader(file), start=1):
                    if None in row:
                        raise Omni123Error(f"{path.name} row {number} has more fields than the header")
                    yield number, row
        else:
            yield from _json_rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Omni123Error(f"{path} is not a readable {path.suffix[1:]} table: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise Omni123Error(f"{path.name} row {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise Omni123Error(f"{path.name} row {number} must be a JSON object")
            yield number, row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise Omni123Error("a Parquet table needs pyarrow; install it with: pip install pyarrow") from error
    try:
        table = pq.ParquetFile(path)
        for batch in table.iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise Omni123Error(f"{path} is not a readable Parquet table: {' '.join(str(error).split())}") from error
