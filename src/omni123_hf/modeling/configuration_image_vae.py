"""Configuration of the image VAE (paper §4.3, stage I: DINO-Tok with a DINOv3 encoder)."""

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import DINOv3ViTConfig, PreTrainedConfig

from ..errors import Omni123Error
from .checks_configuration import check_mlp, check_positive, check_sizes


# DINOv3 ViT-L/16. `DINOv3ViTConfig()` alone is a ViT-S without register tokens, so every size is written out.
DINOV3_LARGE: dict[str, Any] = {
    "patch_size": 16,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_register_tokens": 4,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "image_size": 512,
}

DINOV3_TINY: dict[str, Any] = {
    "patch_size": 8,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_register_tokens": 1,
    "initializer_range": 0.05,
    "image_size": 64,
    # Random position rescaling is an augmentation for pre-training; reconstruction must not have it.
    "pos_embed_rescale": None,
}


# Channels of the paper-size upsampler from the coarsest doubling to the finest; the finest cost the most memory.
UPSAMPLER_CHANNELS = (512, 256, 256, 128)
# No PCA projection can widen, so a narrower encoder keeps its own width.
SEMANTIC_DIM = 768


def square_patch_size(encoder: DINOv3ViTConfig) -> int:
    """Pixels per patch along one side. Raises `Omni123Error` when an upsampler that doubles cannot undo the patches."""
    sides = encoder.patch_size if isinstance(encoder.patch_size, (list, tuple)) else [encoder.patch_size] * 2
    side = sides[0]
    if len(set(sides)) > 1 or side < 2 or side & (side - 1):
        raise Omni123Error(
            f"the encoder's patch size is {encoder.patch_size}: the upsampler doubles the resolution, so it must be "
            "square and a power of two, such as 16."
        )
    return side


def check_encoder(encoder: DINOv3ViTConfig) -> None:
    """Raises `Omni123Error` for sizes of which transformers builds a broken encoder, or fails without saying why."""
    try:
        check_sizes(encoder, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_sizes(encoder, "num_register_tokens", at_least=0)
    except Omni123Error as error:
        raise Omni123Error(f"the encoder's {error}") from None
    if encoder.hidden_size % (4 * encoder.num_attention_heads):
        raise Omni123Error(
            f"the encoder's hidden_size {encoder.hidden_size} must be a multiple of 4 * num_attention_heads "
            f"({4 * encoder.num_attention_heads}): its rotary positions split each head in four."
        )


@strict
class Omni123ImageVAEConfig(PreTrainedConfig):
    """Sizes of `Omni123ImageVAE`; the defaults are the paper's scale (832 = 768 + 64 channels at 1/16 resolution).

    `encoder_config` holds the fields of a `transformers.DINOv3ViTConfig`; `encoder_source` says where its weights come
    from (`Omni123ImageVAE.from_dinov3` writes it; None for an encoder trained here). `texture_taps` are hidden-state
    indices of the encoder (0 = patch embedding, i = output of layer i) that the texture head reads. `freeze_encoder`
    keeps the whole encoder in eval mode without gradients whatever `.train()` and `.requires_grad_()` say. There is no
    switch for its shallow layers alone: training them would change what the frozen deep layers read, and no loss would
    hold the semantic channels to DINOv3's. `freeze_semantic` freezes the semantic projection, which then keeps its PCA
    start (`fit_semantic_projection`). `latent_noise` is the largest standard deviation of the Gaussian noise on
    standardised latents in training. `upsampler_channels` has one entry per doubling of resolution.
    """

    model_type = "omni123_image_vae"

    encoder_config: dict[str, Any] | None = None
    encoder_source: dict[str, Any] | None = None
    freeze_encoder: bool = True
    freeze_semantic: bool = True
    image_size: int = 512
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    semantic_dim: int = SEMANTIC_DIM
    texture_dim: int = 64
    texture_taps: list[int] | tuple[int, ...] = (0, 4, 8)
    texture_hidden_size: int = 1024
    decoder_hidden_size: int = 1024
    num_decoder_layers: int = 12
    num_decoder_heads: int = 16
    decoder_mlp_ratio: float = 4.0
    upsampler_channels: list[int] | tuple[int, ...] = UPSAMPLER_CHANNELS
    upsampler_blocks: int = 2
    layer_norm_eps: float = 1e-6
    # Training behaviour.
    latent_noise: float = 0.3
    statistics_momentum: float = 0.05
    l1_loss_weight: float = 1.0
    mse_loss_weight: float = 0.0
    gradient_loss_weight: float = 0.0

    def __post_init__(self, **kwargs):
        if self.encoder_config is None:
            self.encoder_config = dict(DINOV3_LARGE)
        for name in ("image_mean", "image_std", "texture_taps", "upsampler_channels"):
            setattr(self, name, list(getattr(self, name)))
        self._check_sizes()
        super().__post_init__(**kwargs)

    @property
    def latent_dim(self) -> int:
        """Channels D of the latent: semantic first, then texture."""
        return self.semantic_dim + self.texture_dim

    @property
    def patch_size(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** len(self.upsampler_channels)

    def encoder(self) -> DINOv3ViTConfig:
        """The encoder's configuration as transformers' own class."""
        return DINOv3ViTConfig(**(self.encoder_config or {}))

    def _check_sizes(self) -> None:
        """Raises `Omni123Error` when sizes cannot form a model.

        Not named `validate_*`: those are wrapped in a `StrictDataclassClassValidationError`, which is no `ValueError`.
        """
        encoder = self.encoder()
        patch_size = square_patch_size(encoder)
        if patch_size != self.patch_size:
            raise Omni123Error(
                f"upsampler_channels {self.upsampler_channels} double the resolution "
                f"{len(self.upsampler_channels)} times, but the encoder's patch size is {patch_size}: give "
                f"log2(patch size) = {patch_size.bit_length() - 1} entries."
            )
        check_encoder(encoder)
        if encoder.num_channels != 3:
            raise Omni123Error(f"the encoder reads {encoder.num_channels} channels: images here have 3.")
        if self.image_size < 1 or self.image_size % patch_size:
            raise Omni123Error(f"image_size {self.image_size} is not a multiple of the patch size {patch_size}.")
        if self.semantic_dim < 1 or self.texture_dim < 1:
            raise Omni123Error(
                f"semantic_dim {self.semantic_dim} and texture_dim {self.texture_dim} must be at least 1: the latent "
                "has both groups of channels."
            )
        if not self.texture_taps or not all(0 <= tap < encoder.num_hidden_layers for tap in self.texture_taps):
            raise Omni123Error(
                f"texture_taps {self.texture_taps} must name hidden states 0..{encoder.num_hidden_layers - 1} "
                f"of the encoder."
            )
        check_sizes(self, "texture_hidden_size", "decoder_hidden_size", "num_decoder_heads")
        # A decoder may be convolutions alone, and an upsampler depth-to-space alone.
        check_sizes(self, "num_decoder_layers", "upsampler_blocks", at_least=0)
        check_mlp(self, "decoder_mlp_ratio", "decoder_hidden_size")
        check_positive(self, "layer_norm_eps")
        if min(self.upsampler_channels) < 1:
            raise Omni123Error(f"upsampler_channels {self.upsampler_channels} must each be at least 1.")
        if self.decoder_hidden_size % (4 * self.num_decoder_heads):
            raise Omni123Error(
                f"decoder_hidden_size {self.decoder_hidden_size} must be a multiple of 4 * num_decoder_heads "
                f"({4 * self.num_decoder_heads}): axial rotary positions split each head in four."
            )
        if self.semantic_dim > encoder.hidden_size and self.freeze_semantic:
            raise Omni123Error(
                f"semantic_dim {self.semantic_dim} exceeds the encoder's width {encoder.hidden_size}: a frozen PCA "
                "projection cannot widen; lower semantic_dim or set freeze_semantic=False."
            )

    @classmethod
    def for_encoder(cls, encoder: DINOv3ViTConfig, **fields: Any) -> Self:
        """Paper sizes around a DINOv3 ViT of any size; `fields` take precedence over what is adapted to it.

        Adapted are `semantic_dim` (768, or the width of a narrower encoder), `texture_taps` (the embedding and the
        outputs at 1/6 and 1/3 of the depth: 0, 4, 8 of 24) and `upsampler_channels` (one per doubling of its patch).
        Raises `Omni123Error` for unknown fields and for an encoder or fields that cannot form a model.
        """
        unknown = sorted(set(fields) - set(cls.__annotations__))
        if unknown:
            raise Omni123Error(f"{cls.__name__} has no field {unknown[0]!r}.")
        if "encoder_config" in fields:
            raise Omni123Error("encoder_config is read from the encoder itself: leave it out.")
        doublings = square_patch_size(encoder).bit_length() - 1
        depth = encoder.num_hidden_layers
        adapted: dict[str, Any] = {
            "semantic_dim": min(SEMANTIC_DIM, encoder.hidden_size),
            "texture_taps": sorted({0, round(depth / 6), round(depth / 3)}),
            "upsampler_channels": ([UPSAMPLER_CHANNELS[0]] * doublings + list(UPSAMPLER_CHANNELS))[-doublings:],
        }
        # Every field of the class is written out, since transformers' defaults are another encoder's sizes.
        names = [name for name in DINOv3ViTConfig.__annotations__ if not name.startswith("_")]
        encoder_config = {name: getattr(encoder, name) for name in names}
        encoder_config["patch_size"] = square_patch_size(encoder)
        return cls(**{**adapted, **fields, "encoder_config": encoder_config})

    @classmethod
    def paper(cls) -> "Omni123ImageVAEConfig":
        """The scale of the paper: DINOv3 ViT-L/16, 768 semantic + 64 texture channels."""
        return cls()

    @classmethod
    def mini(cls) -> "Omni123ImageVAEConfig":
        """The scale of `omni123-mini`: 64² pixels, 8 x 8 cells of 32 + 16 channels, encoder trained from scratch.

        Deviation from the paper: no DINOv3 checkpoint of this size exists, so the encoder is not frozen in its own
        training (it is in all later stages, where the whole VAE is).
        """
        return cls(
            encoder_config=dict(DINOV3_TINY),
            freeze_encoder=False,
            freeze_semantic=False,
            image_size=64,
            semantic_dim=32,
            texture_dim=16,
            texture_taps=[0, 1, 2],
            texture_hidden_size=96,
            decoder_hidden_size=96,
            num_decoder_layers=2,
            num_decoder_heads=4,
            decoder_mlp_ratio=2.0,
            upsampler_channels=[48, 24, 12],
            upsampler_blocks=1,
            latent_noise=0.2,
            mse_loss_weight=2.0,
            gradient_loss_weight=0.5,
        )
