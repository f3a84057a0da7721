"""What the autoregressive model refuses, in words of the caller instead of an index error from inside torch.

Checks read values, so a compiled pass leaves them out.
"""

import torch
from transformers.cache_utils import Cache

from ..errors import Omni123Error
from .configuration_omni123 import Omni123Config


def check_ids(config: Omni123Config, input_ids: torch.Tensor, labels: torch.Tensor | None, is_cached: bool) -> None:
    """Flat ids `(B, T)` inside the vocabulary, and labels of the same shape inside it or -100."""
    for name, ids in (("input_ids", input_ids), ("labels", labels)):
        if ids is None and name == "labels":
            continue
        if not isinstance(ids, torch.Tensor):
            raise Omni123Error(
                f"{name} are a {type(ids).__name__}: give a tensor of flat integer ids (batch, length)."
            )
        if ids.ndim != 2 or not ids.shape[0] or not ids.shape[1] or ids.dtype not in (torch.int64, torch.int32):
            raise Omni123Error(
                f"{name} are {tuple(ids.shape)} of {ids.dtype}: give flat integer ids (batch, length), int64 or int32."
            )
    if labels is not None and labels.shape != input_ids.shape:
        raise Omni123Error(
            f"labels are {tuple(labels.shape)}: they must match input_ids {tuple(input_ids.shape)}; the shift by one "
            "happens inside."
        )
    bounds: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    # Reading values waits for an accelerator, so cached steps there trust the ids that they have sampled.
    if not is_cached or input_ids.device.type == "cpu":
        bounds["input_ids"] = input_ids.aminmax()
    if labels is not None:
        # Positions without loss take the value of another, or of one that is in range where there is none.
        bounds["labels"] = torch.where(labels == -100, labels.max().clamp(min=0), labels).aminmax()
    # All in one read, for the same reason.
    for name, (low, high) in zip(bounds, read_pairs(list(bounds.values())), strict=True):
        if low < 0 or high >= config.vocab_size:
            raise Omni123Error(
                f"{name} reach from {low} to {high}: this model has ids 0 to {config.vocab_size - 1} "
                f"(shape codes, then image codes from {config.image_offset}, then "
                f"{config.vocab_size - config.num_codes} special tokens)."
            )


def read_pairs(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[int]]:
    """Pairs of integer scalars of one device as numbers, in one transfer."""
    return torch.stack([value.long() for pair in pairs for value in pair]).view(-1, 2).tolist() if pairs else []


def check_rows(
    rows: int,
    null_text: torch.Tensor | None,
    drop_prefix: torch.Tensor | None,
    prefix_length: torch.Tensor | int | None,
) -> None:
    """Flags of rows are one bool a row."""
    for name, value in (("null_text", null_text), ("drop_prefix", drop_prefix)):
        if value is not None and (tuple(value.shape) != (rows,) or value.dtype != torch.bool):
            raise Omni123Error(
                f"{name} is {tuple(value.shape)} of {value.dtype}: give a bool for each of {rows} rows."
            )
    if drop_prefix is not None and prefix_length is None:
        raise Omni123Error("drop_prefix needs prefix_length in every pass: it says which positions to hide.")


def check_cache(
    past_key_values: Cache | None, conditioning_mask: torch.Tensor | None, rows: int, has_text: bool
) -> None:
    """A filled cache comes with its conditioning mask, and the mask with its cache, and no text with either."""
    is_cached = conditioning_mask is not None
    if conditioning_mask is not None:
        if past_key_values is None:
            raise Omni123Error("conditioning_mask belongs to a cache: pass past_key_values with it, or text instead.")
        if conditioning_mask.ndim != 2 or conditioning_mask.shape[0] != rows:
            raise Omni123Error(
                f"conditioning_mask is {tuple(conditioning_mask.shape)}: it must have one row for each of {rows} rows."
            )
        if has_text:
            raise Omni123Error("A cached step takes no text and no bbox: their keys lie in the cache.")
    if not is_cached and past_key_values is not None and int(past_key_values.get_seq_length(0)) > 0:
        raise Omni123Error("A cached step needs the conditioning_mask of the output that came with the cache.")


def check_outputs(config: Omni123Config, modality: str | None, output_attentions: bool) -> None:
    """What is asked for exists in this model."""
    if modality not in (None, "shape", "image") or (modality == "image" and not config.num_image_codes):
        known = "'shape', 'image'" if config.num_image_codes else "'shape'"
        raise Omni123Error(f"modality {modality!r} has no head in this model: use {known} or None.")
    if output_attentions and config._attn_implementation != "eager":
        raise Omni123Error(
            f"{config._attn_implementation} never holds attention weights: for output_attentions load the model with "
            "attn_implementation='eager'."
        )
