"""The words of the conversations, kept as plain files so that they can be read and changed without code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml

from omni123_hf.errors import Omni123Error


PROMPT_FOLDER = Path(__file__).parent / "prompts" / "v1"
PROMPT_NAMES = (
    "system", "analysis", "caption", "short", "repair", "alignment", "quality", "mask", "single_object",
)  # fmt: skip
CATEGORY_FILE = "categories.yaml"


@dataclass(frozen=True)
class PromptSet:
    """`version` names the folder and its content, so that a changed word never meets a cached answer.

    examples: category to short captions in the manner of people; its keys are the categories of stage 2.
    """

    version: str
    templates: dict[str, str]
    examples: dict[str, list[str]]

    @classmethod
    def load(cls, folder: str | Path = PROMPT_FOLDER) -> PromptSet:
        """Read a folder of `<name>.txt` and `categories.yaml`. A missing or broken file raises `Omni123Error`."""
        folder = Path(folder)
        try:
            templates = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").strip() for name in PROMPT_NAMES}
            listed = (folder / CATEGORY_FILE).read_text(encoding="utf-8")
            examples = yaml.safe_load(listed)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Omni123Error(f"the prompt folder {folder.name!r} is not complete: {error}") from error
        if not isinstance(examples, dict) or not all(_is_texts(texts) for texts in examples.values()):
            raise Omni123Error(f"{CATEGORY_FILE} must give a list of short captions for each category")
        content = "\0".join([*templates.values(), listed])
        return cls(f"{folder.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}", templates, examples)

    @property
    def categories(self) -> list[str]:
        """Categories that a model may choose from."""
        return list(self.examples)

    def write(self, name: str, **values: object) -> str:
        """The named prompt with its placeholders filled; one without a value raises `Omni123Error`."""
        try:
            return Template(self.templates[name]).substitute(values)
        except (KeyError, ValueError) as error:
            raise Omni123Error(f"prompt {name!r} asks for a value that is not known here: {error}") from error

    def draw_examples(self, category: str, count: int, rng: np.random.Generator) -> list[str]:
        """`count` random captions of a category (all when it has fewer)."""
        texts = self.examples[category]
        return [texts[i] for i in rng.permutation(len(texts))[:count]]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item.strip() for item in value)
