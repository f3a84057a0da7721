"""The form of a token shard folder: which files it has, and what `shards.json` says about them.

| file | content |
|---|---|
| `shards.json` | version and pools: sizes, code counts, hashes of tokenizers, data and files, counts; written last |
| `POOL/SPLIT-00000.bin` | flat little-endian uint16: records of one fixed length, one after another, without a header |
| `POOL/SPLIT-00000.parquet` | the manifest of that shard: one row a record, in the order of the records |
| `POOL/SPLIT-00000.ENCODER.bin` | optional float16 text embeddings (captions, positions, width) of that shard, flat |
| `POOL/SPLIT-00000.ENCODER.mask.bin` | their attention mask, uint8 (captions, positions), flat |

A record holds code ids only. Special ids live outside the code range, so that 65,536 image codes fill uint16 exactly.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omni123_hf.errors import Omni123Error


SHARDS_FORMAT = 1
INDEX_FILE = "shards.json"
# Byte order is part of the format: shards travel between machines.
TOKEN_DTYPE = np.dtype("<u2")
EMBEDDING_DTYPE = np.dtype("<f2")
MOST_CODES = 2**16
POOLS = ("shapes", "images", "pairs", "edits")


@dataclass(frozen=True)
class Field:
    """One run of codes inside a record: `kind` ("shape" or "image") names the vocabulary, `codes` its size."""

    name: str
    kind: str
    length: int
    codes: int

    def __post_init__(self) -> None:
        if not 1 <= self.codes <= MOST_CODES:
            raise Omni123Error(f"{self.name} has {self.codes} codes: token shards hold 1 to {MOST_CODES:,}")
        if self.length < 1:
            raise Omni123Error(f"{self.name} has {self.length} codes a record: give at least 1")


@dataclass(frozen=True)
class PoolLayout:
    """What a record of one pool is made of. All records of a pool have the same length."""

    name: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if self.name not in POOLS:
            raise Omni123Error(f"unknown pool {self.name!r}; choose one of {', '.join(POOLS)}")

    @property
    def record_length(self) -> int:
        return sum(part.length for part in self.fields)

    def place(self, name: str) -> slice:
        """Where the named field lies inside a record. Raises `Omni123Error` for a field that the pool does not have."""
        start = 0
        for part in self.fields:
            if part.name == name:
                return slice(start, start + part.length)
            start += part.length
        names = ", ".join(part.name for part in self.fields)
        raise Omni123Error(f"the pool {self.name} has no {name!r}; it has {names}")

    def views(self) -> list[str]:
        """Views whose tokens stand in every record, in their order."""
        prefix = image_field("")
        return [part.name.removeprefix(prefix) for part in self.fields if part.name.startswith(prefix)]


def image_field(view: str) -> str:
    """Name of the field that holds the tokens of one view."""
    return f"image_tokens_{view}"


@dataclass(frozen=True)
class FileEntry:
    """A file of the folder: path relative to it, size in bytes and SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """Records of one split: `files` are "tokens", "manifest" and, with embeddings, "ENCODER" and "ENCODER.mask"."""

    name: str
    split: str
    records: int
    captions: int
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class PoolInfo:
    """One pool as `shards.json` describes it.

    origin: `checkpoint`, `tokenizers` (component to the SHA-256 of its weights), `data_hash`, and the settings of the run
    that change the records' order or values. embeddings: text encoder to its `shape` (positions, width), `weights` and
    `tokenizer` hashes; empty without embeddings.
    """

    layout: PoolLayout
    origin: dict[str, Any]
    embeddings: dict[str, dict[str, Any]]
    splits: dict[str, int]
    licences: dict[str, int]
    sources: list[dict[str, Any]]
    shards: list[Shard] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        layout = values.pop("layout")
        return {"fields": layout["fields"], "record_length": self.layout.record_length, **values}

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> PoolInfo:
        """Inverse of `to_dict`."""
        rest = {key: value for key, value in values.items() if key not in ("fields", "record_length", "shards")}
        shards = [
            Shard(**{**entry, "files": {key: FileEntry(**file) for key, file in entry["files"].items()}})
            for entry in values["shards"]
        ]
        return cls(PoolLayout(name, tuple(Field(**part) for part in values["fields"])), shards=shards, **rest)


def read_index(folder: Path) -> dict[str, PoolInfo]:
    """Pools of a finished shard folder. Raises `Omni123Error` for one that is missing, unfinished or of another version."""
    try:
        content = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Omni123Error(
            f"{folder} holds no finished token shards (no {INDEX_FILE}); run `omni123 data tokenize` to its end"
        ) from error
    except ValueError as error:
        raise Omni123Error(f"{folder / INDEX_FILE} is no JSON: {error}; copy the shards again") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != SHARDS_FORMAT:
        raise Omni123Error(f"{folder} has shard format {version}, this version reads {SHARDS_FORMAT}")
    try:
        return {name: PoolInfo.from_dict(name, values) for name, values in content["pools"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise Omni123Error(f"{folder / INDEX_FILE} is incomplete ({error}); copy the shards again") from error


def write_index(folder: Path, pools: Mapping[str, PoolInfo]) -> None:
    """Write `shards.json`, which makes the folder a finished one."""
    content = {"format": SHARDS_FORMAT, "pools": {name: pools[name].to_dict() for name in POOLS if name in pools}}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_bytes(folder / INDEX_FILE, text.encode())


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary sibling, then put it in place. On an error nothing is left behind."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            # A shard that is in place counts as done, so its bytes must be on the disk before its name is.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    write_atomically(path, lambda file: file.write(data))


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Size and hash of a file as they are now."""
    return FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
