"""From assets to a prepared data set (paper §3.3).

| module | what it decides |
|---|---|
| `assets.py`, `inputs/` | what can be prepared, and where it comes from |
| `preparation_config.py` | every choice, with named presets |
| `prepare_asset.py` | what one asset becomes |
| `prepare_shard.py` | a hundred of them in one file, each in a sandbox |
| `engines.py` | which processes prepare the shards |
| `run_folder.py` | which folder a run may fill |
| this one | the run: plan, missing shards, one store at the end |

What an asset becomes depends only on the asset and the configuration, not on its shard, its neighbours or the workers.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from omni123_hf.data.assets import (
    Asset,
    MeshAsset,
    OpenedAsset,
    ParametricSpec,
    open_asset,
    parametric_assets,
)
from omni123_hf.data.engines import Engine, Job, run_local, run_ray
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_asset import Captioner, PreparedAsset, is_repaired, prepare_asset
from omni123_hf.data.prepare_shard import read_lines, shard_file
from omni123_hf.data.prepared_views import render_views
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.run_folder import PLAN, is_finished, plan_of, write_lines
from omni123_hf.data.run_lock import only_run
from omni123_hf.data.store import AssetStore, StoreWriter, write_json
from omni123_hf.errors import Omni123Error, RejectedError


__all__ = [
    "Asset",
    "AssetRejected",
    "MeshAsset",
    "OpenedAsset",
    "ParametricSpec",
    "PreparationConfig",
    "PreparedAsset",
    "open_asset",
    "parametric_assets",
    "prepare_asset",
    "prepare_dataset",
    "render_views",
]

AssetRejected = RejectedError

# Of rejections, in the message of a run that keeps nothing.
SHOWN_REASONS = 5
SUMMARY = "dataset.json"


def prepare_dataset(
    assets: Iterable[Asset],
    out: str | Path,
    workers: int = 1,
    config: PreparationConfig | None = None,
    show_progress: bool = True,
    engine: Engine = "local",
    captioner: Captioner | None = None,
) -> AssetStore:
    """Prepare `assets` into the folder `out` and open the result.

    workers: processes of the local engine; on Ray the cluster decides. captioner: see `prepare_asset`; its class must
    be importable in the workers.

    Calling it again with the same assets and configuration goes on where a stopped run ended, and only opens what is
    complete. Assets are the same when all that is stated about them is, and size and time of their files. Other assets
    or settings in a folder already begun, a folder that holds anything else, another run at work there, ids given twice
    and a run in which every asset is rejected raise `Omni123Error`.
    """
    config = config or PreparationConfig()
    if workers < 1:
        raise Omni123Error(f"workers must be at least 1, got {workers}")
    if engine not in ("local", "ray"):
        raise Omni123Error(f"unknown engine {engine!r}; choose local or ray")
    out = Path(out).absolute()
    listed = list(assets)
    plan = _plan(listed, config, captioner)
    if is_finished(out, plan, SUMMARY):
        return AssetStore.open(out)
    if importlib.util.find_spec("igl") is None:
        # Labelling a closed mesh would fail, asset by asset, and leave a data set of the open ones only.
        raise Omni123Error("preparing data needs libigl; install it with: pip install 'omni123-hf[data]'")
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        # Another run may have begun or ended since.
        if is_finished(out, plan, SUMMARY):
            return AssetStore.open(out)
        write_json(out / PLAN, plan)
        shards = out / "shards"
        shards.mkdir(exist_ok=True)
        for leftover in shards.glob(".*"):
            leftover.unlink()
        total = -(-len(listed) // config.shard_size)
        jobs = [
            Job(listed[number * config.shard_size : (number + 1) * config.shard_size], shard_file(shards, number))
            for number in range(total)
            if not shard_file(shards, number).is_file()
        ]
        if jobs:
            steps = (
                run_ray(jobs, config, captioner) if engine == "ray" else run_local(jobs, config, workers, captioner)
            )
            _follow(steps, len(listed), sum(len(job.assets) for job in jobs), show_progress)
        return finalise(out, total, config)


def finalise(out: str | Path, shards: int, config: PreparationConfig) -> AssetStore:
    """Join `shards` finished shard files of `out` into the arrays and manifests of a store, then remove them."""
    out = Path(out)
    files = [shard_file(out / "shards", number) for number in range(shards)]
    rejected = [line for file in files for line in read_lines(file, "rejected")]
    write_lines(out / "rejected.jsonl", rejected)
    write_lines(out / "timings.jsonl", [line for file in files for line in read_lines(file, "seconds")])
    records = [[AssetRecord.from_dict(line) for line in read_lines(file, "records")] for file in files]
    accepted = [record for each in records for record in each]
    reasons = Counter(line["reason"] for line in rejected)
    if not accepted:
        most = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(SHOWN_REASONS))
        raise Omni123Error(f"every asset was rejected ({most}); the details are in {out / 'rejected.jsonl'}")
    repaired = sum(map(is_repaired, accepted))
    outcome = {
        "kept": len(accepted) - repaired,
        "repaired": repaired,
        "rejected": len(rejected),
        "rejected_by_reason": dict(reasons.most_common()),
    }
    settings = {"preparation": config.to_dict(), "rejected": len(rejected), "outcome": outcome}
    with StoreWriter(out, len(accepted), config.sizes, settings) as writer:
        for file, shard_records in zip(files, records, strict=True):
            with np.load(file, allow_pickle=False) as shard:
                arrays = {name: shard[name] for name in config.sizes.names}
            for row, record in enumerate(shard_records):
                writer.append(record, {name: array[row] for name, array in arrays.items()})
    shutil.rmtree(out / "shards")
    return AssetStore.open(out)


def _follow(steps: Iterator[str], total: int, missing: int, show: bool) -> None:
    """Count what comes in, on the screen if wanted."""
    counts: Counter[str] = Counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.2f} assets/s"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    # An asset may take many seconds: a rate over half a minute, as is usual, would jump.
    with Progress(*columns, disable=not show, speed_estimate_period=600.0) as progress:
        task = progress.add_task("preparing assets", total=total, completed=total - missing, speed=0.0)
        for kind in steps:
            counts[kind] += 1
            words = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            speed = counts.total() / (time.monotonic() - start)
            progress.update(task, advance=1, description=words, speed=speed)


def _plan(assets: Sequence[Asset], config: PreparationConfig, captioner: Captioner | None) -> dict[str, Any]:
    """What a folder was begun with."""
    described = {} if captioner is None else {"captioner": captioner.identity}
    return plan_of(assets, {"config": config.to_dict(), **described})
