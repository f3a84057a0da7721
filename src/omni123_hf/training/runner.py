"""What all stages share: a run from a recipe to a final model, which can be stopped at any moment and goes on to the bit.

Samples are a pure function of `(seed, k)` with k the running number of the sample, so the data order needs no state: a
resumed run skips to its k without reading anything, and a step sees the same samples on any number of processes.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from ..errors import Omni123Error
from .arguments import samples_in_run, samples_per_group, training_arguments
from .base_trainer import RunTrainer, progress_file
from .checkpoints import newest_complete_checkpoint, replace_folder, write_atomically, writing
from .processes import Processes, whole_weights
from .recipe import Recipe
from .run_description import add_environment, check_same_run, describe_run, environment, write_description
from .run_log import JsonLinesLog


__all__ = [
    "CounterDataset",
    "PartsTrainer",
    "TokenizerTrainer",
    "replace_folder",
    "run",
    "samples_in_run",
    "samples_per_group",
    "training_arguments",
]


class CounterDataset(Dataset):
    """`length` samples; sample k is `draw(rng, k)` with `rng` seeded by `(seed, k)`."""

    def __init__(self, draw: Callable[[np.random.Generator, int], Any], length: int, seed: int):
        self.draw, self.length, self.seed = draw, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> Any:
        return self.draw(np.random.default_rng((self.seed, k)), k)


class PartsTrainer(RunTrainer):
    """A trainer whose `compute_loss` leaves named parts of the loss in `parts`: every log line carries their means."""


class TokenizerTrainer(PartsTrainer):
    """Validates by `validate(model)`, a dictionary of figures, in place of a loss over a data set."""

    model: PreTrainedModel

    def __init__(self, *args, validate: Callable[[Any], dict[str, float]], **kwargs):
        super().__init__(*args, **kwargs)
        self.validate = validate

    def evaluate(self, *args, **kwargs):
        self.model.eval()
        metrics = {f"eval_{name}": value for name, value in self.validate(self.model).items()}
        self.model.train()
        self.parts = {}
        self.log(metrics)
        return metrics


def recompute_activations(model: nn.Module) -> None:
    """Activation checkpointing in every part that trains. Raises `Omni123Error` where none can."""
    parts = [model] if isinstance(model, PreTrainedModel) else list(model.children())
    done = False
    for part in parts:
        trains = any(parameter.requires_grad for parameter in part.parameters())
        if isinstance(part, PreTrainedModel) and part.supports_gradient_checkpointing and trains:
            # The method's name before and after transformers 5.20 or so; both take no arguments.
            enable: Any = getattr(part, "activation_checkpointing_enable", None)
            (enable or part.gradient_checkpointing_enable)()
            done = True
    if not done:
        raise Omni123Error(f"training.activation_checkpointing: {type(model).__name__} has no part that supports it.")


def say(text: str) -> None:
    print(text, file=sys.stderr)


def starting_point(processes: Processes, recipe: Recipe, description: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, the same on every rank. Raises `Omni123Error` on all when it is of another run."""
    found, refusal = None, None
    if processes.rank == 0:
        try:
            found = newest_complete_checkpoint(recipe.output_dir, say)
            if found is not None:
                check_same_run(found, description, recipe.training.get("allow_new_schedule", False))
        except Omni123Error as error:
            refusal = str(error)
    found, refusal = processes.from_first((found, refusal))
    if refusal:
        raise Omni123Error(refusal)
    if found is not None and not all(processes.gather(found.is_dir())):
        raise Omni123Error(
            f"{found} is not seen by every process: output_dir must lie on a file system that all machines share."
        )
    return found


def run(
    trainer: RunTrainer, recipe: Recipe, save: Callable[[Path], None], facts: dict[str, Any] | None = None
) -> dict[str, float]:
    """Trains (resuming from the newest complete checkpoint in the output folder), evaluates, and saves the final model.

    `save(folder)` writes the final model; `facts` says by content what the stage trains on (hashes of data and tokens).
    Returns the final validation figures. Raises `Omni123Error` for a checkpoint of another run, a failed write, and a loss
    that is not finite; SIGTERM saves a checkpoint at the end of the step and exits with 143. See docs/training.md.
    """
    if not isinstance(trainer, RunTrainer):
        raise TypeError(f"{type(trainer).__name__} must derive from PartsTrainer: plain Trainer cuts checkpoints off.")
    processes, output = trainer.processes, recipe.output_dir
    model: Any = trainer.model
    first = trainer.is_world_process_zero()
    if len(set(processes.gather(json.dumps(recipe.to_dict(), sort_keys=True, default=str)))) > 1:
        raise Omni123Error(
            "the processes were started with different recipes: give all the same one and the same overrides."
        )
    output.mkdir(parents=True, exist_ok=True)
    description = processes.from_first(describe_run(recipe, trainer.args, facts) if processes.rank == 0 else None)
    checkpoint = starting_point(processes, recipe, description)
    if first:
        with writing(output, "the run has not begun."):
            write_description(output, recipe, description)
            add_environment(output / "environment.json", environment(trainer.args))
    kept = 0
    if checkpoint is not None:
        kept = json.loads(progress_file(checkpoint, 0).read_text())["log_bytes"]
        trainer.start.checkpoint = checkpoint
    log = JsonLinesLog(output / "log.jsonl", kept)
    trainer.add_callback(log)
    trainer.log_bytes = log.bytes
    trainer.describe = lambda folder: write_description(folder, recipe, description)
    if recipe.training.get("activation_checkpointing", False):
        recompute_activations(model)
    with trainer.guard.stop.listening():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.guard.leave_if_asked(trainer.state.global_step)
    metrics = trainer.evaluate()
    # Not `model`: sharding may have put another object in its place.
    with whole_weights(cast(nn.Module, trainer.model), keep=first):
        if first:
            with writing(
                output / "final", "the last checkpoint is intact; free space, and start the same command again."
            ):
                replace_folder(output / "final", save)
                write_atomically(output / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        # Nobody leaves, and nobody sees split weights again, before the first rank has written.
        processes.gather(None)
    return metrics
