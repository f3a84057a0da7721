"""A prepared set of editing pairs: two asset stores with equal rows, and the pairs.

| file | content |
|---|---|
| `source/`, `target/` | `data.store.AssetStore` folders; row i of both and line i of `pairs.jsonl` are one pair |
| `pairs.jsonl` | `EditPair` lines |
| `rejected.jsonl` | pairs left out, with a reason |
| `editing.json` | counts, settings, content hashes of both stores; written last, so it marks a complete set |

Either store can be tokenized as it is (`omni123 train tokenize`); the rows of the two token folders stay aligned.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.editing.records import EditPair, lines_hash, read_pair_summary, read_pairs
from omni123_hf.data.splits import SPLITS
from omni123_hf.data.store import AssetStore, write_json
from omni123_hf.errors import Omni123Error


EDITING_FORMAT = 1


class EditPairStore:
    """Read access to a prepared set of pairs; row `i` of `source`, `target` and `pairs` belong together."""

    def __init__(self, folder: Path, source: AssetStore, target: AssetStore, pairs: list[EditPair]) -> None:
        self.folder, self.source, self.target, self.pairs = folder, source, target, pairs

    @classmethod
    def open(cls, folder: str | Path) -> EditPairStore:
        """Memory-map the set in `folder`. A missing, unfinished or inconsistent one raises `Omni123Error`."""
        folder = Path(folder)
        if not (folder / "editing.json").is_file():
            raise Omni123Error(
                f"{folder} holds no finished editing pairs (no editing.json); run prepare_pairs to the end"
            )
        summary = read_pair_summary(folder / "editing.json", EDITING_FORMAT, ("count",))
        source, target = AssetStore.open(folder / "source"), AssetStore.open(folder / "target")
        pairs = read_pairs(folder / "pairs.jsonl")
        rows = zip(pairs, source.records, target.records, strict=False)
        agree = len(pairs) == len(source) == len(target) == summary["count"] and all(
            a.id == f"{pair.id}/source" and b.id == f"{pair.id}/target" and pair.index == a.index
            for pair, a, b in rows
        )
        if not agree:
            raise Omni123Error(f"{folder}: pairs.jsonl, source and target do not match; prepare the pairs again")
        return cls(folder, source, target, pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def content_hash(self) -> str:
        """SHA-256 over both stores and everything that is said about the pairs: equal hashes mean equal training data."""
        parts = (self.source.content_hash, self.target.content_hash, lines_hash(self.folder / "pairs.jsonl"))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def indices(self, split: str, edit_type: str | None = None) -> np.ndarray:
        """(M,) int64 rows of a split, of one edit type when it is given."""
        if split not in SPLITS:
            raise Omni123Error(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        rows = [p.index for p in self.pairs if p.split == split and (edit_type is None or p.edit_type == edit_type)]
        return np.asarray(rows, dtype=np.int64)

    def changed(self, index: int) -> np.ndarray:
        """(Q,) bool: the query points (equal on both sides) whose occupancy the edit changes."""
        return self.source.occupancy(index) != self.target.occupancy(index)


def write_summary(folder: Path, pairs: Sequence[EditPair], settings: Mapping[str, Any]) -> None:
    """Write `editing.json`, which completes the set."""
    sides = {side: AssetStore.open(folder / side).content_hash for side in ("source", "target")}
    summary = {
        "format": EDITING_FORMAT,
        "count": len(pairs),
        "content_hash": sides,
        "splits": dict(Counter(pair.split for pair in pairs)),
        "edit_types": dict(Counter(pair.edit_type for pair in pairs)),
        "licences": dict(Counter(pair.licence for pair in pairs)),
        "licence_warnings": sorted({pair.licence_warning for pair in pairs if pair.licence_warning}),
        "settings": dict(settings),
    }
    write_json(folder / "editing.json", summary)
