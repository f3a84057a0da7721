"""Prepared folders through a checkpoint's tokenizers into one pool of token shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.prepared import PreparedStore
from omni123_hf.data.shards.format import PoolInfo
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.pool_parts import PoolPart, checked_views, common_pool, part_of
from omni123_hf.data.shards.tokenizers import NEEDED, StoreTokenizers, store_layout
from omni123_hf.data.shards.writer import Encode, TextEncoder, WriterOptions, write_pool
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


def tokenize_store(
    store: PreparedStore,
    tokenizers: StoreTokenizers,
    out: str | Path,
    pool: str | None = None,
    views: Sequence[str] | None = None,
    checkpoint: str = "",
    options: WriterOptions | None = None,
    text_encoder: TextEncoder | None = None,
) -> PoolInfo:
    """`tokenize_stores` of one store."""
    return tokenize_stores([store], tokenizers, out, pool, views, checkpoint, options, text_encoder)


def tokenize_stores(
    stores: Sequence[PreparedStore],
    tokenizers: StoreTokenizers,
    out: str | Path,
    pool: str | None = None,
    views: Sequence[str] | None = None,
    checkpoint: str = "",
    options: WriterOptions | None = None,
    text_encoder: TextEncoder | None = None,
) -> PoolInfo:
    """Write one pool into `out` with the records of all `stores`, whose order is of no matter (see `pool_parts`).

    pool: by default the one with most in it that the stores and the tokenizers can fill. views: of assets, by default all.
    checkpoint: its name, for the lineage. Raises `Omni123Error` as `write_pool` does, for stores that share no pool or an
    id, and for views, sizes, tokens and tokenizers that do not fit.
    """
    if not stores:
        raise Omni123Error("there is nothing to tokenize; name at least one prepared folder")
    pool = common_pool(stores, list(tokenizers.hashes), pool)
    tokenizers.check(pool)
    assets = [store for store in stores if isinstance(store, AssetStore)]
    if views is not None and (not assets or pool == "shapes"):
        raise Omni123Error(f"views are of assets in the pools pairs and images; the pool {pool!r} here has none")
    parts = [part_of(store, tokenizers, pool, views) for store in stores]
    chosen = checked_views(assets[0], views) if assets else []
    records, encode, facts = joined(parts)
    sizes = {part.size: part.folder for part in parts if part.size}
    if len(sizes) > 1:
        (one, here), (other, there) = list(sizes.items())[:2]
        raise Omni123Error(f"{here} has pictures of {one} pixels and {there} of {other}; a pool holds one size")
    warnings = sorted({warning for part in parts for warning in part.warnings})
    return write_pool(
        out,
        store_layout(tokenizers, pool, chosen, next(iter(sizes), None)),
        records,
        encode,
        {
            "checkpoint": checkpoint,
            "tokenizers": {name: tokenizers.hashes[name] for name in NEEDED[pool]},
            **facts,
            **({"licence_warnings": warnings} if warnings else {}),
        },
        options,
        text_encoder,
    )


def joined(parts: Sequence[PoolPart]) -> tuple[list[ShardRecord], Encode, dict[str, Any]]:
    """Records of all parts, how to encode them, and what `shards.json` says about the data: `data_hash`, and of several
    parts also `data_sets`.

    Rows count through the parts in the order of their content hashes, so that it does not matter in which they were named.
    The same data twice, and an id in two of them, raise `Omni123Error`.
    """
    if len(parts) == 1:
        return parts[0].records, parts[0].encode, {"data_hash": parts[0].content_hash}
    parts = sorted(parts, key=lambda part: part.content_hash)
    for one, other in zip(parts, parts[1:], strict=False):
        if one.content_hash == other.content_hash:
            raise Omni123Error(f"{one.folder} and {other.folder} hold the same data; name one of them")
    check_keys(parts)
    starts = np.cumsum([0, *(part.rows for part in parts)])
    records = [
        replace(record, source_row=record.source_row + int(start))
        for part, start in zip(parts, starts, strict=False)
        for record in part.records
    ]

    def encode(batch: Sequence[ShardRecord]) -> np.ndarray:
        owners = np.searchsorted(starts, [record.source_row for record in batch], side="right") - 1
        codes: list[np.ndarray] = [np.empty(0)] * len(batch)
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner).tolist()
            own = [replace(batch[i], source_row=batch[i].source_row - int(starts[owner])) for i in places]
            for place, row in zip(places, parts[owner].encode(own), strict=True):
                codes[place] = row
        return np.stack(codes)

    digest = hashlib.sha256("\n".join(part.content_hash for part in parts).encode()).hexdigest()
    data_sets = [{"kind": part.kind, "content_hash": part.content_hash, "rows": part.rows} for part in parts]
    return records, encode, {"data_hash": digest, "data_sets": data_sets}


def check_keys(parts: Sequence[PoolPart]) -> None:
    """Raises `Omni123Error` when a record stands in two parts, naming both."""
    keys = Counter(record.key for part in parts for record in part.records)
    twice = next((key for key, count in keys.items() if count > 1), None)
    if twice is not None:
        folders = [str(part.folder) for part in parts if any(record.key == twice for record in part.records)]
        raise Omni123Error(
            f"{twice.split()[0]!r} stands in {' and '.join(folders)}; prepare one of them under another LABEL=PATH, or leave "
            "out what they share"
        )
