"""Protocol `omni123-mini-v1`: all figures of the small checkpoint on 100 held-out objects, within minutes on two CPU cores.

Cut for size and time: 2,048 stored points a surface and 2 × 2,048 stored labelled
points (near-surface noise σ 0.02 and 0.08, as in training) instead of 100,000 fresh ones, 1,024 points in retrieval, an
extraction grid of 64, images of 64². References and outputs share the references' frame; nothing is normalised twice.

Figures of the further tasks (`protocol_tasks`) were added without changing the older ones, so the protocol kept its name; held-out
edits have a hash of their own, which is printed with them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import torch

from omni123_hf import __version__
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.edit_set import EditSet, has_edits
from omni123_hf.evaluation.evaluation_set import KINDS, EvaluationSet
from omni123_hf.evaluation.figures_generation import (
    Generation,
    generate,
    health_figures,
    joint_figures,
    retrieval_figures,
)
from omni123_hf.evaluation.figures_tokenizers import code_figures, image_tokenizer_figures, shape_tokenizer_figures
from omni123_hf.evaluation.protocol_tasks import FurtherResult, run_further_tasks
from omni123_hf.pipelines.registry import checkpoint_roots


PROTOCOL = "omni123-mini-v1"
RESOLUTION = 64
EVALUATION_SET_NAME = "omni123-mini-eval"
SAMPLES = 9
"""The first objects of the set, shown in the card whatever they look like."""

Progress = Callable[[str, int, int], None]


def default_evaluation_folder() -> Path:
    """The evaluation set that ships in the repository's `checkpoints/`; the folder may not exist in a bare wheel."""
    folders = [root / EVALUATION_SET_NAME for root in checkpoint_roots()]
    return next((folder for folder in folders if folder.is_dir()), folders[-1])


def load_evaluation_set(data: Path | None, count: int = 100, seed: int = 0) -> EvaluationSet:
    """The protocol's objects: drawn from a prepared data set, or read from an exported folder (the shipped one for None).

    An exported set is fixed: asking for another count or seed than it was drawn with raises Omni123Error.
    """
    folder = data or default_evaluation_folder()
    if (folder / "dataset.json").is_file():
        return EvaluationSet.from_store(AssetStore.open(folder), count, seed)
    evaluation_set = EvaluationSet.load(folder)
    drawn = (len(evaluation_set), evaluation_set.info["seed"])
    if drawn != (count, seed):
        raise Omni123Error(
            f"The evaluation set in {folder} holds {drawn[0]} objects drawn with seed {drawn[1]}: use --count {drawn[0]} "
            f"--seed {drawn[1]}, or --data with a whole prepared data set."
        )
    return evaluation_set


def load_edit_set(data: Path | None, edits: Path | None) -> EditSet | None:
    """The held-out edits: of the folder `edits` if it is given, otherwise those beside the objects; None where there are none there.

    Raises Omni123Error for a folder `edits` without edits, and for damaged ones.
    """
    if edits is not None:
        return EditSet.load(edits)
    folder = data or default_evaluation_folder()
    return EditSet.load(folder) if has_edits(folder) else None


def run_mini(
    pipeline: Any,
    evaluation_set: EvaluationSet,
    model: str,
    seed: int = 0,
    resolution: int = RESOLUTION,
    progress: Progress | None = None,
    *,
    edit_set: EditSet | None = None,
    trained: Set[str] | None = None,
    num_images: int | None = None,
    edit_guidance_scale: float | None = None,
) -> tuple[dict[str, Any], dict[str, Generation], FurtherResult]:
    """All figures of a loaded pipeline, and what it generated (for the card's samples).

    The result is plain JSON: `protocol`, `model` (name and revision), `data`, `settings`, `figures`, `left_out`, `seconds`. The model
    is run in evaluation mode and not changed. `progress(part, done, total)` is called throughout.
    trained: the tasks that the checkpoint knows; further tasks beyond them are left out (None: not known, all are run).
    num_images: N of its multi-view sequences. edit_guidance_scale: of the edits; the checkpoint's own where None.
    """
    report = progress or (lambda part, done, total: None)
    seconds: dict[str, float] = {}
    figures: dict[str, Any] = {}
    clock = time.perf_counter()

    def done(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[part], clock = round(now - clock, 2), now
        report(part, 1, 1)

    report("shape tokenizer", 0, 1)
    figures["shape_tokenizer"] = shape_tokenizer_figures(pipeline.shape_tokenizer, evaluation_set)
    done("shape tokenizer")
    report("image tokenizer", 0, 1)
    figures["image_tokenizer"], image_codes = image_tokenizer_figures(pipeline, evaluation_set)
    done("image tokenizer")
    report("codes", 0, 1)
    figures["codes"] = code_figures(pipeline, evaluation_set, image_codes)
    done("codes")

    prompts = evaluation_set.prompts
    generations = {}
    for task in ("text-to-3d", "text-to-image-to-3d"):
        generations[task] = generate(pipeline, task, prompts, resolution, progress)
        done(task)
    report("scores", 0, 1)
    figures["text_to_3d"] = retrieval_figures(generations["text-to-3d"], evaluation_set, seed)
    figures["joint"] = joint_figures(generations["text-to-image-to-3d"], evaluation_set)
    figures["outputs"] = health_figures(generations)
    done("scores")
    further = run_further_tasks(
        pipeline, evaluation_set, edit_set, seed, resolution, trained, num_images, edit_guidance_scale, progress
    )
    figures |= further.figures

    kinds = evaluation_set.kinds
    joint = generations["text-to-image-to-3d"]
    result = {
        "protocol": PROTOCOL,
        "model": {"name": model, "revision": pipeline.revision, "parameters": parameter_counts(pipeline)},
        "data": {
            "data_hash": evaluation_set.info["data_hash"],
            "data_assets": evaluation_set.info["data_assets"],
            "set_hash": evaluation_set.set_hash(),
            "objects": {kind: kinds.count(kind) for kind in KINDS},
            "corpus": evaluation_set.info["corpus"],
            "attributions": evaluation_set.info["attributions"],
            "seed": evaluation_set.info["seed"],
            "edits": None if edit_set is None else edit_provenance(edit_set),
        },
        "settings": {
            "seed": seed,
            "resolution": resolution,
            "guidance_scale": pipeline.config["default_guidance_scale"],
            "decoding": "greedy",
            "caption": "medium, first",
            "edit_guidance_scale": pipeline.guidance(pipeline.edit_guidance(edit_guidance_scale), None)[0],
            "edit_source_bias": pipeline.transformer.config.edit_source_bias,
            "instruction": "short, first",
        },
        "environment": {
            "omni123_hf": __version__,
            "torch": torch.__version__,
            "device": str(pipeline.device),
            "python": platform.python_version(),
        },
        "figures": figures,
        "samples": [
            {"id": record.id, "prompt": prompt, "kind": kind, "failure": failure}
            for record, prompt, kind, failure in zip(
                evaluation_set.records[:SAMPLES], prompts, kinds, joint.failures, strict=False
            )
        ],
        "left_out": further.left_out,
        "seconds": seconds | further.seconds,
    }
    return result, generations, further


def edit_provenance(edit_set: EditSet) -> dict[str, Any]:
    """What the edits are, and what they were chosen from."""
    return {
        "set_hash": edit_set.set_hash(),
        "pairs": len(edit_set),
        "data_hash": edit_set.info["data_hash"],
        "data_pairs": edit_set.info["data_pairs"],
        "seed": edit_set.info["seed"],
    }


def parameter_counts(pipeline: Any) -> dict[str, int]:
    """Parameters of each component that has any."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
