"""Random access to token shards: records are memory-mapped, manifests are read when something asks for them."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omni123_hf.data.shards.format import EMBEDDING_DTYPE, INDEX_FILE, TOKEN_DTYPE, FileEntry, PoolInfo, sha256_of
from omni123_hf.data.shards.index import read_index
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.splits import SPLITS
from omni123_hf.data.tokens import weights_hash
from omni123_hf.errors import Omni123Error


class Pool:
    """One pool of token shards. Records are numbered 0..N-1 through all shards, split after split."""

    def __init__(self, folder: Path, info: PoolInfo):
        self.folder, self.info, self.layout = folder, info, info.layout
        self.name = info.layout.name
        self._starts = [0]
        for shard in info.shards:
            self._starts.append(self._starts[-1] + shard.records)
        self._places = {part.name: self.layout.place(part.name) for part in self.layout.fields}
        self._maps: dict[int, np.ndarray] = {}
        self._embeddings: dict[tuple[int, str], np.ndarray] = {}
        self._table: pa.Table | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        # A loader's worker maps the files itself: a pickled map would carry every token.
        return {**self.__dict__, "_maps": {}, "_embeddings": {}, "_table": None}

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Field name to its codes, uint16, as copies that may be written to."""
        row = self.row(number)
        return {name: row[place] for name, place in self._places.items()}

    def row(self, number: int) -> np.ndarray:
        """(record length,) uint16: all fields of one record, one after another."""
        if not 0 <= number < self._starts[-1]:
            raise Omni123Error(f"the pool {self.name} has records 0..{len(self) - 1}; got {number}")
        shard = self.shard_of(number)
        tokens = self._maps.get(shard)
        if tokens is None:
            tokens = self.tokens(shard)
        return tokens[number - self._starts[shard]].copy()

    def rows(self, numbers: np.ndarray, field: str | None = None) -> np.ndarray:
        """(N, record length) uint16 of N records in the given order, or (N, length) of one field."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if len(numbers) and not (0 <= numbers.min() and numbers.max() < len(self)):
            raise Omni123Error(f"the pool {self.name} has records 0..{len(self) - 1}; got others")
        place = slice(0, self.layout.record_length) if field is None else self.layout.place(field)
        out = np.empty((len(numbers), place.stop - place.start), dtype=TOKEN_DTYPE)
        # One by one: a random batch meets most shards once, so grouping it by shard would cost more than it saves.
        for row, number in enumerate(numbers.tolist()):
            shard = bisect_right(self._starts, number) - 1
            out[row] = self.tokens(shard)[number - self._starts[shard], place]
        return out

    def tokens(self, shard: int) -> np.ndarray:
        """(records, record length) of one shard, read-only and memory-mapped."""
        tokens = self._maps.get(shard)
        if tokens is None:
            length = self.layout.record_length
            tokens = self._map(self.info.shards[shard].files["tokens"], TOKEN_DTYPE).reshape(-1, length)
            self._maps[shard] = tokens
        return tokens

    def shard_of(self, number: int) -> int:
        """The shard that holds a record."""
        return bisect_right(self._starts, number) - 1

    def range_of(self, shard: int) -> range:
        """Numbers of the records of one shard."""
        return range(self._starts[shard], self._starts[shard + 1])

    def shards_of(self, split: str) -> list[int]:
        """Shards of a split, in order. Raises `Omni123Error` for a split that is unknown or has no records."""
        if split not in SPLITS:
            raise Omni123Error(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        found = [number for number, shard in enumerate(self.info.shards) if shard.split == split]
        if not found:
            raise Omni123Error(
                f"the pool {self.name} has no records of {split!r}; it has {', '.join(self.info.splits)}"
            )
        return found

    def indices(self, split: str, source: str | None = None) -> np.ndarray:
        """(M,) int64 numbers of the records of a split, of one source when it is given."""
        shards = self.shards_of(split)
        numbers = np.arange(self._starts[shards[0]], self._starts[shards[-1] + 1], dtype=np.int64)
        if source is None:
            return numbers
        sources = self.column("source").slice(int(numbers[0]), len(numbers)).to_numpy()
        return numbers[sources == source]

    @property
    def manifest(self) -> pa.Table:
        """All manifests as one table, row i for record i. It stays in memory, at about the size of its texts."""
        if self._table is None:
            self._table = self._read_manifests(None).combine_chunks()
        return self._table

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the manifest, (N,). Reads only that column where the whole manifest is not in memory yet."""
        return (self._read_manifests([name]) if self._table is None else self._table)[name]

    def _read_manifests(self, columns: list[str] | None) -> pa.Table:
        tables = []
        for shard in self.info.shards:
            path = self.folder / shard.files["manifest"].file
            try:
                table = pq.read_table(path, columns=columns)
            except pa.ArrowException as error:
                raise Omni123Error(f"{path} is damaged ({error}); copy or write the shards again") from error
            if table.num_rows != shard.records:
                raise Omni123Error(f"{path} has {table.num_rows} rows for {shard.records} records; copy it again")
            tables.append(table)
        return pa.concat_tables(tables)

    def record(self, number: int) -> ShardRecord:
        """Text and origin of one record."""
        return ShardRecord.from_row(self._manifest_row(number))

    def text_embeddings(self, number: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Encoder name to float16 embeddings (texts, positions, width) and mask (texts, positions) bool of one record.

        Texts are in the order of `record(number).texts`. Raises `Omni123Error` for shards written without embeddings.
        """
        if not self.info.embeddings:
            raise Omni123Error(
                f"the pool {self.name} was written without text embeddings; tokenize with --text-embeddings"
            )
        row = self._manifest_row(number)
        texts = slice(row["caption_row"], row["caption_row"] + len(ShardRecord.from_row(row).texts))
        shard = self.shard_of(number)
        return {
            name: (
                self._embedding(shard, name)[texts].copy(),
                self._embedding(shard, f"{name}.mask")[texts].astype(bool),
            )
            for name in self.info.embeddings
        }

    def _embedding(self, shard: int, name: str) -> np.ndarray:
        if (shard, name) not in self._embeddings:
            encoder = name.removesuffix(".mask")
            positions, width = self.info.embeddings[encoder]["shape"]
            is_mask = name != encoder
            array = self._map(self.info.shards[shard].files[name], np.dtype(np.uint8) if is_mask else EMBEDDING_DTYPE)
            self._embeddings[shard, name] = array.reshape((-1, positions) if is_mask else (-1, positions, width))
        return self._embeddings[shard, name]

    def _manifest_row(self, number: int) -> dict[str, Any]:
        if not 0 <= number < len(self):
            raise Omni123Error(f"the pool {self.name} has records 0..{len(self) - 1}; got {number}")
        return self.manifest.slice(number, 1).to_pylist()[0]

    def _map(self, entry: FileEntry, dtype: np.dtype) -> np.ndarray:
        # A plain array on the map: slices of numpy's memmap class cost ten times as much.
        return np.asarray(np.memmap(self.folder / entry.file, dtype=dtype, mode="r"))


class TokenShards:
    """A folder of token shards: `shards["pairs"]` is one of its pools."""

    def __init__(self, folder: Path, pools: Mapping[str, PoolInfo]):
        self.folder = folder
        self.pools = {name: Pool(folder, info) for name, info in pools.items()}

    @classmethod
    def open(
        cls, folder_or_hub_id: str | os.PathLike, verify: bool | None = None, revision: str | None = None
    ) -> TokenShards:
        """Open a folder, or fetch a data set that `push_to_hub` wrote and keep it as shards in the Hub's cache.

        verify: compare every file with its SHA-256; sizes are always compared. From the Hub, tokens are verified once, when
        they are fetched, whatever `verify` says. revision: of the Hub's data set.
        Raises `Omni123Error` for a folder that is unfinished, damaged or of another version.
        """
        folder = Path(folder_or_hub_id)
        if not folder.is_dir():
            from omni123_hf.data.shards.hub import fetch_shards

            folder = fetch_shards(os.fspath(folder_or_hub_id), revision)
        shards = cls(folder, read_index(folder))
        shards.verify(hashes=bool(verify))
        return shards

    def __getitem__(self, name: str) -> Pool:
        if name not in self.pools:
            raise Omni123Error(f"{self.folder} has no pool {name!r}; it has {', '.join(self.pools)}")
        return self.pools[name]

    @cached_property
    def files(self) -> list[FileEntry]:
        """Every file that `shards.json` names."""
        return [entry for pool in self.pools.values() for shard in pool.info.shards for entry in shard.files.values()]

    def verify(self, hashes: bool = True) -> None:
        """Raises `Omni123Error` for a file that is missing, has another size or, with `hashes`, another content."""
        for pool in self.pools.values():
            for shard in pool.info.shards:
                # The Hub's index names the tokens only, so this is no matter of reading it.
                if "manifest" not in shard.files:
                    raise Omni123Error(
                        f"{self.folder / INDEX_FILE}: {pool.name}/{shard.name} has no manifest; copy or write the shards again"
                    )
        for entry in self.files:
            path = self.folder / entry.file
            if not path.is_file():
                raise Omni123Error(f"{self.folder} lacks {entry.file}; copy or write the shards again")
            if path.stat().st_size != entry.bytes or (hashes and sha256_of(path) != entry.sha256):
                raise Omni123Error(f"{entry.file} in {self.folder} is damaged or was changed; copy or write it again")

    def check_tokenizers(self, folders: Mapping[str, Path]) -> None:
        """Raises `Omni123Error` when other weights than those in `folders` (component to folder) wrote the tokens."""
        hashes = {name: weights_hash(folder) for name, folder in folders.items()}
        for pool in self.pools.values():
            for name, written_by in pool.info.origin["tokenizers"].items():
                if name not in hashes:
                    raise Omni123Error(
                        f"the pool {pool.name} was written by a {name}, which the checkpoint does not have"
                    )
                if written_by != hashes[name]:
                    origin = pool.info.origin.get("checkpoint") or "another checkpoint"
                    raise Omni123Error(
                        f"the pool {pool.name} in {self.folder} was written by {name} {written_by[:12]} of {origin}, but "
                        f"{folders[name]} holds {hashes[name][:12]}; use that checkpoint, or run `omni123 data tokenize` "
                        "again"
                    )

    def check_checkpoint(self, folder: str | Path) -> None:
        """`check_tokenizers` against the components of a pipeline folder."""
        names = {name for pool in self.pools.values() for name in pool.info.origin["tokenizers"]}
        self.check_tokenizers({name: Path(folder) / name for name in names if (Path(folder) / name).is_dir()})
