"""From assets to a prepared data set (paper §3.3).

| module | what it decides |
|---|---|
| `assets.py`, `inputs/` | what can be prepared, and where it comes from |
| `preparation_config.py` | every choice, with named presets |
| `prepare_asset.py` | what one asset becomes |
| `prepare_shard.py` | a hundred of them in one file, each in a sandbox |
| `engines.py` | which processes prepare the shards |
| `run_folder.py` | which folder a run may fill |
| `prepare_run.py` | the run in its folder: missing shards, engines |
| this one | one store at the end |

What an asset becomes depends only on the asset and the configuration, not on its shard, its neighbours or the workers.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.asset_work import AssetWork
from omni123_hf.data.assets import (
    Asset,
    MeshAsset,
    OpenedAsset,
    ParametricSpec,
    open_asset,
    parametric_assets,
)
from omni123_hf.data.engines import Engine
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_asset import Captioner, PreparedAsset, is_repaired, prepare_asset
from omni123_hf.data.prepare_run import check_engine, run_in_folder
from omni123_hf.data.prepare_shard import read_lines
from omni123_hf.data.prepared_views import render_views
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.run_folder import RunKind, asset_fingerprint, make_plan, write_lines
from omni123_hf.data.store import AssetStore, StoreWriter
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
ASSETS = RunKind("asset", "assets", "dataset.json")


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
    check_engine(workers, engine)
    out, listed = Path(out).absolute(), list(assets)
    plan = _plan(listed, config, captioner)
    finish = partial(finalise, out, config=config)
    work = AssetWork(config, captioner)
    run_in_folder(out, listed, work, ASSETS, plan, finish, workers, engine, show_progress)
    return AssetStore.open(out)


def finalise(out: Path, files: Sequence[Path], config: PreparationConfig) -> None:
    """Join the shard files of `out` into the arrays and manifests of a store, then remove them."""
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


def _plan(assets: Sequence[Asset], config: PreparationConfig, captioner: Captioner | None) -> dict[str, Any]:
    further = {} if captioner is None else {"captioner": captioner.identity}
    return make_plan(ASSETS, assets, asset_fingerprint, {"config": config.to_dict(), **further})
