"""The autoregressive model over text, image tokens and shape tokens (paper §4.1, Table 3).

Choices: dual-stream blocks attend jointly over [conditioning ; generation], where conditioning never sees generation;
the last of them takes only keys and values from conditioning; single-stream blocks see generation alone. LayerNorm
without affine, per-head RMSNorm on queries and keys, SwiGLU, rotary positions on interleaved channel pairs, with all
conditioning at position 0. Codes are embedded by a learned table plus a projection of the tokenizer's own code
vectors. One untied linear head per modality. Masks are decided in `masking.py`, sequences in `tasks.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..errors import Omni123Error
from .blocks_omni123 import (
    HeadRMSNorm,
    Omni123DualBlock,
    Omni123SingleBlock,
    StreamOutput,
    layer_norm,
    rotary_tables,
)
from .cache_omni123 import Omni123StaticCache
from .checks_omni123 import check_cache, check_ids, check_outputs, check_rows, read_pairs
from .configuration_omni123 import Omni123Config
from .generation_omni123 import Omni123GenerationMixin
from .loss_omni123 import summed_cross_entropy
from .masking import VisibilityRule, build_masks
from .offload import OffloadableMixin
from .packing_omni123 import (
    PackedVisibilityRule,
    build_document_masks,
    check_documents,
    document_positions,
    pack_conditioning,
    packed_rule,
)
from .saving import refuse_torchao_saving


ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")


@dataclass
class Omni123Output(ModelOutput):
    """Result of a forward pass over `T` generation positions.

    `loss` is the summed cross-entropy over target codes divided by their number; `shape_loss` and `image_loss` are the
    detached means per modality, None where the batch has no such target. `shape_logits (B, K, Ks)` and
    `image_logits (B, K, Ki)` are over local codes. `last_hidden_state (B, T, hidden)` is after the final norm.
    `conditioning_mask (B, C)` must be handed back with `past_key_values` in the next cached step. On request,
    `hidden_states` are the generation stream `(B, T, hidden)` before the first and after every block, and `attentions`
    (eager only) each block's weights `(B, heads, queries, keys)` over `[conditioning ; generation]` in dual blocks.
    """

    loss: torch.Tensor | None = None
    shape_loss: torch.Tensor | None = None
    image_loss: torch.Tensor | None = None
    shape_logits: torch.Tensor | None = None
    image_logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    past_key_values: Cache | None = None
    conditioning_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class Omni123PreTrainedModel(OffloadableMixin, PreTrainedModel):
    config: Omni123Config
    config_class = Omni123Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Omni123DualBlock", "Omni123SingleBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = False  # Its masks cannot express a bidirectional prefix.
    _supports_flex_attn = True
    _can_compile_fullgraph = True

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

    @classmethod
    def can_generate(cls) -> bool:
        """False: generation follows a plan (`generate_plan`), and there is no `generate`."""
        return False

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        refuse_torchao_saving(self)
        super().save_pretrained(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        if not isinstance(value, nn.Embedding):
            raise TypeError(f"Input embeddings must be an nn.Embedding, not {type(value).__name__}.")
        self.embed_tokens = value

    def get_output_embeddings(self) -> None:
        """None: there is a head for each modality, `shape_head` and `image_head`, and neither is tied."""
        return None

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refuses every new size: the config lays out the vocabulary, and heads and code tables would no longer fit.

        To add view tokens use `resize_view_embeddings`; for other code books build a model of another config.
        """
        if new_num_tokens in (None, self.config.vocab_size):
            return self.embed_tokens
        raise Omni123Error(
            f"The vocabulary of {self.config.vocab_size} ids is laid out by the config and cannot be resized to "
            f"{new_num_tokens}: use resize_view_embeddings for views, or a config with other numbers of codes."
        )

    @torch.no_grad()
    def resize_view_embeddings(self, num_views: int) -> nn.Embedding:
        """Gives the model `num_views` view tokens (paper §4.5: they are new in continued training).

        View ids end the vocabulary, so all other ids keep their rows; added rows start as any embedding does.
        """
        if num_views < 0:
            raise Omni123Error(f"num_views is {num_views}: it cannot be negative.")
        old = self.embed_tokens.weight
        kept = self.config.view_offset + min(num_views, self.config.num_views)
        table = nn.Embedding(
            self.config.view_offset + num_views, self.config.hidden_size, device=old.device, dtype=old.dtype
        )
        table.weight.normal_(mean=0.0, std=self.config.initializer_range)
        table.weight[:kept] = old[:kept]
        table.weight.requires_grad_(old.requires_grad)
        self.config.num_views = num_views
        self.embed_tokens = table
        return table

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
            vectors = F.embedding(local.clamp(0, table.shape[0] - 1), table.to(embeds.dtype))
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
        if text_embeds_2 is None and text_attention_mask_2 is not None:
            raise Omni123Error("text_attention_mask_2 is given without text_embeds_2: pass both or neither.")
        if bbox is not None and self.bbox_proj is None:
            raise Omni123Error("This model takes no bounding box: leave bbox out, or set use_bbox in its config.")
        if text_embeds is None:
            if self.null_text_embed is None or text_embeds_2 is not None:
                raise Omni123Error("text_embeds is missing: pass the first text encoder's hidden states.")
            if bbox is not None or (null_text is not None and not bool(null_text.all())):
                raise Omni123Error("bbox and rows with text need text_embeds: without it every row is unconditional.")
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
            fits = embeds.ndim == 3 and embeds.shape[0] == batch_size and embeds.shape[2] == projection.in_features
            if not fits or not embeds.shape[1]:
                raise Omni123Error(
                    f"{name} is {tuple(embeds.shape)}: it must be ({batch_size}, length, {projection.in_features}), length "
                    "at least 1."
                )
            if config.normalize_text_embeds:
                embeds = layer_norm(embeds, config.layer_norm_eps)
            # Not the projection's own type, which is an integer once it is quantised.
            pieces.append(projection(embeds.to(self.embed_tokens.weight.dtype)))
            if attention_mask is not None and attention_mask.shape != embeds.shape[:2]:
                raise Omni123Error(
                    f"text_attention_mask_2 is {tuple(attention_mask.shape)}: it must be {tuple(embeds.shape[:2])} like {name}."
                )
            whole = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
            valid.append(whole if attention_mask is None else attention_mask.bool())
        if self.bbox_proj is not None:
            if bbox is not None and tuple(bbox.shape) != (batch_size, 3):
                raise Omni123Error(
                    f"bbox is {tuple(bbox.shape)}: it must be ({batch_size}, 3), zeros where there is none."
                )
            # Zeros mean "no box", as in Cube 3D.
            box = pieces[0].new_zeros(batch_size, 3) if bbox is None else bbox.to(pieces[0].dtype)
            pieces.append(self.bbox_proj(box)[:, None])
            valid.append(torch.ones(batch_size, 1, dtype=torch.bool, device=box.device))
        stream, mask = torch.cat(pieces, dim=1), torch.cat(valid, dim=1)
        if null_text is not None and self.null_text_embed is not None:
            is_first = torch.arange(stream.shape[1], device=stream.device) == 0
            mask = torch.where(null_text[:, None], is_first[None], mask)
            stream = torch.where(null_text[:, None, None], self.null_text_embed.to(stream.dtype), stream)
        return stream, mask

    @can_return_tuple
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
        document_ids: torch.Tensor | None = None,
        modality: str | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Omni123Output:
        """Predicts the code that follows each position of `input_ids (B, T)`, flat ids.

        `text_embeds (B, Lc, Dc)`, `text_embeds_2 (B, Lq, Dq)` with `text_attention_mask_2 (B, Lq)`; `null_text (B,)`
        bool marks rows without text. `prefix_length (B,)` or one number: leading positions that see each other;
        `drop_prefix (B,)` bool hides them from the rest. `labels (B, T)` are flat ids aligned with `input_ids`, -100
        where there is no loss; the shift by one happens here. With labels no logits are returned; without, `modality`
        ("shape" or "image", None for both) and `logits_to_keep` (0 for all positions) choose the logits to compute.
        In a cached step pass only new ids, `past_key_values` and the last output's `conditioning_mask`, and no text;
        with a dropped prefix pass `prefix_length` and `drop_prefix` in every step. `past_key_values` is a
        `DynamicCache` (made here when `use_cache` is set) or a static cache (`make_static_cache`), whose steps can be
        compiled as one graph. With `document_ids (1, T)` the row is packed (`packing_omni123.py`): the text inputs,
        `null_text`, `prefix_length` and `drop_prefix` have an entry for each of its D documents. Raises `Omni123Error`.
        """
        if not torch.compiler.is_compiling():
            check_ids(self.config, input_ids, labels, is_cached=conditioning_mask is not None)
        # Documents of a packed row stand where rows stand otherwise.
        samples = input_ids.shape[0] if document_ids is None else self._count_documents(text_embeds, null_text)
        if not torch.compiler.is_compiling():
            check_rows(samples, null_text, drop_prefix, prefix_length)
            has_text = any(x is not None for x in (text_embeds, text_embeds_2, text_attention_mask_2, null_text, bbox))
            check_cache(past_key_values, conditioning_mask, input_ids.shape[0], has_text)
            check_outputs(self.config, modality, output_attentions)
            if document_ids is not None:
                check_documents(document_ids, input_ids, samples)
                if use_cache or past_key_values is not None:
                    raise Omni123Error("A packed row has no cache: decode each sequence in a row of its own.")
        length = input_ids.shape[1]
        conditioning = None
        num_past: int | torch.Tensor = 0
        if conditioning_mask is not None and past_key_values is not None:
            valid = conditioning_mask
            num_past = past_key_values.get_seq_length(0) - valid.shape[1]
            if not torch.compiler.is_compiling():
                num_past = int(num_past)
        else:
            conditioning, valid = self.embed_conditioning(
                samples, text_embeds, text_embeds_2, text_attention_mask_2, bbox, null_text
            )
            if use_cache and past_key_values is None:
                past_key_values = DynamicCache()
        prefix = self._prefix_tensor(prefix_length, samples, num_past, length, input_ids.device)
        if document_ids is None:
            positions = torch.arange(length, device=input_ids.device) + num_past
            rule = VisibilityRule(valid, num_past, prefix, drop_prefix, self.config.text_causal)
        else:
            assert conditioning is not None  # A packed row has no cache.
            positions = document_positions(document_ids)
            conditioning, valid, owners = pack_conditioning(conditioning, valid)
            rule = packed_rule(valid, owners, document_ids, positions, prefix, drop_prefix, self.config.text_causal)
        width = valid.shape[1]
        keys, single_keys = self._key_lengths(past_key_values, num_past, length, width)
        # Cutting static buffers to their used part makes them equal dynamic ones to the bit; a compiled step, whose shapes
        # must not change, attends over the whole buffer under its mask instead.
        visible = None if torch.compiler.is_compiling() else (width + keys, single_keys)
        implementation = self.config._attn_implementation
        if isinstance(rule, PackedVisibilityRule) and implementation == "sdpa" and not torch.compiler.is_compiling():
            masks = build_document_masks(rule, samples)
        else:
            flex = implementation == "flex_attention"
            masks = build_masks(rule, length, keys, conditioning is None, single_keys, use_flex=flex)
        rotation = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)

        generation = self._drop_tokens(input_ids, self.embed_ids(input_ids), labels)
        # Kept on request only: held to the end, they would cost every pass all layers' activations.
        states = [generation] if output_hidden_states else []
        attentions = []
        for dual in self.dual_blocks:
            mask = masks.last_dual if dual.is_last else masks.dual
            generation, conditioning, weights = dual(
                generation,
                conditioning,
                rotation,
                mask,
                past_key_values=past_key_values,
                visible_keys=None if visible is None else visible[0],
            )
            if output_hidden_states:
                states.append(generation)
            if output_attentions:
                attentions.append(weights)
        for single in self.single_blocks:
            generation, weights = single(
                generation,
                rotation,
                masks.single,
                past_key_values=past_key_values,
                visible_keys=None if visible is None else visible[1],
            )
            if output_hidden_states:
                states.append(generation)
            if output_attentions:
                attentions.append(weights)
        hidden = layer_norm(generation, self.config.layer_norm_eps)

        output = Omni123Output(
            last_hidden_state=hidden,
            past_key_values=past_key_values,
            conditioning_mask=valid,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        if labels is not None:
            output.loss, output.shape_loss, output.image_loss = self._loss(hidden, labels, num_items_in_batch)
            return output
        kept = hidden[:, -logits_to_keep:]
        if modality in (None, "shape"):
            output.shape_logits = self.shape_head(kept)
        if modality in (None, "image") and self.image_head is not None:
            output.image_logits = self.image_head(kept)
        return output

    @staticmethod
    def _count_documents(text_embeds: torch.Tensor | None, null_text: torch.Tensor | None) -> int:
        """D of a packed row, by the inputs that have an entry for each document."""
        counted = text_embeds if text_embeds is not None else null_text
        if counted is None:
            raise Omni123Error("A packed row needs text_embeds or null_text, with an entry for each document.")
        return counted.shape[0]

    def make_static_cache(self, conditioning_length: int, num_positions: int) -> Omni123StaticCache:
        """An empty cache of fixed size for `conditioning_length` C and at most `num_positions` generation positions.

        Its tensors never change place or shape, so that decoding steps compile as one graph.
        """
        return Omni123StaticCache(self.config, conditioning_length, num_positions)

    def _key_lengths(
        self, cache: Cache | None, num_past: int | torch.Tensor, length: int, conditioning_length: int
    ) -> tuple[int, int]:
        """How many generation keys dual and single blocks will meet; a compiled step meets a static cache's whole buffer."""
        if cache is None or not cache.is_compileable:
            return int(num_past) + length, int(num_past) + length
        layers: Any = cache.layers
        dual = layers[0].max_cache_len - conditioning_length
        single = layers[self.config.num_dual_layers].max_cache_len if self.single_blocks else dual
        if torch.compiler.is_compiling():
            return dual, single
        used = int(num_past) + length
        if used > min(dual, single):
            raise Omni123Error(
                f"The static cache has room for {min(dual, single)} positions and {used} are wanted: make a larger one with "
                "make_static_cache."
            )
        return used, used

    def _prefix_tensor(
        self,
        prefix_length: torch.Tensor | int | None,
        rows: int,
        num_past: int | torch.Tensor,
        length: int,
        device: torch.device,
    ) -> torch.Tensor | None:
        """Prefix lengths `(B,)`, which may differ from row to row; None where there is no prefix."""
        if prefix_length is None:
            return None
        prefix = torch.as_tensor(prefix_length, device=device).long()
        if prefix.ndim > 1 or (prefix.ndim == 1 and prefix.shape[0] != rows):
            raise Omni123Error(
                f"prefix_length is {tuple(prefix.shape)}: give one number, or one for each of {rows} rows."
            )
        prefix = prefix.expand(rows)
        if torch.compiler.is_compiling():
            return prefix
        [[shortest, longest]], reach = read_pairs([prefix.aminmax()]), num_past or length
        if longest > reach or shortest < 0:
            raise Omni123Error(
                f"prefix_length reaches from {shortest} to {longest}, outside 0 to {reach}: a prefix must enter in "
                "one uncached pass, because it sees itself in both directions."
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
        hidden, labels = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten().long()
        total = hidden.new_zeros((), dtype=torch.float32)
        means: list[torch.Tensor | None] = []
        found = 0
        for head, offset in ((self.shape_head, 0), (self.image_head, self.config.image_offset)):
            if head is None:
                means.append(None)
                continue
            chosen = ((labels >= offset) & (labels < offset + head.out_features)).nonzero()[:, 0]
            # An absent modality still runs its head over zero rows, so that every parameter has a gradient under DDP.
            summed = summed_cross_entropy(head, hidden[chosen], labels[chosen] - offset, self.config.loss_chunk_size)
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
