"""Configuration of the autoregressive model (paper §4.1, Table 3) and the layout of its one flat vocabulary."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import Omni123Error


@strict
class Omni123Config(PreTrainedConfig):
    """Sizes of `Omni123ForConditionalGeneration`. The defaults are the paper's scale, see `paper()`.

    Flat ids: `[shape codes 0..Ks) [image codes Ks..Ks+Ki) <shape> <image> <pad> view_0..view_(num_views-1)`.

    Where the paper is silent: `use_bias` follows Cube 3D (the fused query-key projection never has one);
    `text_causal` makes the conditioning stream causal over its own concatenation, as the causal mask of §4.1 says;
    `normalize_text_embeds` puts the two encoders on one scale by a LayerNorm without affine before their projections.
    `shape_code_dim` / `image_code_dim` 0 means that codes are embedded by the learned table alone (Cube 3D).
    `text_embed_dim_2` None means a single text encoder. `null_condition` "learned" replaces a dropped text by one
    learned embedding; "empty_prompt" expects the caller to pass the embeddings of the empty prompt.
    `num_image_codes` 0 gives a model of shapes only. `head_dim` 0 means `hidden_size / num_attention_heads`.
    `edit_source_bias` is added to the logit of the source's own code at the same place while an edit is generated, unless the caller
    says otherwise; 0 is the paper. `edit_guidance_scale` is the guidance of edits, None that of the pipeline.
    `loss_chunk_size` is the number of target positions whose logits exist at a time in the loss; 0 means all at once.
    The heads are per modality and never tied to the embeddings, so `tie_word_embeddings` must stay False.
    """

    model_type = "omni123"
    keys_to_ignore_at_inference = ["past_key_values", "last_hidden_state", "conditioning_mask"]

    num_shape_codes: int = 16384
    num_image_codes: int = 65536
    num_shape_tokens: int = 1024
    num_image_tokens: int = 1024
    num_views: int = 6
    hidden_size: int = 1536
    mlp_ratio: float = 4.0
    num_dual_layers: int = 24
    num_single_layers: int = 6
    num_attention_heads: int = 12
    head_dim: int = 0
    rope_theta: float = 1000.0
    layer_norm_eps: float = 1e-6
    qk_norm_eps: float = 1e-5
    use_bias: bool = True
    token_dropout: float = 0.1
    shape_code_dim: int | None = 16
    image_code_dim: int | None = 64
    text_embed_dim: int = 768
    text_embed_dim_2: int | None = 1024
    normalize_text_embeds: bool = True
    text_causal: bool = True
    null_condition: str = "learned"
    use_bbox: bool = False
    initializer_range: float = 0.02
    loss_chunk_size: int = 256
    tie_word_embeddings: bool = False
    edit_source_bias: float = 0.0
    edit_guidance_scale: float | None = None

    def __post_init__(self, **kwargs: Any):
        if not self.head_dim:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        self.shape_code_dim = self.shape_code_dim or 0
        self.image_code_dim = self.image_code_dim or 0
        super().__post_init__(**kwargs)
        # Not a `validate_*` method: errors of those come wrapped in a class that is no ValueError.
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Raises `Omni123Error` when sizes cannot form a model."""
        for name in ("num_shape_codes", "num_shape_tokens", "hidden_size", "num_attention_heads", "text_embed_dim"):
            if getattr(self, name) < 1:
                raise Omni123Error(f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("shape_code_dim", "image_code_dim"):
            if (getattr(self, name) or 0) < 0:
                raise Omni123Error(f"{name} is {getattr(self, name)}: use 0 for no code vectors, or their width.")
        if self.intermediate_size < 1:
            raise Omni123Error(f"mlp_ratio is {self.mlp_ratio}: it must give at least one inner channel.")
        if self.num_dual_layers < 1:
            raise Omni123Error("num_dual_layers must be at least 1: text enters the model only through dual layers.")
        if self.num_single_layers < 0 or self.num_image_codes < 0 or self.num_views < 0:
            raise Omni123Error("num_single_layers, num_image_codes and num_views cannot be negative.")
        if self.num_image_codes and self.num_image_tokens < 1:
            raise Omni123Error("num_image_tokens must be at least 1 when the model has image codes.")
        if self.head_dim < 2 or self.head_dim % 2:
            raise Omni123Error(f"head_dim is {self.head_dim}: rotary pairs need an even head_dim of at least 2.")
        if self.loss_chunk_size < 0:
            raise Omni123Error(
                f"loss_chunk_size is {self.loss_chunk_size}: use 0 for the whole batch, or a positive size."
            )
        if self.tie_word_embeddings:
            raise Omni123Error(
                "tie_word_embeddings cannot be True: each modality has its own head over its own codes, while one table "
                "embeds the whole vocabulary."
            )
        if not math.isfinite(self.edit_source_bias):
            raise Omni123Error(f"edit_source_bias is {self.edit_source_bias}: it must be a finite number.")
        if self.edit_guidance_scale is not None and not 0.0 <= self.edit_guidance_scale < math.inf:
            raise Omni123Error(
                f"edit_guidance_scale is {self.edit_guidance_scale}: it must be 0 or more, or None for the pipeline's."
            )
        if not 0.0 <= self.token_dropout < 1.0:
            raise Omni123Error(f"token_dropout is {self.token_dropout}: it must lie in [0, 1).")
        if self.null_condition not in ("learned", "empty_prompt"):
            raise Omni123Error(f"null_condition is {self.null_condition!r}: use 'learned' or 'empty_prompt'.")

    @property
    def intermediate_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def num_hidden_layers(self) -> int:
        return self.num_dual_layers + self.num_single_layers

    @property
    def num_codes(self) -> int:
        """Codes of both modalities; every flat id below is a code, every id from here on is a special token."""
        return self.num_shape_codes + self.num_image_codes

    @property
    def image_offset(self) -> int:
        return self.num_shape_codes

    @property
    def shape_start_id(self) -> int:
        return self.num_codes

    @property
    def image_start_id(self) -> int:
        return self.num_codes + 1

    @property
    def pad_id(self) -> int:
        return self.num_codes + 2

    @property
    def view_offset(self) -> int:
        return self.num_codes + 3

    @property
    def vocab_size(self) -> int:
        return self.num_codes + 3 + self.num_views

    @classmethod
    def paper(cls) -> "Omni123Config":
        """The scale of the paper: 24 + 6 layers, width 1536, about 2.2 B parameters without the text encoders."""
        return cls()

    @classmethod
    def mini(cls) -> "Omni123Config":
        """The scale of `omni123-mini`; the widths of its two text encoders are set by who builds the checkpoint."""
        return cls(
            num_shape_codes=1024,
            num_image_codes=1024,
            num_shape_tokens=64,
            num_image_tokens=64,
            hidden_size=192,
            num_dual_layers=4,
            num_single_layers=1,
            num_attention_heads=4,
            shape_code_dim=16,
            image_code_dim=16,
        )
