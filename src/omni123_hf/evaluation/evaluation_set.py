"""The 100 held-out objects of the mini protocol: how they are chosen, and the small folder in which they ship.

A set is either drawn from a prepared `AssetStore` or read from an exported folder; both give the same arrays, so the same figures.
Choice is by hash of (seed, asset id): it depends on no order, and adding assets to the store moves few of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omni123_hf.data.records import AssetRecord, read_records, write_records
from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.baselines import TrainingBaselines, baseline_key
from omni123_hf.evaluation.set_files import SetFiles


if TYPE_CHECKING:
    from omni123_hf.data.store import AssetStore


QUERIES_PER_HALF = 2048
"""Labelled points of each kind (uniform, near the surface) an asset is measured on: evenly spaced in the store's two halves."""

CODE_ASSETS, CODE_POINTS = 300, 512
"""Further surfaces, of training objects, that only the use of the shape codes is counted on."""

KIND_PARAMETRIC, KIND_COMBINATION, KIND_REAL = "parametric", "combination", "real"
KINDS = (KIND_PARAMETRIC, KIND_COMBINATION, KIND_REAL)
PARAMETRIC_SOURCE = "parametric"
MINIMUM_SHARE = 0.2
"""Of `count` objects at least this share are real assets, and as many are unseen attribute combinations."""

FILES = SetFiles(
    arrays="arrays.npz",
    records="assets.jsonl",
    info="evaluation_set.json",
    title="evaluation set",
    advice="pass --data with a data set made by 'omni123 data prepare', or export one with 'omni123 evaluate export-subset'.",
)
BASELINE = "baseline_"


def kind_of(record: AssetRecord) -> str | None:
    """`parametric`, `combination` or `real` for a held-out record, None for one that training has seen."""
    if record.split == "heldout_combination":
        return KIND_COMBINATION
    if record.split != "heldout":
        return None
    return KIND_PARAMETRIC if record.source == PARAMETRIC_SOURCE else KIND_REAL


def hash_order(seed: int, name: str) -> str:
    """Sort key of a name: an order that depends on nothing but the names and the seed."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def round_robin(members: Sequence[tuple[str, str, Any]], count: int, seed: int) -> list[tuple[str, str, Any]]:
    """The first `count` of `(id, group, value)` when groups take turns; groups and members are ordered by hash."""
    groups: dict[str, list[tuple[str, str, Any]]] = {}
    for member in sorted(members, key=lambda member: hash_order(seed, member[0])):
        groups.setdefault(member[1], []).append(member)
    order = sorted(groups, key=lambda name: hash_order(seed, name))
    depth = max((len(rows) for rows in groups.values()), default=0)
    turns = [groups[name][turn] for turn in range(depth) for name in order if turn < len(groups[name])]
    return turns[:count]


def select_assets(records: Sequence[AssetRecord], count: int = 100, seed: int = 0) -> list[AssetRecord]:
    """Choose the held-out objects of the protocol, in an order by hash that mixes the kinds.

    A fifth are real assets (their sources take turns), a fifth unseen attribute combinations, the rest parametric
    held-out objects (their categories take turns). Raises Omni123Error when a kind has too few held-out objects.
    """
    if count < 5:
        raise Omni123Error(f"--count {count} is too small: take at least 5 held-out objects (100 in the protocol).")
    special = int(np.ceil(MINIMUM_SHARE * count))
    wanted = {KIND_PARAMETRIC: count - 2 * special, KIND_COMBINATION: special, KIND_REAL: special}
    chosen: list[AssetRecord] = []
    for kind in KINDS:
        # The medium caption is the prompt; an asset of a user's own source may lack it.
        pool = [record for record in records if kind_of(record) == kind and record.captions["medium"]]
        if len(pool) < wanted[kind]:
            raise Omni123Error(
                f"The data set has {len(pool)} held-out objects of kind '{kind}', {count} objects need {wanted[kind]}: "
                "prepare more assets (omni123 data prepare) or lower --count."
            )
        group = "source" if kind == KIND_REAL else "category"
        turns = round_robin([(record.id, getattr(record, group), record) for record in pool], wanted[kind], seed)
        chosen += [record for _, _, record in turns]
    return sorted(chosen, key=lambda record: hash_order(seed, f"order {record.id}"))


@dataclass
class EvaluationSet:
    """Held-out objects with everything that the protocol measures against.

    Attributes:
        records: the N records, in the order of the arrays.
        surface: (N, P, 6) float16, points and unit normals in the normalised frame.
        queries: (N, 2 * Q, 3) float16, first half uniform in the field box, second half near the surface.
        occupancy: (N, 2 * Q) bool labels of the queries.
        views: (N, V, S, S, 4) uint8, RGB on white and coverage, order `geometry.cameras.ALL_VIEWS`.
        code_surfaces: (M, 512, 6) float16 surfaces of training objects, for the code statistics.
        baselines: what the training objects of each group look like on average.
        info: protocol seed, hash and licence counts of the data set it was drawn from.
    """

    records: list[AssetRecord]
    surface: np.ndarray
    queries: np.ndarray
    occupancy: np.ndarray
    views: np.ndarray
    code_surfaces: np.ndarray
    baselines: TrainingBaselines
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def kinds(self) -> list[str]:
        """Kind of each object; see `kind_of`."""
        return [str(kind_of(record)) for record in self.records]

    def of_kind(self, *kinds: str) -> np.ndarray:
        """Indices of the objects of the given kinds."""
        return np.array([i for i, kind in enumerate(self.kinds) if kind in kinds], dtype=int)

    @property
    def prompts(self) -> list[str]:
        """The first medium caption of each object."""
        return [record.captions["medium"][0] for record in self.records]

    def set_hash(self) -> str:
        """Short hash of ids and arrays: two runs with equal hashes measured the same objects on the same points."""
        digest = hashlib.sha256()
        for record, prompt in zip(self.records, self.prompts, strict=True):
            digest.update(f"{record.id}\n{prompt}\n".encode())
        for array in (self.surface, self.queries, self.occupancy, self.views, self.code_surfaces):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def from_store(cls, store: AssetStore, count: int = 100, seed: int = 0) -> EvaluationSet:
        """Draw the set from a prepared data set and fit the baselines on its training split."""
        chosen = select_assets(store.records, count, seed)
        rows = [record.index for record in chosen]
        half = len(store.occupancy(rows[0])) // 2
        if half < QUERIES_PER_HALF:
            raise Omni123Error(
                f"The data set has {half} queries a half, evaluation needs {QUERIES_PER_HALF}: prepare it anew."
            )
        # Evenly spaced, because the near half holds its two noise levels one after the other.
        spaced = np.linspace(0, half - 1, QUERIES_PER_HALF).round().astype(int)
        picked = np.concatenate([spaced, half + spaced])
        training = sorted((r for r in store.records if r.split == "train"), key=lambda r: hash_order(seed, r.id))
        code_rows = [record.index for record in training[:CODE_ASSETS]]
        return cls(
            records=[replace(record, index=i) for i, record in enumerate(chosen)],
            surface=np.stack([np.asarray(store.surface(row), dtype=np.float16) for row in rows]),
            queries=np.stack([np.asarray(store.queries(row), dtype=np.float16)[picked] for row in rows]),
            occupancy=np.stack([np.asarray(store.occupancy(row), dtype=bool)[picked] for row in rows]),
            views=np.stack([np.asarray(store.views(row)) for row in rows]),
            code_surfaces=np.stack(
                [np.asarray(store.surface(row), dtype=np.float16)[:CODE_POINTS] for row in code_rows]
            ),
            baselines=TrainingBaselines.fit(store, sorted({baseline_key(record) for record in chosen}), seed),
            info={
                "seed": seed,
                "data_hash": store.content_hash,
                "data_assets": len(store),
                "corpus": corpus_counts(store.records),
                "attributions": attribution_list(store.records),
            },
        )

    def save(self, folder: Path) -> None:
        """Write the set into `folder` (created): records, one compressed array file, and what it was drawn from."""
        arrays = {
            "surface": self.surface,
            "queries": self.queries,
            "occupancy": np.packbits(self.occupancy, axis=1),
            "views": self.views,
            "code_surfaces": self.code_surfaces,
            **{f"{BASELINE}{name}": array for name, array in self.baselines.to_arrays().items()},
        }
        FILES.save(folder, self, arrays, lambda path: write_records(path, self.records), self.info)

    @classmethod
    def load(cls, folder: Path) -> EvaluationSet:
        """Read an exported set; a missing file or a set that does not match its recorded hash raises Omni123Error."""
        return FILES.load(folder, cls._read)

    @classmethod
    def _read(cls, arrays: dict[str, np.ndarray], records: Path, info: dict[str, Any]) -> EvaluationSet:
        queries = arrays["queries"]
        baselines = {name.removeprefix(BASELINE): array for name, array in arrays.items() if name.startswith(BASELINE)}
        return cls(
            records=read_records(records),
            surface=arrays["surface"],
            queries=queries,
            occupancy=np.unpackbits(arrays["occupancy"], axis=1, count=queries.shape[1]).astype(bool),
            views=arrays["views"],
            code_surfaces=arrays["code_surfaces"],
            baselines=TrainingBaselines.from_arrays(baselines),
            info=info,
        )


def corpus_counts(records: Sequence[AssetRecord]) -> list[dict[str, Any]]:
    """Rows `source, licence, train, validation, heldout, heldout_combination` of a data set, for the model card."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        row = rows.setdefault(
            (record.source, record.licence),
            {"source": record.source, "licence": record.licence}
            | dict.fromkeys(("train", "validation", "heldout", "heldout_combination"), 0),
        )
        row[record.split] += 1
    return [rows[key] for key in sorted(rows)]


def attribution_list(records: Sequence[AssetRecord]) -> list[dict[str, Any]]:
    """Rows `library, licence, assets, authors` of the data set's foreign sources, for the model card.

    A library is the id without its last part (`sweethome3d/<library>/<key>`). Every asset's own line stays in its record.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        if record.source != PARAMETRIC_SOURCE:
            library = record.id.rpartition("/")[0] or record.source
            row = rows.setdefault(
                (library, record.licence),
                {"library": library, "licence": record.licence, "assets": 0, "authors": set()},
            )
            row["assets"] += 1
            row["authors"].add(author_of(record))
    return [row | {"authors": sorted(row["authors"], key=str.casefold)} for _, row in sorted(rows.items())]


def author_of(record: AssetRecord) -> str:
    """The name in an attribution "<title> by <author>, <library>, <licence>"; the whole text where it has another form."""
    _, by, rest = record.attribution.rpartition(" by ")
    return rest.split(", ")[0] if by else record.attribution
