"""What one prepared folder gives to one pool: its records, and how they become codes.

| folder | pools | a record |
|---|---|---|
| assets | `pairs`, `shapes`, `images` | an asset; in `images` one view of one |
| pictures | `images` | a picture, of no view |
| editing pairs | `edits` | a pair, and its inverse where the pair says how to undo it |
| token pairs | `edits` | the same; their codes are taken as they are, once the checkpoint is the one that wrote them |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni123_hf.data.editing.coupled_surface import couple_surface
from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.records import EditPair
from omni123_hf.data.editing.shard_pairs import directed_pairs, pair_record, stored_token_pairs
from omni123_hf.data.editing.token_pairs import TokenPairStore
from omni123_hf.data.image_store import MAX_SIZE, ImageStore
from omni123_hf.data.prepared import PreparedStore, kind_of
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.tokenizers import NEEDED, StoreTokenizers
from omni123_hf.data.shards.writer import Encode
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


POOLS_OF: dict[type[PreparedStore], tuple[str, ...]] = {
    AssetStore: ("pairs", "shapes", "images"),
    ImageStore: ("images",),
    EditPairStore: ("edits",),
    TokenPairStore: ("edits",),
}


@dataclass(frozen=True)
class PoolPart:
    """Records of one folder. `source_row` of each is its row there; `encode` takes them in any order and number.

    rows: of the folder. warnings: what the terms of its makers say against training on it. size: pixels a side of its
    pictures, 0 where none are tokenized.
    """

    folder: Path
    kind: str
    content_hash: str
    rows: int
    records: list[ShardRecord]
    encode: Encode
    warnings: tuple[str, ...] = ()
    size: int = 0


def common_pool(stores: Sequence[PreparedStore], components: Sequence[str], pool: str | None = None) -> str:
    """The pool that all stores can fill: `pool` when it is given, else the one with most in it for these tokenizers.

    Raises `Omni123Error` when there is none.
    """
    for store in stores:
        if pool is not None and pool not in POOLS_OF[type(store)]:
            raise Omni123Error(
                f"{store.folder} holds {kind_of(store)}, which fill no pool {pool!r}; choose "
                f"{' or '.join(POOLS_OF[type(store)])}"
            )
    shared = [name for name in POOLS_OF[type(stores[0])] if all(name in POOLS_OF[type(store)] for store in stores)]
    if not shared:
        other = next(store for store in stores if not set(POOLS_OF[type(store)]) & set(POOLS_OF[type(stores[0])]))
        raise Omni123Error(
            f"{stores[0].folder} holds {kind_of(stores[0])} and {other.folder} {kind_of(other)}, which go into different "
            "pools; tokenize each in a call of its own into the same --out"
        )
    if pool is not None:
        return pool
    for name in shared:
        if set(NEEDED[name]) <= set(components):
            return name
    needed = " or ".join(f"{' and '.join(NEEDED[name])} ({name})" for name in shared)
    raise Omni123Error(f"the checkpoint lacks tokenizers for {kind_of(stores[0])}: it needs {needed}")


def part_of(
    store: PreparedStore, tokenizers: StoreTokenizers, pool: str, views: Sequence[str] | None = None
) -> PoolPart:
    """What `store` gives to `pool`. views: of assets; by default all that the store has.

    Raises `Omni123Error` for views, picture sizes and tokens that do not fit the tokenizers.
    """
    if isinstance(store, AssetStore):
        return asset_part(store, tokenizers, pool, views)
    if isinstance(store, ImageStore):
        return picture_part(store, tokenizers)
    return pair_part(store, tokenizers) if isinstance(store, EditPairStore) else token_pair_part(store, tokenizers)


def asset_part(
    store: AssetStore, tokenizers: StoreTokenizers, pool: str, views: Sequence[str] | None = None
) -> PoolPart:
    """Assets as `part_of`."""
    available = list(store.summary["views"])
    chosen = checked_views(store, views)
    if pool != "shapes":
        check_size(store.folder, "views", store.sizes.view_size, tokenizers)
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

    groups = [(name,) for name in chosen] if pool == "images" else [tuple(chosen) if pool == "pairs" else ()]
    records = [
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
    size = 0 if pool == "shapes" else store.sizes.view_size
    return PoolPart(store.folder, kind_of(store), store.content_hash, len(store), records, encode, size=size)


def picture_part(store: ImageStore, tokenizers: StoreTokenizers) -> PoolPart:
    """Pictures as `part_of`."""
    check_size(store.folder, "pictures", store.size, tokenizers)

    def encode(records: Sequence[ShardRecord]) -> np.ndarray:
        return tokenizers.encode_pictures(store.images(np.array([record.source_row for record in records])))

    records = [
        ShardRecord(
            id=record.id,
            source=record.source,
            split=record.split,
            licence=record.licence,
            attribution=record.attribution,
            category=record.category,
            captions=record.captions,
            content_hash=record.content_hash,
            source_row=record.index,
        )
        for record in store.records
    ]
    return PoolPart(store.folder, kind_of(store), store.content_hash, len(store), records, encode, size=store.size)


def pair_part(store: EditPairStore, tokenizers: StoreTokenizers) -> PoolPart:
    """Editing pairs as `part_of`: the side that is given, and the other one, sampled alike where nothing changed."""
    directed = {each.pair.id: each for each in directed_pairs(store.pairs)}

    def encode(records: Sequence[ShardRecord]) -> np.ndarray:
        rows = np.array([record.source_row for record in records])
        sides = [side.surface(rows) for side in (store.source, store.target)]
        given, wanted = [], []
        for number, record in enumerate(records):
            each = directed[record.id]
            first, second = (side[number] for side in (sides[::-1] if each.is_inverse else sides))
            given.append(first)
            wanted.append(couple_surface(first, second, each.pair.region))
        return np.concatenate([tokenizers.encode_surfaces(np.stack(side)) for side in (given, wanted)], axis=1)

    records = [pair_record(each, store) for each in directed.values()]
    check_ids(store.folder, records, store.pairs)
    return PoolPart(
        store.folder, kind_of(store), store.content_hash, len(store), records, encode, warnings_of(store.pairs)
    )


def token_pair_part(store: TokenPairStore, tokenizers: StoreTokenizers) -> PoolPart:
    """Token pairs as `part_of`: the shape tokenizer must be the one that wrote them."""
    field, space = tokenizers.shape_field(), store.space
    written_by, here = space.tokenizer_hash, tokenizers.hashes["shape_tokenizer"]
    if written_by != here:
        raise Omni123Error(
            f"{store.folder} was written by a tokenizer {written_by[:12]}, but the checkpoint's shape_tokenizer is "
            f"{here[:12]}; give the checkpoint that wrote the tokens"
        )
    if (space.length, space.codes) != (field.length, field.codes):
        raise Omni123Error(
            f"{store.folder} has {space.length} codes a shape of {space.codes}, but the checkpoint's shape_tokenizer "
            f"{field.length} of {field.codes}; write the token pairs again with its sizes"
        )
    directed = {each.pair.id: each for each in directed_pairs(store.pairs)}

    def encode(records: Sequence[ShardRecord]) -> np.ndarray:
        rows = np.array([record.source_row for record in records])
        sides = [np.asarray(array[rows]) for array in (store.source_tokens, store.target_tokens)]
        is_inverse = np.array([directed[record.id].is_inverse for record in records])[:, None]
        return np.concatenate([np.where(is_inverse, *sides[::-1]), np.where(is_inverse, *sides)], axis=1)

    records = [tokens.record(directed[tokens.id].row) for tokens in stored_token_pairs(store)]
    check_ids(store.folder, records, store.pairs)
    return PoolPart(
        store.folder, kind_of(store), store.content_hash, len(store), records, encode, warnings_of(store.pairs)
    )


def checked_views(store: AssetStore, views: Sequence[str] | None) -> list[str]:
    """The chosen views. Raises `Omni123Error` for one that the store lacks, for none, and for one given twice."""
    available = list(store.summary["views"])
    chosen = list(views) if views is not None else available
    unknown = sorted(set(chosen) - set(available))
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        what = f"has no view {unknown[0]!r}" if unknown else "needs each view once"
        raise Omni123Error(f"the data set {what}; choose from {', '.join(available)}")
    return chosen


def check_size(folder: Path, what: str, size: int, tokenizers: StoreTokenizers) -> None:
    """Raises `Omni123Error` unless pictures have the size that the image VAE reads, or half of it, naming the one to prepare.

    Half is the paper's first stage (256² of 512², §4.4): the same codes, a quarter of the tokens.
    """
    assert tokenizers.image_vae is not None
    wanted = tokenizers.image_vae.config.image_size
    if size == wanted or (2 * size == wanted and size % tokenizers.image_vae.config.patch_size == 0):
        return
    way = f"--size {wanted}" if what == "pictures" else f"view_size: {wanted} in --config"
    if what == "pictures" and wanted > MAX_SIZE:
        raise Omni123Error(f"the checkpoint's image_vae reads {wanted} pixels; pictures have {MAX_SIZE} at most")
    raise Omni123Error(
        f"{folder} has {what} of {size} pixels and the checkpoint's image_vae reads {wanted}; prepare it again with {way}, "
        "or choose another checkpoint"
    )


def check_ids(folder: Path, records: Sequence[ShardRecord], pairs: Sequence[EditPair]) -> None:
    """Raises `Omni123Error` when a pair has the id that the inverse of another gets."""
    expected = len(list(directed_pairs(list(pairs))))
    if len(records) != expected or len({record.id for record in records}) != expected:
        raise Omni123Error(f"{folder}: a pair's id is that of another's inverse; prepare the pairs with other ids")


def warnings_of(pairs: Sequence[EditPair]) -> tuple[str, ...]:
    """The licence warnings of pairs, each once."""
    return tuple(sorted({pair.licence_warning for pair in pairs if pair.licence_warning}))
