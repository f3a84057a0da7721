"""Do parametric editing pairs change only where their region says, and stay inside the box?

    python benchmarks/editing_pairs.py --out benchmarks/results/editing_pairs.json

Three pairs of every kind of every category, through `prepare_pair`, which labels both sides at the same points and
refuses a pair when one of them changes outside the exact region.
"""

import argparse
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any


# Before NumPy and libigl start their threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IGL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

from omni123_hf.data.editing.pair_specs import OpenedPair, PairSpec  # noqa: E402
from omni123_hf.data.editing.parametric_pairs import KINDS, parametric_pairs  # noqa: E402
from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG, prepare_pair  # noqa: E402
from omni123_hf.data.parametric.registry import CATEGORIES  # noqa: E402
from omni123_hf.errors import RejectedError  # noqa: E402


PAIRS_EACH = 3
POINTS = 6000


class MeasuredSpec:
    """A pair spec that remembers what it opened."""

    def __init__(self, spec: PairSpec) -> None:
        self.id, self.files, self._spec = spec.id, spec.files, spec
        self.opened: OpenedPair | None = None

    def open(self) -> OpenedPair:
        self.opened = self._spec.open()
        return self.opened


def measure(pairs_each: int, points: int) -> dict[str, Any]:
    """Outcome of `pairs_each` pairs of every kind of every category, labelled at `points` points."""
    # The views are no part of this.
    config = replace(PAIR_CONFIG, queries=points, view_size=8, supersample=1)
    specs = parametric_pairs(pairs_each * len(KINDS) * len(CATEGORIES))
    groups = Counter((spec.category, spec.kind) for spec in specs)
    labels: Counter[str] = Counter()
    refused: dict[str, str] = {}
    changed: list[float] = []
    extent = 0.0
    for spec in map(MeasuredSpec, specs):
        try:
            prepared = prepare_pair(spec, config)
        except RejectedError as error:
            refused[spec.id] = f"{error.reason}: {error}"
            continue
        finally:
            if spec.opened is not None:
                for mesh in (spec.opened.source, spec.opened.target):
                    extent = max(extent, float(np.abs(mesh.vertices).max()))
        labels.update(record.attributes["labels"] for record in prepared.records)
        changed.append(prepared.pair.attributes["qa"]["changed_queries"])
    return {
        "pairs": len(specs),
        "categories": len(CATEGORIES),
        "kinds": list(KINDS),
        "pairs_of_each": [min(groups.values()), max(groups.values())],
        "points": points,
        "prepared": len(changed),
        "refused": refused,
        "sides_by_labelling": dict(labels),
        "largest_coordinate": extent,
        "changed_points": {
            "least": min(changed), "median": float(np.median(changed)), "most": max(changed),
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs-each", type=int, default=PAIRS_EACH)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = measure(arguments.pairs_each, arguments.points)
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
