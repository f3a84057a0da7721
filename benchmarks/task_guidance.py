"""Which guidance a checkpoint should carry for edits and for posed images, and which bias towards the source, on validation objects.

    python benchmarks/task_guidance.py --data data/parametric --edits data/edits_ar --out benchmarks/results/task_guidance_mini.json

- edit-3d: the validation pairs of add and remove; share of pairs whose decoded output is nearer to the decoded target than the decoded
  source is, in Chamfer and F1 at 0.05, and the mean Chamfer, for every guidance and bias; and how much the edit changes at all.
- image-to-posed-image, 3d-to-posed-image, text-to-posed-image: one wanted view an object by hash; PSNR of all pixels together
  (data set) against the true view.

Greedy. Held-out objects and pairs are never used here.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.store import AssetStore
from omni123_hf.evaluation.edit_metrics import better, edit_scores
from omni123_hf.evaluation.figures_edits import edit_tokens, sampled
from omni123_hf.evaluation.figures_novel_view import as_array, view_pairs
from omni123_hf.evaluation.figures_tokenizers import encode_shapes, reconstruct_views
from omni123_hf.evaluation.figures_views import decode_meshes, decode_pictures
from omni123_hf.evaluation.image_metrics import psnr_summary
from omni123_hf.geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines import Omni123JointPipeline


SCALES = (1.0, 1.5, 2.0, 3.0)
POSED = ("image-to-posed-image", "3d-to-posed-image", "text-to-posed-image")
BIASES = (0.0, 0.5, 1.0, 1.5)
RESOLUTION = 48


def edits(pipeline: Any, store: EditPairStore, scales: list[float], biases: list[float]) -> list[dict[str, Any]]:
    rows = [row for row, pair in enumerate(store.pairs) if pair.split == "validation"]
    texts = [(store.pairs[row].instructions["short"] or store.pairs[row].texts)[0] for row in rows]
    source, target = (
        encode_shapes(pipeline.shape_tokenizer, side.surface(np.array(rows))) for side in store_sides(store)
    )

    def surfaces(tokens: torch.Tensor) -> list[Any]:
        meshes, _ = decode_meshes(pipeline, tokens, RESOLUTION, lambda _: None)
        return [sampled(mesh) for mesh in meshes]

    wanted, before = surfaces(target), surfaces(source)
    copied = [edit_scores(*pair) for pair in zip(before, wanted, strict=True)]
    found = []
    for scale, bias in product(scales, biases):
        made = edit_tokens(pipeline, source, texts, scale, bias)
        scores = [edit_scores(*pair) for pair in zip(surfaces(made), wanted, strict=True)]
        found.append(
            {
                "task": "edit-3d",
                "guidance_scale": scale,
                "source_bias": bias,
                "pairs": len(rows),
                "better_than_copy": float(np.mean([better(*pair) for pair in zip(scores, copied, strict=True)])),
                "chamfer": float(np.mean([score["chamfer"] for score in scores])),
                "chamfer_copy": float(np.mean([score["chamfer"] for score in copied])),
                "token_agreement": float((made == target).float().mean()),
                "token_agreement_copy": float((source == target).float().mean()),
                "tokens_kept": float((made == source).float().mean()),
                "unchanged": float((made == source).all(dim=1).float().mean()),
            }
        )
        print(found[-1], flush=True)
    return found


def store_sides(store: EditPairStore) -> tuple[AssetStore, AssetStore]:
    return store.source, store.target


@torch.no_grad()
def posed(pipeline: Any, store: AssetStore, task: str, scales: list[float]) -> list[dict[str, Any]]:
    rows = store.indices("validation")
    records = [store.records[int(row)] for row in rows]
    pairs = view_pairs([record.id for record in records])
    pictures = [store.views(rows)[np.arange(len(rows)), places(pairs, side), ..., :3] / 255.0 for side in (0, 1)]
    prompts = [record.captions["medium"][0] for record in records]
    given: dict[str, Any] = {"view": torch.tensor([CANONICAL_VIEWS.index(view) for _, view in pairs])}
    if task == "image-to-posed-image":
        codes = reconstruct_views(pipeline, pictures[0])[2]
        given |= {
            "source_image": torch.from_numpy(codes),
            "source_view": torch.tensor([CANONICAL_VIEWS.index(view) for view, _ in pairs]),
        }
    if task == "3d-to-posed-image":
        given["shape"] = encode_shapes(pipeline.shape_tokenizer, store.surface(rows))
    text = pipeline.encode_prompt(prompts)
    found = []
    for scale in scales:
        sampling = pipeline.prepare_sampling(guidance_scale=scale)
        codes = pipeline.generate_codes(get_task(task), text, sampling, given, rows=len(rows))
        made = as_array(decode_pictures(pipeline, codes["image"]))
        found.append(
            {
                "task": task,
                "guidance_scale": scale,
                "objects": len(rows),
                "psnr_dataset": float(psnr_summary(made, pictures[1])["dataset"]),
                "psnr_dataset_copy": float(psnr_summary(pictures[0], pictures[1])["dataset"]),
            }
        )
        print(found[-1], flush=True)
    return found


def places(pairs: list[tuple[str, str]], side: int) -> list[int]:
    return [ALL_VIEWS.index(pair[side]) for pair in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--edits", type=Path, required=True)
    parser.add_argument("--model", default="omni123-mini")
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--biases", type=float, nargs="+", default=list(BIASES))
    parser.add_argument("--only-edits", action="store_true", help="leave the posed images out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pipeline = Omni123JointPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    store, pairs = AssetStore.open(arguments.data), EditPairStore.open(arguments.edits)
    tasks = () if arguments.only_edits else POSED
    rows = [row for task in tasks for row in posed(pipeline, store, task, arguments.scales)]
    rows += edits(pipeline, pairs, arguments.scales, arguments.biases)
    result = {
        "model": {"name": arguments.model, "revision": pipeline.revision},
        "data": {"objects": store.content_hash, "edits": pairs.content_hash, "split": "validation"},
        "rows": rows,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
