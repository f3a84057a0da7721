"""Recipes: one YAML file describes one training run.

Top-level keys: `stage`, `seed`, `output_dir`, `data` (where the samples come from), `model` (`preset` plus config
fields), `options` (the stage's own switches), `training` (fields of `transformers.TrainingArguments`).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import Omni123Error


KEYS = {"stage", "seed", "output_dir", "data", "model", "options", "training"}


@dataclass
class Recipe:
    stage: str
    output_dir: Path
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "output_dir": str(self.output_dir)}


def parse_override(text: str) -> tuple[list[str], Any]:
    """`training.max_steps=100` → `(["training", "max_steps"], 100)`; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise Omni123Error(f"override {text!r} is not key=value: write for example training.max_steps=100.")
    return key.split("."), yaml.safe_load(value)


def load_recipe(path: str | os.PathLike, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe and applies `key=value` overrides (dots name nested keys).

    Raises `Omni123Error` for a missing file, unknown keys or a malformed override.
    """
    path = Path(path)
    if not path.is_file():
        raise Omni123Error(f"recipe {path} does not exist: give the path of a YAML file, for example one of recipes/.")
    raw = yaml.safe_load(path.read_text())
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
    sections = {key: raw.get(key) or {} for key in ("data", "model", "options", "training")}
    return Recipe(stage=raw["stage"], output_dir=Path(raw["output_dir"]), seed=int(raw.get("seed", 0)), **sections)


def build_config(config_class, section: dict[str, Any]):
    """A model configuration from a recipe's `model` section: `preset: mini|paper` first, then single fields."""
    fields = dict(section)
    preset = fields.pop("preset", None)
    if preset is None:
        return config_class(**fields)
    if not hasattr(config_class, preset):
        raise Omni123Error(f"model preset {preset!r} does not exist for {config_class.__name__}: use mini or paper.")
    config = getattr(config_class, preset)()
    unknown = [key for key in fields if not hasattr(config, key)]
    if unknown:
        raise Omni123Error(f"model section has fields {unknown} that {config_class.__name__} does not know.")
    return config_class(**{**config.to_diff_dict(), **fields})
