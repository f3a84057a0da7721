"""The door to a vision-language model: messages of text and images in, one completion out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from omni123_hf.data.captioning.schema import Schema
from omni123_hf.errors import Omni123Error


Part = str | Image.Image


class BackendError(Omni123Error):
    """The model cannot be reached or used at all. No asset's fault: a run stops and can be taken up again."""


@dataclass(frozen=True)
class Message:
    """One turn; images stand among the texts in the order in which the model is to see them."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. temperature 0 is greedy; max_tokens bounds the reply, thoughts included."""

    seed: int = 0
    temperature: float = 0.7
    max_tokens: int = 4096


@dataclass(frozen=True)
class Completion:
    """A reply. `finish` is "length" when it was cut, "refusal" when the model or its provider declined."""

    text: str
    finish: Literal["stop", "length", "refusal"] = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatBackend(Protocol):
    """A model that answers. `model_id` names it in caches and records; calls may come from several threads."""

    @property
    def model_id(self) -> str: ...

    def complete(self, messages: list[Message], schema: Schema, sampling: Sampling) -> Completion:
        """One reply in the form of `schema`, as far as the model can be held to it.

        Raises `BackendError` when there is no reply to be had.
        """
        ...


@dataclass
class Usage:
    """Tokens and repair turns of one asset, summed over its conversation."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    repairs: int = 0

    def add(self, completion: Completion) -> None:
        """Count one reply."""
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
