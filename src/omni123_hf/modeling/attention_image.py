"""Attention of the image models: everything sees everything, in the implementation that the configuration names."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, implementation: str | None) -> torch.Tensor:
    """Attention of `(B, heads, Q, D)` over `(B, heads, K, D)`, as `(B, Q, heads * D)`; "eager" or "sdpa"."""
    if implementation == "eager":
        mixed = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2)


class QFormerAttention(nn.Module):
    """Multi-head attention whose queries and keys carry positions and whose values do not."""

    def __init__(self, config: PreTrainedConfig, width: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        return self.o_proj(attend(q, k, v, self.config._attn_implementation))
