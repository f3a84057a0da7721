"""Stage `shape-tokenizer`: autoencoding of a field with an optimal-transport code book (paper §4.2; Cube 3D, arXiv 2503.15475).

The field is occupancy, or with `model.field_target: tsdf` the truncated signed distances of a data set prepared with
them: Cube 3D v0.5's second stage, which starts at occupancy weights (`model.from_pretrained`).

`options.self_distillation` adds Cube 3D's self-supervised term (`modeling/self_distillation_shape.py`). Its teacher, heads
and centre stand beside each checkpoint, for a resumed run needs them; the final model holds none of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..modeling.anchored_initialization import initialize_anchored
from ..modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from ..modeling.quantization import is_distributed
from ..modeling.self_distillation_shape import ShapeSelfDistillation
from .recipe import Recipe, build_config, load_pretrained, stage_options
from .runner import CounterDataset, run, samples_in_run, training_arguments
from .shape_validation import shape_picture, validation_figures
from .stage_trainer import SHARED_OPTIONS, Companion, StageTrainer, check_shared_options, refuse_split_weights


OPTIONS: dict[str, Any] = {
    "points": 512,
    "queries": 512,
    "uniform": 0.5,
    "real_share": 0.5,
    "vq_warmup_steps": 300,
    "validation_assets": 96,
    "anchored_initialization": False,
    "freeze_tokens": False,
    "self_distillation": False,
    "picture_resolution": 48,
    **SHARED_OPTIONS,
}
# Shapes on which a second stage fits the scale of its field.
SCALED_SAMPLES = 8
LABELS = {"occupancy": "occupancy", "tsdf": "signed_distance"}
# "field_loss" is the distance's; where it merely repeats the occupancy's it is left out.
LOGGED_LOSSES = (
    "occupancy_loss", "field_loss", "eikonal_loss", "quantizer_loss", "latent_alignment_loss", "self_distillation_loss",
)  # fmt: skip


def draw_shape(
    store: AssetStore,
    index: int,
    rng: np.random.Generator,
    points: int,
    queries: int,
    uniform: float,
    label: str = "occupancy",
) -> dict[str, torch.Tensor]:
    """Random surface points and labelled queries of one asset; `uniform` is the share of queries from the whole box.

    `label` is "occupancy" or "signed_distance"; all values are float32.
    """
    surface = np.asarray(store.surface(index), dtype=np.float32)
    rows = rng.choice(len(surface), points, replace=points > len(surface))
    half = store.sizes.queries // 2
    count = int(queries * uniform)
    chosen = np.concatenate([rng.choice(half, count, False), half + rng.choice(half, queries - count, False)])
    values = store.occupancy(index) if label == "occupancy" else store.signed_distance(index)
    return {
        "points": torch.from_numpy(np.clip(surface[rows, :3], -1.05, 1.05)),
        "normals": torch.from_numpy(surface[rows, 3:]),
        "queries": torch.from_numpy(np.asarray(store.queries(index)[chosen], dtype=np.float32)),
        label: torch.from_numpy(values[chosen].astype(np.float32)),
    }


def stack(samples: list[dict]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


class SelfDistillationStep(TrainerCallback):
    """Ends a step of the self-distillation: moves the teacher, before a checkpoint of that step is written."""

    def __init__(self, distillation: ShapeSelfDistillation, student: Omni123ShapeTokenizer):
        self.distillation, self.student = distillation, student

    def on_step_end(self, args, state, control, **kwargs):
        self.distillation.update_teacher(self.student)
        # The trainer clears the gradients of its model only, and the head is no part of it.
        self.distillation.zero_grad()


class ShapeTokenizerTrainer(StageTrainer):
    """Starts the code book from data after a warm-up without quantisation; validates through nearest codes."""

    model: Omni123ShapeTokenizer

    def __init__(self, *args, vq_warmup_steps: int, self_distillation: ShapeSelfDistillation | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.vq_warmup_steps = vq_warmup_steps
        self.codebook_started = False
        self.self_distillation = self_distillation
        self.companions.append(Companion("self_distillation", "self_distillation", self_distillation))
        if self_distillation is not None:
            self_distillation.to(self.args.device)  # type: ignore[arg-type]
            self.add_callback(SelfDistillationStep(self_distillation, self.model))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        tokenizer = self.accelerator.unwrap_model(model)
        step = self.state.global_step
        quantize = step >= self.vq_warmup_steps
        # Once: with gradient accumulation several micro-batches belong to this step.
        if step == self.vq_warmup_steps > 0 and model.training and not self.codebook_started:
            self.codebook_started = True
            self.start_codebook(tokenizer, inputs)
        output = model(**inputs, quantize=quantize, self_distillation=self.self_distillation)
        losses = {name: float(output[name]) for name in LOGGED_LOSSES if output.get(name) is not None}
        if "occupancy_loss" in losses:
            del losses["field_loss"]
        self.note(losses)
        if output.indices is not None:
            counts = torch.bincount(output.indices.flatten(), minlength=tokenizer.config.num_codes)
            self.note({"batch_codes_used": float((counts > 0).float().mean())})
        return (output.loss, output) if return_outputs else output.loss

    @torch.no_grad()
    def start_codebook(self, tokenizer: Omni123ShapeTokenizer, inputs) -> None:
        hidden = tokenizer.encode_latents(inputs["points"], inputs["normals"])
        quantizer = tokenizer.quantizer
        z = quantizer.project(hidden).flatten(0, 1)
        generator = torch.Generator(device=z.device).manual_seed(self.args.seed)
        quantizer.initialize_from(z, generator)
        if is_distributed():
            # Every rank saw other samples, and parallel training equalises gradients only, never these writes.
            torch.distributed.broadcast(quantizer.codebook.weight, 0)
        # The warm-up gave idle parameters gradients of zero: with the second moments of those, Adam's next steps would be
        # several times too long.
        for parameter in quantizer.warmup_idle_parameters():
            self.optimizer.state.pop(parameter, None)  # type: ignore[union-attr]
            if self.average is not None:
                self.average.adopt(parameter)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.self_distillation is not None and self.accelerator.sync_gradients:
            self.self_distillation.average_gradients()
        return loss

    def create_optimizer(self, *args, **kwargs):
        new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if new and self.self_distillation is not None:
            parameters = list(self.self_distillation.student_head.parameters())
            optimizer.add_param_group({"params": parameters, "weight_decay": self.args.weight_decay})
        return optimizer


def source_weights(store: AssetStore, indices: np.ndarray, real_share: float) -> np.ndarray:
    """Sampling probabilities that give real assets `real_share` of all draws (their natural share when one is absent)."""
    if not len(indices):
        raise Omni123Error("the data set has no assets in split 'train': prepare more assets.")
    if not 0 <= real_share <= 1:
        raise Omni123Error(f"real_share is {real_share}: it must lie in [0, 1].")
    real = np.array([store.records[int(i)].source != "parametric" for i in indices])
    if not real.any() or real.all():
        return np.full(len(indices), 1 / len(indices))
    return np.where(real, real_share / real.sum(), (1 - real_share) / (~real).sum())


def held_in_assets(store: AssetStore, count: int, seed: int) -> np.ndarray:
    """Rows of at most `count` assets of the validation split, drawn by `seed`."""
    indices = store.indices("validation")
    if not len(indices):
        raise Omni123Error("the data set has no assets in split 'validation': prepare more assets.")
    return np.random.default_rng(seed).permutation(indices)[:count]


def freeze_tokens(model: Omni123ShapeTokenizer) -> None:
    """Leaves only the parts behind the codes trainable: shapes keep their tokens, and what reads them goes on learning."""
    model.requires_grad_(False)
    for module in (model.quantizer.out_proj, model.decoder, model.occupancy_head):
        module.requires_grad_(True)


def build_model(recipe: Recipe, options: dict) -> Omni123ShapeTokenizer:
    """A new model, or with `model.from_pretrained` a trained one; other fields of the section change its configuration."""
    fields = dict(recipe.model)
    initial = fields.pop("from_pretrained", None)
    if initial is None:
        model = Omni123ShapeTokenizer(build_config(Omni123ShapeTokenizerConfig, fields))
        if options["anchored_initialization"]:
            initialize_anchored(model)
    else:
        model = load_pretrained(Omni123ShapeTokenizer, initial, fields)
        options["vq_warmup_steps"] = 0
    if options["freeze_tokens"]:
        if initial is None:
            raise Omni123Error("freeze_tokens needs a trained model: give model.from_pretrained.")
        freeze_tokens(model)
    return model.float()


def check_draws(options: dict[str, Any], store: AssetStore) -> None:
    """Raises `Omni123Error` for options that no sample or picture can be made with."""
    half, count = store.sizes.queries // 2, int(options["queries"] * options["uniform"])
    if options["points"] < 1 or options["queries"] < 1 or not 0 <= options["uniform"] <= 1:
        raise Omni123Error("points and queries must be at least 1, and uniform a share in [0, 1].")
    if max(count, options["queries"] - count) > half:
        raise Omni123Error(
            f"queries {options['queries']} with uniform {options['uniform']} need {max(count, options['queries'] - count)} "
            f"queries of one kind, and {store.folder} has {half} of each: lower queries, or prepare the data with more."
        )
    if options["picture_resolution"] < 4:
        raise Omni123Error(
            f"picture_resolution is {options['picture_resolution']}: give at least 4 grid points a side."
        )


def check_distances(store: AssetStore, model: Omni123ShapeTokenizer) -> None:
    """Raises `Omni123Error` unless the data set holds the distances that a "tsdf" model is trained on."""
    if model.config.field_target != "tsdf":
        return
    if not store.sizes.signed_distance:
        raise Omni123Error(
            f"field_target 'tsdf' needs a signed distance for every query point, and {store.folder} was prepared without: "
            "prepare the data with truncation above 0 (the presets default and full), or set field_target to occupancy."
        )
    # Uniform queries nearly all lie beyond the band, so the largest value is the length at which preparation cut.
    reach = float(np.abs(store.signed_distance(np.arange(min(len(store), 8)))).max())
    if reach < 0.999 * model.config.tsdf_truncation:
        raise Omni123Error(
            f"tsdf_truncation is {model.config.tsdf_truncation}, but the distances of {store.folder} end at {reach:.4g}: "
            f"set tsdf_truncation to at most {reach:.3g}, or prepare the data with a larger truncation."
        )


def begins_distances(recipe: Recipe, model: Omni123ShapeTokenizer) -> bool:
    """Whether a "tsdf" run starts at weights that were trained on occupancy."""
    initial = recipe.model.get("from_pretrained")
    if initial is None or model.config.field_target != "tsdf":
        return False
    return Omni123ShapeTokenizerConfig.from_pretrained(initial).field_target == "occupancy"


@torch.no_grad()
def scale_logits_to_distances(model: Omni123ShapeTokenizer, batch: dict[str, torch.Tensor]) -> float:
    """Scales the head of an occupancy model so that its logits become distances in units of the truncation.

    The factor, which is returned, fits best where the true distance lies within the truncation. Level 0 stays where it is:
    unscaled, logits are distances several truncations long, and the first steps would cost the shape that they describe.
    `batch` holds points, normals, queries and signed distances.
    """
    batch = {name: value.to(model.device) for name, value in batch.items()}
    memory = model.project_latents(model.decode_latents(model.encode(batch["points"], batch["normals"])))
    logits, target = model.query(memory, batch["queries"]), batch["signed_distance"] / model.config.tsdf_truncation
    band = target.abs() < 0.999
    logits, target = logits[band], target[band]
    factor = float((logits * target).sum() / logits.square().sum().clamp_min(1e-12))
    # Without a correlation the model knows no shape yet, and there is nothing to keep.
    factor = factor if factor > 0 else 1.0
    head = model.occupancy_head.classifier
    head.weight.mul_(factor)
    head.bias.mul_(factor)
    return factor


def build_self_distillation(
    model: Omni123ShapeTokenizer, options: dict, arguments: TrainingArguments
) -> ShapeSelfDistillation | None:
    """The self-supervised term, None unless `options.self_distillation` asks for it."""
    if not options["self_distillation"]:
        return None
    if options["freeze_tokens"]:
        raise Omni123Error(
            "self_distillation trains the encoder, which freeze_tokens keeps as it is: drop one of them."
        )
    refuse_split_weights("self_distillation", arguments)
    return ShapeSelfDistillation(model)


def train(recipe: Recipe) -> dict[str, float]:
    """Trains the shape tokenizer of a recipe; writes `final/` in the output folder and returns validation figures."""
    options = stage_options(recipe, OPTIONS)
    store = AssetStore.open(recipe.data["root"])
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    check_shared_options(options, arguments)
    check_draws(options, store)
    model = build_model(recipe, options)
    check_distances(store, model)
    indices = store.indices("train")
    weights = source_weights(store, indices, options["real_share"])
    held_in = held_in_assets(store, options["validation_assets"], recipe.seed)
    shown = held_in[: options["validation_pictures"]]

    def draw(rng: np.random.Generator, k: int):
        index = int(rng.choice(indices, p=weights))
        label = LABELS[model.config.field_target]
        return draw_shape(store, index, rng, options["points"], options["queries"], options["uniform"], label)

    samples = CounterDataset(draw, samples_in_run(arguments), recipe.seed)
    if begins_distances(recipe, model):
        model.to(arguments.device).eval()  # type: ignore[arg-type]
        scale_logits_to_distances(model, stack([samples[k] for k in range(min(len(samples), SCALED_SAMPLES))]))

    trainer = ShapeTokenizerTrainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        eval_dataset=CounterDataset(draw, 1, recipe.seed),
        data_collator=stack,
        vq_warmup_steps=options["vq_warmup_steps"],
        self_distillation=build_self_distillation(model, options, arguments),
        ema_decay=options["ema_decay"],
        draw_pictures=(lambda model: shape_picture(model, store, shown, options["picture_resolution"]))
        if len(shown)
        else None,
        validate=lambda model: validation_figures(model, store, held_in),
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save, {"data_hash": store.content_hash})
