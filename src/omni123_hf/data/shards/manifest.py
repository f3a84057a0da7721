"""What is known about one record of a pool, and the Parquet rows that keep it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.data.shards.format import write_atomically
from omni123_hf.data.splits import SPLITS
from omni123_hf.errors import Omni123Error


UNKNOWN_LICENCES = ("", "unknown", "noassertion", "none", "other")
TEXTS = pa.list_(pa.string())
BASE_COLUMNS = {
    "id": pa.string(),
    "source": pa.string(),
    "split": pa.string(),
    "licence": pa.string(),
    "attribution": pa.string(),
    "category": pa.string(),
    **{f"captions_{level}": TEXTS for level in CAPTION_LEVELS},
    "views": TEXTS,
    "content_hash": pa.string(),
    "source_row": pa.int64(),
    "shard": pa.int32(),
    "row": pa.int64(),
    "caption_row": pa.int64(),
}
EDIT_COLUMNS = {
    "instructions": TEXTS,
    "edit_type": pa.string(),
    "region_parts": TEXTS,
    "region_boxes": pa.list_(pa.list_(pa.float32())),
    "chain": TEXTS,
}


@dataclass(frozen=True)
class ShardRecord:
    """Text and origin of one record.

    captions: every caption level to its texts (all may be empty). views: the views whose tokens the record holds.
    source_row: row in the data set that was tokenized, -1 where there is none. edit: the columns of `EDIT_COLUMNS`,
    None for records that are no editing pair.
    """

    id: str
    source: str
    split: str
    licence: str
    attribution: str
    category: str
    captions: dict[str, list[str]] = field(default_factory=lambda: {level: [] for level in CAPTION_LEVELS})
    views: tuple[str, ...] = ()
    content_hash: str = ""
    source_row: int = -1
    edit: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise Omni123Error("a record of token shards needs an id")
        if self.split not in SPLITS:
            raise Omni123Error(f"{self.id}: unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")

    @property
    def texts(self) -> list[str]:
        """Every text of the record in the order of its embeddings: captions from short to long, or the instructions."""
        if self.edit is not None:
            return list(self.edit["instructions"])
        return [text for level in CAPTION_LEVELS for text in self.captions[level]]

    @property
    def key(self) -> str:
        """Name of the record inside its pool: an asset has one record a view in the pool `images`."""
        return f"{self.id}\n{','.join(self.views)}"

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ShardRecord:
        """A record from a row of the manifest."""
        return cls(
            **{name: row[name] for name in ("id", "source", "split", "licence", "attribution", "category")},
            captions={level: row[f"captions_{level}"] for level in CAPTION_LEVELS},
            views=tuple(row["views"]),
            content_hash=row["content_hash"],
            source_row=row["source_row"],
            edit={name: row[name] for name in EDIT_COLUMNS} if "edit_type" in row else None,
        )


def schema(pool: str) -> pa.Schema:
    """Columns of the manifest of a pool."""
    return pa.schema({**BASE_COLUMNS, **(EDIT_COLUMNS if pool == "edits" else {})})


def manifest_table(pool: str, records: Sequence[ShardRecord], shard: int) -> pa.Table:
    """The manifest of one shard. `caption_row` is the place of a record's first text among the shard's embeddings."""
    columns: dict[str, list[Any]] = {name: [] for name in schema(pool).names}
    caption_row = 0
    for row, record in enumerate(records):
        values = {
            **{name: getattr(record, name) for name in BASE_COLUMNS if hasattr(record, name)},
            **{f"captions_{level}": record.captions[level] for level in CAPTION_LEVELS},
            "views": list(record.views),
            "shard": shard,
            "row": row,
            "caption_row": caption_row,
            **(record.edit or {}),
        }
        for name, column in columns.items():
            column.append(values[name])
        caption_row += len(record.texts)
    return pa.table(columns, schema=schema(pool))


def write_manifest(path: Path, table: pa.Table) -> None:
    """Atomic Parquet with small row groups: a reader of one record must not decode a whole shard."""
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd", row_group_size=1024))


def check_licences(records: Iterable[ShardRecord], allow_unknown: bool) -> None:
    """Raises `Omni123Error` when records have no known licence, unless that is allowed."""
    unknown = [record.id for record in records if record.licence.strip().lower() in UNKNOWN_LICENCES]
    if unknown and not allow_unknown:
        some = ", ".join(unknown[:3])
        raise Omni123Error(
            f"{len(unknown)} records have no known licence (for example {some}); name their licences in the data set, or "
            "allow them with --allow-unknown-licence"
        )
