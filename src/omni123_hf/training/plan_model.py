"""The model of a recipe without its weights: sizes from the recipe, from folders that exist, or from the recipe of the stage before."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, CLIPTextConfig, CLIPTextModel, Qwen3Config, Qwen3Model

from ..errors import Omni123Error
from ..geometry.cameras import CANONICAL_VIEWS
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from .recipe import Recipe, build_config, check_fields, stage_options
from .text_tokenizer_folders import check_named
from .warm_start import check_sizes


TextConfig = CLIPTextConfig | Qwen3Config
# Public configurations, so that a plan needs no network.
KNOWN_ENCODERS: dict[str, TextConfig] = {
    "openai/clip-vit-large-patch14": CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
    ),
    "Qwen/Qwen3-0.6B": Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
    ),
}
KNOWN_LENGTHS = {"openai/clip-vit-large-patch14": 77}
# Longer limits are those of language models, which no caption reaches; the paper's reading of 128 stands in for them.
LONGEST_TEXT, ASSUMED_TEXT = 4096, 128


@dataclass
class PlannedModel:
    """Configurations of the backbone and its text encoders; `text_lengths` are positions of both, `notes` what was assumed."""

    config: Omni123Config
    encoders: list[TextConfig]
    text_lengths: tuple[int, int]
    notes: list[str] = field(default_factory=list)

    def on_meta(self) -> tuple[Omni123ForConditionalGeneration, list[CLIPTextModel | Qwen3Model]]:
        """The models on the meta device: shapes and counts, no memory."""
        with torch.device("meta"):
            encoders = [
                Qwen3Model(config) if isinstance(config, Qwen3Config) else CLIPTextModel(config)
                for config in self.encoders
            ]
            return Omni123ForConditionalGeneration(self.config), encoders


def planned_model(recipe: Recipe, defaults: dict[str, Any], earlier: Mapping[str, Recipe]) -> PlannedModel:
    """What `autoregressive.build_model` would build. `earlier`: `final` folders to the recipes that would write them.

    Raises `Omni123Error` for what it would refuse, and for a beginning whose sizes nothing here tells.
    """
    fields = dict(recipe.model)
    initial, source = fields.pop("from_pretrained", None), fields.pop("warm_start", None)
    if initial:
        return trained_model(str(initial), fields, defaults, earlier)
    options = stage_options(recipe, defaults)
    for name in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"):
        if options[name] is None:
            raise Omni123Error(f"the recipe's options section needs {name}: see recipes/ for examples.")
    planned = new_model(recipe, options, fields)
    if source:
        folder = Path(source) / "transformer" if (Path(source) / "transformer").is_dir() else Path(source)
        if (folder / "config.json").is_file():
            check_sizes(Omni123Config.from_pretrained(folder), planned.config)
        else:
            planned.notes.append(f"model.warm_start {source} is not here: whether its sizes fit was not compared")
    return planned


def trained_model(
    initial: str, fields: dict[str, Any], defaults: dict[str, Any], earlier: Mapping[str, Recipe]
) -> PlannedModel:
    """The model of a `final` folder or checkpoint, changed by `fields`; or of the recipe whose run will write that folder."""
    if fields.get("preset"):
        raise Omni123Error(
            "model.preset builds a new model and model.from_pretrained takes one that exists: give one."
        )
    folder = Path(initial)
    if (folder / "transformer" / "config.json").is_file():
        planned = read_checkpoint(folder)
    elif str(folder) in earlier:
        before = earlier[str(folder)]
        planned = planned_model(before, defaults, {path: r for path, r in earlier.items() if path != str(folder)})
        planned.notes.append(f"{folder} is not here yet: sizes are those of the recipe that writes it")
    else:
        raise Omni123Error(
            f"model.from_pretrained {initial} is not here, and no recipe beside this one writes it: its sizes are unknown."
        )
    check_fields(planned.config, fields)
    try:
        planned.config = Omni123Config(**{**planned.config.to_diff_dict(), **fields})
    except (ValueError, StrictDataclassError) as error:
        raise Omni123Error(f"the recipe's model section does not form a model: {error}") from error
    return planned


def read_checkpoint(folder: Path) -> PlannedModel:
    encoders: list[TextConfig] = []
    lengths = []
    for number in ("", "_2"):
        if not (folder / f"text_encoder{number}" / "config.json").is_file():
            continue
        encoders.append(text_config(str(folder / f"text_encoder{number}")))
        lengths.append(tokenizer_length(folder / f"tokenizer{number}"))
    if not encoders:
        raise Omni123Error(f"{folder} lacks text_encoder: give the `final` folder of a stage, or a whole checkpoint.")
    second = lengths[1] if len(lengths) > 1 else 0
    return PlannedModel(Omni123Config.from_pretrained(folder / "transformer"), encoders, (lengths[0], second))


def new_model(recipe: Recipe, options: dict[str, Any], fields: dict[str, Any]) -> PlannedModel:
    notes: list[str] = []
    encoders: list[TextConfig] = []
    lengths = []
    clip_ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    for number, config_class, ids in (("", CLIPTextConfig, clip_ids), ("_2", Qwen3Config, {"bos_token_id": None})):
        vocabulary, length = read_tokenizer(
            options[f"tokenizer{number}"], recipe.output_dir / f"tokenizer{number}", notes
        )
        encoder = options[f"text_encoder{number}"]
        if isinstance(encoder, str):
            encoders.append(text_config(encoder))
        elif vocabulary is None:
            raise Omni123Error(
                f"options.tokenizer{number} is not here: the size of a new text_encoder{number} is unknown."
            )
        else:
            encoders.append(config_class(vocab_size=vocabulary, max_position_embeddings=length, **ids, **encoder))
        lengths.append(length)
    widths = {"text_embed_dim": encoders[0].hidden_size, "text_embed_dim_2": encoders[1].hidden_size}
    return PlannedModel(build_config(Omni123Config, {**fields, **widths}), encoders, (lengths[0], lengths[1]), notes)


def text_config(name: str) -> TextConfig:
    """Configuration of a text encoder by folder or Hub id."""
    if not Path(name).is_dir() and name in KNOWN_ENCODERS:
        return KNOWN_ENCODERS[name]
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Omni123Error(
            f"the text encoder {name} is neither a folder here nor can it be fetched: its sizes are unknown."
        ) from error
    config = getattr(config, "text_config", config)
    if not isinstance(config, CLIPTextConfig | Qwen3Config):
        raise Omni123Error(f"the text encoder {name} is a {config.model_type}: the model reads CLIP and Qwen3.")
    return config


def tokenizer_length(folder: Path) -> int:
    """The most tokens of a text, from a tokenizer's own settings."""
    try:
        length = json.loads((folder / "tokenizer_config.json").read_text()).get("model_max_length")
    except (OSError, ValueError) as error:
        raise Omni123Error(f"{folder} holds no tokenizer_config.json that can be read: {error}.") from error
    return int(length) if length and length <= LONGEST_TEXT else ASSUMED_TEXT


def read_tokenizer(option: Any, kept: Path, notes: list[str]) -> tuple[int | None, int]:
    """Vocabulary (None: unknown) and longest text of a tokenizer option; `kept` is where a run keeps the one it builds."""
    if isinstance(option, dict) and "name" in option:
        check_named(kept.name, option)
        return None, int(option["max_length"])
    folder = kept if isinstance(option, dict) else Path(option)
    if folder.is_dir():
        return len(AutoTokenizer.from_pretrained(folder)), tokenizer_length(folder)
    if isinstance(option, dict):
        notes.append(
            f"{kept.name} is built on the captions: its vocabulary of {option['vocab_size']} is an upper limit"
        )
        return int(option["vocab_size"]), int(option["max_length"])
    if option not in KNOWN_LENGTHS:
        notes.append(f"the tokenizer {option} is not here: {ASSUMED_TEXT} tokens a text are assumed")
    return None, KNOWN_LENGTHS.get(option, ASSUMED_TEXT)


def with_six_views(config: Omni123Config) -> None:
    """As `initial_model.new_view_embeddings` does."""
    config.num_views = max(config.num_views, len(CANONICAL_VIEWS))
