"""A prepared data set through a checkpoint's tokenizers: the pools `shapes`, `images` and `pairs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omni123_hf.data.shards.format import PoolInfo
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.tokenizers import NEEDED, StoreTokenizers, store_layout
from omni123_hf.data.shards.writer import TextEncoder, WriterOptions, write_pool
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


def tokenize_store(
    store: AssetStore,
    tokenizers: StoreTokenizers,
    out: str | Path,
    pool: str | None = None,
    views: Sequence[str] | None = None,
    checkpoint: str = "",
    options: WriterOptions | None = None,
    text_encoder: TextEncoder | None = None,
) -> PoolInfo:
    """Write one pool of `store` into `out`: shape codes ("shapes"), codes of one view a record ("images"), or both ("pairs").

    pool: by default all that the tokenizers can fill. views: names of the store's views, by default all. checkpoint: its
    name, for the lineage. Raises `Omni123Error` as `write_pool` does, and for views or tokenizers that do not fit.
    """
    pool = pool or tokenizers.default_pool()
    tokenizers.check(pool)
    available = list(store.summary["views"])
    chosen = list(views) if views is not None else available
    unknown = sorted(set(chosen) - set(available))
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        what = f"has no view {unknown[0]!r}" if unknown else "needs each view once"
        raise Omni123Error(f"the data set {what}; choose from {', '.join(available)}")
    if pool != "shapes":
        tokenizers.check_store(store)
    columns = np.array([available.index(name) for name in chosen])

    def encode(records: Sequence[ShardRecord]) -> np.ndarray:
        rows = np.array([record.source_row for record in records])
        parts = []
        if pool != "images":
            parts.append(tokenizers.encode_shapes(store, rows))
        if pool == "pairs":
            codes = tokenizers.encode_images(store, rows, np.tile(columns, (len(rows), 1)))
            parts.append(codes.reshape(len(rows), -1))
        if pool == "images":
            column = np.array([[available.index(record.views[0])] for record in records])
            parts.append(tokenizers.encode_images(store, rows, column)[:, 0])
        return np.concatenate(parts, axis=1)

    return write_pool(
        out,
        store_layout(tokenizers, pool, chosen),
        store_records(store, pool, chosen),
        encode,
        {
            "checkpoint": checkpoint,
            "tokenizers": {name: tokenizers.hashes[name] for name in NEEDED[pool]},
            "data_hash": store.content_hash,
        },
        options,
        text_encoder,
    )


def store_records(store: AssetStore, pool: str, views: Sequence[str]) -> list[ShardRecord]:
    """The records of a pool: one an asset, in the pool `images` one an asset and view."""
    groups = [(name,) for name in views] if pool == "images" else [tuple(views) if pool == "pairs" else ()]
    return [
        ShardRecord(
            id=record.id,
            source=record.source,
            split=record.split,
            licence=record.licence,
            attribution=record.attribution,
            category=record.category,
            captions=record.captions,
            views=group,
            content_hash=record.content_hash,
            source_row=record.index,
        )
        for record in store.records
        for group in groups
    ]
