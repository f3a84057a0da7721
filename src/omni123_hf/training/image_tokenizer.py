"""Stage `image-tokenizer`: a discrete 1D bottleneck inside the frozen image VAE (paper §4.3 stage II).

The paper's loss compares features only. `options.pixel_loss_weight` (0 unless set, a deviation) adds the squared and
absolute error of the pixels that the frozen decoder makes of the reconstructed features.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.quantization_image import CosineVectorQuantizer, code_statistics
from .image_vae import check_image_size, view_dataset, view_picture, view_psnr
from .recipe import Recipe, build_config, load_pretrained, stage_options
from .runner import run, samples_in_run, training_arguments
from .shape_tokenizer import held_in_assets, stack
from .stage_trainer import SHARED_OPTIONS, Companion, StageTrainer, check_shared_options


OPTIONS: dict[str, Any] = {
    "real_share": 0.5,
    "flip": True,
    "validation_assets": 64,
    "pixel_loss_weight": 0.0,
    "half_size_share": 0.0,
    **SHARED_OPTIONS,
}
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


class WarmupTokens:
    """The tokens that a quantiser's warm-up has kept, as state beside a checkpoint."""

    def __init__(self, quantizer: CosineVectorQuantizer):
        self.state_dict, self.load_state_dict = quantizer.warmup_state, quantizer.load_warmup_state


def is_half_size(step: int, share: float, seed: int) -> bool:
    """Whether the images of a step are halved: the same on all ranks and in a resumed run, `share` of all steps."""
    return share > 0 and np.random.default_rng((seed, step)).random() < share


class ImageTokenizerTrainer(StageTrainer):
    """Encodes pixels with the frozen VAE, trains the tokenizer on the latents, validates by PSNR through the codes."""

    model: Omni123ImageTokenizer

    def __init__(self, *args, vae: Omni123ImageVAE, pixel_loss_weight: float, half_size_share: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.vae = vae.to(self.args.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.pixel_loss_weight = pixel_loss_weight
        self.half_size_share = half_size_share
        self.codes_restarted = 0
        self.companions.append(Companion("codebook_warmup", None, WarmupTokens(self.model.quantizer)))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pixels = inputs["pixel_values"]
        if is_half_size(self.state.global_step, self.half_size_share, self.args.seed):
            pixels = F.avg_pool2d(pixels, 2)
        with torch.no_grad():
            latent = self.vae.encode(pixels)
        output = model(latent)
        loss = output.loss
        self.note({name: float(getattr(output, name).detach()) for name in LOGGED_PARTS})
        if output.indices is not None:
            counts = torch.bincount(output.indices.flatten(), minlength=self.model.config.num_codes)
            self.note({"batch_codes_used": float((counts > 0).float().mean())})
        if self.pixel_loss_weight > 0:
            decoded = self.vae.decode(output.reconstruction)
            pixel_loss = F.mse_loss(decoded, pixels) + 0.25 * F.l1_loss(decoded, pixels)
            loss = loss + self.pixel_loss_weight * pixel_loss
            self.note({"pixel_loss": float(pixel_loss.detach())})
        return (loss, output) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.forget_moved_codes()
        return loss

    @torch.no_grad()
    def forget_moved_codes(self) -> None:
        """Frees codes that the quantiser has moved from gradients and moments of where they were."""
        quantizer = self.model.quantizer
        moved = quantizer.take_moved_codes()
        if not len(moved):
            return
        codebook, past = quantizer.codebook, self.optimizer.state  # type: ignore[union-attr]
        if self.average is not None:
            self.average.adopt(codebook, moved)
        if len(moved) == quantizer.num_codes:
            # The start of the code book. Its gradient already belongs to the new codes.
            past.pop(codebook, None)
            return
        self.codes_restarted += len(moved)
        if codebook.grad is not None:
            codebook.grad[moved] = 0
        moments = past.get(codebook, {})
        if "exp_avg" in moments:
            moments["exp_avg"][moved] = 0
        if "exp_avg_sq" in moments:
            # Adam's step count is the whole table's: second moments of zero would make a moved code's next steps several
            # times too long, so it gets those of a typical code.
            kept = torch.ones(quantizer.num_codes, dtype=torch.bool, device=moved.device)
            kept[moved] = False
            moments["exp_avg_sq"][moved] = moments["exp_avg_sq"][kept].mean(0)

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs["codes_restarted"] = self.codes_restarted
            self.codes_restarted = 0
        super().log(logs, *args, **kwargs)


def check_half_size(share: float, size: int, patch_size: int) -> None:
    """Raises `Omni123Error` unless images of `size` pixels can be halved for `share` of the steps."""
    if not 0 <= share < 1:
        raise Omni123Error(f"half_size_share is {share}: it must lie in [0, 1).")
    if share > 0 and size % (2 * patch_size):
        raise Omni123Error(
            f"half_size_share halves the data set's views, but {size} pixels are no multiple of twice the patch size "
            f"{patch_size}: set it to 0, or prepare the data at another view size."
        )


def train(recipe: Recipe) -> dict[str, float]:
    """Trains the image tokenizer of a recipe; writes `final/` in the output folder and returns validation figures.

    `model.image_vae` names the folder of the trained VAE, whose channel counts override the preset's.
    """
    options = stage_options(recipe, OPTIONS)
    store = AssetStore.open(recipe.data["root"])
    fields = dict(recipe.model)
    initial, vae_folder = fields.pop("from_pretrained", None), fields.pop("image_vae", None)
    if not vae_folder:
        raise Omni123Error("the recipe's model section needs image_vae, the folder of a trained image VAE.")
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    check_shared_options(options, arguments)
    vae = Omni123ImageVAE.from_pretrained(vae_folder).float()
    check_image_size(store, vae.config.patch_size)
    check_half_size(options["half_size_share"], store.sizes.view_size, vae.config.patch_size)
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
    shown = held_in[: options["validation_pictures"]]

    def through_tokens(pixels: torch.Tensor) -> torch.Tensor:
        latent = vae.encode(pixels)
        return vae.decode(model.decode(model.encode(latent), (latent.shape[2], latent.shape[3])))

    columns = {"image VAE": lambda pixels: vae.decode(vae.encode(pixels)), "tokens": through_tokens}
    trainer = ImageTokenizerTrainer(
        model=model,
        args=arguments,
        train_dataset=view_dataset(store, options, samples_in_run(arguments), recipe.seed),
        eval_dataset=view_dataset(store, options, 1, recipe.seed),
        data_collator=stack,
        vae=vae,
        pixel_loss_weight=options["pixel_loss_weight"],
        half_size_share=options["half_size_share"],
        ema_decay=options["ema_decay"],
        draw_pictures=(lambda model: view_picture(columns, store, shown, model.device)) if len(shown) else None,
        validate=lambda model: tokenizer_metrics(model, vae, store, held_in),
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save, {"data_hash": store.content_hash})
