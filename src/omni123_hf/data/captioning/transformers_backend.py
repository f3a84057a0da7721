"""Any image-text-to-text model of transformers, in this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessorList, PreTrainedModel

from omni123_hf.data.captioning.backends import BackendError, Completion, Message, Sampling
from omni123_hf.data.captioning.deadline import out_of_time, seconds_left
from omni123_hf.data.captioning.guided_decoding import GuidedVocabulary, SchemaLogits
from omni123_hf.data.captioning.schema import Schema


class TransformersBackend:
    """Runs a model and its processor; the processor needs a chat template.

    guided: hold the model to the schema token by token; a model that is to think before it answers needs False.
    model_id: name in caches and records. Calls of several threads take turns.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, model_id: str, guided: bool = True):
        if not getattr(processor, "chat_template", None):
            raise BackendError(f"the processor of {model_id!r} has no chat template; use an instruction-tuned model")
        self.model, self.processor, self.guided = model.eval(), processor, guided
        # Guided answers and free ones differ, so they must not share a cache entry.
        self.model_id = model_id if guided else f"{model_id}+free"
        self._turn = threading.Lock()
        self._vocabulary = GuidedVocabulary(processor.tokenizer, model.config.get_text_config().vocab_size)

    def __reduce__(self) -> tuple[type[TransformersBackend], tuple[Any, ...]]:
        # A captioner is sent to worker processes, and a lock cannot be.
        name = self.model_id if self.guided else self.model_id.removesuffix("+free")
        return TransformersBackend, (self.model, self.processor, name, self.guided)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        dtype: torch.dtype | str = "auto",
        device: str | torch.device = "cpu",
        guided: bool = True,
        revision: str | None = None,
    ) -> TransformersBackend:
        """Load a folder or a Hub id; raises `BackendError` for a model that is none of this kind or cannot be read."""
        try:
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, revision=revision)
            processor = AutoProcessor.from_pretrained(name, revision=revision)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BackendError(f"cannot load {str(name)!r} as an image-text-to-text model: {error}") from error
        model_id = str(name) if revision is None else f"{name}@{revision}"
        torch.nn.Module.to(model, device)  # the model's own `to` is a wrapper without types
        return cls(model, processor, model_id, guided)

    @torch.no_grad()
    def complete(self, messages: list[Message], schema: Schema, sampling: Sampling) -> Completion:
        """One reply, guided by the schema unless that is switched off.

        Raises `BackendError` at the deadline of `deadline.answers_until`, a token later at most.
        """
        inputs = self.encode(messages)
        length = inputs["input_ids"].shape[1]
        end = self.processor.tokenizer.eos_token_id
        guide = [SchemaLogits(schema, self._vocabulary, length, end)] if self.guided else []
        drawn: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            drawn = {"do_sample": True, "temperature": sampling.temperature}
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        # The generator of torch is one for the whole process, hence the lock around seed and draw.
        with self._turn, torch.random.fork_rng(devices=devices):
            if seconds_left() <= 0:
                raise out_of_time(self.model_id)
            torch.manual_seed(sampling.seed)
            ids = self.model.generate(
                **inputs,
                **drawn,
                max_new_tokens=sampling.max_tokens,
                max_time=seconds_left(),
                logits_processor=LogitsProcessorList(guide),
                eos_token_id=end,
                pad_token_id=end,
            )
        reply = ids[0, length:]
        is_whole = bool(len(reply)) and int(reply[-1]) == end
        if not is_whole and seconds_left() <= 0:
            raise out_of_time(self.model_id)
        text = self.processor.tokenizer.decode(reply, skip_special_tokens=True)
        return Completion(text, "stop" if is_whole else "length", length, len(reply))

    def encode(self, messages: list[Message]) -> dict[str, torch.Tensor]:
        """Token ids (1, T) with image placeholders, and pixels, as the model takes them."""
        conversation = [{"role": message.role, "content": _content(message)} for message in messages]
        batch = self.processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return batch.to(self.model.device, dtype=self.model.dtype)


def _content(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.convert("RGB")}
        for part in message.parts
    ]
