"""Stage `image-vae`: pixels to a standardised semantic + texture latent and back (paper §4.3 stage I).

The loss is the model's own (L1, at mini scale also squared error and edges), a perceptual term
(`modeling/perceptual_image.py`), and late in training an adversarial one (`adversarial.py`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import TrainingArguments

from ..data.store import AssetStore
from ..data.views import pixels_from_views
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS, THREE_QUARTER
from ..modeling.configuration_image_vae import Omni123ImageVAEConfig
from ..modeling.discriminator_image import PatchDiscriminator
from ..modeling.modeling_image_vae import Omni123ImageVAE, image_psnr
from ..modeling.perceptual_image import EncoderPerceptualLoss, check_window, structural_loss
from .adversarial import Adversary
from .pictures import picture_grid
from .recipe import Recipe, build_config, load_pretrained, stage_options
from .runner import CounterDataset, run, samples_in_run, training_arguments
from .shape_tokenizer import held_in_assets, source_weights, stack
from .stage_trainer import SHARED_OPTIONS, Companion, StageTrainer, check_shared_options, refuse_split_weights


OPTIONS: dict[str, Any] = {
    "real_share": 0.5,
    "flip": True,
    "validation_assets": 64,
    "statistics_batches": 32,
    "perceptual": "none",
    "perceptual_weight": 1.0,
    "adversarial_weight": 0.0,
    "adversarial_start": None,
    "discriminator_lead": 0,
    "discriminator_learning_rate": None,
    "discriminator_width": 64,
    "discriminator_layers": 3,
    **SHARED_OPTIONS,
}
PERCEPTUAL = ("none", "encoder", "ssim")

PerceptualLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def draw_view(store: AssetStore, index: int, rng: np.random.Generator, flip: bool) -> dict[str, torch.Tensor]:
    """`pixel_values (3, S, S)` in [-1, 1] of a random view of one asset; `flip` mirrors every second image."""
    view = store.views(index)[rng.integers(len(ALL_VIEWS))]
    if flip and rng.random() < 0.5:
        view = view[:, ::-1]
    return {"pixel_values": pixels_from_views(view)}


def view_dataset(store: AssetStore, options: dict, length: int, seed: int) -> CounterDataset:
    """`length` random views of training assets; real assets get the share `options["real_share"]` of the draws."""
    indices = store.indices("train")
    weights = source_weights(store, indices, options["real_share"])
    return CounterDataset(
        lambda rng, k: draw_view(store, int(rng.choice(indices, p=weights)), rng, options["flip"]), length, seed
    )


def check_image_size(store: AssetStore, patch_size: int) -> None:
    if store.sizes.view_size % patch_size:
        raise Omni123Error(
            f"the data set's views are {store.sizes.view_size} pixels wide, no multiple of the patch size "
            f"{patch_size}: "
            "prepare the data at another view size."
        )


@torch.no_grad()
def view_psnr(
    reconstruct: Callable[[torch.Tensor], torch.Tensor],
    store: AssetStore,
    indices: np.ndarray,
    device: torch.device,
    batch: int = 8,
) -> dict[str, float]:
    """Mean PSNR in dB over all views of the assets, over the three-quarter views alone, and by source.

    `reconstruct` maps pixels `(B, 3, S, S)` to pixels; `batch` counts assets of seven views each.
    """
    rows, sources = [], []
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        pixels = pixels_from_views(np.stack([store.views(int(i)) for i in chosen])).to(device)
        values = image_psnr(reconstruct(pixels.flatten(0, 1)), pixels.flatten(0, 1))
        rows.append(values.view(pixels.shape[:2]).cpu().numpy())
        sources += ["parametric" if store.records[int(i)].source == "parametric" else "real" for i in chosen]
    table = np.concatenate(rows)
    figures = {"psnr": table.mean(), "psnr_three_quarter": table[:, ALL_VIEWS.index("three_quarter")].mean()}
    for source in set(sources):
        figures[f"psnr_{source}"] = table[[s == source for s in sources]].mean()
    return {name: float(value) for name, value in figures.items()}


@torch.no_grad()
def view_picture(
    reconstructions: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
    store: AssetStore,
    rows: np.ndarray,
    device: torch.device,
) -> Image.Image:
    """A row an asset: its three-quarter view, and under their names what each of `reconstructions` makes of it."""
    view = ALL_VIEWS.index(THREE_QUARTER)
    cells = []
    for row in rows:
        stored = store.views(int(row))[view]
        pixels = pixels_from_views(stored)[None].to(device)
        made = [reconstruct(pixels)[0].float().clamp(-1, 1) for reconstruct in reconstructions.values()]
        levels = [((image + 1) * 127.5).round().byte().movedim(0, -1).cpu().numpy() for image in made]
        cells.append([np.ascontiguousarray(stored[..., :3]), *levels])
    return picture_grid(cells, ["input", *reconstructions])


class ImageVAETrainer(StageTrainer):
    """Adds the perceptual and the adversarial term, validates by PSNR and ends with exact latent statistics."""

    model: Omni123ImageVAE

    def __init__(
        self, *args, perceptual_loss: PerceptualLoss | None, adversary: Adversary | None, statistics_batches, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.perceptual_loss = perceptual_loss
        self.adversary = adversary
        self.companions.append(Companion("adversary", "adversarial_weight", adversary))
        self.statistics_batches = statistics_batches
        self.judged: tuple[torch.Tensor, torch.Tensor] | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pixels = inputs["pixel_values"]
        output = model(pixels, perceptual_loss=self.perceptual_loss)
        loss, step = output.loss, self.state.global_step
        self.note({"pixel_loss": float(output.pixel_loss.detach())})
        if output.perceptual_loss is not None:
            self.note({"perceptual_loss": float(output.perceptual_loss.detach())})
        if self.adversary is not None and self.adversary.judges(step):
            last_weight = self.model.decoder.out_conv.weight
            term, figures = self.adversary.generator_term(output.reconstruction, loss, last_weight)
            loss = loss + term
            self.note(figures)
        if self.adversary is not None and self.adversary.learns(step):
            self.judged = (pixels, output.reconstruction.detach())
        return (loss, output) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.adversary is not None and self.judged is not None:
            self.note(self.adversary.accumulate(*self.judged, 1 / self.current_gradient_accumulation_steps))
            self.judged = None
            if self.accelerator.sync_gradients:
                schedule = float(self.lr_scheduler.get_last_lr()[0]) / self.args.learning_rate  # type: ignore[union-attr]
                self.adversary.step(schedule, self.args.max_grad_norm)
        return loss

    def train(self, *args, **kwargs):
        result = super().train(*args, **kwargs)
        # During training the statistics trail the encoder; every later stage relies on exact ones.
        self.model.eval()
        self.model.fit_latent_statistics(self.statistics_batches(self.model.device))
        return result


def build_model(recipe: Recipe) -> Omni123ImageVAE:
    """A VAE from `model.from_pretrained` (other fields change its configuration), around the DINOv3 checkpoint `model.encoder`, or new from a preset."""
    fields = dict(recipe.model)
    initial, encoder = fields.pop("from_pretrained", None), fields.pop("encoder", None)
    if initial:
        return load_pretrained(Omni123ImageVAE, initial, fields).float()
    if encoder:
        # Every size that the recipe leaves open follows from the encoder.
        return Omni123ImageVAE.from_dinov3(encoder, **{k: v for k, v in fields.items() if k != "preset"}).float()
    model = Omni123ImageVAE(build_config(Omni123ImageVAEConfig, fields))
    if model.config.freeze_encoder:
        raise Omni123Error(
            "freeze_encoder is set, but the recipe names no encoder weights: give model.encoder (a DINOv3 checkpoint) "
            "or set model.freeze_encoder to false."
        )
    return model


def build_perceptual_loss(model: Omni123ImageVAE, options: dict[str, Any], size: int) -> PerceptualLoss | None:
    """The weighted perceptual term that the options name, for images of `size` pixels a side."""
    name, weight = options["perceptual"], options["perceptual_weight"]
    if name not in PERCEPTUAL:
        raise Omni123Error(f"perceptual is {name!r}: choose one of {', '.join(PERCEPTUAL)}.")
    if name == "none":
        return None
    if not weight > 0:
        raise Omni123Error(f"perceptual_weight is {weight}: give a positive number, or set perceptual to none.")
    if name == "ssim":
        check_window(size)
    measure: PerceptualLoss = EncoderPerceptualLoss(model) if name == "encoder" else structural_loss
    return lambda reconstruction, target: weight * measure(reconstruction, target)


def build_adversary(options: dict[str, Any], arguments: TrainingArguments, size: int) -> Adversary | None:
    """The discriminator of the options on the training's device, None when `adversarial_weight` is 0."""
    weight, lead = options["adversarial_weight"], options["discriminator_lead"]
    if weight < 0 or lead < 0:
        raise Omni123Error(f"adversarial_weight {weight} and discriminator_lead {lead} must not be negative.")
    if weight == 0:
        return None
    refuse_split_weights("adversarial_weight", arguments)
    if arguments.fp16:
        raise Omni123Error("the adversarial term has no loss scaling for fp16: train in bf16 or float32.")
    if arguments.learning_rate <= 0:
        raise Omni123Error("the discriminator follows the training's schedule: give a learning_rate above 0.")
    # "Late": a discriminator that begins with blurred images learns blur.
    start = arguments.max_steps // 2 if options["adversarial_start"] is None else options["adversarial_start"]
    rate = options["discriminator_learning_rate"]
    for name, value, kind in (("adversarial_start", start, int), ("discriminator_learning_rate", rate, float)):
        if value is not None and (type(value) not in (int, kind) or value < 0):
            raise Omni123Error(f"option {name} is {value!r}: give null or a number of at least 0.")
    if start >= arguments.max_steps:
        raise Omni123Error(
            f"adversarial_start {start} lies beyond max_steps {arguments.max_steps}: the adversarial term would never act."
        )
    discriminator = PatchDiscriminator(options["discriminator_width"], options["discriminator_layers"])
    discriminator.check_size(size)
    rate = arguments.learning_rate if rate is None else rate
    return Adversary(discriminator.to(arguments.device), weight, start, lead, rate)


def train(recipe: Recipe, perceptual_loss: PerceptualLoss | None = None) -> dict[str, float]:
    """Trains the image VAE of a recipe; writes `final/` in the output folder and returns validation figures.

    `perceptual_loss(reconstruction, target)` on images in [-1, 1] is added to the loss as it is, in place of the recipe's
    `options.perceptual` (real LPIPS with weights of your own, say).
    """
    options = stage_options(recipe, OPTIONS)
    store = AssetStore.open(recipe.data["root"])
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    check_shared_options(options, arguments)
    model = build_model(recipe)
    check_image_size(store, model.config.patch_size)
    named_loss = build_perceptual_loss(model, options, store.sizes.view_size)
    if named_loss is not None and perceptual_loss is not None:
        raise Omni123Error("the recipe names a perceptual term and train() was given another: set perceptual to none.")
    batch = arguments.per_device_train_batch_size
    held_in = held_in_assets(store, options["validation_assets"], recipe.seed)
    shown = held_in[: options["validation_pictures"]]

    def statistics_batches(device: torch.device):
        # A stream of its own: the same images whatever the length of the run.
        samples = view_dataset(store, options, options["statistics_batches"] * batch, recipe.seed + 1)
        for start in range(0, len(samples), batch):
            yield stack([samples[k] for k in range(start, start + batch)])["pixel_values"].to(device)

    if model.config.freeze_semantic and not recipe.model.get("from_pretrained"):
        model.to(arguments.device).eval()  # type: ignore[arg-type]
        model.fit_semantic_projection(statistics_batches(model.device))

    def reconstruct(pixels: torch.Tensor) -> torch.Tensor:
        return model.decode(model.encode(pixels))

    trainer = ImageVAETrainer(
        model=model,
        args=arguments,
        train_dataset=view_dataset(store, options, samples_in_run(arguments), recipe.seed),
        eval_dataset=view_dataset(store, options, 1, recipe.seed),
        data_collator=stack,
        perceptual_loss=perceptual_loss or named_loss,
        adversary=build_adversary(options, arguments, store.sizes.view_size),
        ema_decay=options["ema_decay"],
        draw_pictures=(lambda model: view_picture({"reconstruction": reconstruct}, store, shown, model.device))
        if len(shown)
        else None,
        validate=lambda model: view_psnr(reconstruct, store, held_in, model.device),
        statistics_batches=statistics_batches,
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save, {"data_hash": store.content_hash})
