"""The image VAE: pixels to a semantic + texture latent and back (paper §4.3 stage I, after DINO-Tok).

Choices: a DINOv3 ViT encodes; its normed last layer, projected, gives the semantic channels, early hidden states give
the texture channels; latents leave `encode()` standardised per channel; the decoder is a small transformer with axial
rotary positions on normalised coordinates (any grid works) followed by a convolutional upsampler without attention. It
is deterministic: noise on the latent in training takes the place of a KL term (the paper states none).
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DINOv3ViTModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..errors import Omni123Error
from .attention_image import attend
from .checks_image import check_latent, check_pixels
from .configuration_image_vae import Omni123ImageVAEConfig
from .image_encoder_dinov3 import open_dinov3
from .offload import OffloadableMixin, with_hooks
from .saving import refuse_torchao_saving


@dataclass
class Omni123ImageVAEOutput(ModelOutput):
    """`loss` (weighted sum), its parts, `reconstruction (B, 3, H, W)` (not clamped), `latent (B, D, h, w)`."""

    loss: torch.Tensor | None = None
    pixel_loss: torch.Tensor | None = None
    perceptual_loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    latent: torch.Tensor | None = None


# Added to the variance of a channel before its root. Some have none: a LayerNorm's output spans one dimension less than
# its width, so of a projection as wide as the encoder the last component is rounding noise, which nothing may enlarge.
VARIANCE_FLOOR = 1e-6


def patch_centres(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """Centres `(h*w, 2)` of grid cells as (y, x) in [-1, 1], row by row; the same extent whatever the resolution."""
    axes = [(torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1 for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


def axial_rotary_table(grid: tuple[int, int], head_dim: int, device: torch.device, base: float = 100.0):
    """`(cos, sin)`, each `(h*w, head_dim/2)`: half of the head's pairs turn with y, half with x (as DINOv3)."""
    # Computed on the fly: a non-persistent buffer would hold garbage after a meta-device load.
    frequencies = base ** (-torch.arange(head_dim // 4, device=device, dtype=torch.float32) * 4 / head_dim)
    angles = 2 * math.pi * (patch_centres(grid, device)[:, :, None] * frequencies).flatten(1)
    return angles.cos(), angles.sin()


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns the two halves of the last axis of `x (B, heads, L, head_dim)` as pairs."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def gradient_l1(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical pixel differences: keeps edges where L1 alone blurs them."""
    error = reconstruction - target
    return 0.5 * ((error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean())


def image_psnr(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """PSNR in dB `(B,)` of images in [-1, 1], after rounding both to 8 bits as a written file would be."""
    levels = [((x.float().clamp(-1, 1) + 1) * 127.5).round() for x in (reconstruction, target)]
    mse = (levels[0] - levels[1]).pow(2).flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / mse.clamp_min(1e-10))


class _Moments:
    """Mean and covariance of rows that arrive in batches, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: torch.Tensor | None = None
        self.outer: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        rows = rows.double()
        total, outer = rows.sum(0), rows.t() @ rows
        self.count += len(rows)
        self.total = total if self.total is None else self.total + total
        self.outer = outer if self.outer is None else self.outer + outer

    def result(self, caller: str, at_least: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.total is None or self.outer is None:
            raise Omni123Error(f"{caller} got no pixels: give at least one batch.")
        if self.count < at_least:
            raise Omni123Error(f"{caller} got {self.count} patches and needs {at_least}: give more batches.")
        mean = self.total / self.count
        return mean, self.outer / self.count - torch.outer(mean, mean)


class DecoderBlock(GradientCheckpointingLayer):
    """Pre-norm self-attention over latent cells with axial rotary positions, then an MLP."""

    def __init__(self, config: Omni123ImageVAEConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.config = config
        self.num_heads = config.num_decoder_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.o_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up_proj = nn.Linear(width, int(width * config.decoder_mlp_ratio))
        self.down_proj = nn.Linear(int(width * config.decoder_mlp_ratio), width)

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, _ = hidden.shape
        qkv = self.qkv(self.norm1(hidden)).view(batch, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
        hidden = hidden + self.o_proj(attend(q, k, v, self.config._attn_implementation))
        return hidden + self.down_proj(F.gelu(self.up_proj(self.norm2(hidden))))


class ResidualConv(nn.Module):
    """`x + conv3x3(silu(GroupNorm(x)))`."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(
            math.gcd(channels, 32) if channels >= 64 else math.gcd(channels, 4), channels, eps=1e-6
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(F.silu(self.norm(x)))


class UpsampleStage(GradientCheckpointingLayer):
    """Depth-to-space doubling of the resolution, then residual convolutions."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int):
        super().__init__()
        self.expand = nn.Conv2d(in_channels, 4 * out_channels, 1)
        self.blocks = nn.ModuleList([ResidualConv(out_channels) for _ in range(blocks)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pixel_shuffle(self.expand(x), 2)
        for block in self.blocks:
            x = block(x)
        return x


class PixelHead(nn.Conv2d):
    """The last convolution; a class of its own so that `_init_weights` can start it small."""


class ImageVAEDecoder(nn.Module):
    """Standardised latent `(B, D, h, w)` to pixels `(B, 3, h*p, w*p)`."""

    def __init__(self, config: Omni123ImageVAEConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.head_dim = width // config.num_decoder_heads
        self.in_proj = nn.Linear(config.latent_dim, width)
        self.blocks = nn.ModuleList([DecoderBlock(config) for _ in range(config.num_decoder_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        channels = [width, *config.upsampler_channels]
        self.stages = nn.ModuleList(
            [
                UpsampleStage(inner, outer, config.upsampler_blocks)
                for inner, outer in zip(channels[:-1], channels[1:], strict=True)
            ]
        )
        self.out_conv = PixelHead(channels[-1], 3, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        batch, _, *grid = latent.shape
        hidden = self.in_proj(latent.flatten(2).transpose(1, 2))
        cos, sin = axial_rotary_table((grid[0], grid[1]), self.head_dim, latent.device)
        for block in self.blocks:
            hidden = block(hidden, cos, sin)
        x = self.norm(hidden).transpose(1, 2).reshape(batch, -1, *grid)
        for stage in self.stages:
            x = stage(x)
        return self.out_conv(F.silu(x))


def _accept_published_encoder_names(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *_) -> None:
    """Renames `encoder.layer.*` to the encoder's own `encoder.model.layer.*` where transformers nests it.

    `save_pretrained` writes DINOv3's published names and `from_pretrained` translates them back, but a resuming
    Trainer calls `load_state_dict`, which does not: without this it would go on with a random encoder and only warn.
    """
    if not hasattr(module.encoder, "model"):
        return
    published, nested = f"{prefix}encoder.layer.", f"{prefix}encoder.model.layer."
    for key in [key for key in state_dict if key.startswith(published)]:
        state_dict[nested + key[len(published) :]] = state_dict.pop(key)


class Omni123ImageVAE(OffloadableMixin, PreTrainedModel):
    """DINOv3 encoder with semantic and texture heads, and a pixel decoder: `encode` and `decode`.

    A model built from a configuration alone has a random encoder; `from_dinov3` brings a pretrained one.
    """

    config: Omni123ImageVAEConfig
    config_class = Omni123ImageVAEConfig
    base_model_prefix = "image_vae"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderBlock", "UpsampleStage", "DINOv3ViTLayer"]
    _supports_sdpa = True
    latent_mean: torch.Tensor
    latent_std: torch.Tensor

    def __init__(self, config: Omni123ImageVAEConfig):
        super().__init__(config)
        encoder_config = config.encoder()
        # No sub-configuration of transformers' kind, so nobody passes on what was asked for at load.
        encoder_config._attn_implementation = config._attn_implementation
        width = encoder_config.hidden_size
        self.num_prefix_tokens = 1 + encoder_config.num_register_tokens
        self.encoder = DINOv3ViTModel(encoder_config)
        self.semantic_proj = nn.Linear(width, config.semantic_dim)
        self.texture_head = nn.Sequential(
            nn.LayerNorm(width * len(config.texture_taps), eps=config.layer_norm_eps),
            nn.Linear(width * len(config.texture_taps), config.texture_hidden_size),
            nn.GELU(),
            nn.Linear(config.texture_hidden_size, config.texture_dim),
        )
        self.decoder = ImageVAEDecoder(config)
        # Persistent, so that a meta-device load restores them.
        self.register_buffer("latent_mean", torch.zeros(config.latent_dim))
        self.register_buffer("latent_std", torch.ones(config.latent_dim))
        self.register_load_state_dict_pre_hook(_accept_published_encoder_names)
        self.post_init()
        self._freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PixelHead):
            # Starts at a flat mid-grey: a large random picture costs the first hundred steps.
            init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Omni123ImageVAE):
            init.zeros_(module.latent_mean)
            init.ones_(module.latent_std)

    @classmethod
    def from_dinov3(
        cls,
        source: str | os.PathLike | DINOv3ViTModel,
        *,
        config: Omni123ImageVAEConfig | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        dtype: torch.dtype | None = None,
        **config_changes: Any,
    ) -> Self:
        """A VAE around the DINOv3 ViT of a folder, a Hub id or a loaded `DINOv3ViTModel`, in eval mode (paper §4.3).

        The encoder's weights are copied and frozen; the rest is fresh from torch's seed, so it needs training. Sizes are
        the paper's, adapted to the encoder (`Omni123ImageVAEConfig.for_encoder`), or those of `config` as they are;
        `config_changes` change single fields. `dtype` is float32 unless given. A start for training:

            vae = Omni123ImageVAE.from_dinov3("facebook/dinov3-vitl16-pretrain-lvd1689m")
            vae.fit_semantic_projection(batches)  # a list of pixels (B, 3, H, W) in [-1, 1]
            vae.fit_latent_statistics(batches)  # once more when training ends

        `config.encoder_source` records name, revision, licence and architecture. The licence of DINOv3 goes with its
        weights: whoever passes the VAE on passes on a copy of it, too.

        Raises `Omni123Error` for anything but a complete DINOv3 ViT with a square patch of a power of two, a Hub
        repository that is gated or out of reach, and sizes that cannot form a model.
        """
        encoder = open_dinov3(source, revision, token)
        base = {} if config is None else {name: getattr(config, name) for name in type(config).__annotations__}
        base.pop("encoder_config", None)
        fields = {**encoder.image_statistics, **base, **config_changes, "encoder_source": encoder.description}
        # The VAE first: what it draws from torch's seed then depends on its sizes only, not on how weights are read.
        model = cls._from_config(cls.config_class.for_encoder(encoder.config, **fields), dtype=dtype or torch.float32)
        model.encoder.load_state_dict(encoder.state_dict())
        return model.eval()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        refuse_torchao_saving(self)
        super().save_pretrained(*args, **kwargs)

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """None: the inputs are pixels, not ids of a vocabulary."""
        return None

    def _freeze(self) -> None:
        # Unused outside DINOv3's own training: distributed training would wait for its gradient.
        self.encoder.embeddings.mask_token.requires_grad_(False)
        if self.config.freeze_encoder:
            self.encoder.eval().requires_grad_(False)
        if self.config.freeze_semantic:
            self.semantic_proj.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but a frozen encoder stays in eval: in train mode DINOv3 jitters positions."""
        super().train(mode)
        self._freeze()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As `nn.Module.requires_grad_`, but frozen parts stay frozen: to train one, change the configuration."""
        super().requires_grad_(requires_grad)
        self._freeze()
        return self

    def _encoder_features(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Normed last layer and tapped hidden states of the encoder, patches only, each `(B, h*w, width)`."""
        check_pixels(pixel_values, self.config.patch_size)
        mean = pixel_values.new_tensor(self.config.image_mean).view(1, 3, 1, 1)
        std = pixel_values.new_tensor(self.config.image_std).view(1, 3, 1, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            outputs = self.encoder(((pixel_values + 1) / 2 - mean) / std, output_hidden_states=True)
        # Taps are never the last entry: whether that one is normed differs between transformers releases.
        taps = [outputs.hidden_states[tap][:, self.num_prefix_tokens :] for tap in self.config.texture_taps]
        return outputs.last_hidden_state[:, self.num_prefix_tokens :], taps

    def raw_latent(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The latent `(B, D, h, w)` before standardisation; semantic channels first. Errors as those of `encode`."""
        deep, taps = self._encoder_features(pixel_values)
        tokens = torch.cat([self.semantic_proj(deep), self.texture_head(torch.cat(taps, dim=-1))], dim=-1)
        height, width = (size // self.config.patch_size for size in pixel_values.shape[2:])
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)

    @with_hooks
    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Standardised latent `(B, D, H/p, W/p)` of `pixel_values (B, 3, H, W)` in [-1, 1].

        Raises `Omni123Error` for another shape, sides that are no multiples of the patch size, integers, NaN, and values
        beyond ±1.5 (8-bit or ImageNet-normalised images).
        """
        latent = self.raw_latent(pixel_values)
        return (latent - self.latent_mean.view(1, -1, 1, 1)) / self.latent_std.view(1, -1, 1, 1)

    @with_hooks
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Pixels `(B, 3, h*p, w*p)`, nominally in [-1, 1] and not clamped, of a standardised latent `(B, D, h, w)`.

        Raises `Omni123Error` for another shape, integers, and NaN or infinity.
        """
        check_latent(latent, self.config.latent_dim)
        return self.decoder(latent.to(self.dtype))

    def _standardize_in_training(self, latent: torch.Tensor) -> torch.Tensor:
        """Standardises by the batch's own statistics and lets the buffers follow.

        With fixed buffers a trainable encoder would escape the latent noise by growing its latents.
        """
        flat = latent.float()
        mean, variance = flat.mean((0, 2, 3)), flat.var((0, 2, 3), unbiased=False)
        std = (variance + VARIANCE_FLOOR).sqrt()
        with torch.no_grad():
            self.latent_mean.lerp_(mean.to(self.latent_mean.dtype), self.config.statistics_momentum)
            self.latent_std.lerp_(std.to(self.latent_std.dtype), self.config.statistics_momentum)
        return ((flat - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)).to(latent.dtype)

    @torch.no_grad()
    def fit_latent_statistics(self, batches: Iterable[torch.Tensor]) -> None:
        """Sets the channel mean and std from pixel batches `(B, 3, H, W)` in [-1, 1]; the last step of training.

        Raises `Omni123Error` for bad pixels and for none at all.
        """
        moments = _Moments()
        for pixel_values in batches:
            moments.add(self.raw_latent(pixel_values).transpose(0, 1).flatten(1).t())
        mean, covariance = moments.result("fit_latent_statistics", at_least=2)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_((covariance.diagonal() + VARIANCE_FLOOR).sqrt())

    @torch.no_grad()
    def fit_semantic_projection(self, batches: Iterable[torch.Tensor]) -> None:
        """Starts the semantic projection at the leading principal components of the encoder's last layer.

        `batches` are pixels `(B, 3, H, W)` in [-1, 1]. Raises `Omni123Error` for bad pixels, for fewer patches than span
        that many components, and for a projection that widens.
        """
        if self.config.semantic_dim > self.encoder.config.hidden_size:
            raise Omni123Error(
                f"semantic_dim {self.config.semantic_dim} exceeds the encoder's width "
                f"{self.encoder.config.hidden_size}: principal components cannot widen, so train the projection instead."
            )
        moments = _Moments()
        for pixel_values in batches:
            moments.add(self._encoder_features(pixel_values)[0].flatten(0, 1))
        # A component that the sample does not span has no variance, and standardising would blow it up on new images.
        mean, covariance = moments.result("fit_semantic_projection", at_least=self.config.semantic_dim + 1)
        _, vectors = torch.linalg.eigh(covariance)
        components = vectors.flip(1)[:, : self.config.semantic_dim].t()
        self.semantic_proj.weight.copy_(components)
        self.semantic_proj.bias.copy_(-(components @ mean))

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        perceptual_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> Omni123ImageVAEOutput:
        """Reconstructs `pixel_values (B, 3, H, W)` in [-1, 1] and compares.

        `perceptual_loss(reconstruction, target)` is an extra scalar term (LPIPS and the like) that the trainer brings.
        Raises `Omni123Error` for pixels that `encode` refuses.
        """
        if self.training:
            latent = self._standardize_in_training(self.raw_latent(pixel_values))
            sigma = (
                torch.rand(len(latent), 1, 1, 1, device=latent.device, dtype=latent.dtype) * self.config.latent_noise
            )
            reconstruction = self.decoder((latent + sigma * torch.randn_like(latent)).to(self.dtype))
        else:
            latent = self.encode(pixel_values)
            reconstruction = self.decoder(latent.to(self.dtype))
        target = pixel_values.to(reconstruction.dtype)
        pixel_loss = (
            self.config.l1_loss_weight * F.l1_loss(reconstruction, target)
            + self.config.mse_loss_weight * F.mse_loss(reconstruction, target)
            + self.config.gradient_loss_weight * gradient_l1(reconstruction, target)
        )
        extra = None if perceptual_loss is None else perceptual_loss(reconstruction, target)
        return Omni123ImageVAEOutput(
            loss=pixel_loss if extra is None else pixel_loss + extra,
            pixel_loss=pixel_loss,
            perceptual_loss=extra,
            reconstruction=reconstruction,
            latent=latent,
        )
