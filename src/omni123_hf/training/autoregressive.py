"""Stages `pretrain`, `continued`, `sft` and `edit`: next-code prediction over tasks of the table, given text (paper §4.4–4.6, §5).

The stages are one trainer: they differ in where the weights come from, in whether view tokens are new, and in what they
report (`AR_STAGES`). The recipe says which tasks are mixed from which pools (`mixture.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..data.tokens import weights_hash
from ..errors import Omni123Error
from ..geometry.cameras import THREE_QUARTER
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from .collation import TaskCollator
from .device_peaks import check_peak
from .edit_report import EditReport, read_edit_report
from .initial_model import load_initial, new_view_embeddings
from .mixture import TaskTable, build_mixture
from .recipe import Recipe, build_config, stage_options
from .record_pools import RecordPool, check_pools, open_pools
from .runner import CounterDataset, PartsTrainer, run, samples_in_run, samples_per_group, training_arguments
from .sample_options import SampleOptions
from .sample_pictures import SamplePictures, check_sampling_is_possible
from .task_samples import TaskSampler
from .text_conditioned import TextConditionedOmni123, build_text_encoders, check_attention
from .text_tokenizer_folders import text_tokenizers
from .tracking import Tracking, reporters
from .warm_start import warm_start


TOKENIZER_CLASSES: dict[str, Any] = {
    "shape_tokenizer": Omni123ShapeTokenizer,
    "image_tokenizer": Omni123ImageTokenizer,
}
TOKENIZER_NAMES = ("shape_tokenizer", "image_vae", "image_tokenizer")
LOSS_WEIGHTINGS = ("token", "micro-batch")
OPTIONS: dict[str, Any] = {
    "tasks": None,
    "mixture": None,
    "mixture_temperature": 1.0,
    "num_images": None,
    "num_extra_images": None,
    "caption_levels": {"short": 0.35, "medium": 0.5, "long": 0.15},
    "text_dropout": None,
    "prefix_dropout": None,
    "image_view": None,
    "real_share": None,
    "source_shares": None,
    "batching": "task",
    "pack_multiple": 128,
    "loss_weighting": "token",
    "tokenizer": None,
    "tokenizer_2": None,
    "text_encoder": None,
    "text_encoder_2": None,
    "freeze_text_encoders": False,
    "new_view_embeddings": None,
    "validation_batches": 2,
    "attention": "sdpa",
    "edit_report": None,
    "samples": None,
    "tracking": None,
    "peak_tflops": None,
}


@dataclass(frozen=True)
class AutoregressiveStage:
    """What tells one stage from another. `new_views`: view embeddings start anew (§4.5) unless the recipe says otherwise."""

    name: str
    needs_initial: bool = False
    new_views: bool = False
    reports_edits: bool = False


AR_STAGES = {
    stage.name: stage
    for stage in (
        AutoregressiveStage("pretrain"),
        AutoregressiveStage("continued", needs_initial=True, new_views=True),
        AutoregressiveStage("sft", needs_initial=True),
        AutoregressiveStage("edit", needs_initial=True, reports_edits=True),
    )
}


class Omni123Trainer(PartsTrainer):
    """Logs the loss of every task (where a micro-batch holds one) and modality; validates without dropout.

    `loss_weighting` "token": every target token of a step weighs alike, over micro-batches and ranks (Eq. 1 with §4.4's
    uniform weight); "micro-batch": every micro-batch weighs alike, whatever its length.
    """

    model: TextConditionedOmni123

    def __init__(
        self,
        *args,
        validation_batches: list[dict[str, Any]],
        loss_weighting: str,
        edit_report: EditReport | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.edit_report = edit_report
        self.model_accepts_loss_kwargs = loss_weighting == "token"
        self.validation_batches = validation_batches
        self.tracking: Tracking | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        name = inputs.pop("task_name")
        if self.tracking is not None:
            self.tracking.observe(inputs)
        if num_items_in_batch is None:
            output = model(**inputs)
            loss, mean = output.loss, output.loss.detach()
        else:
            output = model(**inputs, num_items_in_batch=num_items_in_batch)
            mean = output.loss.detach() * num_items_in_batch / (inputs["labels"] != -100).sum()
            # Gradients are averaged over ranks, and the count is that of all ranks.
            loss = output.loss * self.accelerator.num_processes
        self.add_parts(name, output, mean)
        return (loss, output) if return_outputs else loss

    def add_parts(self, name: str, output: Any, mean: torch.Tensor) -> None:
        """Keeps the losses for the next log line, as tensors: reading them here would wait for the device in every step."""
        found = {f"loss_{name}": mean if name else None}
        found |= {f"loss_{kind}_tokens": getattr(output, f"{kind}_loss") for kind in ("shape", "image")}
        for key, value in found.items():
            if value is not None:
                self.parts.setdefault(key, []).append(value)

    def log(self, logs, *args, **kwargs):
        if self.tracking is not None and "loss" in logs:
            logs.update(self.tracking.figures())
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def evaluate(self, *args, **kwargs):
        self.model.eval()
        losses: dict[str, list[float]] = {}
        for batch in self.validation_batches:
            inputs = {
                key: value.to(self.args.device) if torch.is_tensor(value) else value for key, value in batch.items()
            }
            name = inputs.pop("task_name")
            losses.setdefault(f"eval_loss_{name}", []).append(float(self.model(**inputs).loss))
        metrics = {name: float(np.mean(values)) for name, values in losses.items()}
        metrics["eval_loss"] = float(np.mean(list(metrics.values())))
        if self.edit_report is not None:
            ranks = self.args.process_index, self.args.world_size
            metrics |= self.edit_report(self.model, self.state.global_step, *ranks)
        self.model.train()
        self.parts = {}
        self.log(metrics)
        return metrics


def validation_batches(
    sampler: TaskSampler, collator: TaskCollator, batches: int, batch_size: int
) -> list[dict[str, Any]]:
    """`batches` fixed batches of every task: medium captions, no dropout."""
    return [
        collator(sampler.validation_samples(name, batch_size, number))
        for name in sampler.tasks
        for number in range(batches)
    ]


def tokenizer_folders(data: dict[str, Any]) -> dict[str, Path]:
    """Component to folder: the single keys of a recipe's `data` section, else those of `data.checkpoint`."""
    folders = {name: Path(data[name]) for name in TOKENIZER_NAMES if name in data}
    if "checkpoint" in data:
        whole = {name: Path(data["checkpoint"]) / name for name in TOKENIZER_NAMES}
        folders = {**{name: folder for name, folder in whole.items() if folder.is_dir()}, **folders}
    if "shape_tokenizer" not in folders:
        raise Omni123Error("the recipe's data section needs checkpoint, or shape_tokenizer (a folder).")
    return folders


def code_vectors(folders: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Code vectors `(K, D)` by modality of the tokenizers that there are."""
    return {
        name.removesuffix("_tokenizer"): model_class.from_pretrained(folders[name]).quantizer.codes().detach()
        for name, model_class in TOKENIZER_CLASSES.items()
        if name in folders
    }


def read_options(recipe: Recipe) -> dict[str, Any]:
    options = stage_options(recipe, OPTIONS)
    options["image_view"] = options["image_view"] or THREE_QUARTER
    if options["real_share"] is not None:
        if options["source_shares"] is not None:
            raise Omni123Error("options.real_share and options.source_shares say the same: give one.")
        share = options["real_share"]
        if not 0 <= share <= 1:
            raise Omni123Error(f"real_share is {share}: it must lie in [0, 1].")
        options["source_shares"] = {"parametric": 1 - share, "*": share}
    if options["loss_weighting"] not in LOSS_WEIGHTINGS:
        raise Omni123Error(
            f"loss_weighting {options['loss_weighting']!r} does not exist: use {' or '.join(LOSS_WEIGHTINGS)}."
        )
    if options["tracking"] not in (None, True, False):
        raise Omni123Error(f"options.tracking is {options['tracking']!r}: give true or false.")
    if options["peak_tflops"] is not None:
        check_peak(options["peak_tflops"], "options.peak_tflops")
    return options


def check_beginning(recipe: Recipe, stage: AutoregressiveStage) -> None:
    """Raises `Omni123Error` for a recipe with two beginnings, or with none in a stage that goes on from a trained model."""
    initial = recipe.model.get("from_pretrained")
    if initial and recipe.model.get("warm_start"):
        raise Omni123Error("model.from_pretrained and model.warm_start are two beginnings: give one.")
    if stage.needs_initial and not initial:
        raise Omni123Error(
            f"stage {stage.name} goes on from a trained model: give model.from_pretrained, the `final` folder of the stage "
            "before it or a checkpoint."
        )


def build_model(
    recipe: Recipe,
    options: dict[str, Any],
    stage: AutoregressiveStage,
    folders: dict[str, Path],
    pools: dict[str, RecordPool],
    arguments: TrainingArguments,
) -> tuple[TextConditionedOmni123, PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """The model with its text tokenizers: new from a preset, from `model.from_pretrained`, or new with `model.warm_start`."""
    check_beginning(recipe, stage)
    fields = dict(recipe.model)
    initial, source = fields.pop("from_pretrained", None), fields.pop("warm_start", None)
    codes = code_vectors(folders)
    if initial:
        model, tokenizer, tokenizer_2 = load_initial(Path(initial), fields, options["freeze_text_encoders"])
    else:
        tokenizer, tokenizer_2 = text_tokenizers(recipe, list(pools.values()), arguments)
        text_encoder, text_encoder_2 = build_text_encoders(recipe.options, tokenizer, tokenizer_2)
        fields |= {
            "text_embed_dim": text_encoder.config.hidden_size,
            "text_embed_dim_2": text_encoder_2.config.hidden_size,
        }
        transformer = Omni123ForConditionalGeneration(build_config(Omni123Config, fields))
        transformer.set_code_tables(**codes)
        if source:
            warm_start(transformer, Path(source))
        model = TextConditionedOmni123(transformer, text_encoder, text_encoder_2, options["freeze_text_encoders"])
    new_views = stage.new_views if options["new_view_embeddings"] is None else options["new_view_embeddings"]
    if new_views:
        new_view_embeddings(model.transformer, recipe.seed)
    return model, tokenizer, tokenizer_2


def train(recipe: Recipe, stage: AutoregressiveStage = AR_STAGES["pretrain"]) -> dict[str, float]:
    """Trains backbone and text encoders; writes the components of a pipeline to `final/`."""
    options = read_options(recipe)
    edit_options = read_edit_report(options["edit_report"], stage.name, stage.reports_edits)
    folders = tokenizer_folders(recipe.data)
    pools = open_pools(recipe.data, code_counts(folders))
    table = TaskTable.from_options(options)
    subsets = build_mixture(options, pools, table)
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    check_attention(options["attention"], arguments.device)
    batch = arguments.per_device_train_batch_size
    common: dict[str, Any] = {
        "pools": pools,
        "subsets": subsets,
        "table": table,
        "caption_levels": options["caption_levels"],
        "samples_per_group": samples_per_group(recipe, arguments),
        "seed": recipe.seed,
        "image_view": options["image_view"],
        "source_shares": options["source_shares"],
    }
    sampler = TaskSampler(**common, batching=options["batching"])
    held_in = TaskSampler(**common, split="validation", dropout=False)
    model, tokenizer, tokenizer_2 = build_model(recipe, options, stage, folders, pools, arguments)
    model.transformer.set_attn_implementation(options["attention"])
    config = model.transformer.config
    check_pools(pools, folders, config)
    collator = TaskCollator(config, tokenizer, tokenizer_2, options["batching"], options["pack_multiple"])
    edit_report = None
    if edit_options is not None:
        folder = folders["shape_tokenizer"]
        edit_report = EditReport(edit_options, held_in, collator, folder, recipe.output_dir, batch)
    trainer = Omni123Trainer(
        model=model,
        args=arguments,
        train_dataset=CounterDataset(sampler, samples_in_run(arguments), recipe.seed),
        eval_dataset=CounterDataset(held_in, 1, recipe.seed),
        data_collator=collator,
        validation_batches=validation_batches(
            held_in, TaskCollator(config, tokenizer, tokenizer_2), options["validation_batches"], batch
        ),
        loss_weighting=options["loss_weighting"],
        edit_report=edit_report,
    )
    add_callbacks(trainer, model, options, held_in, collator, folders)

    def save(folder: Path) -> None:
        model.save_components(folder)
        tokenizer.save_pretrained(folder / "tokenizer")
        if tokenizer_2 is not None:
            tokenizer_2.save_pretrained(folder / "tokenizer_2")

    facts = {
        "pools": {name: pool.content_hash for name, pool in pools.items()},
        "tokenizers": {name: weights_hash(folder) for name, folder in folders.items()},
    }
    return run(trainer, recipe, save, facts)


def add_callbacks(
    trainer: Omni123Trainer,
    model: TextConditionedOmni123,
    options: dict[str, Any],
    held_in: TaskSampler,
    collator: TaskCollator,
    folders: dict[str, Path],
) -> None:
    """Tracking (on where the recipe reports somewhere, unless it says otherwise) and sample pictures."""
    on = options["tracking"]
    if bool(reporters(trainer.args.report_to)) if on is None else on:
        encoders = [encoder for encoder in (model.text_encoder, model.text_encoder_2) if encoder is not None]
        trained = not options["freeze_text_encoders"]
        trainer.tracking = Tracking(
            model.transformer.config, [(encoder.config, trained) for encoder in encoders], options["peak_tflops"]
        )
        trainer.add_callback(trainer.tracking)
    pictures = SampleOptions.read(options["samples"], list(held_in.tasks))
    if pictures is None:
        return
    samples = {name: held_in.validation_samples(name, pictures.count, seed=0) for name in pictures.tasks}
    segments = [segment for group in samples.values() for segment in group[0].task.segments]
    check_sampling_is_possible(segments, folders, trainer.args, trainer.is_fsdp_enabled)
    after = trainer.tracking.resume_clock if trainer.tracking is not None else lambda: None
    trainer.add_callback(SamplePictures(trainer, model, collator, samples, pictures, folders, after))


def code_counts(folders: dict[str, Path]) -> dict[str, int]:
    """Sizes of the vocabularies, from the tokenizers' configurations."""
    counts = {"shape": 0, "image": 0}
    for name, model_class in TOKENIZER_CLASSES.items():
        if name in folders:
            counts[name.removesuffix("_tokenizer")] = model_class.config_class.from_pretrained(folders[name]).num_codes
    return counts
