"""Which prompts are kept, and in what form (paper §3.5, step 1): one object, no style, one manner of writing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omni123_hf.data.captioning.cache import JsonCache
from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.captioning.schema import choice
from omni123_hf.data.parametric.captions import article, is_plural
from omni123_hf.data.synthesis.near_duplicates import NearDuplicates
from omni123_hf.data.synthesis.prompts import Prompt
from omni123_hf.errors import RejectedError


WORD_FOLDER = Path(__file__).parent / "words"
_MARKUP = re.compile(r"https?://\S+|--\w+(?:\s+[\w:.]+)?|:\s*-?\d+(?:\.\d+)?(?=\s*[)\],]|\s*$)|[()\[\]{}<>|*_#\"]")
_ARTIST = re.compile(
    r"\b(?:(?:art|artwork|painting|design(?:ed)?|made|drawn) )?(?:by|in the style of) [a-z][\w .'&-]*$"
)
_OPENING = re.compile(
    r"^(?:(?:this is|an object:|here is|the 3d model shows) )?"
    r"(?:(?:an?|the) )?(?:(?:simple|clean|detailed|realistic|high quality|low poly) )*"
    r"(?:3d (?:model|render|asset)|photo(?:graph)?|picture|image|render(?:ing)?|drawing|painting|sketch) of "
    r"|^(?:this is|an object:|here is) "
)
_DETERMINERS = frozenset("a an the one two three four five six some this that his her its".split())


@dataclass(frozen=True)
class CurationRules:
    """low, high: words of a prompt in its final form. near: Jaccard index from which two prompts are one."""

    low: int = 2
    high: int = 40
    near: float = 0.8


@dataclass(frozen=True)
class RejectedPrompt:
    """A prompt that was not kept, with the reason for counting and the detail for reading."""

    prompt: Prompt
    reason: str
    detail: str


SingleObject = Callable[[str], bool]


class PromptCurator:
    """Cleans and filters prompts. is_single_object: a classifier asked after the rules, or None."""

    def __init__(self, rules: CurationRules | None = None, is_single_object: SingleObject | None = None):
        self.rules = rules or CurationRules()
        self.is_single_object = is_single_object
        self._style, self._scene, self._banned = (
            _any_of(_listed(WORD_FOLDER / name)) for name in ("style.txt", "scene.txt", "banned.txt")
        )

    def curate(self, prompts: Iterable[Prompt]) -> tuple[list[Prompt], list[RejectedPrompt]]:
        """Prompts to use, in order and in their final form, and the others with reasons."""
        kept: list[Prompt] = []
        rejected: list[RejectedPrompt] = []
        near, exact = NearDuplicates(self.rules.near), set()
        for prompt in prompts:
            try:
                text = self.normalise(prompt.text)
                if text in exact:
                    raise RejectedError("prompt_duplicate", text)
                other = near.add(text)
                if other is not None:
                    raise RejectedError("prompt_near_duplicate", f"nearly {other!r}")
                if self.is_single_object is not None and not self.is_single_object(text):
                    raise RejectedError("prompt_not_single_object", text)
            except RejectedError as error:
                rejected.append(RejectedPrompt(prompt, error.reason, str(error)))
                continue
            exact.add(text)
            kept.append(replace(prompt, text=text))
        return kept, rejected

    def normalise(self, text: str) -> str:
        """The prompt in its final form: lower case, no markup, no words about style, an article in front.

        Raises `RejectedError`: `prompt_not_text`, `prompt_banned`, `prompt_scene`, `prompt_style_only`,
        `prompt_too_short`, `prompt_too_long`.
        """
        plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
        letters = sum(character.isascii() and character.isalpha() for character in plain)
        if letters < 0.6 * len(plain) or not plain:
            raise RejectedError("prompt_not_text", f"{text[:80]!r} is not plain English text")
        for reason, words in (("prompt_banned", self._banned), ("prompt_scene", self._scene)):
            found = words.search(plain)
            if found:
                raise RejectedError(reason, f"{text[:80]!r} says {found[0]!r}")
        plain = _OPENING.sub("", " ".join(_MARKUP.sub(" ", plain).split()))
        segments = [self._clean(segment) for segment in re.split(r"[,;.]\s+|[,;.]$", plain)]
        cleaned = ", ".join(segment for segment in segments if segment)
        if not cleaned:
            raise RejectedError("prompt_style_only", f"{text[:80]!r} names no object")
        first = cleaned.split()[0]
        if first not in _DETERMINERS and not is_plural(cleaned.split(",")[0].split(" with ")[0]):
            cleaned = article(cleaned)
        count = len(cleaned.split())
        if count < self.rules.low:
            raise RejectedError("prompt_too_short", f"{cleaned!r} has {count} words, less than {self.rules.low}")
        if count > self.rules.high:
            raise RejectedError("prompt_too_long", f"{count} words, more than {self.rules.high}")
        return cleaned

    def _clean(self, segment: str) -> str:
        without = self._style.sub(" ", _ARTIST.sub("", segment))
        words = [word for word in without.split() if word.strip("-'.:!?")]
        while words and words[-1] in ("and", "with", "in", "on", "of", "a", "the", "by"):
            words.pop()
        return " ".join(words).strip(" .:!?-'")


class JudgeSingleObject:
    """The paper's classifier: a model says whether a text asks for exactly one object. cache: keeps its answers."""

    def __init__(self, judge: Judge, cache: JsonCache | None = None):
        self.judge, self.cache = judge, cache

    def __call__(self, text: str) -> bool:
        """Raises as `Judge.ask`."""
        if self.cache is None:
            return self._ask(text)["single_object"] == "yes"
        inputs = {"single_object": text, "judge": self.judge.identity, "settings": self.judge.settings.to_dict()}
        return self.cache.get_or_make(inputs, lambda: self._ask(text))["single_object"] == "yes"

    def _ask(self, text: str) -> dict[str, Any]:
        answers = {"single_object": choice(["yes", "no"])}
        return self.judge.ask("single_object", text, answers, views={}, wanted=repr(text))


def _listed(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _any_of(phrases: list[str]) -> re.Pattern[str]:
    """Any of the phrases as whole words, the longest first."""
    ordered = sorted(phrases, key=len, reverse=True)
    return re.compile(r"(?<![\w-])(?:" + "|".join(re.escape(phrase) for phrase in ordered) + r")(?![\w-])")
