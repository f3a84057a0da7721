"""Where prompts come from: the programs of our own generator, and lists in files (paper §3.5, step 1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omni123_hf.data.assets import PARAMETRIC_LICENCE
from omni123_hf.data.parametric.captions import captions
from omni123_hf.data.parametric.registry import CATEGORIES, is_heldout_combination, sample_program
from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.data.sources.base import seeded_generator
from omni123_hf.errors import Omni123Error


MAX_PROMPT_CHARACTERS = 2000
JSON_SUFFIXES = (".jsonl", ".ndjson")
_KEYS = {
    "text": ("prompt", "text"), "source": ("source",), "licence": ("licence", "license"), "category": ("category",),
}  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A text to make an object from. source and licence: of the text. category: where the source knows it.

    extra: what else the source knows, as plain JSON; "captions" at three lengths are used where there is no captioner.
    """

    text: str
    source: str
    licence: str
    category: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Sixteen hex digits of the text: equal texts are one item."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def parametric_prompts(count: int, seed: int = 0, categories: Sequence[str] | None = None) -> list[Prompt]:
    """`count` medium captions of random programs, categories taking turns.

    Programs of held-out combinations are drawn again: a synthesised object must not leak what evaluation holds out.
    """
    names = sorted(CATEGORIES) if categories is None else list(categories)
    if count < 1 or not names or set(names) - set(CATEGORIES):
        raise Omni123Error(f"need a count of at least 1 and categories of the generator, got {count} and {names}")
    prompts = []
    for index in range(count):
        name = names[index % len(names)]
        rng = seeded_generator("synthesis prompt", str(seed), str(index))
        program = sample_program(name, rng)
        while is_heldout_combination(program) is not None:
            program = sample_program(name, rng)
        words = captions(program, rng)
        extra = {"program": dict(program.attributes), "captions": words}
        prompts.append(Prompt(words["medium"][0], "parametric", PARAMETRIC_LICENCE, name, extra))
    return prompts


def read_prompts(path: str | Path, source: str, licence: str) -> list[Prompt]:
    """The prompts of a UTF-8 file: JSON lines by its suffix (.jsonl, .ndjson), otherwise one prompt a line.

    Of a text, empty lines and lines that begin with # are left out. A JSON line is an object with "prompt" (or "text")
    and, where known, "source", "licence", "category" and "captions" (short, medium, long to texts); what else it says is
    kept under `extra["columns"]`. source, licence: of prompts that state none. A file that is not readable, a line that is
    no such object and a file without prompts raise `Omni123Error`.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Omni123Error(f"cannot read the prompts of {path.name!r} as UTF-8 text: {error}") from error
    if path.suffix.lower() in JSON_SUFFIXES:
        numbered = [(f"{path.name} line {n}", line) for n, line in enumerate(lines, start=1) if line.strip()]
        prompts = [_json_prompt(line, where, source, licence) for where, line in numbered]
    else:
        texts = [line.strip()[:MAX_PROMPT_CHARACTERS] for line in lines]
        prompts = [Prompt(text, source, licence) for text in texts if text and not text.startswith("#")]
    if not prompts:
        raise Omni123Error(f"{path.name!r} holds no prompt; give one a line")
    return prompts


def _json_prompt(line: str, where: str, source: str, licence: str) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Omni123Error(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise Omni123Error(f"{where} must be a JSON object with 'prompt'")
    words = {
        name: next((row.pop(key) for key in keys if row.get(key) is not None), "") for name, keys in _KEYS.items()
    }
    wrong = [_KEYS[name][0] for name, value in words.items() if not isinstance(value, str)]
    if wrong or not words["text"].strip():
        raise Omni123Error(f"{where}: {wrong[0] if wrong else 'prompt'} must be text")
    extra: dict[str, Any] = {}
    if row.get("captions") is not None:
        extra["captions"] = _captions(row.pop("captions"), where)
    if row:
        extra["columns"] = row
    text = " ".join(words["text"].split())[:MAX_PROMPT_CHARACTERS]
    return Prompt(text, words["source"] or source, words["licence"] or licence, words["category"], extra)


def _captions(value: Any, where: str) -> dict[str, list[str]]:
    problem = f"{where}: captions must map some of {', '.join(CAPTION_LEVELS)} to lists of texts, not all empty"
    if not isinstance(value, dict) or set(value) - set(CAPTION_LEVELS):
        raise Omni123Error(problem)
    listed = {level: value.get(level) or [] for level in CAPTION_LEVELS}
    listed = {level: [texts] if isinstance(texts, str) else texts for level, texts in listed.items()}
    texts = [text for each in listed.values() if isinstance(each, list) for text in each]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise Omni123Error(problem)
    return listed
