"""Losses of the shape tokenizer's field and latents (paper §4.2; Cube 3D, arXiv 2503.15475, and its v0.5 release).

Fields are positive inside and have the surface at level 0, whether they are occupancy logits or signed distances.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def occupancy_loss(logits: torch.Tensor, occupancy: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of `logits (B, Q)` to `occupancy (B, Q)` in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, occupancy.to(logits.dtype))


def truncated_distance_loss(field: torch.Tensor, signed_distance: torch.Tensor, truncation: float) -> torch.Tensor:
    """Mean absolute error of `field (B, Q)` to `signed_distance (B, Q)` clamped to ±truncation, in units of it.

    The prediction is not clamped: beyond the band on the wrong side it would have no gradient, and a start from
    occupancy logits lies beyond it nearly everywhere.
    """
    return F.l1_loss(field, signed_distance.to(field.dtype).clamp(-truncation, truncation) / truncation)


def eikonal_loss(
    field_at: Callable[[torch.Tensor], torch.Tensor],
    queries: torch.Tensor,
    signed_distance: torch.Tensor,
    truncation: float,
) -> torch.Tensor:
    """Mean `(|∇ distance| - 1)²` over the `queries (B, Q, 3)` within the truncation band; 0 where there are none.

    `field_at(queries) (B, Q)` is the distance in units of `truncation`. Outside the band the target is constant, and a
    slope of 1 would contradict it. The field is evaluated in float32: half-precision slopes are too coarse to square.
    """
    queries = queries.float().detach().requires_grad_()
    # The fused attention kernels have no second derivative; the plain one is made of operations that have.
    with torch.autocast(queries.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(field_at(queries).sum(), queries, create_graph=True)
    slope = truncation * torch.linalg.vector_norm(gradient, dim=-1)
    band = signed_distance.abs() < truncation
    return (band * (slope - 1).square()).sum() / band.sum().clamp_min(1)


def latent_alignment_loss(quantized: torch.Tensor, before_last_layer: torch.Tensor) -> torch.Tensor:
    """1 - cosine between quantised latents and those that enter the last decoder layer, both `(B, L, hidden)`."""
    return 1 - F.cosine_similarity(quantized.float(), before_last_layer.float(), dim=-1).mean()
