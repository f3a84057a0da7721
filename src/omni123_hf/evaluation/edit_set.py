"""The held-out edits of the mini protocol: how they are chosen, and the three small files in which they ship beside the objects.

| file | content |
|---|---|
| `edits.npz` | surfaces of both sides, query points with the labels of both sides, pictures of the first pairs |
| `edits.jsonl` | `EditPair` lines: ids, instructions, type of edit, region, split, licence |
| `edits.json` | seed, hash of the pairs they were chosen from, and their own hash; written last |

They have a hash of their own, so that adding them changes nothing of the set of objects. Both sides of a pair share one frame,
the box around both (docs/editing_data.md): nothing is normalised again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.records import EditPair, read_pairs, write_pairs
from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.evaluation_set import hash_order, round_robin
from omni123_hf.evaluation.set_files import SetFiles
from omni123_hf.geometry.cameras import ALL_VIEWS, THREE_QUARTER


EDIT_COUNT = 80
EDIT_KINDS = ("add", "remove")
"""Equal halves. The paper's editing table (Table 10) has these two as well."""

HELD_OUT = ("heldout", "heldout_combination")
QUERIES_PER_HALF = 512
"""Labelled points of each kind (uniform, near a surface), evenly spaced in the store's halves: a quarter of what objects have, for size."""

PICTURES = 6
"""Pairs whose pictures are kept for the card."""

FILES = SetFiles(
    arrays="edits.npz",
    records="edits.jsonl",
    info="edits.json",
    title="held-out edits",
    advice="export them with 'omni123 evaluate export-subset --edits PAIRS --out FOLDER', PAIRS made by 'omni123 data pairs'.",
)


def select_pairs(
    pairs: Sequence[EditPair], categories: Sequence[str], count: int = EDIT_COUNT, seed: int = 0
) -> list[int]:
    """Places of `count` held-out pairs, half add and half remove; within each the categories take turns, all by hash.

    The order mixes both. Depends on no order of `pairs`; raises Omni123Error when a kind has too few held-out pairs.
    """
    if count < 2 or count % 2:
        raise Omni123Error(f"--edit-count {count}: give an even number of at least 2, half add and half remove.")
    chosen: list[int] = []
    for kind in EDIT_KINDS:
        pool = [place for place, pair in enumerate(pairs) if pair.split in HELD_OUT and pair.edit_type == kind]
        if len(pool) < count // 2:
            raise Omni123Error(
                f"The pairs hold {len(pool)} held-out edits of type '{kind}', {count} edits need {count // 2}: prepare more "
                "(omni123 data pairs --parametric N --kinds add,remove) or lower --edit-count."
            )
        turns = round_robin([(pairs[place].id, categories[place], place) for place in pool], count // 2, seed)
        chosen += [place for _, _, place in turns]
    return sorted(chosen, key=lambda place: hash_order(seed, f"order {pairs[place].id}"))


@dataclass
class EditSet:
    """Held-out edits with everything that they are measured against.

    Attributes:
        pairs: the N pairs, in the order of the arrays.
        surfaces: (N, 2, P, 6) float16 points and unit normals of source and target, in the pair's frame.
        queries: (N, 2 * Q, 3) float16, first half uniform in the field box, second half near either surface.
        occupancy: (N, 2, 2 * Q) bool labels of the queries, of source and target.
        pictures: (K, 2, S, S, 3) uint8 three-quarter views of source and target, of the first K pairs.
        info: seed of the choice and hash of the set of pairs.
    """

    pairs: list[EditPair]
    surfaces: np.ndarray
    queries: np.ndarray
    occupancy: np.ndarray
    pictures: np.ndarray
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def instructions(self) -> list[str]:
        """The first short instruction of each pair; its first text where it has no short one."""
        return [(pair.instructions["short"] or pair.texts)[0] for pair in self.pairs]

    def set_hash(self) -> str:
        """Short hash of ids, instructions, regions and arrays."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update((json.dumps(pair.to_dict(), sort_keys=True, ensure_ascii=False) + "\n").encode())
        for array in (self.surfaces, self.queries, self.occupancy, self.pictures):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def from_store(cls, store: EditPairStore, count: int = EDIT_COUNT, seed: int = 0) -> EditSet:
        """Choose the edits from a prepared folder of pairs."""
        categories = [record.category for record in store.source.records]
        rows = select_pairs(store.pairs, categories, count, seed)
        half = len(store.source.occupancy(rows[0])) // 2
        if half < QUERIES_PER_HALF:
            raise Omni123Error(
                f"The pairs have {half} queries a half, evaluation needs {QUERIES_PER_HALF}: prepare them anew."
            )
        spaced = np.linspace(0, half - 1, QUERIES_PER_HALF).round().astype(int)
        picked = np.concatenate([spaced, half + spaced])
        sides = (store.source, store.target)
        view = ALL_VIEWS.index(THREE_QUARTER)
        return cls(
            pairs=[replace(store.pairs[row], index=number) for number, row in enumerate(rows)],
            surfaces=np.stack(
                [np.stack([np.asarray(side.surface(row), dtype=np.float16) for side in sides]) for row in rows]
            ),
            queries=np.stack([np.asarray(store.source.queries(row), dtype=np.float16)[picked] for row in rows]),
            occupancy=np.stack(
                [np.stack([np.asarray(side.occupancy(row), dtype=bool)[picked] for side in sides]) for row in rows]
            ),
            pictures=np.stack(
                [np.stack([np.asarray(side.views(row))[view, ..., :3] for side in sides]) for row in rows[:PICTURES]]
            ),
            info={"seed": seed, "data_hash": store.content_hash, "data_pairs": len(store)},
        )

    def save(self, folder: Path) -> None:
        """Write the three files into `folder` (created), each whole or not at all. Equal sets give equal bytes."""
        arrays = {
            "surfaces": self.surfaces,
            "queries": self.queries,
            "occupancy": np.packbits(self.occupancy, axis=2),
            "pictures": self.pictures,
        }
        FILES.save(folder, self, arrays, lambda path: write_pairs(path, self.pairs), self.info)

    @classmethod
    def load(cls, folder: Path) -> EditSet:
        """Read exported edits; missing or damaged files, and edits that do not match their hash, raise Omni123Error."""
        return FILES.load(folder, cls._read)

    @classmethod
    def _read(cls, arrays: dict[str, np.ndarray], pairs: Path, info: dict[str, Any]) -> EditSet:
        queries = arrays["queries"]
        return cls(
            pairs=read_pairs(pairs),
            surfaces=arrays["surfaces"],
            queries=queries,
            occupancy=np.unpackbits(arrays["occupancy"], axis=2, count=queries.shape[1]).astype(bool),
            pictures=arrays["pictures"],
            info=info,
        )


def has_edits(folder: Path) -> bool:
    """Whether any of the three files is there; a part of them is a damaged set, which `EditSet.load` names."""
    return any((folder / name).is_file() for name in FILES.names)
