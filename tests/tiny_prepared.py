"""Prepared pictures, editing pairs and token pairs, small enough for a test and real in every field."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny_store import SIZES, write_tiny_store

from omni123_hf.data.editing.pair_store import EditPairStore, write_summary
from omni123_hf.data.editing.records import EditPair, EditSide, write_pairs
from omni123_hf.data.editing.regions import EditRegion, RegionBox
from omni123_hf.data.editing.token_pairs import TokenPairStore, TokenSpace, write_token_pairs
from omni123_hf.data.image_store import ImageStore, write_image_store
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import StoreWriter


def write_tiny_pictures(folder: Path, count: int = 8, name: str = "photo", size: int = 16) -> ImageStore:
    """Pictures of noise; every fourth is for validation."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    pixels = rng.integers(0, 255, (count, size, size, 4)).astype(np.uint8)
    records = [
        AssetRecord(
            f"{name}/{i}", name, "CC-BY-4.0", f"author {i}", "picture",
            {"short": [f"{name} {i}"], "medium": [], "long": []}, "validation" if i % 4 == 3 else "train",
            content_hash=f"{name}{i}",
        )
        for i in range(count)
    ]  # fmt: skip
    return write_image_store(folder, records, [pixels], size, {})


def tiny_pair(number: int, kind: str = "mesh", **changes) -> EditPair:
    """A pair that adds a lid; every third does not say how to undo it, every fourth is for validation."""
    name = f"edit/box/{number}"
    values = {
        "id": name,
        "object_id": f"box/{number}",
        "source": EditSide(f"{name}/source", kind, {"path": f"{number}.glb"}),
        "target": EditSide(f"{name}/target", kind, {"path": f"{number}b.glb"}),
        "instructions": {"short": ["add a lid"], "long": [f"Take box {number} and put a lid on top of it."]},
        "inverse_instructions": {"short": [] if number % 3 == 2 else ["take the lid off"], "long": []},
        "edit_type": "add",
        "generator_chain": ("by hand",),
        "licence": "CC0-1.0",
        "attribution": "nobody",
        "split": "validation" if number % 4 == 3 else "train",
        "region": EditRegion((RegionBox("lid", (-0.5, 0.25, -0.5), (0.5, 0.75, 0.5)),), True),
        "changed_share": 0.25,
        "index": number,
    }
    return EditPair(**{**values, **changes})


def write_tiny_edits(folder: Path, count: int = 6) -> EditPairStore:
    """Source i is box i of the tiny store, its target box i + 1."""
    boxes = write_tiny_store(folder / "boxes", count + 1)
    pairs = [tiny_pair(i) for i in range(count)]
    for side, shift in (("source", 0), ("target", 1)):
        with StoreWriter(folder / "edits" / side, count, SIZES) as writer:
            for pair in pairs:
                record = boxes.records[pair.index + shift]
                arrays = {name: np.asarray(boxes.raw(name)[pair.index + shift]) for name in SIZES.names}
                writer.append(replace(record, id=f"{pair.id}/{side}", split=pair.split, source="editing"), arrays)
    write_pairs(folder / "edits" / "pairs.jsonl", pairs)
    write_summary(folder / "edits", pairs, {"rejected": 0})
    return EditPairStore.open(folder / "edits")


def write_tiny_token_pairs(
    folder: Path, tokenizer_hash: str, count: int = 4, codes: int = 32, **changes
) -> TokenPairStore:
    """Pairs of random codes, 8 a shape, numbered from 100."""
    rng = np.random.default_rng(0)
    space = TokenSpace(tokenizer_hash, 8, codes)
    items = [
        (
            tiny_pair(100 + i, "tokens", tokenizer_hash=tokenizer_hash, region=None, changed_share=None, **changes),
            rng.integers(0, codes, 8),
            rng.integers(0, codes, 8),
        )
        for i in range(count)
    ]
    return write_token_pairs(items, folder, space)
