"""Where prompts come from: the programs of our own generator, and lists in files (paper §3.5, step 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omni123_hf.data.assets import PARAMETRIC_LICENCE
from omni123_hf.data.parametric.captions import captions
from omni123_hf.data.parametric.registry import CATEGORIES, is_heldout_combination, sample_program
from omni123_hf.data.sources.base import seeded_generator
from omni123_hf.errors import Omni123Error


MAX_PROMPT_CHARACTERS = 2000


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
    """One prompt a line of a UTF-8 file; empty lines and lines that begin with # are left out."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Omni123Error(f"cannot read the prompts of {path.name!r} as UTF-8 text: {error}") from error
    texts = [line.strip()[:MAX_PROMPT_CHARACTERS] for line in lines]
    prompts = [Prompt(text, source, licence) for text in texts if text and not text.startswith("#")]
    if not prompts:
        raise Omni123Error(f"{path.name!r} holds no prompt; give one a line")
    return prompts
