"""A tiny shape tokenizer and inputs for it."""

from typing import Any

import torch
import torch.nn.functional as F

from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig


SIZES: dict[str, Any] = dict(
    num_latents=8, num_codes=32, code_dim=4, hidden_size=32, num_attention_heads=2, num_encoder_layers=3,
    encoder_cross_attention_layers=[0, 2], num_decoder_layers=2, num_frequencies=4, ssl_num_prototypes=16,
    ssl_head_size=24, ssl_bottleneck_size=8,
)  # fmt: skip


def make_model(**changes) -> Omni123ShapeTokenizer:
    torch.manual_seed(0)
    return Omni123ShapeTokenizer(Omni123ShapeTokenizerConfig(**{**SIZES, **changes})).eval()


def make_points(batch: int = 2, count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    normals = F.normalize(torch.randn(batch, count, 3, generator=g), dim=-1)
    return torch.rand(batch, count, 3, generator=g) - 0.5, normals


def make_inputs(batch: int = 2, queries: int = 16) -> dict[str, torch.Tensor]:
    """Points, normals, queries and the occupancy of a ball of radius 0.6."""
    points, normals = make_points(batch)
    places = torch.rand(batch, queries, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return dict(points=points, normals=normals, queries=places, occupancy=(places.norm(dim=-1) < 0.6).float())


def checkpoint_activations(model: Omni123ShapeTokenizer, reentrant: bool = False) -> None:
    """Turns gradient checkpointing on, by the name that the installed transformers prefers."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
