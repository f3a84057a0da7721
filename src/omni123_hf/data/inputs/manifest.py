"""A table with one row an asset: CSV, Parquet or JSON lines; its columns are those of `fields.COLUMNS`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni123_hf.data.inputs.base import BadMetadataAsset, FileAsset, InputOptions, bad_metadata
from omni123_hf.data.inputs.fields import COLUMNS, asset_values, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.errors import Omni123Error


MANIFEST_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class _BadRow:
    """A row that is none: what is wrong with it."""

    problem: str


def read_manifest(path: Path, source: str, options: InputOptions) -> list[FileAsset | BadMetadataAsset]:
    """One asset a row. Paths are relative to the table's folder and stay inside it.

    A row that cannot be read becomes a `BadMetadataAsset`. A table that cannot be read, has no rows, or names no path in
    any of them raises `Omni123Error`.
    """
    root = path.parent
    assets: list[FileAsset | BadMetadataAsset] = []
    has_path = False
    for number, row in _rows(path):
        where = f"{path.name} row {number}"
        try:
            if isinstance(row, _BadRow):
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


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | _BadRow]]:
    """Rows and their numbers, counted from 1 without a header."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from enumerate(_parquet_rows(path), start=1)
        elif path.suffix.lower() == ".csv":
            yield from enumerate(_csv_rows(path), start=1)
        else:
            yield from _json_rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Omni123Error(f"{path} is not a readable {path.suffix[1:]} table: {error}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any] | _BadRow]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        # Without a header nothing is known about any row: its fault is the table's.
        if table.fieldnames is None:
            return
        while True:
            try:
                row: dict[str, Any] | _BadRow = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                row = _BadRow(f"is not readable: {error}")
            if isinstance(row, dict) and None in row:
                row = _BadRow("has more fields than the header")
            yield row


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | _BadRow]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = _BadRow(f"is not JSON: {error}")
            yield number, row if isinstance(row, (dict, _BadRow)) else _BadRow("must be a JSON object")


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
