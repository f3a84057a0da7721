"""The transformer blocks of the autoregressive model (paper §4.1, Table 3)."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import Omni123Error
from .configuration_omni123 import Omni123Config
from .masking import DocumentMask, Mask


Rotation = tuple[torch.Tensor, torch.Tensor]


def layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """LayerNorm without affine, computed in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class HeadRMSNorm(nn.Module):
    """RMSNorm over the channels of one attention head, computed in float32."""

    def __init__(self, head_dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.float()).to(x.dtype)


def rotary_tables(positions: torch.Tensor, head_dim: int, theta: float) -> Rotation:
    """`(cos, sin)` of shape `(T, head_dim / 2)` for `positions (T,)`.

    Computed anew in every pass: a non-persistent buffer would hold uninitialised memory after a meta-device load.
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angle = positions.float()[:, None] * theta**-exponent
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotates the interleaved channel pairs (0, 1), (2, 3), ... of `x (B, heads, T, head_dim)`."""
    cos, sin = rotation
    pairs = x.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        # A complex product is one pass over memory; the compiler fuses the four real ones, and complex ones not at all.
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2).to(x.dtype)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


@functools.cache
def _compiled_flex_attention():
    return torch.compile(flex_attention)


def _flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask | None) -> torch.Tensor:
    if query.device.type == "cpu":
        if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
            raise Omni123Error(
                "flex_attention has no backward pass on the CPU: train with attn_implementation='sdpa'."
            )
        return flex_attention(query, key, value, block_mask=mask)
    if torch.compiler.is_compiling():
        return flex_attention(query, key, value, block_mask=mask)
    return _compiled_flex_attention()(query, key, value, block_mask=mask)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, implementation: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of `(B, heads, Q, D)` over `(B, heads, K, D)` under the kind of mask that the implementation takes.

    Returns `(B, Q, heads * D)` and, from eager alone, the weights `(B, heads, Q, K)`.
    """
    weights = None
    if implementation == "flex_attention":
        mixed = _flex(query, key, value, mask)
    elif implementation == "sdpa" and isinstance(mask, DocumentMask):
        query, key, value = (
            mask.unpack(states, table)
            for states, table in ((query, mask.queries), (key, mask.keys), (value, mask.keys))
        )
        mixed = mask.pack(F.scaled_dot_product_attention(query, key, value, attn_mask=mask.mask))
    elif implementation == "sdpa":
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    elif implementation != "eager":
        raise Omni123Error(
            f"attn_implementation {implementation!r} cannot run this model: use sdpa, eager or flex_attention."
        )
    else:
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        mixed = weights @ value
    return mixed.transpose(1, 2).flatten(2), weights


class StreamQKV(nn.Module):
    """Norm and query, key, value of one stream; `keys_only` is the conditioning side of the last dual block."""

    def __init__(self, config: Omni123Config, keys_only: bool = False):
        super().__init__()
        self.eps, self.head_dim, self.keys_only = config.layer_norm_eps, config.head_dim, keys_only
        width = config.num_attention_heads * config.head_dim
        if keys_only:
            self.k_proj = nn.Linear(config.hidden_size, width, bias=config.use_bias)
        else:
            # Never biased, in Cube 3D as here: the norm that follows would undo most of it.
            self.qk_proj = nn.Linear(config.hidden_size, 2 * width, bias=False)
            self.q_norm = HeadRMSNorm(config.head_dim, config.qk_norm_eps)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=config.use_bias)
        self.k_norm = HeadRMSNorm(config.head_dim, config.qk_norm_eps)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(
        self, hidden: torch.Tensor, rotation: Rotation | None
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        hidden = layer_norm(hidden, self.eps)
        query = None
        if self.keys_only:
            key = self.k_proj(hidden)
        else:
            query, key = self.qk_proj(hidden).chunk(2, dim=-1)
            query = self.q_norm(self._heads(query))
        key = self.k_norm(self._heads(key))
        if rotation is not None:
            query = None if query is None else rotate(query, rotation)
            key = rotate(key, rotation)
        return query, key, self._heads(self.v_proj(hidden))


class StreamOutput(nn.Module):
    """Output projection and SwiGLU feed-forward of one stream, both residual."""

    def __init__(self, config: Omni123Config):
        super().__init__()
        self.eps = config.layer_norm_eps
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.use_bias
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, hidden, bias=bias)
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.o_proj(mixed)
        normed = layer_norm(hidden, self.eps)
        return hidden + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))


class Omni123DualBlock(GradientCheckpointingLayer):
    """Joint attention over [conditioning ; generation], with own weights for each stream."""

    def __init__(self, config: Omni123Config, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.is_last = layer_idx == config.num_dual_layers - 1
        self.conditioning_qkv = StreamQKV(config, keys_only=self.is_last)
        self.generation_qkv = StreamQKV(config)
        self.conditioning_out = None if self.is_last else StreamOutput(config)
        self.generation_out = StreamOutput(config)

    def forward(
        self,
        generation: torch.Tensor,
        conditioning: torch.Tensor | None,
        rotation: Rotation,
        mask: Mask,
        past_key_values: Cache | None = None,
        visible_keys: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Both streams and the eager path's attention weights.

        `conditioning` is None in cached steps, when its keys and values already lie in the cache. `mask` has a row for
        every query that this block makes (`masking.AttentionMasks`). `visible_keys` cuts a static cache's buffer to the
        part in use, conditioning included.
        """
        query, key, value = self.generation_qkv(generation, rotation)
        length = 0
        if conditioning is not None:
            # Position 0 rotates by nothing, so conditioning takes no rotation.
            conditioning_query, conditioning_key, conditioning_value = self.conditioning_qkv(conditioning, None)
            key = torch.cat([conditioning_key, key], dim=2)
            value = torch.cat([conditioning_value, value], dim=2)
            if conditioning_query is not None:
                length = conditioning.shape[1]
                query = torch.cat([conditioning_query, query], dim=2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
            key, value = key[:, :, :visible_keys], value[:, :, :visible_keys]
        mixed, weights = attend(query, key, value, mask, self.config._attn_implementation)
        generation = self.generation_out(generation, mixed[:, length:])
        if conditioning is not None and self.conditioning_out is not None:
            conditioning = self.conditioning_out(conditioning, mixed[:, :length])
        return generation, conditioning, weights


class Omni123SingleBlock(GradientCheckpointingLayer):
    """Self-attention over generation alone."""

    def __init__(self, config: Omni123Config, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.generation_qkv = StreamQKV(config)
        self.generation_out = StreamOutput(config)

    def forward(
        self,
        generation: torch.Tensor,
        rotation: Rotation,
        mask: Mask,
        past_key_values: Cache | None = None,
        visible_keys: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The stream and the eager path's attention weights; `visible_keys` as in a dual block, generation only."""
        query, key, value = self.generation_qkv(generation, rotation)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
            key, value = key[:, :, :visible_keys], value[:, :, :visible_keys]
        mixed, weights = attend(query, key, value, mask, self.config._attn_implementation)
        return self.generation_out(generation, mixed), weights
