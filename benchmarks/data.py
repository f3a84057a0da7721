"""What data preparation costs and what comes out of it.

    python benchmarks/data.py figures --out benchmarks/results/data.json
    omni123 data prepare sweethome3d --out data/furniture --workers 2
    python benchmarks/data.py furniture data/furniture --out benchmarks/results/data_furniture.json

`figures`: labels and views of an 80,000-face mesh on one core (`data_geometry.py`, `data_rendering.py`), and each step
of `prepare_asset` with the preset "full". Seconds are processor time. `furniture`: the outcome of a finished run.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


# Before NumPy and libigl start their threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IGL_NUM_THREADS"):
    os.environ[variable] = "1"

import data_geometry  # noqa: E402
import data_rendering  # noqa: E402
import trimesh  # noqa: E402

from omni123_hf.data.preparation_config import FULL  # noqa: E402
from omni123_hf.data.prepare import prepare_asset  # noqa: E402
from omni123_hf.data.sources import SourceAsset  # noqa: E402
from omni123_hf.data.statistics import ROUND_TRIP_GOAL, store_statistics  # noqa: E402
from omni123_hf.data.store import AssetStore  # noqa: E402


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
    }


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


def furniture(folder: Path) -> dict[str, Any]:
    """Outcome and quality of the prepared data set in `folder`, without its times."""
    values = store_statistics(folder)
    store = AssetStore.open(folder)
    reasons = values["outcome"]["rejected_by_reason"]
    failed = sum(count for reason, count in reasons.items() if reason.startswith("round_trip"))
    groups: dict[str, list[float]] = {"closed as found": [], "made closed": []}
    for record in store.records:
        qa = record.attributes["qa"]
        name = "made closed" if qa["solid"]["reason"] else "closed as found"
        groups[name].append(qa["round_trip"]["volume_iou"])
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
            "solids_checked": values["assets"] + failed,
            "share_at_goal": reached / (values["assets"] + failed),
            "share_at_goal_by_group": {
                name: sum(value >= ROUND_TRIP_GOAL for value in group) / len(group)
                for name, group in groups.items()
                if group
            },
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("figures").add_argument("--out", type=Path)
    outcome = commands.add_parser("furniture")
    outcome.add_argument("folder", type=Path)
    outcome.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = figures() if arguments.command == "figures" else furniture(arguments.folder)
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
