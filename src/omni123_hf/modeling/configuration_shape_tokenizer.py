"""Configuration of the shape tokenizer (paper §4.2, Table 3; the Perceiver VQ-VAE family of Cube 3D)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import Omni123Error


@strict
class Omni123ShapeTokenizerConfig(PreTrainedConfig):
    """Sizes of `Omni123ShapeTokenizer`.

    The defaults are the paper's scale: 1,024 latents, 16,384 codes, code width 16 (Table 3; the public Cube 3D
    checkpoints use 32). `num_frequencies` is L of the phase-modulated embedding, `encoder_cross_attention_layers` the
    encoder layers in which the latents read the points; in all others they attend to each other. `code_scale_init`
    is the RMS at which codes start: the family's published 1/codes start is swamped by the norm's epsilon.
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
    # Training behaviour (Cube 3D's where it states any; the paper is silent on all weights).
    shortcut_probability: float = 0.5
    vq_assignment: str = "optimal_transport"
    sinkhorn_iterations: int = 5
    sinkhorn_temperature: float = 0.1
    codebook_loss_weight: float = 0.25
    commitment_loss_weight: float = 1.0

    def __post_init__(self, **kwargs):
        self.encoder_cross_attention_layers = list(self.encoder_cross_attention_layers)
        self.check_sizes()
        super().__post_init__(**kwargs)

    def check_sizes(self) -> None:
        """Raises `Omni123Error` when sizes cannot form a model (the base class would wrap it when called `validate_…`)."""
        if self.hidden_size % self.num_attention_heads:
            raise Omni123Error(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.vq_assignment not in ("optimal_transport", "nearest"):
            raise Omni123Error(f"vq_assignment is {self.vq_assignment!r}: use 'optimal_transport' or 'nearest'.")
        if 0 not in self.encoder_cross_attention_layers:
            raise Omni123Error("encoder_cross_attention_layers must contain 0: the first layer reads the points.")
        if max(self.encoder_cross_attention_layers) >= self.num_encoder_layers:
            raise Omni123Error(
                f"encoder_cross_attention_layers {self.encoder_cross_attention_layers} name a layer beyond "
                f"num_encoder_layers {self.num_encoder_layers}."
            )

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
        )
