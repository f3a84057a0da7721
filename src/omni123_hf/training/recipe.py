"""Recipes: one YAML file describes one training run.

Top-level keys: `stage`, `seed`, `output_dir`, `data` (where the samples come from), `model` (`preset` plus config
fields), `options` (the stage's own switches), `training` (fields of `transformers.TrainingArguments`).
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..errors import Omni123Error


SECTIONS = ("data", "model", "options", "training")
PRESETS = ("mini", "paper")
KEYS = {"stage", "seed", "output_dir", "data", "model", "options", "training"}


class RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; a learning rate is written like that."""


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str, what: str) -> Any:
    """Plain YAML data. Raises `Omni123Error` for text that is no YAML."""
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except yaml.YAMLError as error:
        raise Omni123Error(f"{what} is no valid YAML: {error}") from error


class Section(dict[str, Any]):
    """A section of a recipe; a key that a stage needs and the recipe lacks is named."""

    def __init__(self, name: str, values: dict[str, Any]):
        super().__init__(values)
        self.name = name

    def __missing__(self, key: str) -> Any:
        raise Omni123Error(f"the recipe's {self.name} section needs {key}: see recipes/ for examples.")


@dataclass
class Recipe:
    stage: str
    output_dir: Path
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    # `(section, key)` to what the recipe said, where a folder was put in its place (`use_folder`).
    given: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SECTIONS:
            setattr(self, name, Section(name, getattr(self, name)))

    def use_folder(self, section: str, key: str, folder: Path) -> None:
        """Puts a folder in the place of the name of a checkpoint; `to_dict` keeps the name, which holds on any machine."""
        values = getattr(self, section)
        self.given.setdefault((section, key), values[key])
        values[key] = str(folder)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as given, as JSON holds it."""
        sections = {name: dict(getattr(self, name)) for name in SECTIONS}
        for (section, key), name in self.given.items():
            sections[section][key] = name
        return {"stage": self.stage, "output_dir": str(self.output_dir), "seed": self.seed, **sections}


def parse_override(text: str) -> tuple[list[str], Any]:
    """`training.max_steps=100` → `(["training", "max_steps"], 100)`; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise Omni123Error(f"override {text!r} is not key=value: write for example training.max_steps=100.")
    return key.split("."), read_yaml(value, f"the value of override {text!r}")


def load_recipe(path: str | os.PathLike, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe and applies `key=value` overrides (dots name nested keys).

    Raises `Omni123Error` for a missing file, unknown keys or a malformed override.
    """
    path = Path(path)
    if not path.is_file():
        raise Omni123Error(f"recipe {path} does not exist: give the path of a YAML file, for example one of recipes/.")
    raw = read_yaml(path.read_text(), f"recipe {path}")
    if not isinstance(raw, dict):
        raise Omni123Error(f"recipe {path} is not a mapping of keys: see recipes/ for examples.")
    for override in overrides or []:
        keys, value = parse_override(override)
        node = raw
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise Omni123Error(f"override {override!r} goes below {key!r}, which is not a section of the recipe.")
        node[keys[-1]] = value
    unknown = set(raw) - KEYS
    if unknown:
        raise Omni123Error(f"recipe {path} has unknown keys {sorted(unknown)}: allowed are {sorted(KEYS)}.")
    missing = {"stage", "output_dir"} - set(raw)
    if missing:
        raise Omni123Error(f"recipe {path} lacks {sorted(missing)}.")
    sections = {key: raw.get(key) or {} for key in SECTIONS}
    for key, section in sections.items():
        if not isinstance(section, dict):
            raise Omni123Error(
                f"section {key!r} of recipe {path} is not a mapping of keys: see recipes/ for examples."
            )
    seed = raw.get("seed", 0)
    if not isinstance(seed, int):
        raise Omni123Error(f"seed of recipe {path} is {seed!r}: give a whole number.")
    return Recipe(stage=raw["stage"], output_dir=Path(str(raw["output_dir"])), seed=seed, **sections)


def check_fields(config: PreTrainedConfig, fields: Iterable[str]) -> None:
    """Raises `Omni123Error` for names that are no fields of a configuration, which would otherwise be kept unread."""
    unknown = [key for key in fields if not hasattr(config, key)]
    if unknown:
        raise Omni123Error(f"model section has fields {unknown} that {type(config).__name__} does not know.")


def build_config(config_class, section: dict[str, Any]):
    """A model configuration from a recipe's `model` section: `preset: mini|paper` first, then single fields.

    Raises `Omni123Error` for an unknown preset or field and for values that cannot form a model.
    """
    fields = dict(section)
    preset = fields.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise Omni123Error(f"model preset {preset!r} does not exist for {config_class.__name__}: use mini or paper.")
    base = config_class() if preset is None else getattr(config_class, preset)()
    check_fields(base, fields)
    values = {} if preset is None else base.to_diff_dict()
    if {"hidden_size", "num_attention_heads"} & set(fields):
        # The preset's head_dim follows from its own width and heads; kept, it would silently narrow the attention.
        values.pop("head_dim", None)
    try:
        return config_class(**{**values, **fields})
    except (ValueError, StrictDataclassError) as error:
        raise Omni123Error(f"the recipe's model section does not form a model: {error}") from error


def load_pretrained(model_class, folder: str, fields: dict[str, Any]):
    """A trained model of `folder`, its configuration changed by the other fields of the recipe's `model` section."""
    check_fields(model_class.config_class.from_pretrained(folder), fields)
    return model_class.from_pretrained(folder, **fields)


def stage_options(recipe: Recipe, defaults: dict[str, Any]) -> dict[str, Any]:
    """A recipe's `options` over a stage's `defaults`, whose types they must have (None: any).

    Raises `Omni123Error` for a name that the stage does not know and for a value of another type.
    """
    unknown = sorted(set(recipe.options) - set(defaults))
    if unknown:
        raise Omni123Error(
            f"stage {recipe.stage} has no option {', '.join(map(str, unknown))}: it knows {', '.join(sorted(defaults))}."
        )
    for name, value in recipe.options.items():
        wanted = type(defaults[name])
        # To Python a bool is an int, and a whole number is no float.
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if defaults[name] is not None and not fits:
            raise Omni123Error(f"option {name} is {value!r}: give a value of type {wanted.__name__}.")
    return {**defaults, **recipe.options}
