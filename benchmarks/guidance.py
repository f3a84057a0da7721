"""Which default guidance a checkpoint should carry: text → 3D and text → image → 3D on validation objects.

python benchmarks/guidance.py --data data/mini --model omni123-mini --out benchmarks/results/guidance_mini.json

One parametric validation object of each of 40 categories, prompted by its first medium caption, decoded greedily. Agreement is
occupancy IoU on stored query points: own = with the prompted object; rank 1 / within 5 = the prompted object's place among the
20 objects of its group. Held-out objects are never used here.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from omni123_hf.data.store import AssetStore
from omni123_hf.modeling import generation_plan, get_task
from omni123_hf.pipelines import Omni123JointPipeline


CATEGORIES, GROUP, QUERIES = 40, 20, 384


def validation_objects(store: AssetStore, seed: int) -> list[int]:
    """Rows of one parametric validation object a category, in an order drawn by `seed`."""
    rows: dict[str, int] = {}
    for row in np.random.default_rng(seed).permutation(store.indices("validation", "parametric")):
        rows.setdefault(store.records[int(row)].category, int(row))
    return list(rows.values())[:CATEGORIES]


@torch.no_grad()
def measure(pipeline: Omni123JointPipeline, store: AssetStore, rows: list[int], task: str, scale: float) -> dict:
    """Agreement of the shapes generated for the rows' captions with the rows' objects."""
    text = pipeline.encode_prompt([store.records[row].captions["medium"][0] for row in rows])
    codes = pipeline.transformer.generate_plan(
        generation_plan(get_task(task), pipeline.transformer.config),
        text.text_embeds,
        text.text_embeds_2,
        text.text_attention_mask_2,
        batch_size=len(rows),
        guidance_scale=scale,
    )
    tokenizer = pipeline.shape_tokenizer
    queries = torch.from_numpy(np.concatenate([store.queries(row)[:QUERIES] for row in rows]))[None]
    truth = np.stack([store.occupancy(row)[:QUERIES] for row in rows])
    own, places, empty = [], [], 0
    for k, tokens in enumerate(codes["shape"]):
        logits = tokenizer.query(tokenizer.decode_latents(tokens[None]), queries)[0]
        inside = (logits > 0).numpy().reshape(len(rows), QUERIES)
        iou = (inside & truth).sum(1) / np.maximum((inside | truth).sum(1), 1)
        group = slice(k // GROUP * GROUP, (k // GROUP + 1) * GROUP)
        own.append(float(iou[k]))
        places.append(int((iou[group] > iou[k]).sum()))
        empty += not inside.any()
    return {
        "task": task,
        "guidance_scale": scale,
        "own_iou": round(float(np.mean(own)), 4),
        "rank_1": float(np.mean([place == 0 for place in places])),
        "within_5": float(np.mean([place < 5 for place in places])),
        "empty": empty,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="omni123-mini")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    store = AssetStore.open(arguments.data)
    pipeline = Omni123JointPipeline.from_pretrained(arguments.model)
    rows = validation_objects(store, arguments.seed)
    results = []
    for task in ("text-to-3d", "text-to-image-to-3d"):
        for scale in arguments.scales:
            results.append(measure(pipeline, store, rows, task, scale))
            print(results[-1], flush=True)
    report = {
        "model": arguments.model,
        "revision": pipeline.revision,
        "data_hash": store.content_hash,
        "objects": len(rows),
        "group": GROUP,
        "seed": arguments.seed,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
