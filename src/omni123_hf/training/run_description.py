"""What determines a run, kept beside every checkpoint and compared on resume; and on what it ran.

`recipe.json` is the recipe as given. `run.json` holds what decides which numbers a run computes: stage, seed, model,
options, data by content, and the training fields that change them. Where the run is computed (processes, precision,
compilation, workers) and what it writes (logging, saving, validation) may change between two starts.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import time
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..data.tokens import weights_hash
from ..errors import Omni123Error
from .arguments import global_batch_size, samples_per_group
from .checkpoints import write_atomically
from .recipe import Recipe


RUN_FILE = "run.json"
# A change of these bends the rest of the learning rate curve; `training.allow_new_schedule` permits it.
SCHEDULE = (
    "training.max_steps",
    "training.warmup_steps",
    "training.lr_scheduler_type",
    "training.lr_scheduler_kwargs",
)
# Options of stages that only look at a run: no step depends on them.
LOOKING_OPTIONS = {
    "edit_report", "picture_resolution", "samples", "validation_assets", "validation_batches", "validation_pictures",
}  # fmt: skip
# Fields of TrainingArguments that decide what a run computes, beside the two that `describe_run` adds.
DECISIVE_FIELDS = (
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "optim_target_modules",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
)


def plain(value: Any) -> Any:
    """A value as JSON holds it."""
    return json.loads(json.dumps(value, sort_keys=True, default=lambda x: x.value if isinstance(x, Enum) else str(x)))


def by_content(value: Any) -> Any:
    """Folders of weights become their hash, so that a moved folder is the same and a retrained one is not."""
    if isinstance(value, dict):
        return {key: by_content(part) for key, part in value.items()}
    if isinstance(value, str) and Path(value).is_dir() and any(Path(value).glob("*.safetensors")):
        return f"weights {weights_hash(Path(value))[:16]}"
    return value


def without_folders(section: dict[str, Any]) -> dict[str, Any]:
    """A section without entries that name existing paths."""
    kept = {key: without_folders(value) if isinstance(value, dict) else value for key, value in section.items()}
    return {key: value for key, value in kept.items() if not (isinstance(value, str) and Path(value).exists())}


def describe_run(recipe: Recipe, arguments: TrainingArguments, facts: dict[str, Any] | None) -> dict[str, Any]:
    """What determines the run, as JSON data.

    `facts`: what the stage knows of its data by content (hashes); with them the paths of the data section are left out.
    """
    training = {
        "global_batch_size": global_batch_size(arguments),
        "samples_per_group": samples_per_group(recipe, arguments),
        **{name: getattr(arguments, name) for name in DECISIVE_FIELDS},
    }
    return plain(
        {
            "stage": recipe.stage,
            "seed": recipe.seed,
            "data": by_content(recipe.data if facts is None else {**without_folders(recipe.data), **facts}),
            "model": by_content(recipe.model),
            "options": {name: value for name, value in recipe.options.items() if name not in LOOKING_OPTIONS},
            "training": training,
        }
    )


def hash_of(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts: dict[str, Any] = {}
    for key, part in value.items():
        parts.update(flattened(part, f"{prefix}.{key}" if prefix else str(key)))
    return parts


def differences(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with the saved and the present value (None: absent)."""
    before, after = flattened(saved), flattened(now)
    keys = sorted(before.keys() | after.keys())
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def check_same_run(checkpoint: Path, description: dict[str, Any], allow_new_schedule: bool) -> None:
    """Raises `Omni123Error` naming every key in which a run differs from the one that wrote the checkpoint."""
    try:
        saved = json.loads((checkpoint / RUN_FILE).read_text())["run"]
    except (OSError, ValueError, KeyError) as error:
        raise Omni123Error(f"{checkpoint}/{RUN_FILE} cannot be read ({error}): give another output_dir.") from error
    found = differences(saved, description)
    if not found:
        return
    schedule = [key for key in found if key.startswith(SCHEDULE)]
    if len(schedule) == len(found) and allow_new_schedule:
        return
    listed = ", ".join(f"{key} ({before!r} → {after!r})" for key, (before, after) in found.items())
    remedy = "give another output_dir, or the values of that run."
    if len(schedule) == len(found):
        remedy = (
            "the learning rate would follow another curve from here on. Set training.allow_new_schedule=true to go on like "
            "that, or give another output_dir."
        )
    raise Omni123Error(f"{checkpoint} belongs to a run of other settings, {listed}: {remedy}")


def write_description(folder: Path, recipe: Recipe, description: dict[str, Any]) -> None:
    """`recipe.json` and `run.json`, the latter with a hash over what it says."""
    write_atomically(folder / "recipe.json", json.dumps(plain(recipe.to_dict()), indent=1) + "\n")
    text = json.dumps({"hash": hash_of(description), "run": description}, indent=1)
    write_atomically(folder / RUN_FILE, text + "\n")


PACKAGES = ("omni123-hf", "torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy", "peft")


def environment(arguments: TrainingArguments) -> dict[str, Any]:
    """What the run is computed on: versions, devices, processes, precision, and the revision of this code in a checkout."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = arguments.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "code": code_revision(Path(__file__)),
        "versions": versions,
        "platform": platform.platform(),
        "device": f"{device.type}: {name}",
        "cuda": torch.version.cuda,
        "processes": arguments.world_size,
        "per_device_train_batch_size": arguments.per_device_train_batch_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32",
        "threads": torch.get_num_threads(),
    }


def code_revision(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout that tracks `file` and whether tracked files differ from it; None outside of a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside of a repository of somebody else.
    if git("ls-files", "--error-unmatch", file.name) is None:
        return None
    return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def add_environment(path: Path, entry: dict[str, Any]) -> None:
    """Appends one start of a run to `environment.json`, a list: a resumed run may have changed machines."""
    starts = []
    if path.exists():
        try:
            starts = json.loads(path.read_text())
        except ValueError as error:
            raise Omni123Error(f"{path} is no JSON ({error}): move it away.") from error
    write_atomically(path, json.dumps([*starts, entry], indent=1) + "\n")
