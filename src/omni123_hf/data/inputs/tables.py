"""Rows of a table: CSV, Parquet or JSON lines. What is wrong with one row is told in its place and never stops the rest."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni123_hf.errors import Omni123Error


TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class BadRow:
    """A row that is none: what is wrong with it, to be read after the table's name and the row's number."""

    problem: str


Row = dict[str, Any] | BadRow


def table_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Numbers and rows. Numbers count from 1 without a CSV's header; in JSON lines they are those of the lines.

    A table that cannot be read, or is of another kind, raises `Omni123Error`.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise Omni123Error(f"{path.name} is no table; known: {', '.join(TABLE_SUFFIXES)}")
    try:
        if suffix == ".parquet":
            yield from enumerate(_parquet_rows(path), start=1)
        elif suffix == ".csv":
            yield from enumerate(_csv_rows(path), start=1)
        else:
            yield from _json_rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Omni123Error(f"{path} is not a readable table: {detail}") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        # Without a header nothing is known about any row: its fault is the table's.
        if table.fieldnames is None:
            return
        while True:
            try:
                row: Row = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                row = BadRow(f"is not readable: {error}")
            if isinstance(row, dict) and None in row:
                row = BadRow("has more fields than the header")
            yield row


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = BadRow(f"is not JSON: {error}")
            yield number, row if isinstance(row, (dict, BadRow)) else BadRow("must be a JSON object")


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
        raise Omni123Error(f"{path} is not a readable table: {' '.join(str(error).split())}") from error
