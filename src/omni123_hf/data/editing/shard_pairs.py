"""Editing pairs as records of token shards (`data.shards`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.records import EditPair
from omni123_hf.data.editing.token_pairs import TokenPairStore
from omni123_hf.data.shards.edits import EditTokens
from omni123_hf.errors import Omni123Error


def edit_tokens(pair: EditPair, source: np.ndarray, target: np.ndarray, category: str = "object") -> EditTokens:
    """A pair and the codes (L,) of its sides as one record of the pool `edits`."""
    boxes = pair.region.boxes if pair.region is not None else ()
    return EditTokens(
        id=pair.id,
        source=pair.generator_chain[0],
        split=pair.split,
        licence=pair.licence,
        attribution=pair.attribution,
        category=category,
        source_tokens=source,
        target_tokens=target,
        instructions=tuple(pair.texts),
        edit_type=pair.edit_type,
        region_parts=tuple(sorted({box.name for box in boxes})),
        region_boxes=tuple((*box.low, *box.high) for box in boxes),
        chain=pair.generator_chain,
    )


def tokenized_pairs(
    store: EditPairStore, source: np.ndarray, target: np.ndarray, inverses: bool = True
) -> Iterator[EditTokens]:
    """Records of a prepared set whose two stores were tokenized to (N,L) codes; with each pair's inverse, if it has one.

    Other numbers of rows raise `Omni123Error`.
    """
    if not len(source) == len(target) == len(store):
        raise Omni123Error(f"{len(store)} pairs, but {len(source)} source and {len(target)} target rows of codes")
    for pair, record, before, after in zip(store.pairs, store.source.records, source, target, strict=True):
        yield edit_tokens(pair, before, after, record.category)
        if inverses and any(pair.inverse_instructions.values()):
            yield edit_tokens(pair.inverse(), after, before, record.category)


def stored_token_pairs(store: TokenPairStore) -> Iterator[EditTokens]:
    """Records of pairs that came as tokens."""
    for pair in store.pairs:
        yield edit_tokens(pair, store.source_tokens[pair.index], store.target_tokens[pair.index])
