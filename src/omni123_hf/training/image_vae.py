"""Stage `image-vae`: pixels to a standardised semantic + texture latent and back (paper §4.3 stage I).

The loss is the model's own (L1, at mini scale also squared error and edges) plus an injected perceptual term. There is
no adversarial term: it needs a second optimiser.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer

from ..data.store import AssetStore
from ..data.views import pixels_from_views
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS
from ..modeling.configuration_image_vae import Omni123ImageVAEConfig
from ..modeling.modeling_image_vae import Omni123ImageVAE, image_psnr
from .recipe import Recipe, build_config, load_pretrained, stage_options
from .runner import CounterDataset, run, samples_in_run, training_arguments
from .shape_tokenizer import held_in_assets, source_weights, stack


OPTIONS = {"real_share": 0.5, "flip": True, "validation_assets": 64, "statistics_batches": 32}
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


class ImageVAETrainer(Trainer):
    """Adds the perceptual term, validates by PSNR and ends with exact latent statistics."""

    model: Omni123ImageVAE

    def __init__(self, *args, perceptual_loss: PerceptualLoss | None, validate, statistics_batches, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.perceptual_loss = perceptual_loss
        self.validate = validate
        self.statistics_batches = statistics_batches

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(inputs["pixel_values"], perceptual_loss=self.perceptual_loss)
        return (output.loss, output) if return_outputs else output.loss

    def train(self, *args, **kwargs):
        result = super().train(*args, **kwargs)
        # During training the statistics trail the encoder; every later stage relies on exact ones.
        self.model.eval()
        self.model.fit_latent_statistics(self.statistics_batches(self.model.device))
        return result

    def evaluate(self, *args, **kwargs):
        self.model.eval()
        metrics = {f"eval_{name}": value for name, value in self.validate(self.model).items()}
        self.model.train()
        self.log(metrics)
        return metrics


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


def train(recipe: Recipe, perceptual_loss: PerceptualLoss | None = None) -> dict[str, float]:
    """Trains the image VAE of a recipe; writes `final/` in the output folder and returns validation figures.

    `perceptual_loss(reconstruction, target)` on images in [-1, 1] is added to the loss as it is (LPIPS and the like).
    """
    store = AssetStore.open(recipe.data["root"])
    options = stage_options(recipe, OPTIONS)
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    model = build_model(recipe)
    check_image_size(store, model.config.patch_size)
    batch = arguments.per_device_train_batch_size
    held_in = held_in_assets(store, options["validation_assets"], recipe.seed)

    def statistics_batches(device: torch.device):
        # A stream of its own: the same images whatever the length of the run.
        samples = view_dataset(store, options, options["statistics_batches"] * batch, recipe.seed + 1)
        for start in range(0, len(samples), batch):
            yield stack([samples[k] for k in range(start, start + batch)])["pixel_values"].to(device)

    if model.config.freeze_semantic and not recipe.model.get("from_pretrained"):
        model.to(arguments.device).eval()  # type: ignore[arg-type]
        model.fit_semantic_projection(statistics_batches(model.device))
    trainer = ImageVAETrainer(
        model=model,
        args=arguments,
        train_dataset=view_dataset(store, options, samples_in_run(arguments), recipe.seed),
        eval_dataset=view_dataset(store, options, 1, recipe.seed),
        data_collator=stack,
        perceptual_loss=perceptual_loss,
        validate=lambda model: view_psnr(lambda x: model.decode(model.encode(x)), store, held_in, model.device),
        statistics_batches=statistics_batches,
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save)
