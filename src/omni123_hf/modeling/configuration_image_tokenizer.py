"""Configuration of the image tokenizer (paper §4.3, stage II: a 1D Q-Former over the frozen VAE's latent)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import Omni123Error
from .checks_configuration import check_mlp, check_positive, check_sizes


@strict
class Omni123ImageTokenizerConfig(PreTrainedConfig):
    """Sizes of `Omni123ImageTokenizer`; the defaults are the paper's scale (1,024 tokens, 65,536 codes of 64).

    `semantic_dim` of the `latent_dim` channels come first and form the first loss group; the rest are texture.
    `num_tokens` is a power of two; smaller grids use the first tokens (a 16 x 16 latent 256 of the 1,024).
    Unstated in the paper: Q-Former sizes (GigaTok's B encoder, L decoder) and all loss weights.
    """

    model_type = "omni123_image_tokenizer"

    latent_dim: int = 832
    semantic_dim: int = 768
    num_tokens: int = 1024
    num_codes: int = 65536
    code_dim: int = 64
    encoder_hidden_size: int = 768
    num_encoder_layers: int = 12
    num_encoder_heads: int = 12
    decoder_hidden_size: int = 1024
    num_decoder_layers: int = 24
    num_decoder_heads: int = 16
    mlp_ratio: float = 4.0
    num_frequencies: int = 32
    layer_norm_eps: float = 1e-6
    # Quantiser (GigaTok's weights).
    codebook_loss_weight: float = 1.0
    commitment_loss_weight: float = 0.25
    entropy_loss_weight: float = 0.005
    entropy_temperature: float = 0.01
    entropy_tokens: int = 4096
    restart_after: int = 2000
    quantizer_warmup_steps: int = 0
    # Balanced feature loss: a plain mean over 832 channels would give texture 7.7 % of the weight.
    semantic_loss_weight: float = 1.0
    texture_loss_weight: float = 1.0
    cosine_loss_weight: float = 0.5

    def __post_init__(self, **kwargs):
        self._check_sizes()
        super().__post_init__(**kwargs)

    def _check_sizes(self) -> None:
        """Raises `Omni123Error` when sizes cannot form a model.

        Not named `validate_*`: those are wrapped in a `StrictDataclassClassValidationError`, which is no `ValueError`.
        """
        check_sizes(self, "num_codes", "code_dim", "num_frequencies", "entropy_tokens")
        check_sizes(self, "quantizer_warmup_steps", "restart_after", at_least=0)
        check_positive(self, "layer_norm_eps", "entropy_temperature")
        if self.num_tokens < 1 or self.num_tokens & (self.num_tokens - 1):
            raise Omni123Error(f"num_tokens {self.num_tokens} is not a power of two: pooled levels double each time.")
        if not 0 < self.semantic_dim < self.latent_dim:
            raise Omni123Error(
                f"semantic_dim {self.semantic_dim} must lie inside latent_dim {self.latent_dim}: both groups "
                f"need channels."
            )
        for side in ("encoder", "decoder"):
            check_sizes(self, f"{side}_hidden_size", f"num_{side}_layers", f"num_{side}_heads")
            check_mlp(self, "mlp_ratio", f"{side}_hidden_size")
            width, heads = getattr(self, f"{side}_hidden_size"), getattr(self, f"num_{side}_heads")
            if width % heads:
                raise Omni123Error(f"{side}_hidden_size {width} is not a multiple of num_{side}_heads {heads}.")

    @classmethod
    def paper(cls) -> "Omni123ImageTokenizerConfig":
        """The scale of the paper."""
        return cls()

    @classmethod
    def mini(cls) -> "Omni123ImageTokenizerConfig":
        """The scale of `omni123-mini`: 64 tokens of 1,024 codes over an 8 x 8 x 48 latent."""
        return cls(
            latent_dim=48,
            semantic_dim=32,
            num_tokens=64,
            num_codes=1024,
            code_dim=16,
            encoder_hidden_size=128,
            num_encoder_layers=3,
            num_encoder_heads=4,
            decoder_hidden_size=128,
            num_decoder_layers=4,
            num_decoder_heads=4,
            mlp_ratio=2.0,
            num_frequencies=8,
            entropy_tokens=512,
            restart_after=100,
            quantizer_warmup_steps=200,
        )
