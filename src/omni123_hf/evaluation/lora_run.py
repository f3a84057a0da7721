"""Measures a freshly trained adapter through the pipeline that its users will load it into."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from omni123_hf import __version__
from omni123_hf.evaluation.lora_figures import (
    Outputs,
    Progress,
    Reference,
    generated,
    one_object_for_all,
    references,
    round_trip,
)
from omni123_hf.evaluation.lora_sheet import before_after
from omni123_hf.pipelines import Omni123TextTo3DPipeline
from omni123_hf.pipelines.lora_folder import write_adapter_provenance
from omni123_hf.training.lora import NEW, OLD, Adapter
from omni123_hf.training.lora_data import BaseCheckpoint, Domain
from omni123_hf.training.recipe import Recipe


def measure(
    adapter: Adapter,
    base: BaseCheckpoint,
    domain: Domain,
    old: Domain | None,
    recipe: Recipe,
    options: dict[str, Any],
    resolution: int,
    device: str,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Image.Image]:
    """Figures of both domains before and after, what they stand on, and the picture of the new domain."""
    pipeline = Omni123TextTo3DPipeline.from_pretrained(base.folder, verify_hashes=False).to(device)
    pipeline.set_progress_bar_config(disable=True)
    # One engine before and after, whatever the adapter is.
    pipeline.set_decoding("plain")
    domains = {NEW: domain, **({OLD: old} if old is not None else {})}
    wanted = {name: references(pipeline, each, resolution) for name, each in domains.items()}
    bound = {name: round_trip(pipeline, each, resolution) for name, each in wanted.items()}
    before = {name: generated(pipeline, each, resolution, part(progress, name)) for name, each in wanted.items()}
    facts = {
        "name": base.name,
        "revision": base.revision,
        "fingerprint": adapter.base_fingerprint,
        "licence": base.licence,
    }
    write_adapter_provenance(adapter.folder, {"base": facts})
    pipeline.load_lora_weights(adapter.folder)
    after = {name: generated(pipeline, each, resolution, part(progress, name)) for name, each in wanted.items()}
    figures = {
        name: domain_figures(adapter, name, domains[name], wanted[name], bound[name], before[name], after[name])
        for name in domains
    }
    result = {
        "base": facts,
        "figures": figures,
        "resolution": resolution,
        "training": training_facts(adapter, recipe, options, old, device),
        "versions": {"omni123-hf": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return result, before_after(wanted[NEW], bound[NEW], before[NEW], after[NEW])


def part(progress: Progress | None, name: str) -> Any:
    return None if progress is None else lambda done, total: progress(f"{name} domain", done, total)


def domain_figures(
    adapter: Adapter,
    name: str,
    domain: Domain,
    wanted: list[Reference],
    bound: Outputs,
    before: Outputs,
    after: Outputs,
) -> dict[str, Any]:
    losses = adapter.losses[name]
    return {
        "objects": len(wanted),
        "loss": {task: {when: losses[when][task] for when in ("before", "after")} for task in losses["before"]},
        "mean_loss": {when: float(np.mean(list(values.values()))) for when, values in losses.items()},
        "before": before.summary(),
        "after": after.summary(),
        "tokenizer": bound.summary(),
        "one_object": one_object_for_all(domain, wanted),
        "each": [
            {
                "id": reference.id,
                "prompt": reference.prompt,
                "chamfer": [float(before.chamfer[row]), float(after.chamfer[row])],
                "volume_iou": [float(before.volume_iou[row]), float(after.volume_iou[row])],
            }
            for row, reference in enumerate(wanted)
        ],
    }


def training_facts(
    adapter: Adapter, recipe: Recipe, options: dict[str, Any], old: Domain | None, device: str
) -> dict[str, Any]:
    return {
        "steps": recipe.training["max_steps"],
        "batch": recipe.training["per_device_train_batch_size"]
        * recipe.training.get("gradient_accumulation_steps", 1),
        "learning_rate": recipe.training["learning_rate"],
        "seed": recipe.seed,
        "rank": options["rank"],
        "alpha": options["alpha"],
        "trainable": adapter.trainable,
        "tasks": adapter.tasks,
        "rehearsal": adapter.rehearsal,
        "options": options,
        "seconds": seconds_of(adapter.folder.parent / "log.jsonl"),
        "device": device,
    }


def seconds_of(log: Path) -> float:
    """Time of the training, stopped and resumed runs added up."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return float(json.loads(lines[-1])["seconds"])
