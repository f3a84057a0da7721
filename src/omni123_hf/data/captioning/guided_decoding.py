"""Holds a local model to a JSON schema while it writes (paper §3.4, "schema-guided generation").

The schema is walked once, in the order in which an answer is written. At a fixed piece of JSON only its tokens are
allowed; at a choice, only the tokens of its options; inside a text, every token that cannot end or break it. So the
answer parses and fits the schema whatever the model is; whether it is true or has the right number of words is not
settled here.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from omni123_hf.data.captioning.schema import Schema


# A text may take a token for this many characters of its bound: English needs about a quarter.
CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True)
class Options:
    """Write one of these pieces of JSON; sends back which."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class FreeText:
    """Write the inside of a string, and its closing quote, within so many tokens."""

    max_tokens: int


Request = Options | FreeText


def walk(schema: Schema) -> Generator[Request, str, None]:
    """The requests that write one value of `schema`, in order."""
    kind = schema["type"]
    if kind == "object":
        opening = "{"
        for name, inner in schema["properties"].items():
            yield Options((f"{opening}{json.dumps(name)}: ",))
            yield from walk(inner)
            opening = ", "
        yield Options(("}",))
    elif kind == "array":
        yield Options(("[",))
        for index in range(schema["maxItems"]):
            separator = ", " if index else " "
            if index < schema["minItems"]:
                yield Options((separator,))
            elif (yield Options((separator, "]"))) == "]":
                return
            yield from walk(schema["items"])
        yield Options(("]",))
    elif kind == "integer":
        # The comma or brace that follows a number is not known here; a space ends it, so that 1 is no start of 10.
        yield Options(tuple(f"{value} " for value in range(schema["minimum"], schema["maximum"] + 1)))
    elif "enum" in schema:
        yield Options(tuple(json.dumps(value, ensure_ascii=False) for value in schema["enum"]))
    else:
        yield Options(('"',))
        yield FreeText(max(1, schema["maxLength"] // CHARACTERS_PER_TOKEN))


class GuidedVocabulary:
    """What the tokens of a tokenizer say; made once for a model, because it reads the whole vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int):
        self.tokenizer, self.size = tokenizer, size
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Tokens of a piece of JSON."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ids[text]

    @cached_property
    def quote(self) -> int:
        """The token that is one double quote (with or without a space before it)."""
        return self.ids('"')[-1]

    @cached_property
    def free(self) -> torch.Tensor:
        """(V,) bool: tokens that may stand inside a JSON string. Parts of a character and special tokens may not."""
        allowed = torch.zeros(self.size, dtype=torch.bool)
        special = set(self.tokenizer.all_special_ids)
        known = min(self.size, len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[index] for index in range(known)])
        for index, text in enumerate(texts):
            is_plain = text != "" and text.isprintable() and not set(text) & set('"\\�')
            allowed[index] = is_plain and index not in special
        return allowed


class SchemaLogits(LogitsProcessor):
    """Allows, at each step of one sequence, only the tokens that the schema allows there. One object for one reply."""

    def __init__(self, schema: Schema, vocabulary: GuidedVocabulary, prompt_length: int, end_token: int):
        self._vocabulary, self._prompt_length, self._end_token = vocabulary, prompt_length, end_token
        self._walk = walk(schema)
        self._request: Request | None = next(self._walk)
        self._written: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores (1, V) with everything that is not allowed at -inf."""
        if input_ids.shape[1] > self._prompt_length:
            self._take(int(input_ids[0, -1]))
        allowed = self._allowed().to(scores.device)
        return scores.masked_fill(~allowed[None, : scores.shape[1]], float("-inf"))

    def _allowed(self) -> torch.Tensor:
        allowed = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        if self._request is None:
            allowed[self._end_token] = True
        elif isinstance(self._request, FreeText):
            if len(self._written) < self._request.max_tokens:
                allowed |= self._vocabulary.free
            allowed[self._vocabulary.quote] = bool(self._written)  # at least one token: an empty text fits no schema
        else:
            length = len(self._written)
            for text in self._request.texts:
                ids = self._vocabulary.ids(text)
                if ids[:length] == self._written:
                    allowed[ids[length]] = True
        return allowed

    def _take(self, token: int) -> None:
        if self._request is None:
            return
        if isinstance(self._request, FreeText):
            self._written.append(token)
            if token == self._vocabulary.quote:
                self._next("")
            return
        self._written.append(token)
        for text in self._request.texts:
            if self._vocabulary.ids(text) == self._written:
                self._next(text)
                return

    def _next(self, answer: str) -> None:
        self._written = []
        try:
            self._request = self._walk.send(answer)
        except StopIteration:
            self._request = None
