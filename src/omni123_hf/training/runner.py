"""What all stages share: training arguments from a recipe, exact resume, and a log that can be committed.

Samples are a pure function of `(seed, k)` with k the running number of the sample, so the data order needs no state: a
resumed run skips to its k without reading anything.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..errors import Omni123Error
from .recipe import Recipe


class CounterDataset(Dataset):
    """`length` samples; sample k is `draw(rng, k)` with `rng` seeded by `(seed, k)`."""

    def __init__(self, draw: Callable[[np.random.Generator, int], Any], length: int, seed: int):
        self.draw, self.length, self.seed = draw, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> Any:
        return self.draw(np.random.default_rng((self.seed, k)), k)


class JsonLinesLog(TrainerCallback):
    """Appends every logged dictionary to `log.jsonl`, with step and seconds; on resume the lines after the checkpoint go."""

    def __init__(self, path: Path):
        self.path = path
        self.start = time.time()
        self.offset = 0.0
        self.last: tuple[int, dict[str, Any]] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.time()
        if not state.is_world_process_zero:
            return
        lines = []
        if self.path.exists():
            lines = [json.loads(line) for line in self.path.read_text().splitlines() if line]
        lines = [line for line in lines if state.global_step and line["step"] <= state.global_step]
        self.offset = lines[-1]["seconds"] if lines else 0.0
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        seconds = round(self.offset + time.time() - self.start, 1)
        values = {key: round(value, 6) if isinstance(value, float) else value for key, value in logs.items()}
        # The last step may be evaluated by its schedule and again as the end of the run: one line is enough.
        if (state.global_step, values) == self.last:
            return
        self.last = (state.global_step, values)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, "seconds": seconds, **values}) + "\n")


class PartsTrainer(Trainer):
    """A trainer whose `compute_loss` leaves named parts of the loss in `parts`: every log line carries their means."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.parts: dict[str, list[float]] = {}

    def log(self, logs, *args, **kwargs):
        for name, values in self.parts.items():
            logs.setdefault(name, float(np.mean(values)))
        self.parts = {}
        super().log(logs, *args, **kwargs)


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


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """`TrainingArguments` of a recipe: bf16 on CUDA devices that have it, float32 on the CPU; samples in counter order."""
    fields: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "logging_steps": 50,
        "save_steps": 500,
        "save_total_limit": 2,
        "report_to": "none",
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "disable_tqdm": False,
        **recipe.training,
    }
    if torch.cuda.is_available():
        fields.setdefault("bf16", torch.cuda.is_bf16_supported())
    else:
        fields["bf16"] = fields["fp16"] = False
        fields["use_cpu"] = True
        fields.setdefault("dataloader_pin_memory", False)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A rank's task may leave one head without a gradient in a step.
        fields.setdefault("ddp_find_unused_parameters", True)
        if not torch.cuda.is_available():
            fields.setdefault("ddp_backend", "gloo")
    if "max_steps" not in fields:
        raise Omni123Error("the recipe's training section needs max_steps.")
    try:
        return TrainingArguments(output_dir=str(recipe.output_dir), seed=recipe.seed, **fields)
    except (TypeError, ValueError) as error:
        raise Omni123Error(f"the recipe's training section is no set of TrainingArguments: {error}") from error


def samples_in_run(arguments: TrainingArguments) -> int:
    """Number of samples that all processes together consume in the run."""
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return per_step * max(arguments.world_size, 1) * arguments.max_steps


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `folder` and puts it in place only when it is complete."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def run(trainer: Trainer, recipe: Recipe, save: Callable[[Path], None]) -> dict[str, float]:
    """Trains (resuming from the newest checkpoint in the output folder), evaluates, and saves the final model.

    `save(folder)` writes the final model; returns the final validation figures.
    """
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    if trainer.is_world_process_zero():
        (recipe.output_dir / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1) + "\n")
    trainer.add_callback(JsonLinesLog(recipe.output_dir / "log.jsonl"))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(recipe.output_dir)))
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        replace_folder(recipe.output_dir / "final", save)
        (recipe.output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics
