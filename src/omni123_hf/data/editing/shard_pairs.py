"""Editing pairs as records of token shards (`data.shards`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.records import EditPair
from omni123_hf.data.editing.token_pairs import TokenPairStore
from omni123_hf.data.shards.edits import EditTokens, edit_columns
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.errors import Omni123Error


@dataclass(frozen=True)
class DirectedPair:
    """A pair as it is, or turned round: `row` of its store, `is_inverse` when its target is what to start from."""

    pair: EditPair
    row: int
    is_inverse: bool


def directed_pairs(pairs: list[EditPair], inverses: bool = True) -> Iterator[DirectedPair]:
    """Every pair, and after each its inverse if it says how to undo the edit."""
    for row, pair in enumerate(pairs):
        yield DirectedPair(pair, row, False)
        if inverses and any(pair.inverse_instructions.values()):
            yield DirectedPair(pair.inverse(), row, True)


def pair_record(directed: DirectedPair, store: EditPairStore) -> ShardRecord:
    """The record of a pair whose sides are not tokenized yet. Its content is that of both sides, and the instructions."""
    pair = directed.pair
    sides = [store.source.records[directed.row], store.target.records[directed.row]]
    content = [side.content_hash for side in (sides[::-1] if directed.is_inverse else sides)]
    boxes = _boxes(pair)
    return ShardRecord(
        id=pair.id,
        source=pair.generator_chain[0],
        split=pair.split,
        licence=pair.licence,
        attribution=pair.attribution,
        category=sides[0].category,
        content_hash=hashlib.sha256("\n".join([*content, *pair.texts]).encode()).hexdigest(),
        source_row=directed.row,
        edit=edit_columns(pair.texts, pair.edit_type, *boxes, pair.generator_chain),
    )


def edit_tokens(pair: EditPair, source: np.ndarray, target: np.ndarray, category: str = "object") -> EditTokens:
    """A pair and the codes (L,) of its sides as one record of the pool `edits`."""
    parts, boxes = _boxes(pair)
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
        region_parts=parts,
        region_boxes=boxes,
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
    for directed in directed_pairs(store.pairs, inverses):
        sides = source[directed.row], target[directed.row]
        before, after = sides[::-1] if directed.is_inverse else sides
        yield edit_tokens(directed.pair, before, after, store.source.records[directed.row].category)


def stored_token_pairs(store: TokenPairStore, inverses: bool = True) -> Iterator[EditTokens]:
    """Records of pairs that came as tokens; with each pair's inverse, if it has one."""
    for directed in directed_pairs(store.pairs, inverses):
        sides = store.source_tokens[directed.row], store.target_tokens[directed.row]
        before, after = sides[::-1] if directed.is_inverse else sides
        yield edit_tokens(directed.pair, before, after)


def _boxes(pair: EditPair) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Names of the parts that change, and the boxes as two corners each."""
    boxes = pair.region.boxes if pair.region is not None else ()
    return tuple(sorted({box.name for box in boxes})), tuple((*box.low, *box.high) for box in boxes)
