"""Who may see whom: the one place where attention is decided (paper §4.1, §4.4).

- Conditioning sees valid conditioning, causally when `text_causal`, and never generation.
- Generation sees all valid conditioning; a prefix position sees the whole prefix; every other position sees itself and
  what lies before it. A row with `drop_prefix` hides its prefix from all positions behind it.

A padded conditioning query sees itself, because a row without any key is undefined; nothing ever reads it.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AttentionMasks:
    """Boolean masks, True = may attend. None means that every query may see every key.

    `dual`: keys `[conditioning C; generation K]`, queries `[conditioning C; generation T]`, or generation alone while
    decoding: `(B, 1, C + T or T, C + K)`. `single`: `(B or 1, 1, T, K)`.
    """

    dual: torch.Tensor | None
    single: torch.Tensor | None


def build_masks(
    conditioning_mask: torch.Tensor,
    num_queries: int,
    num_past: int = 0,
    prefix_length: torch.Tensor | None = None,
    drop_prefix: torch.Tensor | None = None,
    text_causal: bool = True,
) -> AttentionMasks:
    """Masks of one forward pass.

    `conditioning_mask (B, C)` bool marks valid conditioning, `num_queries` T new generation positions follow
    `num_past` cached ones, `prefix_length (B,)` and `drop_prefix (B,)` describe the prefix (None: there is none).
    """
    generation = _generation_to_generation(
        conditioning_mask.device, num_queries, num_past, prefix_length, drop_prefix
    )  # (B or 1, T, K)
    rows, length = conditioning_mask.shape
    to_conditioning = conditioning_mask[:, None, :].expand(rows, num_queries, length)
    dual = torch.cat([to_conditioning, generation.expand(rows, -1, -1)], dim=-1)
    if num_past == 0:
        inner = conditioning_mask[:, None, :].expand(rows, length, length)
        itself = torch.eye(length, dtype=torch.bool, device=conditioning_mask.device)
        if text_causal:
            inner = inner & torch.ones_like(itself).tril()
        inner = inner | itself
        blind = inner.new_zeros(rows, length, num_queries)
        dual = torch.cat([torch.cat([inner, blind], dim=-1), dual], dim=1)
    # One new position behind a visible past sees everything, so single layers need no mask in ordinary decoding.
    sees_all = num_queries == 1 and drop_prefix is None
    return AttentionMasks(dual=dual[:, None], single=None if sees_all else generation[:, None])


def _generation_to_generation(
    device: torch.device,
    num_queries: int,
    num_past: int,
    prefix_length: torch.Tensor | None,
    drop_prefix: torch.Tensor | None,
) -> torch.Tensor:
    query = torch.arange(num_past, num_past + num_queries, device=device)[:, None]
    key = torch.arange(num_past + num_queries, device=device)[None, :]
    allowed = (key <= query)[None]
    if prefix_length is None:
        return allowed
    boundary = prefix_length[:, None, None]
    query_in_prefix, key_in_prefix = query < boundary, key < boundary
    allowed = allowed | (query_in_prefix & key_in_prefix)
    if drop_prefix is not None:
        allowed = allowed & ~(drop_prefix[:, None, None] & key_in_prefix & ~query_in_prefix)
    return allowed
