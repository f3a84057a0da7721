"""Tokens of training samples, and the floating-point operations that a model of the paper's kind spends on them.

A multiplication with its addition counts as two operations. With d the width, w = heads × head_dim, i the inner width of
the feed-forward, D dual and S single layers:

| part | forward operations |
|---|---|
| a generation position | 2 (4dw + 3di) in each of D + S layers, 2d (shape_code_dim + image_code_dim) to embed codes |
| a conditioning position | 2 (4dw + 3di) in D - 1 layers, 2 · 2dw in the last one (keys and values only), 2d × text width |
| a visible pair of query and key | 4w (score, and weighting of the value) in every layer where both take part |
| a target code | 2d × codes of its modality |

Training takes three times the forward pass: backward works out the gradient of the input and that of the weights. A frozen
text encoder takes the forward pass alone. Only visible pairs count, as `modeling/masking.py` decides them, so causal attention
is half of the square; padding, dropout of text and prefix, and recomputation of activations are not counted. These are
*model* operations, the numerator of MFU: a kernel that computes masked pairs too does more and is credited with no more.
"""

from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from transformers import CLIPTextConfig, Qwen3Config

from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.tasks import Task, prefix_length, sequence_length


TRAINING_PASSES = 3


@dataclass(frozen=True)
class TokenCounts:
    """Sums over training samples.

    `generation`: positions of the generation stream, start and view tokens and prefix included. `shape_targets` and
    `image_targets`: codes with a loss. `text`: positions of the conditioning stream, `text_2` those of them that come from the
    second encoder. `*_pairs`: visible pairs of query and key within generation, within text, and of generation with text.
    """

    samples: float = 0.0
    generation: float = 0.0
    shape_targets: float = 0.0
    image_targets: float = 0.0
    text: float = 0.0
    text_2: float = 0.0
    generation_pairs: float = 0.0
    text_pairs: float = 0.0
    cross_pairs: float = 0.0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def scaled(self, factor: float) -> "TokenCounts":
        return TokenCounts(*(factor * value for value in astuple(self)))

    @property
    def targets(self) -> float:
        return self.shape_targets + self.image_targets


COUNTED = tuple(part.name for part in fields(TokenCounts))


def visible_pairs(length: Any, prefix: Any) -> Any:
    """Pairs within a sequence of `length` positions of which the first `prefix` see each other; numbers or tensors."""
    return prefix * prefix + (length * (length + 1) - prefix * (prefix + 1)) // 2


def causal_pairs(length: Any) -> Any:
    return length * (length + 1) // 2


def count_task(task: Task, config: Omni123Config, text: int, text_2: int) -> TokenCounts:
    """One sample of a task with `text` and `text_2` positions from the two text encoders."""
    length = sequence_length(task, config)
    targets = [segment.kind for segment in task.targets]
    stream = text + text_2 + int(config.use_bbox)
    return TokenCounts(
        samples=1,
        generation=length,
        shape_targets=targets.count("shape") * config.num_shape_tokens,
        image_targets=targets.count("image") * config.num_image_tokens,
        text=stream,
        text_2=text_2,
        generation_pairs=visible_pairs(length, prefix_length(task, config)),
        text_pairs=causal_pairs(stream) if config.text_causal else stream * stream,
        cross_pairs=length * stream,
    )


def count_batch(inputs: dict[str, Any], config: Omni123Config) -> torch.Tensor:
    """Counts of a collated micro-batch, float64 `(len(COUNTED),)` in the order of `TokenCounts`, on the batch's device.

    Nothing is read back from the device. Padding of sequences and texts is left out; a dropped text counts as a whole one.
    """
    ids, labels = inputs["input_ids"], inputs["labels"]
    rows = len(inputs["text_ids"])
    if "document_ids" in inputs:
        documents = inputs["document_ids"][0]
        lengths = torch.zeros(rows + 1, dtype=torch.long, device=ids.device)
        lengths = lengths.scatter_add(0, documents, torch.ones_like(documents))[:rows]
    else:
        lengths = (ids != config.pad_id).sum(1)
    prefix = inputs["prefix_length"].to(ids.device)
    second = torch.zeros_like(lengths)
    if inputs.get("text_attention_mask_2") is not None:
        second = inputs["text_attention_mask_2"].sum(1)
    stream = inputs["text_ids"].shape[1] + second + int(config.use_bbox)
    has_target = labels >= 0
    is_shape = has_target & (labels < config.image_offset)
    sums = [
        torch.ones_like(lengths).sum(),
        lengths.sum(),
        is_shape.sum(),
        (has_target & ~is_shape).sum(),
        stream.sum(),
        second.sum(),
        visible_pairs(lengths, prefix).sum(),
        (causal_pairs(stream) if config.text_causal else stream * stream).sum(),
        (lengths * stream).sum(),
    ]
    return torch.stack([value.double() for value in sums])


def layer_operations(config: Omni123Config) -> int:
    """Forward operations of one stream's weights in one layer, for a position."""
    width = config.num_attention_heads * config.head_dim
    return 2 * (4 * config.hidden_size * width + 3 * config.hidden_size * config.intermediate_size)


def attention_flops(config: Omni123Config, counts: TokenCounts) -> float:
    """Training operations of the pairs alone."""
    width = config.num_attention_heads * config.head_dim
    dual = config.num_dual_layers
    pairs = (
        counts.generation_pairs * config.num_hidden_layers + counts.cross_pairs * dual + counts.text_pairs * (dual - 1)
    )
    return TRAINING_PASSES * 4 * width * pairs


def head_flops(config: Omni123Config, counts: TokenCounts) -> float:
    """Training operations of the two heads; each computes its own targets only."""
    codes = config.num_shape_codes * counts.shape_targets + config.num_image_codes * counts.image_targets
    return TRAINING_PASSES * 2 * config.hidden_size * codes


def text_stream_flops(config: Omni123Config, counts: TokenCounts) -> float:
    """Training operations of the weights on the conditioning stream."""
    width = config.num_attention_heads * config.head_dim
    layers = (config.num_dual_layers - 1) * layer_operations(config) + 2 * 2 * config.hidden_size * width
    first = counts.text - counts.text_2 - counts.samples * int(config.use_bbox)
    widths = first * config.text_embed_dim + counts.text_2 * (config.text_embed_dim_2 or 0)
    return TRAINING_PASSES * (layers * counts.text + 2 * config.hidden_size * widths)


def generation_stream_flops(config: Omni123Config, counts: TokenCounts) -> float:
    """Training operations of the weights on the generation stream, heads left out."""
    code_dims = (config.shape_code_dim or 0) + (config.image_code_dim or 0)
    position = config.num_hidden_layers * layer_operations(config) + 2 * config.hidden_size * code_dims
    return TRAINING_PASSES * position * counts.generation


def backbone_flops(config: Omni123Config, counts: TokenCounts) -> dict[str, float]:
    """Training operations by part, "total" last."""
    parts = {
        "generation stream": generation_stream_flops(config, counts),
        "conditioning stream": text_stream_flops(config, counts),
        "attention": attention_flops(config, counts),
        "heads": head_flops(config, counts),
    }
    return {**parts, "total": sum(parts.values())}


def text_encoder_flops(config: CLIPTextConfig | Qwen3Config, tokens: float, samples: float, trained: bool) -> float:
    """Operations of a text encoder on `tokens` positions in `samples` texts; pairs are those of texts of mean length."""
    hidden, inner = config.hidden_size, config.intermediate_size
    if isinstance(config, Qwen3Config):
        width = config.num_attention_heads * config.head_dim
        keys = (config.num_key_value_heads or config.num_attention_heads) * config.head_dim
        weights = 2 * hidden * width + 2 * hidden * keys + 3 * hidden * inner
    else:
        width = hidden
        weights = 4 * hidden * hidden + 2 * hidden * inner
    pairs = tokens * (tokens / samples + 1) / 2 if samples else 0.0
    forward = config.num_hidden_layers * (2 * weights * tokens + 4 * width * pairs)
    return forward * (TRAINING_PASSES if trained else 1)


def encoder_flops(
    encoders: list[tuple[CLIPTextConfig | Qwen3Config, bool]], config: Omni123Config, counts: TokenCounts
) -> float:
    """Operations of all text encoders, each given with whether it is trained."""
    first = counts.text - counts.text_2 - counts.samples * int(config.use_bbox)
    tokens = (first, counts.text_2)
    return sum(
        text_encoder_flops(encoder, part, counts.samples, trained)
        for (encoder, trained), part in zip(encoders, tokens, strict=False)
    )
