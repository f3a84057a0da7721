"""The micro-batches of a step whose loss or gradient was not finite, kept for looking at and trying again.

Tensors go to `failed_batch_rank0.safetensors` under `MICRO_BATCH/KEY` (nested keys joined by `/`); everything else, with
step, losses and sample numbers, to the `.json` beside it. Every process of a run writes its own rank.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import Omni123Error
from .checkpoints import write_atomically


@dataclass
class FailedBatch:
    """`micro_batches`: inputs as the collator made them. `samples`: first and last number of each micro-batch's samples.

    `losses`: what each micro-batch contributes to the loss of the step, over ranks not yet averaged. `omitted` names values that are neither tensors nor JSON, by their printed form.
    """

    step: int
    rank: int
    losses: list[float]
    grad_norm: float
    samples: list[list[int]]
    micro_batches: list[dict[str, Any]]
    omitted: dict[str, str] = field(default_factory=dict)


def failed_batch_path(output_dir: Path, rank: int) -> Path:
    return output_dir / f"failed_batch_rank{rank}.safetensors"


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Everything in nested mappings, each with its keys joined by `/`."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, f"{name}/{key}")
    else:
        yield name, value


def save_failed_batch(path: Path, failed: FailedBatch) -> None:
    """Writes both files, the JSON last."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    omitted: dict[str, str] = {}
    for number, inputs in enumerate(failed.micro_batches):
        for name, value in leaves(dict(inputs), str(number)):
            if torch.is_tensor(value):
                # A copy: two names of one memory are refused by the format.
                tensors[name] = value.detach().cpu().clone().contiguous()
                continue
            try:
                json.dumps(value)
                values[name] = value
            except (TypeError, ValueError):
                omitted[name] = repr(value)[:2000]
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)
    facts = {
        "step": failed.step,
        "rank": failed.rank,
        "losses": [repr(value) for value in failed.losses],
        "grad_norm": repr(failed.grad_norm),
        "samples": failed.samples,
        "micro_batches": len(failed.micro_batches),
        "values": values,
        "omitted": omitted,
    }
    write_atomically(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")


def load_failed_batch(path: str | Path) -> FailedBatch:
    """Reads a `failed_batch_rank*.safetensors` with the JSON beside it; micro-batches can be given to the model again."""
    path = Path(path)
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        tensors = load_file(path)
    except (OSError, ValueError) as error:
        raise Omni123Error(
            f"{path} is no failed batch of a training run ({error}): give its .safetensors file."
        ) from error
    micro_batches: list[dict[str, Any]] = [{} for _ in range(facts["micro_batches"])]
    for name, value in [*tensors.items(), *facts["values"].items()]:
        number, *keys = name.split("/")
        node = micro_batches[int(number)]
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
    return FailedBatch(
        step=facts["step"],
        rank=facts["rank"],
        losses=[float(value) for value in facts["losses"]],
        grad_norm=float(facts["grad_norm"]),
        samples=facts["samples"],
        micro_batches=micro_batches,
        omitted=facts["omitted"],
    )
