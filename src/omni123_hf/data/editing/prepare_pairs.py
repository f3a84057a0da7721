"""From pairs to a pair store: shards of whole pairs that appear at once, then one store a side and `pairs.jsonl`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omni123_hf.data.editing.pair_specs import PairSpec
from omni123_hf.data.editing.pair_store import EditPairStore, write_summary
from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG, SIDES, PreparedPair, check_config, prepare_pair
from omni123_hf.data.editing.records import EditPair, write_pairs
from omni123_hf.data.engines import one_thread_each
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_shard import shard_file
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.sandbox import Sandbox, SandboxLimits
from omni123_hf.data.store import ARRAYS, StoreWriter, write_json
from omni123_hf.errors import Omni123Error, RejectedError


def prepare_pairs(
    specs: Iterable[PairSpec],
    out: str | Path,
    workers: int = 1,
    config: PreparationConfig = PAIR_CONFIG,
    show_progress: bool = True,
) -> EditPairStore:
    """Prepare pairs into the folder `out` with `workers` sandboxed processes and open the result.

    Calling it again with the same pairs and configuration goes on where a stopped run ended. Pairs that cannot be used,
    and pairs with the same two shapes as an earlier one, are named with a reason in `rejected.jsonl`. Other pairs or
    settings in a folder already begun, and a run without a usable pair, raise `Omni123Error`.
    """
    check_config(config)
    out, listed = Path(out), list(specs)
    plan = _plan(listed, config)
    plan_file, shards = out / "plan.json", out / "shards"
    if plan_file.is_file():
        if json.loads(plan_file.read_text(encoding="utf-8")) != plan:
            raise Omni123Error(f"{out} was begun with other pairs or settings; choose another folder or remove it")
        if (out / "editing.json").is_file():
            return EditPairStore.open(out)
    elif out.is_dir() and any(out.iterdir()):
        raise Omni123Error(f"{out} holds something else; choose another folder")
    if importlib.util.find_spec("igl") is None:
        raise Omni123Error("preparing data needs libigl; install it with: pip install 'omni123-hf[data]'")
    shards.mkdir(parents=True, exist_ok=True)
    write_json(plan_file, plan)
    files = [shard_file(shards, number) for number in range(-(-len(listed) // config.shard_size))]
    chunks = [listed[start : start + config.shard_size] for start in range(0, len(listed), config.shard_size)]
    waiting = [(file, chunk) for file, chunk in zip(files, chunks, strict=True) if not file.is_file()]
    if waiting:
        limits = SandboxLimits(config.seconds_per_asset, config.memory_per_asset_mib * 2**20)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            one_thread_each(),
            Sandbox(workers, limits, preload=("omni123_hf.data.editing.prepare_pairs",)) as sandbox,
            Progress(*columns, disable=not show_progress) as progress,
        ):
            task = progress.add_task("preparing pairs", total=sum(len(chunk) for _, chunk in waiting))
            for file, chunk in waiting:
                outcomes: dict[str, PreparedPair | RejectedError] = {}
                for spec, outcome in sandbox.map_unordered(partial(prepare_pair, config=config), chunk):
                    outcomes[spec.id] = outcome
                    progress.advance(task)
                _write_shard(file, [(spec.id, outcomes[spec.id]) for spec in chunk], config)
    return _finalise(out, files, config)


def _write_shard(
    path: Path, outcomes: Sequence[tuple[str, PreparedPair | RejectedError]], config: PreparationConfig
) -> None:
    kept = [outcome for _, outcome in outcomes if isinstance(outcome, PreparedPair)]
    stacked: dict[str, Any] = {}
    for place, side in enumerate(SIDES):
        for name in ARRAYS:
            shape, dtype = config.sizes.array(name)
            rows = [each.arrays[place][name] for each in kept]
            stacked[f"{side}_{name}"] = np.stack(rows) if rows else np.empty((0, *shape), dtype)
        stacked[f"{side}_records"] = _lines([each.records[place].to_dict() for each in kept])
    stacked["pairs"] = _lines([each.pair.to_dict() for each in kept])
    stacked["rejected"] = _lines(
        [
            {"id": name, "reason": outcome.reason, "detail": str(outcome)}
            for name, outcome in outcomes
            if isinstance(outcome, RejectedError)
        ]
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **stacked)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _finalise(out: Path, files: Sequence[Path], config: PreparationConfig) -> EditPairStore:
    """Join the shards, leave out pairs whose two shapes stand there already, then remove the shards."""
    pairs: list[EditPair] = []
    places: list[tuple[Path, list[int]]] = []
    rejected: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for file in files:
        with np.load(file, allow_pickle=False) as shard:
            rejected += [json.loads(line) for line in shard["rejected"].tolist()]
            rows = []
            for row, line in enumerate(shard["pairs"].tolist()):
                pair = EditPair.from_dict(json.loads(line))
                key = json.dumps([pair.source.kind, pair.source.reference, pair.target.reference], sort_keys=True)
                if key in seen:
                    detail = f"the same two shapes as {seen[key]}"
                    rejected.append({"id": pair.id, "reason": "duplicate", "detail": detail})
                    continue
                seen[key] = pair.id
                rows.append(row)
                pairs.append(replace(pair, index=len(pairs)))
        places.append((file, rows))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rejected)
    (out / "rejected.jsonl").write_text(text, encoding="utf-8")
    if not pairs:
        raise Omni123Error(f"every pair was rejected; the reasons are in {out / 'rejected.jsonl'}")
    for side in SIDES:
        settings = {"preparation": config.to_dict(), "side": side}
        with StoreWriter(out / side, len(pairs), config.sizes, settings) as writer:
            for file, rows in places:
                with np.load(file, allow_pickle=False) as shard:
                    arrays = {name: shard[f"{side}_{name}"] for name in ARRAYS}
                    records = shard[f"{side}_records"].tolist()
                for row in rows:
                    record = AssetRecord.from_dict(json.loads(records[row]))
                    writer.append(record, {name: array[row] for name, array in arrays.items()})
    write_pairs(out / "pairs.jsonl", pairs)
    write_summary(out, pairs, {"preparation": config.to_dict(), "rejected": len(rejected)})
    shutil.rmtree(out / "shards")
    return EditPairStore.open(out)


def _plan(specs: Sequence[PairSpec], config: PreparationConfig) -> dict[str, Any]:
    if not specs:
        raise Omni123Error("there are no pairs to prepare")
    ids = [spec.id for spec in specs]
    if len(set(ids)) != len(ids):
        raise Omni123Error("pair ids must be unique; number the pairs of one object")
    digest = hashlib.sha256("\n".join(map(repr, specs)).encode()).hexdigest()
    return dict(json.loads(json.dumps({"pairs": len(ids), "pairs_hash": digest, "config": config.to_dict()})))


def _lines(values: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.array([json.dumps(value, ensure_ascii=False) for value in values], dtype=str)
