"""Stage `shape-tokenizer`: occupancy autoencoding with an optimal-transport code book (paper §4.2; Cube 3D, arXiv 2503.15475).

`options.self_distillation` adds Cube 3D's self-supervised term (`modeling/self_distillation_shape.py`). Its teacher, heads
and centre stand beside each checkpoint, for a resumed run needs them; the final model holds none of them.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..modeling.anchored_initialization import initialize_anchored
from ..modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from ..modeling.quantization import is_distributed
from ..modeling.self_distillation_shape import ShapeSelfDistillation
from .recipe import Recipe, build_config, load_pretrained, stage_options
from .runner import CounterDataset, TokenizerTrainer, run, samples_in_run, training_arguments


LOGGED_LOSSES = ("occupancy_loss", "quantizer_loss", "latent_alignment_loss", "self_distillation_loss")
DISTILLATION_FILE = "self_distillation.safetensors"
OPTIONS = {
    "points": 512,
    "queries": 512,
    "uniform": 0.5,
    "real_share": 0.5,
    "vq_warmup_steps": 300,
    "validation_assets": 96,
    "anchored_initialization": False,
    "freeze_tokens": False,
    "self_distillation": False,
}


def draw_shape(store: AssetStore, index: int, rng: np.random.Generator, points: int, queries: int, uniform: float):
    """Random surface points and labelled queries of one asset; `uniform` is the share of queries from the whole box."""
    surface = np.asarray(store.surface(index), dtype=np.float32)
    rows = rng.choice(len(surface), points, replace=points > len(surface))
    half = store.sizes.queries // 2
    count = int(queries * uniform)
    chosen = np.concatenate([rng.choice(half, count, False), half + rng.choice(half, queries - count, False)])
    return {
        "points": torch.from_numpy(np.clip(surface[rows, :3], -1.05, 1.05)),
        "normals": torch.from_numpy(surface[rows, 3:]),
        "queries": torch.from_numpy(np.asarray(store.queries(index)[chosen], dtype=np.float32)),
        "occupancy": torch.from_numpy(store.occupancy(index)[chosen].astype(np.float32)),
    }


def stack(samples: list[dict]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@torch.no_grad()
def reconstruction_metrics(
    model: Omni123ShapeTokenizer, store: AssetStore, indices: np.ndarray, points: int, seed: int = 0, batch: int = 16
) -> dict[str, float]:
    """Mean volume IoU (uniform queries) and near-surface IoU through nearest codes, by source, and code use."""
    scores: dict[str, list[float]] = {}
    used: set[int] = set()
    half = store.sizes.queries // 2
    for start in range(0, len(indices), batch):
        rows = indices[start : start + batch]
        drawn = stack([draw_shape(store, int(i), np.random.default_rng((seed, int(i))), points, 2, 0.5) for i in rows])
        device = model.device
        tokens = model.encode(drawn["points"].to(device), drawn["normals"].to(device))
        used.update(tokens.flatten().tolist())
        memory = model.project_latents(model.decode_latents(tokens))
        queries = torch.from_numpy(np.stack([store.queries(int(i)) for i in rows]).astype(np.float32)).to(device)
        inside = np.concatenate(
            [(model.query(memory, part) > 0).cpu().numpy() for part in queries.split(2048, dim=1)], axis=1
        )
        for row, predicted in zip(rows, inside, strict=True):
            truth = store.occupancy(int(row))
            kind = "parametric" if store.records[int(row)].source == "parametric" else "real"
            for name, part in (("volume_iou", slice(0, half)), ("surface_iou", slice(half, None))):
                union = (predicted[part] | truth[part]).sum()
                value = (predicted[part] & truth[part]).sum() / union if union else 1.0
                scores.setdefault(f"{name}_{kind}", []).append(float(value))
    figures = {name: float(np.mean(values)) for name, values in scores.items()}
    figures["codes_used"] = len(used) / model.config.num_codes
    return figures


class SelfDistillationStep(TrainerCallback):
    """Ends a step of the self-distillation: moves the teacher, before a checkpoint of that step is written."""

    def __init__(self, distillation: ShapeSelfDistillation, student: Omni123ShapeTokenizer):
        self.distillation, self.student = distillation, student

    def on_step_end(self, args, state, control, **kwargs):
        self.distillation.update_teacher(self.student)
        # The trainer clears the gradients of its model only, and the head is no part of it.
        self.distillation.zero_grad()


class ShapeTokenizerTrainer(TokenizerTrainer):
    """Starts the code book from data after a warm-up without quantisation; validates by IoU through nearest codes."""

    model: Omni123ShapeTokenizer

    def __init__(self, *args, vq_warmup_steps: int, self_distillation: ShapeSelfDistillation | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.vq_warmup_steps = vq_warmup_steps
        self.codebook_started = False
        self.self_distillation = self_distillation
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
        for name in LOGGED_LOSSES:
            if output.get(name) is not None:
                self.parts.setdefault(name, []).append(float(output[name]))
        if output.indices is not None:
            counts = torch.bincount(output.indices.flatten(), minlength=tokenizer.config.num_codes)
            self.parts.setdefault("batch_codes_used", []).append(float((counts > 0).float().mean()))
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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.self_distillation is not None and self.args.should_save:
            path = Path(output_dir) / DISTILLATION_FILE
            temporary = path.with_suffix(".tmp")
            save_file(self.self_distillation.state_dict(), temporary)
            temporary.replace(path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.restore_self_distillation(Path(checkpoint) / DISTILLATION_FILE)
        super()._load_optimizer_and_scheduler(checkpoint)

    def restore_self_distillation(self, path: Path) -> None:
        """Loads the teacher, heads and centre of a checkpoint; a run that was begun without them cannot go on with them."""
        wanted = self.self_distillation is not None
        if path.exists() != wanted:
            raise Omni123Error(
                f"{path.parent} holds {'no ' if wanted else ''}state of self-distillation, and options.self_distillation is "
                f"{str(wanted).lower()}: change the option back, or begin in another output_dir with model.from_pretrained."
            )
        if self.self_distillation is not None:
            self.self_distillation.load_state_dict(load_file(path))


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
    """A new model, or with `model.from_pretrained` a trained one; other fields of the section change its configuration.

    Raises `Omni123Error` for a `field_target` that the data cannot train.
    """
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
    if model.config.field_target != "occupancy":
        raise Omni123Error(
            f"field_target {model.config.field_target!r} needs a signed distance for every query point, and prepared data "
            "sets hold occupancy only: set field_target to occupancy, or train with signed distances of your own through "
            "Omni123ShapeTokenizer.forward(signed_distance=...)."
        )
    return model.float()


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
    if arguments.fsdp or arguments.deepspeed:
        raise Omni123Error(
            "self_distillation averages whole weights, which FSDP and DeepSpeed split: train data-parallel (torchrun alone)."
        )
    return ShapeSelfDistillation(model)


def train(recipe: Recipe) -> dict[str, float]:
    """Trains the shape tokenizer of a recipe; writes `final/` in the output folder and returns validation figures."""
    store = AssetStore.open(recipe.data["root"])
    options = stage_options(recipe, OPTIONS)
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    model = build_model(recipe, options)
    indices = store.indices("train")
    weights = source_weights(store, indices, options["real_share"])
    held_in = held_in_assets(store, options["validation_assets"], recipe.seed)

    def draw(rng: np.random.Generator, k: int):
        index = int(rng.choice(indices, p=weights))
        return draw_shape(store, index, rng, options["points"], options["queries"], options["uniform"])

    trainer = ShapeTokenizerTrainer(
        model=model,
        args=arguments,
        train_dataset=CounterDataset(draw, samples_in_run(arguments), recipe.seed),
        eval_dataset=CounterDataset(draw, 1, recipe.seed),
        data_collator=stack,
        vq_warmup_steps=options["vq_warmup_steps"],
        self_distillation=build_self_distillation(model, options, arguments),
        validate=lambda model: reconstruction_metrics(model, store, held_in, store.sizes.surface_points),
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save)
