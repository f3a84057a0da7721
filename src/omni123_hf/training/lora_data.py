"""The two domains of an adapter as token shards: the new one from meshes with captions, and the old one that must not be lost.

Everything lies below one work folder and is found there again when the command is repeated:

| folder | content |
|---|---|
| `prepared/`, `shards/` | the new domain: prepared data set, and its tokens cut into `train` and `heldout` |
| `old/prepared/`, `old/shards/` | the old domain, unless shards are given: what is rehearsed (`train`) and measured (`heldout`) |
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.assets import ParametricSpec, asset_rng, parametric_assets
from ..data.bounded_asset import UNKNOWN_LICENCE
from ..data.inputs import InputOptions, read_source
from ..data.inputs.read import check_licences
from ..data.preparation_config import MINI, PreparationConfig
from ..data.prepare import prepare_dataset
from ..data.records import AssetRecord
from ..data.shards.reader import TokenShards
from ..data.shards.store_tokens import tokenize_store
from ..data.shards.tokenizers import TOKENIZERS, StoreTokenizers
from ..data.shards.training_pool import TrainingPool
from ..data.shards.writer import WriterOptions
from ..data.splits import split_of
from ..data.store import AssetStore
from ..errors import Omni123Error
from .recipe import Recipe


# What tokens need and nothing more; the check that extracts every solid again would cost most of the time.
PREPARATION = PreparationConfig(
    sharp_points=0, random_views=0, truncation=0.0, resolution=128, round_trip_resolution=0
)
MIN_TRAIN = 8
MIN_HELDOUT = 2
PARAMETRIC, NONE, AUTO = "parametric", "none", "auto"
# Rehearsed and measured objects of each category of the generator. Seeds far from those of any data set of ours.
REHEARSED, MEASURED = 4, 1
FIRST_SEED, SEEDS = 100_000, 60
DATA: dict[str, Any] = {
    "meshes": None,
    "licence": "",
    "attribution": "",
    "allow_unknown_licence": False,
    "up": "y",
    "heldout_share": 0.2,
    "regularization": AUTO,
    "preparation": {},
    "workers": 1,
}


@dataclass(frozen=True)
class BaseCheckpoint:
    """The checkpoint that an adapter is for: its name in cards, its folder here, its revision and licence."""

    name: str
    folder: Path
    revision: str
    licence: str = ""

    @property
    def tokenizers(self) -> dict[str, Path]:
        return {name: self.folder / name for name in TOKENIZERS if (self.folder / name).is_dir()}

    @property
    def sources(self) -> set[str]:
        """Names of the sources of its training data, as far as it says."""
        file = self.folder / "data_lineage.json"
        lineage = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {str(entry.get("source")) for entry in lineage.get("sources", [])}


@dataclass(frozen=True)
class Domain:
    """A domain as training reads it, and its meshes' samples where they are known.

    `measured` is the split that figures are taken on. `rows` are the rows of `store` in it, None without a store.
    """

    pool: TrainingPool
    measured: str
    store: AssetStore | None = None

    @property
    def rows(self) -> np.ndarray | None:
        return None if self.store is None else self.store.indices(self.measured)


def data_options(recipe: Recipe) -> dict[str, Any]:
    """The recipe's `data` section over the defaults. Raises `Omni123Error` for unknown keys and values that cannot be."""
    unknown = sorted(set(recipe.data) - set(DATA))
    if unknown:
        raise Omni123Error(f"the data section of stage lora has no {unknown[0]!r}: it knows {', '.join(DATA)}.")
    options = {**DATA, **recipe.data}
    if not options["meshes"]:
        raise Omni123Error(
            "there is no data: give --data, a folder of meshes with captions (or data.meshes in the recipe)."
        )
    if not 0 < options["heldout_share"] < 1:
        raise Omni123Error(f"heldout_share is {options['heldout_share']}: it must lie between 0 and 1.")
    if options["up"] not in ("y", "z"):
        raise Omni123Error(f"up is {options['up']!r}: it must be y or z.")
    return options


def is_store(path: Path) -> bool:
    return (path / "dataset.json").is_file() and (path / "manifest.jsonl").is_file()


def prepare_meshes(options: dict[str, Any], base: BaseCheckpoint, work: Path, seed: int) -> AssetStore:
    """The new domain as a prepared data set: opened if `meshes` is one, otherwise made in `work/prepared` (resumable).

    Raises `Omni123Error` as data preparation does, and for assets without a licence unless they are allowed.
    """
    source = str(options["meshes"])
    allowed = bool(options["allow_unknown_licence"])
    if is_store(Path(source)):
        store = AssetStore.open(source)
    else:
        inputs = InputOptions(
            seed=seed, licence=options["licence"], attribution=options["attribution"], up=options["up"]
        )
        assets = read_source(source, inputs)
        if not allowed:
            check_licences(assets, source)
        settings = {"view_size": view_size(base), "seed": seed, "allow_unknown_licence": allowed}
        config = PreparationConfig.from_dict({**settings, **options["preparation"]}, PREPARATION)
        store = prepare_dataset(assets, work / "prepared", workers=int(options["workers"]), config=config)
    unstated = [record.id for record in store.records if record.licence in ("", UNKNOWN_LICENCE)]
    if unstated and not allowed:
        raise Omni123Error(
            f"{len(unstated)} of {len(store)} meshes have no stated licence, for example {unstated[0]}: state it with "
            "--licence, or pass --allow-unknown-licence."
        )
    return store


def view_size(base: BaseCheckpoint) -> int:
    """Pixels a side that the base's image VAE reads; the default where it has none."""
    if "image_vae" not in base.tokenizers:
        return PREPARATION.view_size
    return int(TOKENIZERS["image_vae"].config_class.from_pretrained(base.tokenizers["image_vae"]).image_size)  # type: ignore[attr-defined]


def look_alikes(store: AssetStore) -> list[list[int]]:
    """Rows in groups that have the same silhouettes from all seven sides: one object, perhaps in other colours."""
    groups: dict[bytes, list[int]] = {}
    for row in range(len(store)):
        # One at a time: a large data set's views need not fit into memory.
        coverage = np.ascontiguousarray(store.views(row)[..., 3])
        groups.setdefault(hashlib.sha256(coverage.tobytes()).digest(), []).append(row)
    return list(groups.values())


def split_meshes(store: AssetStore, share: float, seed: int) -> list[list[int]]:
    """Cuts the store into `train` and `heldout`, in memory; returns the groups of look-alikes, which never part.

    The held-out share takes turns among the categories, so that small ones are measured too; within one it is a hash of the
    asset's id. Raises `Omni123Error` when too few are left on either side.
    """
    groups = look_alikes(store)

    def place(group: list[int]) -> bytes:
        return hashlib.sha256(f"{seed}:{min(store.records[row].id for row in group)}".encode()).digest()

    by_category: dict[str, list[list[int]]] = {}
    for group in sorted(groups, key=place):
        by_category.setdefault(store.records[group[0]].category, []).append(group)
    turns = [
        group
        for number in range(max(map(len, by_category.values())))
        for queue in by_category.values()
        for group in queue[number : number + 1]
    ]
    wanted = max(MIN_HELDOUT, round(share * len(store)))
    held_out: set[int] = set()
    for group in turns:
        if len(held_out) < wanted:
            held_out.update(group)
    train = len(store) - len(held_out)
    if train < MIN_TRAIN:
        raise Omni123Error(
            f"{len(store)} usable meshes ({len(groups)} different ones) leave {train} for training beside {len(held_out)} held "
            f"out: give at least {MIN_TRAIN + MIN_HELDOUT} different meshes, better 20 or more."
        )
    store.records = [
        replace(record, split="heldout" if row in held_out else "train") for row, record in enumerate(store.records)
    ]
    return groups


def tokenize(store: AssetStore, base: BaseCheckpoint, out: Path, options: dict[str, Any], device: str) -> TrainingPool:
    """Token shards of a store with the base's tokenizers, resumable in `out`."""
    tokenizers = StoreTokenizers.load(base.tokenizers, device)
    writer = WriterOptions(allow_unknown_licence=bool(options["allow_unknown_licence"]), progress=False)
    info = tokenize_store(store, tokenizers, out, checkpoint=f"{base.name} (revision {base.revision})", options=writer)
    return TrainingPool.open(out, info.layout.name)


def old_domain(options: dict[str, Any], base: BaseCheckpoint, work: Path, device: str) -> Domain | None:
    """What the base must not lose: shards or a prepared data set that the recipe names, or objects of our own generator.

    `auto` means the generator for a base that was trained on it, and nothing for others. Returns None for nothing.
    """
    choice = str(options["regularization"])
    if choice == AUTO:
        choice = PARAMETRIC if PARAMETRIC in base.sources else NONE
    if choice == NONE:
        return None
    if choice == PARAMETRIC:
        config = replace(MINI, view_size=view_size(base))
        prepared = prepare_dataset(
            old_objects(), work / "old" / "prepared", workers=int(options["workers"]), config=config
        )
        return Domain(tokenize(prepared, base, work / "old" / "shards", options, device), "heldout", prepared)
    if is_store(Path(choice)):
        prepared = AssetStore.open(choice)
        pool = tokenize(prepared, base, work / "old" / "shards", options, device)
        return Domain(pool, measured_split(pool), prepared)
    shards = TokenShards.open(choice)
    names = [name for name in ("pairs", "shapes") if name in shards.pools]
    if not names:
        raise Omni123Error(f"{choice} holds the pools {', '.join(shards.pools)}: rehearsal needs pairs or shapes.")
    pool = TrainingPool(shards[names[0]])
    return Domain(pool, measured_split(pool))


def measured_split(pool: TrainingPool) -> str:
    for split in ("validation", "heldout"):
        if split in pool.splits:
            return split
    raise Omni123Error(
        "the regularization data has no validation and no heldout records: nothing could be measured on it."
    )


def old_objects() -> list[ParametricSpec]:
    """`REHEARSED` objects of the training split and `MEASURED` held-out ones of each of the generator's categories.

    Held-out programs are held out by their hash from every data set of ours, so no base trained on these saw them.
    """
    from ..data.parametric.registry import is_heldout_combination, sample_program

    wanted = {"train": REHEARSED, "heldout": MEASURED}
    chosen: dict[tuple[str, str], list[ParametricSpec]] = {}
    for spec in parametric_assets(SEEDS, FIRST_SEED):
        program = sample_program(spec.category, asset_rng("program", spec.id))
        split = split_of(program.to_json())
        if is_heldout_combination(program) is None and split in wanted:
            found = chosen.setdefault((spec.category, split), [])
            if len(found) < wanted[split]:
                found.append(spec)
    return [spec for found in chosen.values() for spec in found]


def licence_counts(records: Sequence[AssetRecord], key: Callable[[AssetRecord], str]) -> dict[str, int]:
    """Numbers of records by licence or attribution, most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        counts[key(record)] = counts.get(key(record), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
