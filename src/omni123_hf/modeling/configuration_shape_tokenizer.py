"""Configuration of the shape tokenizer (paper §4.2, Table 3; the Perceiver VQ-VAE family of Cube 3D)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import Omni123Error
from .checks_configuration import check_mlp, check_positive, check_sizes


@strict
class Omni123ShapeTokenizerConfig(PreTrainedConfig):
    """Sizes of `Omni123ShapeTokenizer`, and how it is trained.

    The defaults are the paper's scale: 1,024 latents, 16,384 codes, code width 16 (Table 3; the public Cube 3D
    checkpoints use 32). `num_frequencies` is L of the phase-modulated embedding, `encoder_cross_attention_layers` the
    encoder layers in which the latents read the points; in all others they attend to each other. `code_scale_init`
    is the RMS at which codes start: the family's published 1/codes start is swamped by the norm's epsilon.

    Training (inference reads none of it; "Cube 3D" marks values its paper states, all others are ours):

    - `shortcut_probability`: share of samples that skip quantisation (Cube 3D). `vq_assignment`: "optimal_transport"
      (Cube 3D) or "nearest"; inference is always nearest. The Sinkhorn and loss weights are those of the OptVQ code.
    - `field_target`: what the head predicts. "occupancy": a logit, trained by cross-entropy. "tsdf" (Cube 3D v0.5's second
      stage): the signed distance divided by `tsdf_truncation` (asset units; the longest side is 1.92), positive inside,
      trained by the absolute error to the distance clamped to ±1. The surface is level 0 of both, and weights of the one
      load as a start of the other; only the unit of the values changes.
    - `eikonal_loss_weight` (tsdf only): weight of `(|∇ distance| - 1)²` within the truncation band, at no more than
      `eikonal_points` query points of a sample, for second-order gradients keep all attention scores.
    - `latent_alignment_loss_weight`: weight of 1 - cosine between the quantised latents and those that enter the last
      decoder layer (Cube 3D v0.5 has such a term and gives no weight; 0 is off).
    - `ssl_*`: self-distillation of the encoder's class token (see `self_distillation_shape`). The loss weight is Cube
      3D's; `ssl_mask_ratio` is the share of latent queries that the student goes without; head sizes, temperatures and
      momenta are those of DINO and DINOv2.
    """

    model_type = "omni123_shape_tokenizer"

    num_latents: int = 1024
    num_codes: int = 16384
    code_dim: int = 16
    hidden_size: int = 768
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    num_encoder_layers: int = 13
    encoder_cross_attention_layers: list[int] | tuple[int, ...] = (0, 2, 4, 8)
    num_decoder_layers: int = 24
    num_frequencies: int = 128
    num_normal_features: int = 3
    layer_norm_eps: float = 1e-6
    rms_norm_eps: float = 1e-5
    code_scale_init: float = 1.0

    shortcut_probability: float = 0.5
    vq_assignment: str = "optimal_transport"
    sinkhorn_iterations: int = 5
    sinkhorn_temperature: float = 0.1
    codebook_loss_weight: float = 0.25
    commitment_loss_weight: float = 1.0
    field_target: str = "occupancy"
    tsdf_truncation: float = 0.1
    eikonal_loss_weight: float = 0.1
    eikonal_points: int = 1024
    latent_alignment_loss_weight: float = 0.0
    ssl_loss_weight: float = 0.0005
    ssl_mask_ratio: float = 0.5
    ssl_num_prototypes: int = 65536
    ssl_head_size: int = 2048
    ssl_bottleneck_size: int = 256
    ssl_momentum: float = 0.996
    ssl_center_momentum: float = 0.9
    ssl_student_temperature: float = 0.1
    ssl_teacher_temperature: float = 0.04

    def __post_init__(self, **kwargs):
        self.encoder_cross_attention_layers = list(self.encoder_cross_attention_layers)
        self.check_sizes()
        self.check_training()
        super().__post_init__(**kwargs)

    def check_sizes(self) -> None:
        """Raises `Omni123Error` when sizes cannot form a model (the base class would wrap it when called `validate_…`)."""
        check_sizes(
            self, "num_latents", "num_codes", "code_dim", "hidden_size", "num_attention_heads", "num_encoder_layers",
            "num_decoder_layers", "num_frequencies",
        )  # fmt: skip
        check_mlp(self, "mlp_ratio", "hidden_size")
        check_positive(self, "layer_norm_eps", "rms_norm_eps", "code_scale_init")
        if self.hidden_size % self.num_attention_heads:
            raise Omni123Error(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.num_normal_features != 3:
            raise Omni123Error(f"num_normal_features is {self.num_normal_features}: a normal has 3 components.")
        if 0 not in self.encoder_cross_attention_layers:
            raise Omni123Error("encoder_cross_attention_layers must contain 0: the first layer reads the points.")
        if max(self.encoder_cross_attention_layers) >= self.num_encoder_layers:
            raise Omni123Error(
                f"encoder_cross_attention_layers {self.encoder_cross_attention_layers} name a layer beyond "
                f"num_encoder_layers {self.num_encoder_layers}."
            )
        if min(self.encoder_cross_attention_layers) < 0:
            raise Omni123Error(
                f"encoder_cross_attention_layers {self.encoder_cross_attention_layers} name a negative layer: layers "
                "count from 0."
            )

    def check_training(self) -> None:
        """Raises `Omni123Error` for training settings without a meaning."""
        if self.vq_assignment not in ("optimal_transport", "nearest"):
            raise Omni123Error(f"vq_assignment is {self.vq_assignment!r}: use 'optimal_transport' or 'nearest'.")
        if self.field_target not in ("occupancy", "tsdf"):
            raise Omni123Error(f"field_target is {self.field_target!r}: use 'occupancy' or 'tsdf'.")
        for name in ("shortcut_probability", "ssl_momentum", "ssl_center_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise Omni123Error(f"{name} is {getattr(self, name)}: it must lie in [0, 1].")
        if not 0 <= self.ssl_mask_ratio < 1:
            raise Omni123Error(f"ssl_mask_ratio is {self.ssl_mask_ratio}: it must lie in [0, 1).")
        positive = (
            "sinkhorn_iterations", "sinkhorn_temperature", "tsdf_truncation", "eikonal_points", "ssl_num_prototypes",
            "ssl_head_size", "ssl_bottleneck_size", "ssl_student_temperature", "ssl_teacher_temperature",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise Omni123Error(f"{name} is {getattr(self, name)}: it must be greater than 0.")
        for name in (name for name in dir(type(self)) if name.endswith("_loss_weight")):
            if not getattr(self, name) >= 0:
                raise Omni123Error(f"{name} is {getattr(self, name)}: it must not be negative.")

    @classmethod
    def paper(cls) -> "Omni123ShapeTokenizerConfig":
        """The scale of the paper (273 M parameters in Cube 3D's count)."""
        return cls()

    @classmethod
    def mini(cls) -> "Omni123ShapeTokenizerConfig":
        """The scale of `omni123-mini`."""
        return cls(
            num_latents=64,
            num_codes=1024,
            hidden_size=160,
            num_attention_heads=4,
            num_encoder_layers=4,
            encoder_cross_attention_layers=[0, 2],
            num_decoder_layers=3,
            mlp_ratio=2.0,
            num_frequencies=32,
            ssl_num_prototypes=1024,
            ssl_head_size=256,
            ssl_bottleneck_size=64,
        )
