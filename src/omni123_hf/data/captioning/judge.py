"""One question to a vision-language model with one answer of a fixed form: ratings, and scores of alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from omni123_hf.data.captioning.backends import ChatBackend, Part
from omni123_hf.data.captioning.conversation import ConversationSettings, Dialogue, asset_seed
from omni123_hf.data.captioning.prompts import PromptSet
from omni123_hf.data.captioning.schema import Schema, choice, record, schema_text, text


class Judge:
    """Asks a model; judgements are greedy by default, so that they can be repeated."""

    def __init__(
        self, backend: ChatBackend, prompts: PromptSet | None = None, settings: ConversationSettings | None = None
    ):
        self.backend = backend
        self.prompts = prompts or PromptSet.load()
        self.settings = settings or ConversationSettings(temperature=0.0, max_tokens=1024)

    @property
    def identity(self) -> str:
        """Model and prompt version."""
        return f"{self.backend.model_id} {self.prompts.version}"

    def ask(
        self, prompt: str, key: str, answers: Mapping[str, Schema], views: Mapping[str, Image.Image], **values: object
    ) -> dict[str, Any]:
        """The answer to the named prompt, with its "reason" first (the model thinks before it rates).

        key: fixes the seed. values: of the prompt's placeholders. Raises `RejectedError` (`judgement_invalid`,
        `judgement_refused`) and `BackendError`.
        """
        schema = record(reason=text(1, 1000), **answers)
        dialogue = Dialogue(self.backend, self.prompts, self.settings, asset_seed(key, 0), purpose="judgement")
        pictures: list[Part] = [part for name, image in views.items() for part in (f"{name}:", image)]
        question = self.prompts.write(prompt, schema=schema_text(schema), views=", ".join(views), **values)
        return dialogue.ask(question, schema, images=pictures)

    def rate(
        self, prompt: str, key: str, axes: list[str], views: Mapping[str, Image.Image], **values: object
    ) -> tuple[dict[str, bool], str]:
        """Axis to whether it was rated "high", and the reason given (paper §3.5: binary ratings)."""
        answer = self.ask(prompt, key, {axis: choice(["high", "low"]) for axis in axes}, views, **values)
        return {axis: answer[axis] == "high" for axis in axes}, answer["reason"]
