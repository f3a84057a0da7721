"""What the three tokenizer stages share beyond a loss: averaged weights, pictures, state beside checkpoints.

What a stage trains beside its model (averages, a teacher, a discriminator) stands in a file of its own in each
checkpoint, is restored with it, and is no part of the final model.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from ..errors import Omni123Error
from .arguments import shards_weights
from .averaging import WeightAverage
from .pictures import write_picture
from .runner import TokenizerTrainer


# Options that every tokenizer stage has, with their defaults.
SHARED_OPTIONS: dict[str, Any] = {"ema_decay": 0.0, "validation_pictures": 4}


def check_shared_options(options: dict[str, Any], arguments: TrainingArguments) -> None:
    """Raises `Omni123Error` for values of `SHARED_OPTIONS` without a meaning, or at odds with the training arguments."""
    if not 0 <= options["ema_decay"] < 1:
        raise Omni123Error(f"ema_decay is {options['ema_decay']}: it must lie in [0, 1), 0 is off.")
    if options["validation_pictures"] < 0:
        raise Omni123Error(
            f"validation_pictures is {options['validation_pictures']}: give 0 (off) or a number of rows."
        )
    if options["ema_decay"] > 0:
        refuse_split_weights("ema_decay", arguments)
        if arguments.load_best_model_at_end:
            raise Omni123Error(
                "load_best_model_at_end brings back weights without their average: drop it, or set ema_decay to 0."
            )


def refuse_split_weights(option: str, arguments: TrainingArguments) -> None:
    """Raises `Omni123Error` where weights are no whole tensors on every rank."""
    if shards_weights(arguments):
        raise Omni123Error(
            f"{option} works on whole weights, which FSDP splits: train data-parallel (torchrun alone)."
        )


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...


@dataclass
class Companion:
    """Something with a state that belongs to a run: kept in `<name>.safetensors` beside each checkpoint.

    `option` is what turns it on; `state` is None when it is off. Without an option the file may be there or not.
    """

    name: str
    option: str | None
    state: Stateful | None

    def save(self, folder: Path) -> None:
        tensors = {} if self.state is None else self.state.state_dict()
        if tensors:
            path = folder / f"{self.name}.safetensors"
            temporary = path.with_suffix(".tmp")
            save_file({key: value.detach().contiguous() for key, value in tensors.items()}, temporary)
            temporary.replace(path)

    def restore(self, folder: Path) -> None:
        """Raises `Omni123Error` when the run was begun without what it has now, or the other way round."""
        path = folder / f"{self.name}.safetensors"
        wanted = self.state is not None
        if self.option is not None and path.exists() != wanted:
            raise Omni123Error(
                f"{folder} holds {'no ' if wanted else ''}state of {self.name}, and options.{self.option} is "
                f"{'on' if wanted else 'off'}: change the option back, or begin in another output_dir with "
                "model.from_pretrained."
            )
        if self.state is not None and path.exists():
            self.state.load_state_dict(load_file(path))


class StageSteps(TrainerCallback):
    """Moves the average after each step, before anything looks at it."""

    def __init__(self, trainer: "StageTrainer"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.average is not None:
            self.trainer.average.update()


class StageTrainer(TokenizerTrainer):
    """Trains one tokenizer. `draw_pictures(model)` gives a sheet of validation samples, written at every evaluation."""

    def __init__(self, *args, ema_decay: float, draw_pictures: Callable[[Any], Image.Image] | None, **kwargs):
        super().__init__(*args, **kwargs)
        self.average = WeightAverage(self.model, ema_decay) if ema_decay > 0 else None
        self.holds_average = False
        self.draw_pictures = draw_pictures
        self.drawn: tuple[int, bool] | None = None
        self.companions = [Companion("ema", "ema_decay", self.average)]
        self.add_callback(StageSteps(self))

    def note(self, figures: dict[str, float]) -> None:
        """Adds a micro-batch's figures to what the next log line averages."""
        for name, value in figures.items():
            self.parts.setdefault(name, []).append(value)

    def train(self, *args, **kwargs):
        result = super().train(*args, **kwargs)
        if self.average is not None:
            self.average.swap()
            self.holds_average = True
        return result

    def evaluate(self, *args, **kwargs):
        in_training = self.average is not None and not self.holds_average
        with self.average.in_place() if in_training else nullcontext():  # type: ignore[union-attr]
            self.write_samples()
            return super().evaluate(*args, **kwargs)

    def write_samples(self) -> None:
        """Writes the picture of this step; again only when training has ended, which may change the model once more."""
        moment = (self.state.global_step, self.is_in_train)
        if self.draw_pictures is None or not self.is_world_process_zero() or moment == self.drawn:
            return
        self.drawn = moment
        self.model.eval()
        write_picture(self.draw_pictures(self.model), Path(str(self.args.output_dir)), self.state.global_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            for companion in self.companions:
                companion.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            for companion in self.companions:
                companion.restore(Path(checkpoint))
        super()._load_optimizer_and_scheduler(checkpoint)
