"""How many shape codes an edit leaves as they are, with both sides sampled alone and sampled alike where nothing changed.

    python benchmarks/coupled_surfaces.py data/edits_ar --pairs 200 --out benchmarks/results/coupled_surfaces.json

`resampled` is the noise of sampling itself: the codes of half of a shape's points that equal those of all of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from omni123_hf.data.editing.coupled_surface import couple_surface
from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.shards.tokenizers import TOKENIZERS, StoreTokenizers
from omni123_hf.pipelines.registry import checkpoint_revision, resolve_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs_folder", type=Path)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--checkpoint", default="omni123-mini")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkpoint = resolve_checkpoint(arguments.checkpoint)
    assert checkpoint is not None, "a checkpoint on this machine"
    tokenizers = StoreTokenizers.load({name: checkpoint / name for name in TOKENIZERS})
    store = EditPairStore.open(arguments.pairs_folder)
    rows = np.unique(np.linspace(0, len(store.pairs) - 1, arguments.pairs).round().astype(int))
    source, target = store.source.surface(rows), store.target.surface(rows)
    regions = [store.pairs[row].region for row in rows]
    coupled = np.stack([couple_surface(*sides) for sides in zip(source, target, regions, strict=True)])
    codes = {
        name: np.concatenate(
            [tokenizers.encode_surfaces(part) for part in np.array_split(points, -(-len(rows) // 32))]
        )
        for name, points in {
            "source": source,
            "alone": target,
            "alike": coupled,
            "resampled": source[:, : source.shape[1] // 2],
        }.items()
    }
    result = {
        "pairs": len(rows),
        "data_hash": store.content_hash,
        "checkpoint": {"name": arguments.checkpoint, "revision": checkpoint_revision(checkpoint)},
        "codes_kept": {
            name: float((codes["source"] == codes[name]).mean()) for name in ("alone", "alike", "resampled")
        },
    }
    print(json.dumps(result, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
