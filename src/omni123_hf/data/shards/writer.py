"""Writes one pool of token shards. A stopped run goes on at its first missing shard and ends in the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from tqdm.auto import tqdm

from omni123_hf.data.shards.format import (
    EMBEDDING_DTYPE,
    INDEX_FILE,
    TOKEN_DTYPE,
    PoolInfo,
    PoolLayout,
    Shard,
    file_entry,
    file_names,
    shard_name,
    write_atomically,
    write_bytes,
)
from omni123_hf.data.shards.index import read_index, write_index
from omni123_hf.data.shards.locks import locked
from omni123_hf.data.shards.manifest import ShardRecord, check_licences, manifest_table, write_manifest
from omni123_hf.data.splits import SPLITS
from omni123_hf.data.store import write_json
from omni123_hf.errors import Omni123Error


PLAN_FILE = ".plan.json"
# Enough shards for any cluster that streams a large pool, but none so small that opening it costs more than reading it.
SHARDS_OF_A_LARGE_POOL = 256
RECORDS_OF_A_SHARD = 1024
BYTES_OF_A_SHARD = 128 * 2**20

Encode = Callable[[Sequence[ShardRecord]], np.ndarray]
Item = TypeVar("Item")


class TextEncoder(Protocol):
    """Embeds texts for one pool. facts: encoder to its `shape` (positions, width), `weights` and `tokenizer` hashes."""

    facts: dict[str, dict[str, Any]]

    def embed(self, encoder: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """N texts to embeddings (N, positions, width) and mask (N, positions) of one encoder."""


@dataclass(frozen=True)
class WriterOptions:
    """shards: how many the split "train" is cut into (other splits into shards of the same size); None: by size.

    seed: order of the records. batch_size: records encoded at once. allow_unknown_licence: take records without a licence.
    """

    shards: int | None = None
    seed: int = 0
    batch_size: int = 32
    allow_unknown_licence: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.shards is not None and self.shards < 1):
            raise Omni123Error(f"shards and batch size must be at least 1; got {self.shards} and {self.batch_size}")


@dataclass(frozen=True)
class PlannedShard:
    name: str
    number: int
    split: str
    records: list[ShardRecord] = field(repr=False)

    @property
    def captions(self) -> int:
        return sum(len(record.texts) for record in self.records)


def default_shards(records: int, record_length: int) -> int:
    """Shards of a split: 1,024 records each up to 256 shards, then as many as keep one at 128 MiB."""
    by_count = min(SHARDS_OF_A_LARGE_POOL, records // RECORDS_OF_A_SHARD)
    by_size = math.ceil(records * record_length * TOKEN_DTYPE.itemsize / BYTES_OF_A_SHARD)
    return max(1, by_count, by_size)


def plan_shards(
    records: Sequence[ShardRecord], record_length: int, shards: int | None, seed: int
) -> list[PlannedShard]:
    """Cut the records into shards of one split each. The order is random but a function of seed and record only.

    Raises `Omni123Error` for no records, records that stand twice, and more shards than training records.
    """
    if not records:
        raise Omni123Error("there are no records to write; prepare a data set with at least one asset")
    repeated = [key for key, count in Counter(record.key for record in records).items() if count > 1]
    if repeated:
        raise Omni123Error(f"{repeated[0].split()[0]!r} stands twice among the records; ids must be unique")
    by_split = {split: [record for record in records if record.split == split] for split in SPLITS}
    # A set without training records (an evaluation set) is cut by its largest split.
    leading = by_split["train"] or max(by_split.values(), key=len)
    count = shards or default_shards(len(leading), record_length)
    if count > len(leading):
        raise Omni123Error(f"{len(leading)} records cannot fill {count} shards; give at most {len(leading)}")
    size = math.ceil(len(leading) / count)
    planned: list[PlannedShard] = []
    for split, chosen in by_split.items():
        chosen.sort(key=lambda record: hashlib.sha256(f"{seed}:{record.key}".encode()).digest())
        pieces = count if chosen is leading or split == "train" else math.ceil(len(chosen) / size)
        for number in range(pieces if chosen else 0):
            part = chosen[number * len(chosen) // pieces : (number + 1) * len(chosen) // pieces]
            planned.append(PlannedShard(shard_name(split, number), len(planned), split, part))
    return planned


def write_pool(
    out: str | Path,
    layout: PoolLayout,
    records: Sequence[ShardRecord],
    encode: Encode,
    origin: Mapping[str, Any],
    options: WriterOptions | None = None,
    text_encoder: TextEncoder | None = None,
) -> PoolInfo:
    """Write a pool into `out`, beside pools that are there already; returns what `shards.json` now says about it.

    encode: records to codes (N, record length) of any integer type, in the order of the layout's fields. origin: JSON facts
    (checkpoint, tokenizer hashes, data hash) that, together with the layout and the options, decide every byte. A finished
    pool of the same facts is returned as it is; shards that a stopped run left are kept.
    Raises `Omni123Error` for codes out of range, unknown licences, and a folder that holds another run's shards.
    """
    options = options or WriterOptions()
    check_licences(records, options.allow_unknown_licence)
    out = Path(out)
    planned = plan_shards(records, layout.record_length, options.shards, options.seed)
    info = PoolInfo(
        layout,
        {
            **origin,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "records_hash": records_hash(planned),
            "shards_by_split": dict(Counter(shard.split for shard in planned)),
        },
        text_encoder.facts if text_encoder is not None else {},
        {split: count for split in SPLITS if (count := sum(record.split == split for record in records))},
        dict(sorted(Counter(record.licence for record in records).items())),
        count_sources(records),
    )
    finished = finished_pool(out, info)
    if finished is not None:
        return finished
    out.mkdir(parents=True, exist_ok=True)
    # Other pools may be written beside this one at the same time: each has its own lock, and the index one for a moment.
    with locked(out / f".{layout.name}.lock", wait=False):
        # Another run may have ended since.
        finished = finished_pool(out, info)
        if finished is None:
            finished = replace(info, shards=write_shards(out, info, planned, encode, options, text_encoder))
            with locked(out / ".index.lock", wait=True):
                write_index(out, {**finished_pools(out), layout.name: finished})
        # Also that of a run which was killed between the two.
        (out / layout.name / PLAN_FILE).unlink(missing_ok=True)
    return finished


def finished_pool(out: Path, info: PoolInfo) -> PoolInfo | None:
    """The pool as `shards.json` describes it, None when it is not there. One of another run raises `Omni123Error`."""
    finished = finished_pools(out).get(info.layout.name)
    if finished is not None:
        check_same_run(out, replace(finished, shards=[]).to_dict(), info.to_dict())
    return finished


def finished_pools(out: Path) -> dict[str, PoolInfo]:
    """What `shards.json` says, nothing when it is not there yet."""
    return read_index(out) if (out / INDEX_FILE).is_file() else {}


def write_shards(
    out: Path,
    info: PoolInfo,
    planned: Sequence[PlannedShard],
    encode: Encode,
    options: WriterOptions,
    text_encoder: TextEncoder | None,
) -> list[Shard]:
    """Write the shards that are not there yet; what all of them are. Raises `Omni123Error` for those of another run."""
    layout = info.layout
    folder = out / layout.name
    folder.mkdir(exist_ok=True)
    plan = folder / PLAN_FILE
    if plan.is_file():
        check_same_run(out, json.loads(plan.read_text(encoding="utf-8")), info.to_dict())
    else:
        write_json(plan, info.to_dict())
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    shards = []
    total = sum(len(shard.records) for shard in planned)
    with tqdm(total=total, desc=layout.name, unit="record", disable=not options.progress) as bar:
        for shard in planned:
            names = file_names(layout.name, shard.name, info.embeddings)
            files = {kind: out / name for kind, name in names.items()}
            tokens = files["tokens"]
            if not tokens.is_file():
                write_shard(files, layout, shard, encode, options.batch_size, text_encoder, bar)
            else:
                bar.update(len(shard.records))
            entries = {name: file_entry(out, path) for name, path in files.items()}
            if entries["tokens"].bytes != len(shard.records) * layout.record_length * TOKEN_DTYPE.itemsize:
                raise Omni123Error(f"{tokens} has the wrong size; remove it and run again")
            shards.append(Shard(shard.name, shard.split, len(shard.records), shard.captions, entries))
    return shards


def write_shard(
    files: Mapping[str, Path],
    layout: PoolLayout,
    shard: PlannedShard,
    encode: Encode,
    batch_size: int,
    text_encoder: TextEncoder | None,
    bar: Any,
) -> None:
    """Write all files of one shard."""
    if text_encoder is not None:
        write_embeddings(files, shard, text_encoder, batch_size)
    table = manifest_table(layout.name, shard.records, shard.number)
    write_manifest(files["manifest"], table)

    def write(file: BinaryIO) -> None:
        for batch in batches(shard.records, batch_size):
            file.write(checked_codes(layout, batch, encode(batch)).tobytes())
            bar.update(len(batch))

    write_atomically(files["tokens"], write)


def write_embeddings(
    files: Mapping[str, Path], shard: PlannedShard, text_encoder: TextEncoder, batch_size: int
) -> None:
    """Write float16 embeddings and masks of every text of a shard, one encoder after another."""
    texts = [text for record in shard.records for text in record.texts]
    for name in text_encoder.facts:
        masks: list[np.ndarray] = []

        def write(file: BinaryIO, name: str = name, masks: list[np.ndarray] = masks) -> None:
            for batch in batches(texts, batch_size):
                embeddings, mask = text_encoder.embed(name, batch)
                with np.errstate(over="ignore"):
                    halves = embeddings.astype(EMBEDDING_DTYPE)
                if not np.isfinite(halves).all():
                    raise Omni123Error(f"{name} gives values beyond float16; leave the text embeddings out")
                file.write(halves.tobytes())
                masks.append(mask.astype(np.uint8))

        write_atomically(files[name], write)
        joined = b"".join(mask.tobytes() for mask in masks)
        write_bytes(files[f"{name}.mask"], joined)


def checked_codes(layout: PoolLayout, records: Sequence[ShardRecord], codes: np.ndarray) -> np.ndarray:
    """The codes as stored. Raises `Omni123Error` for another shape and for a code outside its vocabulary."""
    if codes.shape != (len(records), layout.record_length) or not np.issubdtype(codes.dtype, np.integer):
        raise Omni123Error(
            f"{layout.name}: the tokenizers gave {codes.dtype}{codes.shape} for {len(records)} records of "
            f"{layout.record_length} codes; use the checkpoint that the pool was laid out for"
        )
    for part in layout.fields:
        values = codes[:, layout.place(part.name)]
        # Beyond uint16 a code would wrap around without a word; below it, it may mean another vocabulary.
        wrong = np.flatnonzero((values < 0).any(1) | (values >= part.codes).any(1))
        if len(wrong):
            row = values[wrong[0]]
            raise Omni123Error(
                f"{records[wrong[0]].id}: {part.name} holds codes {row.min()}..{row.max()}, outside [0, {part.codes}); "
                "special ids do not belong in token shards"
            )
    return codes.astype(TOKEN_DTYPE)


def records_hash(planned: Sequence[PlannedShard]) -> str:
    """SHA-256 over split, key, content and texts of every record in the order of the shards."""
    digest = hashlib.sha256()
    for shard in planned:
        for record in shard.records:
            digest.update(f"{shard.name}\n{record.key}\n{record.content_hash}\n".encode())
            digest.update(json.dumps([record.texts, record.licence, record.attribution]).encode())
    return digest.hexdigest()


def check_same_run(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `Omni123Error` when the shards in `out` come from other facts than those of this run."""
    # Tuples and lists are one thing in JSON.
    before, now = json.loads(json.dumps([before, now]))
    different = sorted(key for key in now if before.get(key) != now[key])
    if not different:
        return
    key = different[0]
    details: dict[str, Any] = {key: (before.get(key), now[key])}
    if "origin" in different:
        old, new = before["origin"], now["origin"]
        details = {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}
    name, (was, would_be) = next(iter(details.items()))
    raise Omni123Error(
        f"{out} holds shards of another run: {name} was {shortened(was)} and is {shortened(would_be)} now; give another "
        "--out, or remove the folder"
    )


def shortened(value: Any) -> str:
    """A value of `shards.json` for a message: hashes by their first digits."""
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 200 else f"{text[:200]}…"


def count_sources(records: Sequence[ShardRecord]) -> list[dict[str, Any]]:
    """Records by source and licence, with the number of different attributions: the lineage of a card."""
    counts = Counter((record.source, record.licence) for record in records)
    credits: dict[tuple[str, str], set[str]] = {}
    for record in records:
        credits.setdefault((record.source, record.licence), set()).add(record.attribution)
    return [
        {"source": source, "licence": licence, "records": count, "attributions": len(credits[source, licence])}
        for (source, licence), count in sorted(counts.items())
    ]


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Successive pieces of at most `size`. They never cross a shard, so that a resumed run encodes the same batches."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
