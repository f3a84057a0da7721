"""Who may see whom: the one place where attention is decided (paper §4.1, §4.4).

- Conditioning sees valid conditioning, causally when `text_causal`, and never generation.
- Generation sees all valid conditioning; a prefix position sees the whole prefix; every other position sees itself and
  what lies before it. A row with `drop_prefix` hides its prefix from all positions behind it.

A padded conditioning query sees itself, because a row without any key is undefined; nothing ever reads it.

The rule is written once, over index tensors: evaluated on all index pairs it is the boolean mask of eager and sdpa,
evaluated on scalars it is the `mask_mod` of flex attention.
"""

from dataclasses import dataclass

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


@dataclass(frozen=True)
class DocumentMask:
    """For sdpa over a packed row: attention in a padded batch of the row's D documents, not over the square of the row.

    `queries (D, Q)` and `keys (D, K)` are places in the row by document, `mask (D, 1, Q, K)` is True where a query may attend,
    and `places` says where in the flat `(D * Q)` the queries of the row came to stand.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor

    def unpack(self, states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """`(1, heads, L, D)` of the row as `(documents, heads, table width, D)`."""
        return states[0].index_select(1, table.flatten()).unflatten(1, table.shape).transpose(0, 1)

    def pack(self, mixed: torch.Tensor) -> torch.Tensor:
        """`(documents, heads, Q, D)` back to `(1, heads, queries of the row, D)`."""
        return mixed.transpose(0, 1).flatten(1, 2).index_select(1, self.places)[None]


Mask = torch.Tensor | BlockMask | DocumentMask | None


@dataclass(frozen=True)
class AttentionMasks:
    """Masks of one forward pass, True = may attend: boolean `(B, 1, queries, keys)`, `BlockMask` for flex attention, or
    `DocumentMask` for sdpa over a packed row.

    `dual` has queries `[conditioning C; generation T]`, or generation alone while decoding, and keys
    `[conditioning C; generation K]`; `last_dual` is for the last dual block, whose conditioning asks nothing: queries T.
    `single` has queries T and keys K. None means that every query may see every key.
    """

    dual: Mask
    last_dual: Mask
    single: Mask


@dataclass(frozen=True)
class VisibilityRule:
    """The facts that the rule needs. `num_past` is a tensor when the cache is static, so that one graph serves all steps."""

    conditioning_mask: torch.Tensor
    num_past: int | torch.Tensor = 0
    prefix_length: torch.Tensor | None = None
    drop_prefix: torch.Tensor | None = None
    text_causal: bool = True

    def generation(self, row: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Whether generation position `query` of batch row `row` sees generation position `key`."""
        allowed = key <= query
        if self.prefix_length is None:
            return allowed
        boundary = self.prefix_length[row]
        query_in_prefix, key_in_prefix = query < boundary, key < boundary
        allowed = allowed | (query_in_prefix & key_in_prefix)
        if self.drop_prefix is not None:
            allowed = allowed & ~(self.drop_prefix[row] & key_in_prefix & ~query_in_prefix)
        return allowed

    def single(self, row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Single-stream blocks: queries and keys are generation only."""
        return self.generation(row, query + self.num_past, key)

    def last_dual(self, row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Generation queries over keys `[conditioning ; generation]`."""
        length = self.conditioning_mask.shape[1]
        is_text = key < length
        text = self.conditioning_mask[row, key.clamp(max=length - 1)]
        return torch.where(is_text, text, self.generation(row, query + self.num_past, key - length))

    def dual(self, row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Queries and keys `[conditioning ; generation]` of an uncached pass."""
        length = self.conditioning_mask.shape[1]
        text = self.conditioning_mask[row, key.clamp(max=length - 1)] & (key < length)
        if self.text_causal:
            text = text & (key <= query)
        return torch.where(query < length, text | (key == query), self.last_dual(row, head, query - length, key))


def build_masks(
    rule: VisibilityRule,
    num_queries: int,
    num_keys: int,
    is_cached: bool = False,
    num_single_keys: int | None = None,
    use_flex: bool = False,
) -> AttentionMasks:
    """Masks for `num_queries` T new positions and `num_keys` K generation keys (T + past, or a static cache's capacity).

    `num_single_keys` is K of the single blocks where their cache has another capacity; `is_cached` leaves out the
    conditioning queries, which only the first pass has.
    """
    rows, length = rule.conditioning_mask.shape
    build = _block_mask if use_flex else _dense_mask
    device = rule.conditioning_mask.device
    single_keys = num_keys if num_single_keys is None else num_single_keys
    # One new position behind a visible past sees every key there is, so ordinary decoding needs no mask here.
    whole = isinstance(rule.num_past, int) and single_keys == rule.num_past + num_queries
    sees_all = whole and num_queries == 1 and rule.drop_prefix is None
    dual: Mask = None
    last_dual: Mask = None
    single: Mask = None
    if not is_cached:
        dual = build(rule.dual, rows, length + num_queries, length + num_keys, device)
    # Each mask is a corner of the one before, and dense ones are cut from it; block masks are built.
    if isinstance(dual, torch.Tensor):
        last_dual = dual[:, :, length:]
    else:
        last_dual = build(rule.last_dual, rows, num_queries, length + num_keys, device)
    if not sees_all and isinstance(last_dual, torch.Tensor) and single_keys == num_keys:
        single = last_dual[..., length:]
    elif not sees_all:
        single = build(rule.single, rows, num_queries, single_keys, device)
    return AttentionMasks(dual=last_dual if is_cached else dual, last_dual=last_dual, single=single)


def _dense_mask(predicate, rows: int, queries: int, keys: int, device: torch.device) -> torch.Tensor:
    row = torch.arange(rows, device=device)[:, None, None]
    query = torch.arange(queries, device=device)[None, :, None]
    key = torch.arange(keys, device=device)[None, None, :]
    return predicate(row, row, query, key).expand(rows, queries, keys)[:, None]


def _block_mask(predicate, rows: int, queries: int, keys: int, device: torch.device) -> BlockMask:
    # `create_block_mask` counts the parameters of plain functions only.
    def mask_mod(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return predicate(row, head, query, key)

    # Uncompiled, the block map is found by way of the dense mask, which long CUDA sequences cannot afford.
    return create_block_mask(mask_mod, rows, None, queries, keys, device=device, _compile=device.type == "cuda")
