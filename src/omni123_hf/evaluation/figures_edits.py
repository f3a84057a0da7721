"""Edit figures: held-out add and remove edits against copy-source, the shape left as it is (paper §5, Table 10).

A pair's source becomes tokens as in the pipeline, the first short instruction is obeyed greedily, the new tokens are decoded.
What stands beside the model:

- `copy`: the source's own tokens decoded, what a model of this tokenizer gives that does nothing; `copy_undecoded`: the true source,
  which no tokenizer touched;
- `shuffled`: the model's edit of the same source by another pair's instruction; it should lose where the model wins;
- `ceiling`: the target's own tokens decoded, the best that tokens can say.

The bar's figure compares the decoded output and the decoded source with the **decoded** target: all three went through the tokenizer, so
its error is in neither side of the comparison. The same against the true target stands beside it. Comparing the decoded output with
the *undecoded* source mixes both questions: there the tokenizer alone may lose, which `ceiling_undecoded` shows.
A pair whose two sides have the same tokens cannot be won, and counts as lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh

from omni123_hf.evaluation.edit_metrics import (
    PRIMARY_THRESHOLD,
    better,
    chamfer_outside,
    changed_points_right,
    edit_scores,
    other_instructions,
    summarize_edits,
)
from omni123_hf.evaluation.edit_set import EDIT_KINDS, EditSet
from omni123_hf.evaluation.figures_generation import BATCH, decode_shape
from omni123_hf.evaluation.figures_tokenizers import encode_shapes, predict_occupancy
from omni123_hf.evaluation.shape_metrics import occupancy_iou
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.modeling.tasks import get_task


TASK = "edit-3d"
SURFACE_POINTS = 10_000
"""Points on each decoded surface: the quick mode of the evaluation protocol."""

Progress = Callable[[str, int, int], None]


@dataclass
class EditOutputs:
    """What was made of N pairs. Meshes are None where `failures` says why; tokens are (N, Ls) on the CPU.

    tokens and meshes are keyed by `model`, `shuffled`, `copy` (the source) and `ceiling` (the target).
    """

    tokens: dict[str, torch.Tensor]
    meshes: dict[str, list[trimesh.Trimesh | None]]
    failures: dict[str, list[str | None]]
    seconds: float


@torch.no_grad()
def edit_tokens(
    pipeline: Any,
    source: torch.Tensor,
    instructions: Sequence[str],
    guidance_scale: float | None = None,
    source_bias: float | None = None,
) -> torch.Tensor:
    """Greedy edits (N, Ls) of source tokens (N, Ls), in batches; the checkpoint's own guidance and bias where none is given."""
    rows = []
    for first in range(0, len(source), BATCH):
        texts = pipeline.check_prompts(list(instructions[first : first + BATCH]))
        codes = pipeline.generate_codes(
            get_task(TASK),
            pipeline.encode_prompt(texts),
            pipeline.prepare_sampling(guidance_scale=pipeline.edit_guidance(guidance_scale)),
            {"source_shape": source[first : first + BATCH].to(pipeline.device)},
            rows=len(texts),
            favoured=pipeline.source_preference(source[first : first + BATCH], source_bias),
        )
        rows.append(codes["shape"].cpu())
    return torch.cat(rows)


def run_edits(
    pipeline: Any,
    edit_set: EditSet,
    resolution: int,
    guidance_scale: float | None = None,
    progress: Progress | None = None,
) -> EditOutputs:
    """Tokens and meshes of both sides, of the edits, and of the edits by other instructions."""
    start = time.perf_counter()
    tokenizer, count = pipeline.shape_tokenizer, len(edit_set)
    texts = edit_set.instructions
    source = encode_shapes(tokenizer, edit_set.surfaces[:, 0])
    others = [texts[place] for place in other_instructions(texts)]
    tokens = {
        "copy": source,
        "ceiling": encode_shapes(tokenizer, edit_set.surfaces[:, 1]),
        "model": edit_tokens(pipeline, source, texts, guidance_scale),
        "shuffled": edit_tokens(pipeline, source, others, guidance_scale),
    }
    meshes: dict[str, list[trimesh.Trimesh | None]] = {}
    failures: dict[str, list[str | None]] = {}
    known: dict[bytes, tuple[trimesh.Trimesh | None, str | None]] = {}
    for turn, (who, codes) in enumerate(tokens.items()):
        meshes[who], failures[who] = [], []
        for row in codes:
            # Unchanged shapes are common among edits, and a mesh takes a third of a second.
            key = row.numpy().tobytes()
            if key not in known:
                with torch.no_grad():
                    known[key] = decode_shape(tokenizer, row.to(pipeline.device), resolution)
            meshes[who].append(known[key][0])
            failures[who].append(known[key][1])
            if progress is not None:
                progress(TASK, turn * count + len(meshes[who]), len(tokens) * count)
    return EditOutputs(tokens, meshes, failures, time.perf_counter() - start)


def sampled(mesh: trimesh.Trimesh | None) -> np.ndarray | None:
    """`SURFACE_POINTS` points of a mesh; equal meshes get equal points, so that an exact answer is at distance 0."""
    if mesh is None or len(mesh.faces) == 0:
        return None
    return sample_surface(mesh, SURFACE_POINTS, np.random.default_rng(0))[0]


def judge_pair(
    outputs: EditOutputs, edit_set: EditSet, place: int, occupancy: dict[str, np.ndarray]
) -> dict[str, Any]:
    """All figures of one pair, for everyone who is compared; `occupancy` holds labels (N, 2 * Q) that the tokens decode to."""
    pair = edit_set.pairs[place]
    surfaces = {who: sampled(meshes[place]) for who, meshes in outputs.meshes.items()}
    codes = {who: rows[place] for who, rows in outputs.tokens.items()}
    true_source, true_target = edit_set.surfaces[place, :, :, :3].astype(np.float32)
    # Against the stored points everyone has as many points as these: a denser surface would look nearer.
    fewer = {who: None if points is None else points[: len(true_target)] for who, points in surfaces.items()}
    labels = edit_set.occupancy[place]
    uniform = slice(0, labels.shape[1] // 2)
    compared = ("model", "copy", "shuffled")
    return {
        "id": pair.id,
        "edit_type": pair.edit_type,
        "split": pair.split,
        "instruction": edit_set.instructions[place],
        "failure": outputs.failures["model"][place],
        "target_without_surface": surfaces["ceiling"] is None,
        "unchanged": bool((codes["model"] == codes["copy"]).all()),
        "shuffled_unchanged": bool((codes["shuffled"] == codes["copy"]).all()),
        "target_equals_source": bool((codes["ceiling"] == codes["copy"]).all()),
        "token_agreement": {who: float((codes[who] == codes["ceiling"]).float().mean()) for who in compared},
        "to_decoded_target": {who: edit_scores(surfaces[who], surfaces["ceiling"]) for who in compared},
        "to_true_target": {who: edit_scores(fewer[who], true_target) for who in (*compared, "ceiling")}
        | {"copy_undecoded": edit_scores(true_source, true_target)},
        "volume_iou": {
            who: occupancy_iou(occupancy[who][place, uniform], labels[1, uniform])
            for who in ("model", "copy", "ceiling")
        },
        "changed_points_right": {
            who: changed_points_right(occupancy[who][place], *labels)
            for who in ("model", "copy", "shuffled", "ceiling")
        },
        "chamfer_outside": {
            who: chamfer_outside(surfaces[who], surfaces["copy"], pair.region)
            for who in ("model", "shuffled", "ceiling")
        },
    }


def edit_figures(pipeline: Any, outputs: EditOutputs, edit_set: EditSet) -> dict[str, Any]:
    """Summaries over all pairs, each type and the unseen combinations, and every single pair below them."""
    occupancy = {
        who: predict_occupancy(pipeline.shape_tokenizer, tokens, edit_set.queries)
        for who, tokens in outputs.tokens.items()
    }
    rows = [judge_pair(outputs, edit_set, place, occupancy) for place in range(len(edit_set))]
    for row in rows:
        row["better_than_copy"] = better(row["to_decoded_target"]["model"], row["to_decoded_target"]["copy"])
    groups = {kind: [row for row in rows if row["edit_type"] == kind] for kind in EDIT_KINDS}
    groups["combination"] = [row for row in rows if row["split"] == "heldout_combination"]
    return {
        "f1_threshold": PRIMARY_THRESHOLD,
        "surface_points": SURFACE_POINTS,
        "all": summarize_edits(rows),
        **{name: summarize_edits(members) for name, members in groups.items() if members},
        "pairs": rows,
    }
