"""Stage `image-tokenizer`: a discrete 1D bottleneck inside the frozen image VAE (paper §4.3 stage II).

The paper's loss compares features only. `options.pixel_loss_weight` (0 unless set, a deviation) adds the squared and
absolute error of the pixels that the frozen decoder makes of the reconstructed features.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.quantization_image import code_statistics
from .image_vae import check_image_size, view_dataset, view_psnr
from .recipe import Recipe, build_config, load_pretrained, stage_options
from .runner import TokenizerTrainer, run, samples_in_run, training_arguments
from .shape_tokenizer import held_in_assets, stack


OPTIONS = {"real_share": 0.5, "flip": True, "validation_assets": 64, "pixel_loss_weight": 0.0}
LOGGED_PARTS = ("feature_loss", "quantizer_loss", "semantic_mse", "texture_mse")


def tokenizer_metrics(
    model: Omni123ImageTokenizer, vae: Omni123ImageVAE, store: AssetStore, indices: np.ndarray
) -> dict[str, float]:
    """PSNR figures of pixels → VAE → tokens → VAE → pixels, and share and perplexity of the codes they use."""
    used: list[torch.Tensor] = []

    def reconstruct(pixels: torch.Tensor) -> torch.Tensor:
        latent = vae.encode(pixels)
        codes = model.encode(latent)
        used.append(codes.cpu())
        return vae.decode(model.decode(codes, (latent.shape[2], latent.shape[3])))

    figures = view_psnr(reconstruct, store, indices, model.device)
    return {**figures, **code_statistics(torch.cat(used), model.config.num_codes)}


class ImageTokenizerTrainer(TokenizerTrainer):
    """Encodes pixels with the frozen VAE, trains the tokenizer on the latents, validates by PSNR through the codes."""

    model: Omni123ImageTokenizer

    def __init__(self, *args, vae: Omni123ImageVAE, pixel_loss_weight: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.vae = vae.to(self.args.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.pixel_loss_weight = pixel_loss_weight

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pixels = inputs["pixel_values"]
        with torch.no_grad():
            latent = self.vae.encode(pixels)
        output = model(latent)
        loss = output.loss
        for name in LOGGED_PARTS:
            self.parts.setdefault(name, []).append(float(getattr(output, name).detach()))
        if self.pixel_loss_weight > 0:
            decoded = self.vae.decode(output.reconstruction)
            pixel_loss = F.mse_loss(decoded, pixels) + 0.25 * F.l1_loss(decoded, pixels)
            loss = loss + self.pixel_loss_weight * pixel_loss
            self.parts.setdefault("pixel_loss", []).append(float(pixel_loss.detach()))
        return (loss, output) if return_outputs else loss


def train(recipe: Recipe) -> dict[str, float]:
    """Trains the image tokenizer of a recipe; writes `final/` in the output folder and returns validation figures.

    `model.image_vae` names the folder of the trained VAE, whose channel counts override the preset's.
    """
    store = AssetStore.open(recipe.data["root"])
    options = stage_options(recipe, OPTIONS)
    fields = dict(recipe.model)
    initial, vae_folder = fields.pop("from_pretrained", None), fields.pop("image_vae", None)
    if not vae_folder:
        raise Omni123Error("the recipe's model section needs image_vae, the folder of a trained image VAE.")
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    vae = Omni123ImageVAE.from_pretrained(vae_folder).float()
    check_image_size(store, vae.config.patch_size)
    if initial:
        model = load_pretrained(Omni123ImageTokenizer, initial, fields).float()
    else:
        fields = {**fields, "latent_dim": vae.config.latent_dim, "semantic_dim": vae.config.semantic_dim}
        model = Omni123ImageTokenizer(build_config(Omni123ImageTokenizerConfig, fields))
    if model.config.latent_dim != vae.config.latent_dim:
        raise Omni123Error(
            f"the image tokenizer reads {model.config.latent_dim} channels, the image VAE writes "
            f"{vae.config.latent_dim}: "
            "they do not belong together."
        )
    held_in = held_in_assets(store, options["validation_assets"], recipe.seed)
    trainer = ImageTokenizerTrainer(
        model=model,
        args=arguments,
        train_dataset=view_dataset(store, options, samples_in_run(arguments), recipe.seed),
        eval_dataset=view_dataset(store, options, 1, recipe.seed),
        data_collator=stack,
        vae=vae,
        pixel_loss_weight=float(options["pixel_loss_weight"]),
        validate=lambda model: tokenizer_metrics(model, vae, store, held_in),
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save)
