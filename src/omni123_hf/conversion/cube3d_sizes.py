"""Sizes of a Cube 3D checkpoint, read from its tensors; its configuration file only adds what tensors cannot say.

A size is the one that most tensors of its kind have, so that a damaged tensor is found by the later comparison instead of
misleading it. A size that no tensor gives becomes 1: its tensors are missing then, and the comparison says so.
"""

import json
import math
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig


Shapes = Mapping[str, tuple[int, ...]]
# Begin, end and padding follow the codes in Cube 3D's vocabulary; ours has <shape>, <image> and <pad> in their places.
NUM_SPECIALS = 3
DEFAULT_ROPE_THETA = 10000.0
DEFAULT_EPS = 1e-6
GPT_PREFIXES = ("transformer.", "lm_head.", "text_proj.", "shape_proj.", "bbox_proj.")
TOKENIZER_PREFIXES = ("encoder.", "decoder.", "bottleneck.", "occupancy_decoder.", "embedder.")
# What a configuration may ask for that these models do not compute, by section and key: the values that they do.
_ONLY: dict[str, dict[str, Any]] = {
    "gpt_model": {"use_pooled_text_embed": False, "encoder_with_cls_token": True},
    "shape_model": {
        "encoder_with_cls_token": True,
        "num_decoder_latents": 0,
        "out_dim": 1,
        "embed_point_feats": False,
        "point_feats": 3,
    },
}


@dataclass
class CubeSettings:
    """A configuration file with its sections `gpt_model` and `shape_model`; without one, the public checkpoints' values."""

    gpt: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "CubeSettings":
        """Raises `Omni123Error` for a file that is no such configuration, or that asks for what cannot be represented."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Omni123Error(f"cannot read the configuration {str(path)!r} as JSON: {error}") from error
        except RecursionError as error:
            raise Omni123Error(
                f"cannot read the configuration {str(path)!r}: it is nested too deeply; give Cube 3D's as JSON"
            ) from error
        sections = [content.get(name) for name in _ONLY] if isinstance(content, dict) else []
        if not any(sections) or not all(isinstance(section, dict | None) for section in sections):
            raise Omni123Error(f"{str(path)!r} has no sections 'gpt_model' and 'shape_model'; give Cube 3D's as JSON")
        refused = [
            f"{name}.{key} {reprlib.repr(content[name][key])} (only {value!r})"
            for name, keys in _ONLY.items()
            for key, value in keys.items()
            if (content.get(name) or {}).get(key, value) != value
        ]
        if refused:
            raise Omni123Error(
                f"the configuration asks for what these models do not compute: {', '.join(refused)}; such checkpoints "
                "cannot be converted"
            )
        return cls(content.get("gpt_model") or {}, content.get("shape_model") or {})

    def positive(self, section: str, key: str, default: float) -> float:
        value = getattr(self, section).get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Whole numbers of JSON have no bound; those beyond a float's are refused before they are made one.
        if not is_number or not 0 < value <= sys.float_info.max:
            raise Omni123Error(
                f"the configuration's {key} is {reprlib.repr(value)}; it must be a positive number that a float holds"
            )
        return float(value)


def read_configs(
    gpt: Shapes, tokenizer: Shapes, settings: CubeSettings
) -> tuple[Omni123Config, Omni123ShapeTokenizerConfig, list[str]]:
    """Our two configurations, and the settings of the configuration file that mean nothing here.

    Raises `Omni123Error` when files are swapped or of something else, do not belong together, or contradict the settings.
    """
    _check_kind(gpt, "--gpt", "shape_gpt", GPT_PREFIXES, TOKENIZER_PREFIXES)
    _check_kind(tokenizer, "--tokenizer", "shape_tokenizer", TOKENIZER_PREFIXES, GPT_PREFIXES)
    codes = _common_codes(gpt, tokenizer)
    shape_config, shape_sizes = _tokenizer_config(tokenizer, codes, settings)
    config, gpt_sizes = _gpt_config(gpt, codes, shape_config.num_latents, settings)
    contradictions, unknown = [], []
    for name, section, sizes in (("gpt_model", settings.gpt, gpt_sizes), ("shape_model", settings.shape, shape_sizes)):
        for key, value in section.items():
            is_numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
            if key in sizes and (sorted(value) if is_numbers else value) != sizes[key]:
                contradictions.append(f"{name}.{key} is {reprlib.repr(value)}, the tensors say {sizes[key]!r}")
            elif key not in sizes and key not in _ONLY[name] and key not in ("rope_theta", "eps"):
                unknown.append(f"{name}.{key}")
    if contradictions:
        raise Omni123Error(
            f"configuration and weights contradict each other: {'; '.join(contradictions)}. Give the configuration of these "
            "files, or none"
        )
    return config, shape_config, unknown


def _common_codes(gpt: Shapes, tokenizer: Shapes) -> tuple[int, int]:
    """Number and dimension of the codes. Raises `Omni123Error` when the files disagree."""
    book = r"^bottleneck\.block\.codebook\.weight$"
    read = (
        _size(gpt, r"^(transformer\.wte|lm_head)\.weight$", 0, 0) - NUM_SPECIALS,
        _size(gpt, r"^shape_proj\.weight$", 1, 0),
    )
    written = (_size(tokenizer, book, 0, 0), _size(tokenizer, book, 1, 0))
    if any(0 < ours != theirs > 0 for ours, theirs in zip(read, written, strict=True)):
        raise Omni123Error(
            f"the two files do not belong together: the GPT is for {read[0]} codes of {read[1]} dimensions, the tokenizer has "
            f"{written[0]} of {written[1]}; give both of one release"
        )
    return max(read[0], written[0], 1), max(read[1], written[1], 1)


def _gpt_config(
    shapes: Shapes, codes: tuple[int, int], num_latents: int, settings: CubeSettings
) -> tuple[Omni123Config, dict[str, Any]]:
    hidden = _size(shapes, r"\.c_v\.weight$", 1)
    head_dim = _size(shapes, r"\.(q|k)_norm\.weight$", 0, 2)
    heads = max(_size(shapes, r"\.c_v\.weight$", 0) // head_dim, 1)
    duals, singles = (_layers(shapes, rf"^transformer\.{kind}_blocks") for kind in ("dual", "single"))
    text_width = _size(shapes, r"^text_proj\.weight$", 1)
    has_box = any(name.startswith("bbox_proj.") for name in shapes)
    sizes: dict[str, Any] = {
        "n_layer": duals,
        "n_single_layer": singles,
        "n_head": heads,
        "n_embd": hidden,
        "bias": has_bias(shapes),
        "shape_model_vocab_size": codes[0],
        "text_model_embed_dim": text_width,
        "shape_model_embed_dim": codes[1],
        "use_bbox": has_box,
    }
    config = Omni123Config(
        num_shape_codes=codes[0],
        num_image_codes=0,
        num_shape_tokens=num_latents,
        num_image_tokens=0,
        num_views=0,
        hidden_size=hidden,
        mlp_ratio=_ratio(_size(shapes, r"\.up_proj\.weight$", 0), hidden),
        num_dual_layers=duals,
        num_single_layers=singles,
        num_attention_heads=heads,
        head_dim=head_dim,
        rope_theta=settings.positive("gpt", "rope_theta", DEFAULT_ROPE_THETA),
        layer_norm_eps=settings.positive("gpt", "eps", DEFAULT_EPS),
        use_bias=any(name.startswith("transformer.") and name.endswith(".bias") for name in shapes),
        token_dropout=0.0,
        shape_code_dim=0,
        image_code_dim=0,
        text_embed_dim=text_width,
        text_embed_dim_2=None,
        normalize_text_embeds=False,
        null_condition="empty_prompt",
        use_bbox=has_box,
    )
    return config, sizes


def _tokenizer_config(
    shapes: Shapes, codes: tuple[int, int], settings: CubeSettings
) -> tuple[Omni123ShapeTokenizerConfig, dict[str, Any]]:
    hidden = _size(shapes, r"\.c_v\.weight$", 1)
    query_width = _size(shapes, r"^occupancy_decoder\.query_in\.in_layer\.weight$", 1)
    frequencies = _size(shapes, r"(^|\.)embedder\.weight$", 1, max((query_width - 3) // 6, 1))
    queries = _size(shapes, r"^encoder\.query$", 0, 0)
    latents = _size(shapes, r"^decoder\.positional_encodings$", 0, max(queries - 1, 1))
    if queries == latents:
        raise Omni123Error(
            f"the tokenizer has {queries} queries for {latents} latents, hence no class token; these models need one"
        )
    features = _size(shapes, r"^encoder\.feat_in\.in_layer\.weight$", 1) - (3 + 6 * frequencies)
    if features >= 0 and features != 3:
        raise Omni123Error(
            f"the tokenizer's encoder reads {features} features a point besides its position; these models read three, the "
            "normal, not embedded"
        )
    given_heads: Any = settings.shape.get("num_heads")
    head_dim = _size(shapes, r"\.(q|k)_norm\.weight$", 0, 0)
    if not head_dim and not (isinstance(given_heads, int) and given_heads > 0):
        raise Omni123Error(
            "the tokenizer has no self-attention layer to read the number of heads from; give it with --config"
        )
    heads = max(hidden // head_dim, 1) if head_dim else given_heads
    layers, decoder_layers = (_layers(shapes, rf"^{part}\.blocks") for part in ("encoder", "decoder"))
    crossing = {
        match[1] for match in map(re.compile(r"^encoder\.blocks\.(\d{1,3})\.attn\.c_[qk]\.").match, shapes) if match
    }
    cross_layers = sorted(int(number) for number in crossing)
    sizes: dict[str, Any] = {
        "num_encoder_latents": latents,
        "embed_dim": codes[1],
        "width": hidden,
        "num_heads": heads,
        "num_freqs": frequencies,
        "num_encoder_layers": layers,
        "encoder_cross_attention_levels": cross_layers,
        "num_decoder_layers": decoder_layers,
        "num_codes": codes[0],
    }
    config = Omni123ShapeTokenizerConfig(
        num_latents=latents,
        num_codes=codes[0],
        code_dim=codes[1],
        hidden_size=hidden,
        num_attention_heads=heads,
        mlp_ratio=_ratio(_size(shapes, r"\.up_proj\.weight$", 0), hidden),
        num_encoder_layers=layers,
        encoder_cross_attention_layers=cross_layers,
        num_decoder_layers=decoder_layers,
        num_frequencies=frequencies,
        layer_norm_eps=settings.positive("shape", "eps", DEFAULT_EPS),
    )
    return config, sizes


def has_bias(gpt: Shapes) -> bool:
    """Whether a GPT was made with biases: its value projections have one. (Its query-key projections never do.)"""
    return any(re.search(r"^transformer\..*\.c_v\.bias$", name) for name in gpt)


def _check_kind(shapes: Shapes, option: str, name: str, own: tuple[str, ...], other: tuple[str, ...]) -> None:
    if any(key.startswith(own) for key in shapes):
        return
    if any(key.startswith(other) for key in shapes):
        raise Omni123Error(
            f"{option} is the other of the two files: give {name}.safetensors there; were they swapped?"
        )
    example = next(iter(sorted(shapes)), "no tensor at all")
    raise Omni123Error(f"{option} is no Cube 3D {name} file: it holds {len(shapes)} tensors, the first is {example}")


def _size(shapes: Shapes, pattern: str, axis: int, default: int = 1) -> int:
    """The most common extent along `axis` of the tensors that match; `default` where none does."""
    search = re.compile(pattern).search
    extents = Counter(
        shape[axis] for name, shape in shapes.items() if search(name) and len(shape) > axis and shape[axis]
    )
    return extents.most_common(1)[0][0] if extents else default


def _layers(shapes: Shapes, prefix: str) -> int:
    """Layers that the names count to; of four digits or more they are not taken for layers."""
    numbers = [int(match[1]) for match in map(re.compile(rf"{prefix}\.(\d{{1,3}})\.").match, shapes) if match]
    return max(numbers, default=-1) + 1


def _ratio(inner: int, hidden: int) -> float:
    """`inner / hidden`, such that `int(hidden * ratio)` is `inner` in spite of rounding."""
    ratio = inner / hidden
    return ratio if int(hidden * ratio) == inner else math.nextafter(ratio, math.inf)
