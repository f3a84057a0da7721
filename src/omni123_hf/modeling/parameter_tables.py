"""Counts of parameters by part, for the backbone and the three tokenizer models."""

from collections.abc import Mapping

from torch import nn

from .modeling_image_tokenizer import Omni123ImageTokenizer
from .modeling_image_vae import Omni123ImageVAE
from .modeling_omni123 import Omni123ForConditionalGeneration
from .modeling_shape_tokenizer import Omni123ShapeTokenizer


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


def image_vae_parameter_table(model: Omni123ImageVAE) -> dict[str, int]:
    """Counts of parameters of an image VAE by part, "total" last."""
    parts = {
        "encoder (DINOv3)": ("encoder",),
        "semantic projection": ("semantic_proj",),
        "texture head": ("texture_head",),
        "decoder, transformer": ("decoder.in_proj", "decoder.blocks", "decoder.norm"),
        "decoder, upsampler": ("decoder.stages", "decoder.out_conv"),
    }
    return count_parameters(model, parts)


def image_tokenizer_parameter_table(model: Omni123ImageTokenizer) -> dict[str, int]:
    """Counts of parameters of an image tokenizer by part, "total" last."""
    parts = {
        "latent and query projections": ("latent_norm", "latent_proj", "query_proj"),
        "encoder positions": ("encoder_position_1d", "encoder_position_2d"),
        "encoder Q-Former": ("encoder",),
        "code projections": ("code_proj", "token_proj"),
        "code book": ("quantizer",),
        "decoder positions": ("decoder_position_1d", "decoder_position_2d"),
        "decoder Q-Former": ("decoder",),
        "output convolution": ("out_conv",),
    }
    return count_parameters(model, parts)


def shape_tokenizer_parameter_table(model: Omni123ShapeTokenizer) -> dict[str, int]:
    """Counts of parameters of a shape tokenizer by part, "total" last."""
    parts = {
        "point embedding": ("point_embedding",),
        "encoder": ("encoder",),
        "code book and its projections": ("quantizer",),
        "decoder": ("decoder",),
        "occupancy head": ("occupancy_head",),
    }
    return count_parameters(model, parts)


def count_parameters(model: nn.Module, parts: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Counts by part, "total" last; a part is all parameters below its dotted names.

    A parameter below none of them is counted under the first part of its own name, so the total is always whole.
    """
    table = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        owners = (part for part, prefixes in parts.items() if any(f"{name}.".startswith(f"{p}.") for p in prefixes))
        part = next(owners, name.split(".")[0])
        table[part] = table.get(part, 0) + parameter.numel()
    table["total"] = sum(table.values())
    return table
