"""The autoregressive model over text, image tokens and shape tokens (paper §4.1, Table 3).

Choices: dual-stream blocks attend jointly over [conditioning ; generation], where conditioning never sees generation;
the last of them takes only keys and values from conditioning; single-stream blocks see generation alone. LayerNorm
without affine, per-head RMSNorm on queries and keys, SwiGLU, rotary positions on interleaved channel pairs, with all
conditioning at position 0. Codes are embedded by a learned table plus a projection of the tokenizer's own code
vectors. One untied linear head per modality. Masks are decided in `masking.py`, sequences in `tasks.py`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput

from ..errors import Omni123Error
from .blocks_omni123 import (
    HeadRMSNorm,
    Omni123DualBlock,
    Omni123SingleBlock,
    StreamOutput,
    layer_norm,
    rotary_tables,
)
from .configuration_omni123 import Omni123Config
from .generation_omni123 import Omni123GenerationMixin
from .masking import build_masks


ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")


@dataclass
class Omni123Output(ModelOutput):
    """Result of a forward pass over `T` generation positions.

    `loss` is the summed cross-entropy over target codes divided by their number; `shape_loss` and `image_loss` are the
    detached means per modality, None where the batch has no such target. `shape_logits (B, K, Ks)` and
    `image_logits (B, K, Ki)` are over local codes. `last_hidden_state (B, T, hidden)` is after the final norm.
    `conditioning_mask (B, C)` must be handed back with `past_key_values` in the next cached step.
    """

    loss: torch.Tensor | None = None
    shape_loss: torch.Tensor | None = None
    image_loss: torch.Tensor | None = None
    shape_logits: torch.Tensor | None = None
    image_logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    past_key_values: Cache | None = None
    conditioning_mask: torch.Tensor | None = None


class Omni123PreTrainedModel(PreTrainedModel):
    config: Omni123Config
    config_class = Omni123Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Omni123DualBlock", "Omni123SingleBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = False  # Its masks cannot express a bidirectional prefix.
    _supports_flex_attn = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, HeadRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, StreamOutput):
            # Children are initialised before their parent: residual branches start small, by depth.
            for linear in (module.o_proj, module.down_proj):
                init.normal_(linear.weight, mean=0.0, std=std / math.sqrt(2 * self.config.num_hidden_layers))
        elif isinstance(module, Omni123ForConditionalGeneration):
            for vector in (module.null_text_embed, module.mask_embed):
                if vector is not None:
                    init.normal_(vector, mean=0.0, std=std)
            for table in (module.shape_code_table, module.image_code_table):
                if table is not None:
                    init.zeros_(table)


class Omni123ForConditionalGeneration(Omni123PreTrainedModel, Omni123GenerationMixin):
    """Next-code prediction for every row of `tasks.TASKS`, given text.

    `shape_code_table` and `image_code_table` are the code vectors of the two tokenizers. They are zero until
    `set_code_tables` fills them, are saved with the model and are not trained.
    """

    shape_code_table: torch.Tensor | None
    image_code_table: torch.Tensor | None
    accepts_loss_kwargs = True  # `forward` divides by `num_items_in_batch` when it is given.

    def __init__(self, config: Omni123Config):
        requested = config._attn_implementation
        if requested is not None and requested not in ATTENTION_IMPLEMENTATIONS:
            raise Omni123Error(
                f"attn_implementation {requested!r} cannot run this model's bidirectional prefix: "
                f"use one of {', '.join(ATTENTION_IMPLEMENTATIONS)}."
            )
        super().__init__(config)
        hidden = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, hidden)
        self.shape_code_proj = self._make_code_table("shape", config.num_shape_codes, config.shape_code_dim)
        self.image_code_proj = self._make_code_table("image", config.num_image_codes, config.image_code_dim)
        self.text_proj = nn.Linear(config.text_embed_dim, hidden)
        self.text_proj_2 = nn.Linear(config.text_embed_dim_2, hidden) if config.text_embed_dim_2 else None
        self.bbox_proj = nn.Linear(3, hidden) if config.use_bbox else None
        learned_null = config.null_condition == "learned"
        self.null_text_embed = nn.Parameter(torch.empty(1, 1, hidden)) if learned_null else None
        self.mask_embed = nn.Parameter(torch.empty(hidden)) if config.token_dropout > 0 else None
        self.dual_blocks = nn.ModuleList(Omni123DualBlock(config, i) for i in range(config.num_dual_layers))
        self.single_blocks = nn.ModuleList(
            Omni123SingleBlock(config, config.num_dual_layers + i) for i in range(config.num_single_layers)
        )
        self.shape_head = nn.Linear(hidden, config.num_shape_codes, bias=False)
        self.image_head = nn.Linear(hidden, config.num_image_codes, bias=False) if config.num_image_codes else None
        self.post_init()

    def _make_code_table(self, modality: str, num_codes: int, code_dim: int | None) -> nn.Linear | None:
        if not (num_codes and code_dim):
            self.register_buffer(f"{modality}_code_table", None)
            return None
        self.register_buffer(f"{modality}_code_table", torch.zeros(num_codes, code_dim))
        return nn.Linear(code_dim, self.config.hidden_size, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        if not isinstance(value, nn.Embedding):
            raise TypeError(f"Input embeddings must be an nn.Embedding, not {type(value).__name__}.")
        self.embed_tokens = value

    def get_output_embeddings(self) -> None:
        return None

    @torch.no_grad()
    def set_code_tables(self, shape: torch.Tensor | None = None, image: torch.Tensor | None = None) -> None:
        """Copies the tokenizers' code vectors, `(Ks, shape_code_dim)` and `(Ki, image_code_dim)`, into the model."""
        for name, value in (("shape", shape), ("image", image)):
            if value is None:
                continue
            table = getattr(self, f"{name}_code_table")
            if table is None:
                raise Omni123Error(f"This model has no {name} code table: set {name}_code_dim in its config.")
            if tuple(value.shape) != tuple(table.shape):
                raise Omni123Error(
                    f"The {name} code table is {tuple(value.shape)}, the model expects {tuple(table.shape)}: "
                    "build model and tokenizer from matching configs."
                )
            table.copy_(value)

    def embed_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeds flat ids `(B, T)` as `(B, T, hidden)`: learned table plus projected code vectors."""
        embeds = self.embed_tokens(input_ids)
        streams = (
            (self.shape_code_table, self.shape_code_proj, 0),
            (self.image_code_table, self.image_code_proj, self.config.image_offset),
        )
        for table, projection, offset in streams:
            if table is None or projection is None:
                continue
            local = input_ids - offset
            is_code = (local >= 0) & (local < table.shape[0])
            vectors = F.embedding(local.clamp(0, table.shape[0] - 1), table.to(projection.weight.dtype))
            embeds = embeds + projection(vectors) * is_code[..., None]
        return embeds

    def embed_conditioning(
        self,
        batch_size: int,
        text_embeds: torch.Tensor | None = None,
        text_embeds_2: torch.Tensor | None = None,
        text_attention_mask_2: torch.Tensor | None = None,
        bbox: torch.Tensor | None = None,
        null_text: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The conditioning stream `(B, C, hidden)` and its validity `(B, C)`.

        A null row keeps one valid position, the first, which holds the learned null embedding; so it costs nothing
        extra in a batch and does not depend on the length of anybody's prompt. No text at all makes every row null.
        """
        config = self.config
        if null_text is not None and self.null_text_embed is None and bool(null_text.any()):
            raise Omni123Error(
                "This model has null_condition 'empty_prompt': pass the embeddings of the empty prompt in the rows "
                "without text, not null_text."
            )
        if text_embeds is None:
            if self.null_text_embed is None or text_embeds_2 is not None:
                raise Omni123Error("text_embeds is missing: pass the first text encoder's hidden states.")
            stream = self.null_text_embed.expand(batch_size, 1, -1)
            return stream, torch.ones(batch_size, 1, dtype=torch.bool, device=stream.device)
        sources: list[tuple[str, torch.Tensor, nn.Linear, torch.Tensor | None]] = [
            ("text_embeds", text_embeds, self.text_proj, None)
        ]
        if (text_embeds_2 is None) != (self.text_proj_2 is None):
            verb = "missing: this model has" if text_embeds_2 is None else "given, but this model does not have"
            raise Omni123Error(f"text_embeds_2 is {verb} a second text encoder.")
        if self.text_proj_2 is not None and text_embeds_2 is not None:
            sources.append(("text_embeds_2", text_embeds_2, self.text_proj_2, text_attention_mask_2))
        pieces, valid = [], []
        for name, embeds, projection, attention_mask in sources:
            if embeds.ndim != 3 or embeds.shape[0] != batch_size or embeds.shape[2] != projection.in_features:
                raise Omni123Error(
                    f"{name} is {tuple(embeds.shape)}: it must be ({batch_size}, length, {projection.in_features})."
                )
            if config.normalize_text_embeds:
                embeds = layer_norm(embeds, config.layer_norm_eps)
            pieces.append(projection(embeds.to(projection.weight.dtype)))
            whole = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
            valid.append(whole if attention_mask is None else attention_mask.bool())
        if self.bbox_proj is not None:
            # Zeros mean "no box", as in Cube 3D.
            box = pieces[0].new_zeros(batch_size, 3) if bbox is None else bbox.to(pieces[0].dtype)
            pieces.append(self.bbox_proj(box)[:, None])
            valid.append(torch.ones(batch_size, 1, dtype=torch.bool, device=box.device))
        elif bbox is not None:
            raise Omni123Error("This model takes no bounding box: leave bbox out, or set use_bbox in its config.")
        stream, mask = torch.cat(pieces, dim=1), torch.cat(valid, dim=1)
        if null_text is not None and self.null_text_embed is not None:
            is_first = torch.arange(stream.shape[1], device=stream.device) == 0
            mask = torch.where(null_text[:, None], is_first[None], mask)
            stream = torch.where(null_text[:, None, None], self.null_text_embed.to(stream.dtype), stream)
        return stream, mask

    def forward(
        self,
        input_ids: torch.Tensor,
        text_embeds: torch.Tensor | None = None,
        text_embeds_2: torch.Tensor | None = None,
        text_attention_mask_2: torch.Tensor | None = None,
        null_text: torch.Tensor | None = None,
        prefix_length: torch.Tensor | int | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        drop_prefix: torch.Tensor | None = None,
        bbox: torch.Tensor | None = None,
        conditioning_mask: torch.Tensor | None = None,
        modality: str | None = None,
        logits_to_keep: int = 0,
    ) -> Omni123Output:
        """Predicts the code that follows each position of `input_ids (B, T)`, flat ids.

        `text_embeds (B, Lc, Dc)`, `text_embeds_2 (B, Lq, Dq)` with `text_attention_mask_2 (B, Lq)`; `null_text (B,)`
        bool marks rows without text. `prefix_length (B,)` or one number: leading positions that see each other;
        `drop_prefix (B,)` bool hides them from the rest. `labels (B, T)` are flat ids aligned with `input_ids`, -100
        where there is no loss; the shift by one happens here. With labels no logits are returned; without, `modality`
        ("shape" or "image", None for both) and `logits_to_keep` (0 for all positions) choose the logits to compute.
        In a cached step pass only new ids, `past_key_values` and the last output's `conditioning_mask`, and no text;
        with a dropped prefix pass `prefix_length` and `drop_prefix` in every step. Raises `Omni123Error`.
        """
        rows, length = input_ids.shape
        conditioning = None
        num_past = 0
        if past_key_values is not None and past_key_values.get_seq_length(0) > 0:
            if conditioning_mask is None:
                raise Omni123Error("A cached step needs the conditioning_mask of the output that came with the cache.")
            num_past = past_key_values.get_seq_length(0) - conditioning_mask.shape[1]
        else:
            conditioning, conditioning_mask = self.embed_conditioning(
                rows, text_embeds, text_embeds_2, text_attention_mask_2, bbox, null_text
            )
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache()
        prefix = self._check_prefix(prefix_length, rows, num_past, length, input_ids.device)
        masks = build_masks(conditioning_mask, length, num_past, prefix, drop_prefix, self.config.text_causal)
        rotation = rotary_tables(num_past, length, self.config.head_dim, self.config.rope_theta, input_ids.device)

        generation = self._drop_tokens(input_ids, self.embed_ids(input_ids), labels)
        for dual in self.dual_blocks:
            generation, conditioning = dual(
                generation, conditioning, rotation, masks.dual, past_key_values=past_key_values
            )
        for single in self.single_blocks:
            generation = single(generation, rotation, masks.single, past_key_values=past_key_values)
        hidden = layer_norm(generation, self.config.layer_norm_eps)

        output = Omni123Output(
            last_hidden_state=hidden, past_key_values=past_key_values, conditioning_mask=conditioning_mask
        )
        if labels is not None:
            output.loss, output.shape_loss, output.image_loss = self._loss(hidden, labels, num_items_in_batch)
            return output
        kept = hidden[:, -logits_to_keep:]
        if modality in (None, "shape"):
            output.shape_logits = self.shape_head(kept)
        if modality in (None, "image") and self.image_head is not None:
            output.image_logits = self.image_head(kept)
        if output.shape_logits is None and output.image_logits is None:
            raise Omni123Error(f"modality {modality!r} has no head in this model: use 'shape', 'image' or None.")
        return output

    def _check_prefix(
        self, prefix_length: torch.Tensor | int | None, rows: int, num_past: int, length: int, device: torch.device
    ) -> torch.Tensor | None:
        if prefix_length is None:
            return None
        prefix = torch.as_tensor(prefix_length, device=device).long().expand(rows)
        longest = int(prefix.max())
        if longest > (num_past or length):
            raise Omni123Error(
                f"The prefix of {longest} positions must enter in one uncached pass, because it sees itself in both "
                f"directions; this pass ends its reach at {num_past or length}."
            )
        return prefix if longest else None

    def _drop_tokens(self, input_ids: torch.Tensor, embeds: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Token dropout of training: code inputs become the mask embedding; targets stay."""
        if not self.training or labels is None or self.mask_embed is None:
            return embeds
        dropped = torch.rand(input_ids.shape, device=input_ids.device) < self.config.token_dropout
        dropped = dropped & (input_ids < self.config.num_codes)
        return torch.where(dropped[..., None], self.mask_embed.to(embeds.dtype), embeds)

    def _loss(
        self, hidden: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        hidden, labels = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        total = hidden.new_zeros((), dtype=torch.float32)
        means: list[torch.Tensor | None] = []
        found = 0
        for head, offset in ((self.shape_head, 0), (self.image_head, self.config.image_offset)):
            if head is None:
                means.append(None)
                continue
            chosen = ((labels >= offset) & (labels < offset + head.out_features)).nonzero()[:, 0]
            # An absent modality still runs its head over zero rows, so that every parameter has a gradient under DDP.
            summed = F.cross_entropy(head(hidden[chosen]).float(), labels[chosen] - offset, reduction="sum")
            total = total + summed
            means.append(summed.detach() / len(chosen) if len(chosen) else None)
            found += len(chosen)
        targets = int((labels != -100).sum())
        if found != targets:
            raise Omni123Error(
                f"{targets - found} labels are no codes: put -100 where start, view and pad tokens stand."
            )
        if targets == 0:
            raise Omni123Error("The batch has no target: every label is -100 after the shift by one.")
        return total / (targets if num_items is None else num_items), means[0], means[1]


def parameter_table(model: Omni123ForConditionalGeneration) -> dict[str, int]:
    """Counts of parameters by part, "total" last; code tables are buffers and not among them."""
    parts = {
        "embeddings": ("embed_tokens", "shape_code_proj", "image_code_proj", "mask_embed"),
        "text projections": ("text_proj", "text_proj_2", "bbox_proj", "null_text_embed"),
        "dual blocks, conditioning": ("conditioning_qkv", "conditioning_out"),
        "dual blocks, generation": ("generation_qkv", "generation_out"),
        "single blocks": ("single_blocks",),
        "shape head": ("shape_head",),
        "image head": ("image_head",),
    }
    table = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        pieces = name.split(".")
        key = pieces[2] if pieces[0] == "dual_blocks" else pieces[0]
        part = next(part for part, keys in parts.items() if key in keys)
        table[part] += parameter.numel()
    table["total"] = sum(table.values())
    return table
