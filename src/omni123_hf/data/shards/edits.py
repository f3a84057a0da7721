"""The pool `edits`: two shapes (or two pictures) and the instruction that turns the first into the second (paper §5)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.shards.format import SIDE_FIELDS, Field, PoolInfo, PoolLayout
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.writer import TextEncoder, WriterOptions, write_pool
from omni123_hf.errors import Omni123Error


@dataclass(frozen=True)
class EditTokens:
    """One editing pair in tokens.

    source_tokens, target_tokens: (L,) codes of one vocabulary. instructions: wordings of the same edit. edit_type: "add",
    "remove", "replace", "resize", "pose" or a type of one's own. region_parts: names of the parts that change.
    region_boxes: boxes that hold all that changes, each its least and greatest corner (6 numbers) in the normalised frame
    that both sides share; empty where not known.
    chain: what made the pair, in order (generator, models). source: the data set that it comes from.
    """

    id: str
    source: str
    split: str
    licence: str
    attribution: str
    category: str
    source_tokens: np.ndarray
    target_tokens: np.ndarray
    instructions: tuple[str, ...]
    edit_type: str
    region_parts: tuple[str, ...] = ()
    region_boxes: tuple[tuple[float, ...], ...] = ()
    chain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.instructions or not all(text.strip() for text in self.instructions):
            raise Omni123Error(f"{self.id}: an editing pair needs an instruction and no empty one")
        if any(len(box) != 6 for box in self.region_boxes):
            raise Omni123Error(f"{self.id}: a box of the region is two corners, 6 numbers; got {self.region_boxes}")
        if self.source_tokens.shape != self.target_tokens.shape or self.source_tokens.ndim != 1:
            raise Omni123Error(
                f"{self.id}: source and target must be code sequences of one length; got {self.source_tokens.shape} and "
                f"{self.target_tokens.shape}"
            )

    def record(self, row: int) -> ShardRecord:
        """The row of the manifest; `row` is the place among the pairs that were handed in."""
        digest = hashlib.sha256()
        for tokens in (self.source_tokens, self.target_tokens):
            digest.update(np.ascontiguousarray(tokens, dtype="<i8").tobytes())
        digest.update("\n".join(self.instructions).encode())
        edit = edit_columns(self.instructions, self.edit_type, self.region_parts, self.region_boxes, self.chain)
        return ShardRecord(
            id=self.id,
            source=self.source,
            split=self.split,
            licence=self.licence,
            attribution=self.attribution,
            category=self.category,
            content_hash=digest.hexdigest(),
            source_row=row,
            edit=edit,
        )


def edit_columns(
    instructions: Sequence[str],
    edit_type: str,
    region_parts: Sequence[str],
    region_boxes: Sequence[Sequence[float]],
    chain: Sequence[str],
) -> dict[str, Any]:
    """What a record of the pool `edits` says beyond other records (`ShardRecord.edit`)."""
    return {
        "instructions": list(instructions),
        "edit_type": edit_type,
        "region_parts": list(region_parts),
        "region_boxes": [list(box) for box in region_boxes],
        "chain": list(chain),
    }


def write_edits(
    out: str | Path,
    pairs: Sequence[EditTokens],
    codes: int,
    tokenizers: Mapping[str, str],
    kind: str = "shape",
    data_hash: str = "",
    checkpoint: str = "",
    options: WriterOptions | None = None,
    text_encoder: TextEncoder | None = None,
) -> PoolInfo:
    """Write the pool `edits` into `out`. codes: size of the vocabulary. tokenizers: component to the hash of its weights.

    Raises `Omni123Error` as `write_pool` does, and for pairs of different lengths.
    """
    if not pairs:
        raise Omni123Error("there are no editing pairs to write")
    length = len(pairs[0].source_tokens)
    other = next((pair for pair in pairs if len(pair.source_tokens) != length), None)
    if other is not None:
        raise Omni123Error(
            f"{other.id} has {len(other.source_tokens)} codes and {pairs[0].id} {length}; a pool holds one length"
        )
    fields = tuple(Field(name, kind, length, codes) for name in SIDE_FIELDS)

    def encode(records: Sequence[ShardRecord]) -> np.ndarray:
        chosen = [pairs[record.source_row] for record in records]
        return np.stack([np.concatenate([pair.source_tokens, pair.target_tokens]) for pair in chosen])

    return write_pool(
        out,
        PoolLayout("edits", fields),
        [pair.record(row) for row, pair in enumerate(pairs)],
        encode,
        {"checkpoint": checkpoint, "tokenizers": dict(tokenizers), "data_hash": data_hash},
        options,
        text_encoder,
    )
