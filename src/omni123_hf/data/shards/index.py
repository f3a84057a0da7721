"""Reads and writes `shards.json`. It may come from anyone: every value is checked, and no path in it is followed.

Names of files are derived from the pool and the place of a shard; the names in the index must be the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni123_hf.data.shards.format import (
    EMBEDDING_DTYPE,
    INDEX_FILE,
    POOLS,
    SHARDS_FORMAT,
    TOKEN_DTYPE,
    Field,
    FileEntry,
    PoolInfo,
    PoolLayout,
    Shard,
    file_names,
    shard_name,
    write_bytes,
)
from omni123_hf.data.splits import SPLITS
from omni123_hf.errors import Omni123Error


# Products of two stay in the range of an int64 array size or fail there with a ValueError.
MOST = 2**53
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A JSON object and where it stands in the index, for messages."""

    values: Mapping[str, Any]
    where: str

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise Omni123Error(f"{self.where} is incomplete: no {name!r}")
        return self.values[name]

    def wrong(self, name: str, wanted: str) -> Omni123Error:
        return Omni123Error(f"{self.where}.{name} must be {wanted}; got {repr(self.values[name])[:100]}")

    def count(self, name: str, least: int = 0) -> int:
        value = self[name]
        # JSON's true is an int in Python.
        if type(value) is not int or not least <= value < MOST:
            raise self.wrong(name, f"a whole number from {least}")
        return value

    def text(self, name: str) -> str:
        value = self[name]
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def entry(self, name: str) -> Entry:
        value = self[name]
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Entry(value, f"{self.where}.{name}")

    def entries(self, name: str) -> list[Entry]:
        """The objects of a list, at least one."""
        values = self[name]
        if not isinstance(values, list) or not values:
            raise self.wrong(name, "a list with something in it")
        numbered = Entry({f"{name}[{number}]": value for number, value in enumerate(values)}, self.where)
        return [numbered.entry(place) for place in numbered.values]

    def counts(self, name: str) -> dict[str, int]:
        """An object of whole numbers from 1."""
        entry = self.entry(name)
        return {key: entry.count(key, least=1) for key in entry.values}


def read_index(folder: Path) -> dict[str, PoolInfo]:
    """Pools of a finished shard folder, or of a data set of the Hub (whose index names the tokens only).

    Raises `Omni123Error` for an index that is missing, of another version, malformed, or contradicts itself.
    """
    path = folder / INDEX_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # A lone surrogate is valid JSON, but it can be neither printed nor written again.
        json.dumps(content, ensure_ascii=False).encode()
    except FileNotFoundError as error:
        raise Omni123Error(
            f"{folder} holds no finished token shards (no {INDEX_FILE}); run `omni123 data tokenize` to its end"
        ) from error
    except (ValueError, RecursionError) as error:
        raise Omni123Error(f"{path} is no JSON: {error}; copy the shards again") from error
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version != SHARDS_FORMAT:
        raise Omni123Error(f"{folder} has shard format {version}, this version reads {SHARDS_FORMAT}")
    try:
        pools = Entry(content, "the index").entry("pools")
        if not pools.values:
            raise Omni123Error("it holds no pool")
        return {name: read_pool(name, Entry(pools.entry(name).values, name)) for name in known_pools(pools)}
    except Omni123Error as error:
        raise Omni123Error(f"{path}: {error}; copy or write the shards again") from error


def known_pools(pools: Entry) -> list[str]:
    """Names of the pools. Raises `Omni123Error` for an unknown one."""
    unknown = [name for name in pools.values if name not in POOLS]
    if unknown:
        raise Omni123Error(f"unknown pool {unknown[0]!r}; this version knows {', '.join(POOLS)}")
    return list(pools.values)


def read_pool(name: str, values: Entry) -> PoolInfo:
    """One pool. Raises `Omni123Error` as `read_index` does."""
    fields = tuple(
        Field(part.text("name"), part.text("kind"), part.count("length"), part.count("codes"))
        for part in values.entries("fields")
    )
    sources = [
        {
            "source": source.text("source"),
            "licence": source.text("licence"),
            "records": source.count("records", least=1),
            "attributions": source.count("attributions", least=1),
        }
        for source in values.entries("sources")
    ]
    embeddings = values.entry("embeddings")
    info = PoolInfo(
        PoolLayout(name, fields),
        read_origin(values.entry("origin")),
        {encoder: read_embedding(embeddings.entry(encoder)) for encoder in embeddings.values},
        values.counts("splits"),
        values.counts("licences"),
        sources,
    )
    numbers: Counter[str] = Counter()
    for entry in values.entries("shards"):
        split = entry.text("split")
        if split not in SPLITS:
            raise Omni123Error(f"{entry.where}.split {split!r} is none of {', '.join(SPLITS)}")
        info.shards.append(read_shard(entry, info, shard_name(split, numbers[split])))
        numbers[split] += 1
    check_counts(info, values.count("record_length"))
    return info


def read_origin(origin: Entry) -> dict[str, Any]:
    """Lineage. The hashes of the tokenizers must be there; what else a writer noted down is kept as it is."""
    tokenizers = origin.entry("tokenizers")
    for name in tokenizers.values:
        tokenizers.text(name)
    for name in ("checkpoint", "data_hash", "records_hash"):
        if name in origin.values:
            origin.text(name)
    if "data_sets" in origin.values:
        for part in origin.entries("data_sets"):
            part.text("kind"), part.text("content_hash"), part.count("rows", least=1)
    warnings = origin.values.get("licence_warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        raise origin.wrong("licence_warnings", "a list of texts")
    return dict(origin.values)


def read_embedding(facts: Entry) -> dict[str, Any]:
    """Facts on one text encoder."""
    shape = facts["shape"]
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 1 <= n < MOST for n in shape):
        raise facts.wrong("shape", "two whole numbers from 1")
    return dict(facts.values)


def read_shard(entry: Entry, info: PoolInfo, name: str) -> Shard:
    """One shard, which must be the one called `name`."""
    if entry.text("name") != name:
        raise Omni123Error(f"{entry.where}.name {entry.text('name')!r} is not {name}")
    files = entry.entry("files")
    names = file_names(info.layout.name, name, info.embeddings)
    unknown = sorted(set(files.values) - set(names))
    if unknown:
        raise Omni123Error(f"{files.where} has an unknown file {unknown[0]!r}")
    files["tokens"]
    entries = {}
    for kind in files.values:
        file = files.entry(kind)
        if file.text("file") != names[kind]:
            raise Omni123Error(f"{file.where}.file {file.text('file')!r} is not {names[kind]}")
        if not _SHA256.fullmatch(file.text("sha256")):
            raise file.wrong("sha256", "a SHA-256 in hex")
        entries[kind] = FileEntry(names[kind], file.count("bytes"), file.text("sha256"))
    return Shard(name, entry.text("split"), entry.count("records", least=1), entry.count("captions"), entries)


def check_counts(info: PoolInfo, record_length: int) -> None:
    """Raises `Omni123Error` when the parts of a pool contradict each other."""
    pool = info.layout.name
    for shard in info.shards:
        expected = {"tokens": shard.records * info.layout.record_length * TOKEN_DTYPE.itemsize}
        for encoder, facts in info.embeddings.items():
            positions, width = facts["shape"]
            expected[encoder] = shard.captions * positions * width * EMBEDDING_DTYPE.itemsize
            expected[f"{encoder}.mask"] = shard.captions * positions
        for kind, size in expected.items():
            if kind not in shard.files or shard.files[kind].bytes != size:
                raise Omni123Error(f"{pool}/{shard.name} has a wrong {kind} file")
    if record_length != info.layout.record_length:
        raise Omni123Error(f"{pool} has {record_length} codes a record, its fields {info.layout.record_length}")
    order = [SPLITS.index(shard.split) for shard in info.shards]
    # Readers take the records of a split as one run.
    if order != sorted(order):
        raise Omni123Error(f"{pool} must have the splits of its shards in the order {', '.join(SPLITS)}")
    by_split: Counter[str] = Counter()
    for shard in info.shards:
        by_split[shard.split] += shard.records
    total = sum(by_split.values())
    if info.splits != by_split:
        raise Omni123Error(f"{pool}: the splits {info.splits} do not count its records, {dict(by_split)}")
    if sum(info.licences.values()) != total:
        raise Omni123Error(f"{pool}: the licences {info.licences} do not count its records, {total}")
    if sum(source["records"] for source in info.sources) != total:
        raise Omni123Error(f"{pool}: the sources do not count its records, {total}")


def write_index(folder: Path, pools: Mapping[str, PoolInfo]) -> None:
    """Write `shards.json`, which makes the folder a finished one."""
    content = {"format": SHARDS_FORMAT, "pools": {name: pools[name].to_dict() for name in POOLS if name in pools}}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_bytes(folder / INDEX_FILE, text.encode())
