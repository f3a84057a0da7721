"""What data preparation costs and what comes out of it.

    python benchmarks/data.py figures --out benchmarks/results/data.json
    omni123 data fetch sweethome3d --out data/raw
    python benchmarks/data.py furniture data/furniture --raw data/raw --sample 150 \\
        --out benchmarks/results/data_furniture.json

`figures`: labels and views of an 80,000-face mesh on one core (`data_geometry.py`, `data_rendering.py`), each step of
`prepare_asset` with the preset "full", and the round trip alone. Seconds are processor time. `furniture`: what becomes of
a random sample of the Sweet Home 3D furniture, or of all of it, with the preset "default"; a stopped run goes on.
"""

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


# Before NumPy and libigl start their threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IGL_NUM_THREADS"):
    os.environ[variable] = "1"

import data_geometry  # noqa: E402
import data_rendering  # noqa: E402
import numpy as np  # noqa: E402
import trimesh  # noqa: E402

from omni123_hf.data.preparation_config import FULL, PreparationConfig  # noqa: E402
from omni123_hf.data.prepare import prepare_asset, prepare_dataset  # noqa: E402
from omni123_hf.data.sources import SourceAsset, iter_assets  # noqa: E402
from omni123_hf.data.statistics import ROUND_TRIP_GOAL, store_statistics  # noqa: E402
from omni123_hf.data.store import AssetStore  # noqa: E402
from omni123_hf.geometry.round_trip import round_trip  # noqa: E402
from omni123_hf.geometry.signed_distance import SolidField  # noqa: E402
from omni123_hf.geometry.watertight import make_watertight  # noqa: E402


VIEW_TARGET_SECONDS = 1.0


@dataclass(frozen=True)
class MadeAsset(SourceAsset):
    """One of the meshes of `data_geometry`."""

    def load(self) -> trimesh.Trimesh:
        return data_geometry.closed_asset() if self.name == "closed" else data_geometry.open_asset()


def figures() -> dict[str, Any]:
    """Labels, views and whole assets."""
    closed, opened = data_geometry.closed_asset(), data_geometry.open_asset()
    views = data_rendering.measure()
    seconds = views["core_seconds"]["flat, supersample 2"]
    return {
        "labels": {"closed": data_geometry.label_cost(closed), "open": data_geometry.label_cost(opened)},
        "views": {**views, "target_seconds": VIEW_TARGET_SECONDS, "target_reached": seconds <= VIEW_TARGET_SECONDS},
        "asset": {name: whole_asset(name) for name in ("closed", "open")},
        "round_trip": {
            "box": round_trip_cost(trimesh.creation.box((1.92, 1.2, 0.8))),
            "closed": round_trip_cost(closed),
            "open": round_trip_cost(make_watertight(opened).mesh),
        },
    }


def round_trip_cost(solid: trimesh.Trimesh, resolution: int = 256) -> dict[str, Any]:
    """Processor seconds of the round trip of a closed mesh whose trees are there, as in `prepare_asset`; figures."""
    field = SolidField(solid)
    least = data_geometry.seconds(lambda: round_trip(solid, resolution, field=field))
    return {"faces": len(solid.faces), "core_seconds": round(least, 2)}


def whole_asset(name: str) -> dict[str, Any]:
    """Processor seconds of `prepare_asset` with the preset "full", all steps."""
    captions: dict[str, list[str]] = {"short": [name], "medium": [], "long": []}
    asset = MadeAsset(f"made/{name}", "made", name, "made", captions, "CC0-1.0", "nobody", "")
    start = time.process_time()
    prepared = prepare_asset(asset, FULL)
    total = time.process_time() - start
    qa = prepared.record.attributes["qa"]
    return {
        "faces": qa["mesh"]["faces"],
        "core_seconds": round(total, 2),
        "solid": qa["solid"],
        "round_trip": qa["round_trip"],
        "megabytes": round(sum(array.nbytes for array in prepared.arrays.values()) / 1e6, 1),
    }


def prepare_furniture(folder: Path, raw: Path, sample: int | None, seed: int, workers: int, seconds: float) -> None:
    """Prepare the furniture under `raw`, or `sample` pieces of it drawn with `seed`, into `folder`."""
    assets: list[SourceAsset] = sorted(iter_assets("sweethome3d", raw / "sweethome3d"), key=lambda asset: asset.id)
    if sample is not None:
        drawn = np.random.default_rng(seed).permutation(len(assets))[:sample]
        assets = [assets[index] for index in sorted(drawn.tolist())]
    config = replace(PreparationConfig(), seconds_per_asset=seconds, shard_size=10)
    prepare_dataset(assets, folder, workers, config)


def furniture(folder: Path) -> dict[str, Any]:
    """Outcome and quality of the prepared data set in `folder`; of its times, the share of each step."""
    values = store_statistics(folder)
    store = AssetStore.open(folder)
    rejected = [json.loads(line) for line in open(folder / "rejected.jsonl", encoding="utf-8")]
    failed = [line for line in rejected if line["reason"].startswith("round_trip")]
    groups: dict[str, list[float]] = {"closed as found": [], "made closed": []}
    for record in store.records:
        qa = record.attributes["qa"]
        name = "made closed" if qa["solid"]["reason"] else "closed as found"
        groups[name].append(qa["round_trip"]["volume_iou"])
    seconds: Counter[str] = Counter()
    for line in open(folder / "timings.jsonl", encoding="utf-8"):
        for step, value in json.loads(line).items():
            if step != "id":
                seconds[step] += value
    checked = len(store) + len(failed)
    reached = sum(value >= ROUND_TRIP_GOAL for group in groups.values() for value in group)
    return {
        "assets_seen": values["assets"] + values["outcome"]["rejected"],
        "outcome": values["outcome"],
        "licence": values["licence"],
        "solid": values["solid"],
        "filters": values["filters"],
        "quality": values["quality"],
        "round_trip": {
            "goal": ROUND_TRIP_GOAL,
            "solids_checked": checked,
            "share_at_goal": reached / checked,
            "least_of_accepted": {name: min(group) for name, group in groups.items() if group},
            "failed": {line["id"]: f"{line['reason']}: {line['detail']}" for line in failed},
        },
        # Seconds depend on what else the machine does; their shares hardly.
        "share_of_time_of_accepted": {
            step: round(total / sum(seconds.values()), 3) for step, total in seconds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("figures").add_argument("--out", type=Path)
    outcome = commands.add_parser("furniture")
    outcome.add_argument("folder", type=Path, help="of the prepared set; finished, or to be prepared with --raw")
    outcome.add_argument("--raw", type=Path, help="folder that holds what `omni123 data fetch` wrote")
    outcome.add_argument("--sample", type=int, help="pieces drawn at random; all if not given")
    outcome.add_argument("--seed", type=int, default=0)
    outcome.add_argument("--workers", type=int, default=1)
    outcome.add_argument("--seconds-per-asset", type=float, default=120.0, help="more where others use the machine")
    outcome.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.command == "figures":
        report = figures()
    else:
        if given.raw is not None:
            prepare_furniture(
                given.folder, given.raw, given.sample, given.seed, given.workers, given.seconds_per_asset
            )
        report = furniture(given.folder)
        if given.sample is not None:
            report = {"sample": {"assets": given.sample, "seed": given.seed}, **report}
    print(json.dumps(report, indent=1))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
