"""Token shards without any model: the codes are a function of the record's number."""

from pathlib import Path

import numpy as np

from omni123_hf.data.shards.edits import EditTokens
from omni123_hf.data.shards.format import Field, PoolLayout, image_field
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.writer import WriterOptions, write_pool


LAYOUT = PoolLayout(
    "pairs",
    (
        Field("shape_tokens", "shape", 6, 500),
        Field(image_field("front"), "image", 4, 65_536),
        Field(image_field("three_quarter"), "image", 4, 65_536),
    ),
)
ORIGIN = {"checkpoint": "tiny", "tokenizers": {"shape_tokenizer": "a" * 64}, "data_hash": "d" * 64}
QUIET = WriterOptions(shards=4, batch_size=3, progress=False)


def tiny_records(count: int = 40) -> list[ShardRecord]:
    """Records of which every tenth is for validation and every second of another source."""
    return [
        ShardRecord(
            id=f"thing/{i}",
            source=("ours", "found")[i % 2],
            split="validation" if i % 10 == 9 else "train",
            licence=("CC0-1.0", "CC-BY-4.0")[i % 2],
            attribution=f"author {i}",
            category="thing",
            captions={"short": [f"thing {i}"], "medium": [f"a plain thing {i}"] * (i % 3), "long": []},
            views=("front", "three_quarter"),
            content_hash=f"{i:064x}",
            source_row=i,
        )
        for i in range(count)
    ]


def codes_of(record: ShardRecord) -> np.ndarray:
    """The codes of one record; the last image code is the greatest that there is."""
    rng = np.random.default_rng(record.source_row)
    return np.concatenate([rng.integers(0, 500, 6), rng.integers(0, 65_536, 7), [65_535]])


def encode(records: list[ShardRecord]) -> np.ndarray:
    return np.stack([codes_of(record) for record in records])


def tiny_pairs(count: int = 10) -> list[EditTokens]:
    return [
        EditTokens(
            id=f"edit/{i}",
            source="ours",
            split="heldout" if i == 9 else "train",
            licence="Apache-2.0",
            attribution="generated",
            category="chair",
            source_tokens=np.arange(i, i + 6),
            target_tokens=np.arange(i, i + 6)[::-1],
            instructions=("make it taller", f"make the chair {i} taller"),
            edit_type="resize",
            region_parts=("leg",) * (i % 3),
            region_boxes=((-1.0, -1.0, -1.0, 0.0, 0.25, 1.0),) * (i % 2),
            chain=("generator",),
        )
        for i in range(count)
    ]


def write_tiny_shards(folder: Path, count: int = 40, options: WriterOptions = QUIET) -> TokenShards:
    write_pool(folder, LAYOUT, tiny_records(count), encode, ORIGIN, options)
    return TokenShards.open(folder)


class ConstantTextEncoder:
    """Every text as 3 positions of width 2."""

    def __init__(self, name: str):
        self.facts = {name: {"shape": [3, 2], "weights": "w" * 64, "tokenizer": "t" * 64}}

    def embed(self, encoder: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(texts), 3, 2)), np.ones((len(texts), 3))


def tiny_shards_with_embeddings(folder: Path, encoder: str = "clip") -> TokenShards:
    write_pool(folder, LAYOUT, tiny_records(), encode, ORIGIN, QUIET, ConstantTextEncoder(encoder))
    return TokenShards.open(folder)
