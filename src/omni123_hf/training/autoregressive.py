"""Stage `pretrain`: next-token prediction over the tasks of the table, with text conditioning (paper §4.4, Eq. 1).

A micro-batch holds one task (lengths are fixed per task, so nothing is padded) and one caption level; both are drawn by the
running number of the batch, every sample by its own running number.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments

from ..data.records import CAPTION_LEVELS
from ..data.shards.training_tokens import open_training_tokens
from ..data.store import AssetStore
from ..data.tokens import TokenStore
from ..errors import Omni123Error
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from ..modeling.tasks import Task, build_sequence, get_task
from ..modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from .recipe import Recipe, build_config
from .runner import (
    CounterDataset,
    PartsTrainer,
    replace_folder,
    run,
    samples_in_run,
    samples_per_group,
    training_arguments,
)
from .shape_tokenizer import source_weights
from .text_conditioned import TextConditionedOmni123, build_text_encoders


TASK_STREAM, CAPTION_STREAM = 101, 102


def normalized(weights: dict[str, float], what: str) -> dict[str, float]:
    """Probabilities of a recipe. Raises `Omni123Error` unless they are non-negative and sum to 1."""
    total = sum(weights.values())
    if not weights or min(weights.values()) < 0 or abs(total - 1) > 1e-6:
        raise Omni123Error(f"{what} {weights} sum to {total:g}: give non-negative probabilities that sum to 1.")
    return weights


class TaskSampler:
    """Draws samples `{task, caption, parts, null_text, drop_prefix}` from tokens and records, as a function of the counter."""

    def __init__(
        self,
        store: AssetStore,
        tokens: TokenStore,
        split: str,
        tasks: dict[str, float],
        caption_levels: dict[str, float],
        batch_size: int,
        real_share: float,
        image_view: str,
        seed: int,
    ):
        self.store, self.tokens, self.batch_size, self.seed = store, tokens, batch_size, seed
        self.tasks = normalized(tasks, "task probabilities")
        self.levels = normalized(caption_levels, "caption level probabilities")
        unknown = set(caption_levels) - set(CAPTION_LEVELS)
        if unknown:
            raise Omni123Error(f"caption levels {sorted(unknown)} do not exist: use {', '.join(CAPTION_LEVELS)}.")
        views = tokens.info["views"]
        if image_view not in views:
            raise Omni123Error(f"image_view {image_view!r} has no tokens: use one of {', '.join(views)}.")
        self.view = views.index(image_view)
        self.indices = store.indices(split)
        if not len(self.indices):
            raise Omni123Error(f"the data set has no assets in split {split!r}: prepare more assets.")
        self.weights = np.cumsum(source_weights(store, self.indices, real_share))
        self.dropout = True

    def batch_choice(self, k: int, stream: int, weights: dict[str, float]) -> str:
        rng = np.random.default_rng((self.seed, stream, k // self.batch_size))
        return str(rng.choice(list(weights), p=list(weights.values())))

    def __call__(self, rng: np.random.Generator, k: int) -> dict[str, Any]:
        task = get_task(self.batch_choice(k, TASK_STREAM, self.tasks))
        level = self.batch_choice(k, CAPTION_STREAM, self.levels)
        row = min(int(np.searchsorted(self.weights, rng.random())), len(self.indices) - 1)
        index = int(self.indices[row])
        return self.sample(task, level, index, rng)

    def sample(self, task: Task, level: str, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One asset laid out for one task, with a caption of the given level (any level when it has none)."""
        captions = self.store.records[index].captions
        texts = captions[level] or [text for texts in captions.values() for text in texts]
        parts: dict[str, np.ndarray] = {}
        for segment in task.segments:
            if segment.kind == "view":
                raise Omni123Error(
                    f"task {task.name!r} needs posed views: this stage trains tasks without view tokens."
                )
            source = (
                self.tokens.shape_tokens[index]
                if segment.kind == "shape"
                else self.tokens.image_tokens[index, self.view]
            )
            parts[segment.name] = np.asarray(source)
        null_text, drop_prefix = task.draw_dropout(rng) if self.dropout else (False, False)
        caption = texts[int(rng.integers(len(texts)))]
        return {"task": task, "caption": caption, "parts": parts, "null_text": null_text, "drop_prefix": drop_prefix}


class TaskCollator:
    """Samples of one task to model inputs; the sequence comes from the task's declaration."""

    def __init__(
        self, config: Omni123Config, tokenizer: PreTrainedTokenizerBase, tokenizer_2: PreTrainedTokenizerBase
    ):
        self.config, self.tokenizer, self.tokenizer_2 = config, tokenizer, tokenizer_2

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        task = samples[0]["task"]
        if any(sample["task"] != task for sample in samples):
            raise Omni123Error("a micro-batch holds one task: the loader's batch size differs from the sampler's.")
        parts = {name: np.stack([sample["parts"][name] for sample in samples]) for name in samples[0]["parts"]}
        sequence = build_sequence(task, parts, self.config)
        captions = [sample["caption"] for sample in samples]
        first = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        second = self.tokenizer_2(captions, padding="longest", truncation=True, return_tensors="pt")
        batch = {
            "input_ids": sequence.ids,
            "labels": sequence.labels,
            "prefix_length": sequence.prefix_length,
            "text_ids": first["input_ids"],
            "text_ids_2": second["input_ids"],
            "text_attention_mask_2": second["attention_mask"],
            "null_text": torch.tensor([sample["null_text"] for sample in samples]),
            "task_name": task.name,
        }
        if sequence.prefix_length:
            batch["drop_prefix"] = torch.tensor([sample["drop_prefix"] for sample in samples])
        return batch


class Omni123Trainer(PartsTrainer):
    """Logs the loss of every task and modality; validates on held-in objects without dropout."""

    model: TextConditionedOmni123

    def __init__(self, *args, validation_batches: list[dict[str, Any]], **kwargs):
        super().__init__(*args, **kwargs)
        self.validation_batches = validation_batches

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        name = inputs.pop("task_name")
        output = model(**inputs)
        self.parts.setdefault(f"loss_{name}", []).append(float(output.loss.detach()))
        for modality in ("shape", "image"):
            value = getattr(output, f"{modality}_loss")
            if value is not None:
                self.parts.setdefault(f"loss_{modality}_tokens", []).append(float(value))
        return (output.loss, output) if return_outputs else output.loss

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
        self.model.train()
        metrics = {name: float(np.mean(values)) for name, values in losses.items()}
        metrics["eval_loss"] = float(np.mean(list(metrics.values())))
        self.parts = {}
        self.log(metrics)
        return metrics


def validation_batches(
    sampler: TaskSampler, collator: TaskCollator, batches: int, batch_size: int
) -> list[dict[str, Any]]:
    """`batches` fixed batches of every task: medium captions, no dropout."""
    result = []
    for task_name in sampler.tasks:
        for number in range(batches):
            rng = np.random.default_rng((sampler.seed, number))
            rows = rng.choice(sampler.indices, batch_size, replace=len(sampler.indices) < batch_size)
            result.append(collator([sampler.sample(get_task(task_name), "medium", int(i), rng) for i in rows]))
    return result


def text_tokenizers(
    recipe: Recipe, store: AssetStore, arguments: TrainingArguments
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Tokenizers by name or folder, or new ones built on the training captions.

    New ones are built once, by the first process, and kept in the output folder: building again could break ties between
    equally frequent pairs in another way, and a resumed run or another rank must read text alike.
    """
    tokenizers: list[PreTrainedTokenizerBase] = []
    for name, build in (("tokenizer", build_clip_tokenizer), ("tokenizer_2", build_qwen_tokenizer)):
        option = recipe.options[name]
        folder = option if isinstance(option, str) else recipe.output_dir / name
        with arguments.main_process_first(desc=f"build {name}"):
            if not isinstance(option, str):
                keep_tokenizer(Path(folder), build, option, store)
        tokenizers.append(AutoTokenizer.from_pretrained(folder))
    return tokenizers[0], tokenizers[1]


def keep_tokenizer(folder: Path, build: Callable[..., Any], option: dict[str, int], store: AssetStore) -> None:
    """Builds a tokenizer into `folder`, or checks that the one there was built for the same options and data."""
    facts = {**option, "data_hash": store.content_hash}
    if not folder.is_dir():

        def write(temporary: Path) -> None:
            build(training_captions(store), option["vocab_size"], option["max_length"]).save_pretrained(temporary)
            (temporary / "built_for.json").write_text(json.dumps(facts, indent=1) + "\n")

        replace_folder(folder, write)
    elif json.loads((folder / "built_for.json").read_text()) != facts:
        raise Omni123Error(
            f"{folder} was built for other captions or sizes: give the run another output_dir, or remove its folder."
        )


def training_captions(store: AssetStore) -> list[str]:
    """Every caption of the training split."""
    records = (record for record in store.records if record.split == "train")
    return [text for record in records for texts in record.captions.values() for text in texts]


def train(recipe: Recipe) -> dict[str, float]:
    """Trains backbone and text encoders; writes the components of a pipeline to `final/`."""
    store = AssetStore.open(recipe.data["root"])
    tokens = open_training_tokens(recipe.data)
    if tokens.info["data_hash"] != store.content_hash:
        raise Omni123Error("the tokens were made from another data set: run `omni123 train tokenize` again.")
    tokens.check(*(Path(recipe.data[name]) for name in ("shape_tokenizer", "image_tokenizer", "image_vae")))
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    tokenizer, tokenizer_2 = text_tokenizers(recipe, store, arguments)
    text_encoder, text_encoder_2 = build_text_encoders(recipe.options, tokenizer, tokenizer_2)
    widths = {
        "text_embed_dim": text_encoder.config.hidden_size,
        "text_embed_dim_2": text_encoder_2.config.hidden_size,
    }
    transformer = Omni123ForConditionalGeneration(build_config(Omni123Config, {**recipe.model, **widths}))
    shape_codes = Omni123ShapeTokenizer.from_pretrained(recipe.data["shape_tokenizer"]).quantizer.codes().detach()
    image_codes = Omni123ImageTokenizer.from_pretrained(recipe.data["image_tokenizer"]).quantizer.codes().detach()
    transformer.set_code_tables(shape=shape_codes, image=image_codes)
    model = TextConditionedOmni123(
        transformer, text_encoder, text_encoder_2, recipe.options.get("freeze_text_encoders", False)
    )
    common = {
        "store": store,
        "tokens": tokens,
        "tasks": recipe.options["tasks"],
        "caption_levels": recipe.options["caption_levels"],
        "batch_size": samples_per_group(recipe, arguments),
        "real_share": recipe.options["real_share"],
        "image_view": recipe.options["image_view"],
        "seed": recipe.seed,
    }
    collator = TaskCollator(transformer.config, tokenizer, tokenizer_2)
    sampler, held_in = TaskSampler(split="train", **common), TaskSampler(split="validation", **common)
    held_in.dropout = False
    trainer = Omni123Trainer(
        model=model,
        args=arguments,
        train_dataset=CounterDataset(sampler, samples_in_run(arguments), recipe.seed),
        eval_dataset=CounterDataset(held_in, 1, recipe.seed),
        data_collator=collator,
        validation_batches=validation_batches(
            held_in, collator, recipe.options.get("validation_batches", 2), arguments.per_device_train_batch_size
        ),
    )

    def save(folder: Path) -> None:
        model.save_components(folder)
        tokenizer.save_pretrained(folder / "tokenizer")
        tokenizer_2.save_pretrained(folder / "tokenizer_2")

    return run(trainer, recipe, save, {"data_hash": store.content_hash, "tokens": tokens.info})
