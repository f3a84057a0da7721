"""What a trainer reads of one pool: codes, texts, splits and origins of records, whatever kind of pool it is.

```python
pool = TrainingPool.open("data/shards", "images")  # or "pairs", "shapes", "edits"; a folder or a Hub id
pool.tokenizers, pool.data_hash, pool.content_hash  # lineage: compare before training, keep beside a checkpoint
for row in pool.indices("train"):
    pool.codes(row, "image_tokens"), pool.texts(row)  # (length,) uint16; level to texts
```

| pool | `fields` | `texts(row)` |
|---|---|---|
| `pairs` | `shape_tokens`, `image_tokens_VIEW` for each of `views()` | `short`, `medium`, `long` |
| `shapes` | `shape_tokens` | the same |
| `images` | `image_tokens`: a record is one view of an asset (`view(row)`), or a picture of no view ("") | the same |
| `edits` | `source_tokens`, `target_tokens` | `instruction`: all wordings, short ones first |

Rows are numbers 0..N-1 through the whole pool; those of a split follow one another. Codes are memory-mapped. Texts are read
shard by shard when a record of it is first asked for, and stay in memory as Arrow buffers. Pickled, as for the workers of a
loader, a pool is its index only: each worker maps and reads for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.data.shards.format import Field
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.reader import Pool, TokenShards
from omni123_hf.errors import Omni123Error


INSTRUCTION = "instruction"


class TrainingPool:
    """One pool of token shards as training reads it; `pool` is the underlying reader."""

    def __init__(self, pool: Pool):
        self.pool, self.name = pool, pool.name
        columns = {f"captions_{level}": level for level in CAPTION_LEVELS}
        self._text_columns = {"instructions": INSTRUCTION} if pool.name == "edits" else columns
        self._texts: dict[int, dict[str, _TextColumn]] = {}

    @classmethod
    def open(
        cls,
        shards_folder_or_hub_id: str | os.PathLike,
        name: str,
        verify: bool | None = None,
        revision: str | None = None,
    ) -> TrainingPool:
        """The pool `name` of a folder of token shards or of a data set on the Hub; the rest as in `TokenShards.open`.

        Raises `Omni123Error` for shards that are unfinished or damaged, and for a pool that they do not hold.
        """
        return cls(TokenShards.open(shards_folder_or_hub_id, verify, revision)[name])

    def __len__(self) -> int:
        return len(self.pool)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("pool", "name", "_text_columns", "content_hash", "fields")
        return {**{name: value for name, value in self.__dict__.items() if name in kept}, "_texts": {}}

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Name to kind ("shape" or "image"), length and number of codes, in the order of the record."""
        return {part.name: part for part in self.pool.layout.fields}

    def views(self) -> list[str]:
        """Views with tokens: those in every record of `pairs`, those that stand in any record of `images`, else none."""
        if self.name != "images":
            return self.pool.layout.views()
        return sorted({view for view in self._views if view})

    def view(self, row: int) -> str:
        """The view that a record of the pool `images` shows, "" for a picture of no view and in the other pools."""
        self._check(row)
        return str(self._views[row]) if self.name == "images" else ""

    @property
    def splits(self) -> dict[str, int]:
        """Splits that have records, and how many."""
        return dict(self.pool.info.splits)

    def split(self, row: int) -> str:
        """The split of one record."""
        self._check(row)
        return self.pool.info.shards[self.pool.shard_of(row)].split

    def indices(self, split: str, source: str | None = None, view: str | None = None) -> np.ndarray:
        """(M,) int64 rows of a split, of one source or of one view of the pool `images` when given.

        Raises `Omni123Error` for a split that is unknown or has no records, and for a view that no record shows.
        """
        rows = self.pool.indices(split)
        if source is not None:
            rows = rows[self.sources[rows] == source]
        if view is not None:
            if self.name != "images" or view not in {*self._views}:
                raise Omni123Error(
                    f"the pool {self.name} has no records of the view {view!r}; it has {', '.join(self.views()) or 'none'}"
                )
            rows = rows[self._views[rows] == view]
        return rows

    def codes(self, row: int | np.ndarray, field: str) -> np.ndarray:
        """(length,) uint16 codes of a field, a copy; for an array of N rows (N, length). Ids start at 0, no specials."""
        if np.ndim(row) == 0:
            return self.pool.rows(np.array([row]), field)[0]
        return self.pool.rows(np.asarray(row), field)

    def texts(self, row: int) -> dict[str, list[str]]:
        """Texts of a record: `short`, `medium` and `long` captions (some may be empty), or of edits `instruction`."""
        self._check(row)
        shard = self.pool.shard_of(row)
        columns = self._texts.get(shard)
        if columns is None:
            columns = self._texts[shard] = self._read_texts(shard)
        place = int(row) - self.pool.range_of(shard).start
        return {level: column[place] for level, column in columns.items()}

    def record(self, row: int) -> ShardRecord:
        """Everything that is known about a record, the region of an edit too. Slower than `texts`."""
        return self.pool.record(int(row))

    @cached_property
    def sources(self) -> np.ndarray:
        """(N,) str: name of the source that each record comes from."""
        return self._words("source")

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) str: id of each record; in the pool `images` the views of one asset share it."""
        return self._words("id")

    @property
    def tokenizers(self) -> dict[str, str]:
        """Component (`shape_tokenizer`, `image_vae`, `image_tokenizer`) to the SHA-256 of the weights that wrote the codes."""
        return dict(self.pool.info.origin["tokenizers"])

    @property
    def data_hash(self) -> str:
        """Content hash of the prepared data that was tokenized; "" where the writer was not told."""
        return str(self.pool.info.origin.get("data_hash", ""))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over all that training reads: fields, splits, codes, texts and sources, in the order of the records.

        Equal for a folder and for the same pool fetched from the Hub. It comes from the index, which `verify=True` of
        `open` compares with the files.
        """
        info = self.pool.info
        content = {
            "fields": [list(vars(part).values()) for part in info.layout.fields],
            "tokenizers": self.tokenizers,
            "sources": info.sources,
            # Texts: Parquet bytes depend on the library's version, the hash over the records does not. Other writers than
            # ours may not have noted it.
            "records": info.origin.get("records_hash") or [shard.files["manifest"].sha256 for shard in info.shards],
            "shards": [[shard.name, shard.records, shard.files["tokens"].sha256] for shard in info.shards],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _views(self) -> np.ndarray:
        """(N,) str: the one view of each record of the pool `images`."""
        return np.array([(views or [""])[0] for views in self.pool.column("views").to_pylist()], dtype=object)

    def _words(self, column: str) -> np.ndarray:
        # Equal words become one object: millions of records have few sources.
        encoded = self.pool.column(column).dictionary_encode().unify_dictionaries()
        parts = [
            np.asarray(chunk.dictionary.to_pylist(), dtype=object)[chunk.indices.to_numpy()]
            for chunk in encoded.chunks
        ]
        return np.concatenate(parts)

    def _read_texts(self, shard: int) -> dict[str, _TextColumn]:
        path = self.pool.folder / self.pool.info.shards[shard].files["manifest"].file
        try:
            table = pq.read_table(path, columns=list(self._text_columns))
            columns = {level: _TextColumn(table[name]) for name, level in self._text_columns.items()}
        except (pa.ArrowException, KeyError) as error:
            raise Omni123Error(f"{path} is damaged ({error}); copy or write the shards again") from error
        if table.num_rows != self.pool.info.shards[shard].records:
            raise Omni123Error(f"{path} has {table.num_rows} rows; copy or write the shards again")
        return columns

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self.pool):
            raise Omni123Error(f"the pool {self.name} has records 0..{len(self.pool) - 1}; got {row}")


class _TextColumn:
    """Lists of texts by row. Kept as flat buffers: a list a row would cost more memory than the texts."""

    def __init__(self, column: pa.ChunkedArray):
        # Large: the texts of one shard may be more than 2 GiB, which is all that offsets of 32 bits can count.
        array = pa.concat_arrays(column.cast(pa.large_list(pa.large_string())).chunks)
        self.offsets, self.values = array.offsets.to_numpy(), array.values

    def __getitem__(self, row: int) -> list[str]:
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        return [self.values[place].as_py() for place in range(start, stop)]
