"""Pictures of what the model generates, at intervals of a training run: `samples/step_00001000.png` in the run's folder.

Texts, given codes and seed are the same at every step, so that files can be compared. Training does not notice: random states and
the modes of all modules are put back, and a run with pictures ends in the same weights, bit for bit, as one without.
"""

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ..errors import Omni123Error
from ..geometry.cameras import CANONICAL_VIEWS, get_camera
from ..geometry.export import write_atomic
from ..geometry.extraction import extract_surface
from ..geometry.picture_table import Cell, Row, picture_table
from ..geometry.rasterizer import render
from ..modeling.decoding import decode_pictures, shape_field
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from ..modeling.tasks import Segment, generation_plan
from .collation import TaskCollator, generation_conditions
from .sample_options import SampleOptions
from .task_samples import TaskSample
from .text_conditioned import TextConditionedOmni123


DECODERS: dict[str, Any] = {
    "shape_tokenizer": Omni123ShapeTokenizer,
    "image_tokenizer": Omni123ImageTokenizer,
    "image_vae": Omni123ImageVAE,
}
VIEW = "three_quarter"


def check_sampling_is_possible(
    segments: Sequence[Segment], folders: Mapping[str, Path], arguments: TrainingArguments, sharded: bool
) -> None:
    """Raises `Omni123Error` where sample pictures cannot be made of tasks with these segments."""
    if sharded or arguments.deepspeed:
        raise Omni123Error(
            "options.samples generates on the first process, which needs whole weights: leave it out under FSDP."
        )
    kinds = {segment.kind for segment in segments}
    needed = ["shape_tokenizer"] if "shape" in kinds else []
    needed += ["image_tokenizer", "image_vae"] if "image" in kinds else []
    missing = [name for name in needed if name not in folders]
    if missing:
        raise Omni123Error(
            f"options.samples decodes with the {' and '.join(missing)}, which the data section does not name: give "
            f"{missing[0]}, a folder, or checkpoint."
        )


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Random states of Python, NumPy and torch, and every submodule's mode, are afterwards what they were before."""
    modes = [(part, part.training) for part in module.modules()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class SamplePictures(TrainerCallback):
    """Draws on the first process, after every `options.every` optimiser steps.

    `samples`: task name to the records shown. `folders`: component to folder of the tokenizers that decode. `after` is called
    when a picture is done (the clock of tracking goes on then).
    """

    def __init__(
        self,
        trainer: Trainer,
        model: TextConditionedOmni123,
        collator: TaskCollator,
        samples: Mapping[str, Sequence[TaskSample]],
        options: SampleOptions,
        folders: Mapping[str, Path],
        after: Callable[[], None] = lambda: None,
    ):
        self.trainer, self.model, self.collator = trainer, model, collator
        self.samples, self.options, self.folders, self.after = samples, options, folders, after
        self.decoders: dict[str, Any] = {}

    def on_step_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or state.global_step % self.options.every:
            return
        with undisturbed(self.model):
            table = self.draw()
        png = io.BytesIO()
        table.save(png, format="PNG")
        write_atomic(Path(args.output_dir) / "samples" / f"step_{state.global_step:08d}.png", png.getvalue())
        for callback in self.trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if isinstance(callback, TensorBoardCallback) and writer is not None:
                writer.add_image("samples", np.asarray(table), state.global_step, dataformats="HWC")
        self.after()

    @torch.no_grad()
    def draw(self) -> Image.Image:
        """The picture for the weights as they are now."""
        self.model.eval()
        device = self.model.transformer.device
        self.load_decoders(device)
        try:
            rows = [row for name in self.options.tasks for row in self.rows(self.samples[name], device)]
        finally:
            for decoder in self.decoders.values():
                decoder.to("cpu")
        return picture_table(rows, self.options.size)

    def load_decoders(self, device: torch.device) -> None:
        kinds = {segment.kind for name in self.options.tasks for segment in self.samples[name][0].task.segments}
        for name, model_class in DECODERS.items():
            if name.split("_")[0] not in kinds:
                continue
            if name not in self.decoders:
                self.decoders[name] = model_class.from_pretrained(self.folders[name]).float().eval()
            self.decoders[name].to(device)

    def rows(self, samples: Sequence[TaskSample], device: torch.device) -> list[Row]:
        """Generates for samples of one task, and decodes what was given and what was generated."""
        task, transformer = samples[0].task, self.model.transformer
        given = {
            segment.name: np.stack([sample.parts[segment.name] for sample in samples])
            for segment in task.segments
            if segment.is_prefix or segment.kind == "view"
        }
        generator = torch.Generator().manual_seed(self.trainer.args.seed)
        with self.autocast(device):
            codes = transformer.generate_plan(
                generation_plan(task, transformer.config, given),
                **generation_conditions(
                    self.model, self.collator, [sample.text for sample in samples], self.options.guidance_scale
                ),
                guidance_scale=self.options.guidance_scale,
                temperature=self.options.temperature,
                generator=generator,
            )
        parts = {**{name: torch.as_tensor(values, device=device) for name, values in given.items()}, **codes}
        rows = []
        for number, sample in enumerate(samples):
            cells, view = [], ""
            for segment in task.segments:
                part = parts[segment.name][number]
                if segment.kind == "view":
                    view = CANONICAL_VIEWS[int(part)]
                    continue
                label = f"{segment.name}{', ' + view if view else ''}{', given' if segment.is_prefix else ''}"
                cells.append(self.picture(segment.kind, part, label))
                view = ""
            rows.append(Row(f"{task.name}: {sample.text}", cells))
        return rows

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The precision of training: a callback runs outside the one that the trainer opens."""
        arguments = self.trainer.args
        if not (arguments.bf16 or arguments.fp16):
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16 if arguments.bf16 else torch.float16)

    def picture(self, kind: str, codes: torch.Tensor, label: str) -> Cell:
        """One image, or a shape from the three-quarter view; a shape without a surface shows the reason."""
        if kind == "image":
            pictures = decode_pictures(codes[None], self.decoders["image_tokenizer"], self.decoders["image_vae"])
            return Cell(label, pictures[0])
        try:
            field = shape_field(codes, self.decoders["shape_tokenizer"])
            mesh = extract_surface(field, resolution=self.options.resolution, chunk=32768)
        except Omni123Error as error:
            return Cell(label, message=f"no surface: {error}")
        return Cell(label, render(mesh, get_camera(VIEW), self.options.size).color)
