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
import os
import re
from collections.abc import Callable, Iterable
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
KINDS = ("shape", "image")
# Of the pool `edits`.
SIDE_FIELDS = ("source_tokens", "target_tokens")
# They are parts of file names; without a dot, no encoder is called like another's mask.
_ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Field:
    """One run of codes inside a record: `kind` ("shape" or "image") names the vocabulary, `codes` its size."""

    name: str
    kind: str
    length: int
    codes: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise Omni123Error(f"{self.name} has the kind {self.kind!r}; choose one of {', '.join(KINDS)}")
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
        names = [part.name for part in self.fields]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise Omni123Error(
                f"the field {repeated[0]!r} stands twice in the pool {self.name}; give each its own name"
            )

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

    def __post_init__(self) -> None:
        for name in self.embeddings:
            if not _ENCODER.fullmatch(name) or name in ("tokens", "manifest"):
                raise Omni123Error(f"a text encoder {name!r} cannot name a file; use letters, digits, _ and -")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        layout = values.pop("layout")
        return {"fields": layout["fields"], "record_length": self.layout.record_length, **values}


def shard_name(split: str, number: int) -> str:
    """Name of the shard `number` of a split."""
    return f"{split}-{number:05d}"


def file_names(pool: str, shard: str, encoders: Iterable[str]) -> dict[str, str]:
    """Path in the folder of every file of one shard. The tokens are last: they are written last and mark it as complete."""
    names = {"manifest": f"{pool}/{shard}.parquet"}
    for encoder in encoders:
        names[encoder] = f"{pool}/{shard}.{encoder}.bin"
        names[f"{encoder}.mask"] = f"{pool}/{shard}.{encoder}.mask.bin"
    return {**names, "tokens": f"{pool}/{shard}.bin"}


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
