"""Keeps the captions that fit their object (paper §3.4, alignment filtering).

The paper scores with a vision-language model (`JudgeScorer`); `ClipScorer` is the cheap one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.captioning.result import CaptionResult
from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.errors import Omni123Error, RejectedError


HIGHEST_RATING = 5


class AlignmentScorer(Protocol):
    """Scores how well a caption fits renders of an object; higher is better."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a score besides image and caption, as plain JSON; it names stored scores."""
        ...

    def score(self, images: Mapping[str, Image.Image], caption: str) -> float:
        """images: view name to render."""
        ...


class ClipScorer:
    """Cosine of a CLIP model (any dual encoder of transformers with `get_image_features` and `get_text_features`),
    -1..1.

    A caption is compared with every view and the best half of the views counts: a chair seen from below says little
    about "chair". A caption beyond CLIP's length is scored by its sentences, whose mean it gets.

    model_id: names the weights among stored scores.
    """

    VERSION = "clip-1"

    def __init__(self, model: Any, processor: Any, model_id: str):
        self.model, self.processor, self.model_id = model.eval(), processor, model_id

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device = "cpu", revision: str | None = None
    ) -> ClipScorer:
        """Load a folder or a Hub id such as `openai/clip-vit-large-patch14`, in float32."""
        try:
            model = AutoModel.from_pretrained(name, revision=revision, dtype=torch.float32)
            processor = AutoProcessor.from_pretrained(name, revision=revision)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise Omni123Error(f"cannot load {str(name)!r} as a CLIP model: {error}") from error
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise Omni123Error(f"{str(name)!r} is a {type(model).__name__}, not a CLIP model with both encoders")
        return cls(model.to(device), processor, str(name) if revision is None else f"{name}@{revision}")

    @property
    def identity(self) -> dict[str, Any]:
        """Model, and the version of how views and sentences are summed up."""
        return {"scorer": self.VERSION, "model": self.model_id}

    @torch.no_grad()
    def score(self, images: Mapping[str, Image.Image], caption: str) -> float:
        """As the class says; an empty caption or no image raises `Omni123Error`."""
        if not images or not caption.strip():
            raise Omni123Error("alignment needs at least one image and a caption that is not empty")
        pictures = [image.convert("RGB") for image in images.values()]
        pixels = self.processor.image_processor(images=pictures, return_tensors="pt").to(self.model.device)
        views = _unit(self.model.get_image_features(**pixels))
        tokens = self.processor.tokenizer(
            self._pieces(caption), padding=True, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        texts = _unit(self.model.get_text_features(**tokens))
        cosines = (views @ texts.T).mean(dim=1).sort(descending=True).values
        return float(cosines[: (len(cosines) + 1) // 2].mean())

    def _pieces(self, caption: str) -> list[str]:
        tokenizer = self.processor.tokenizer
        if len(tokenizer(caption, verbose=False)["input_ids"]) <= tokenizer.model_max_length:
            return [caption]
        return [piece for piece in re.split(r"(?<=[.;!?])\s+", caption) if piece]


class JudgeScorer:
    """Rating of a vision-language model, 0 to 5, as a share of 1."""

    def __init__(self, judge: Judge):
        self.judge = judge

    @property
    def identity(self) -> dict[str, Any]:
        """Model, prompts and settings of the judge."""
        return {"scorer": "judge-1", "judge": self.judge.identity, "settings": self.judge.settings.to_dict()}

    def score(self, images: Mapping[str, Image.Image], caption: str) -> float:
        """Raises as `Judge.ask`."""
        rating = {"score": {"type": "integer", "minimum": 0, "maximum": HIGHEST_RATING}}
        answer = self.judge.ask("alignment", caption, rating, images, caption=repr(caption))
        return answer["score"] / HIGHEST_RATING


@dataclass(frozen=True)
class AlignmentFilter:
    """Drops captions that score below `threshold`. The scale is the scorer's: choose it on assets of your own."""

    scorer: AlignmentScorer
    threshold: float

    @property
    def identity(self) -> dict[str, Any]:
        """The scorer's, and the threshold."""
        return {"scorer": self.scorer.identity, "threshold": self.threshold}

    def apply(self, result: CaptionResult, images: Mapping[str, Image.Image]) -> CaptionResult:
        """Score and `keep`."""
        return self.keep(result, self.scores(result, images))

    def scores(self, result: CaptionResult, images: Mapping[str, Image.Image]) -> dict[str, list[float]]:
        """Level to one score a caption."""
        return {level: [self.scorer.score(images, c) for c in result.captions[level]] for level in CAPTION_LEVELS}

    def keep(self, result: CaptionResult, scores: Mapping[str, list[float]]) -> CaptionResult:
        """The result with its scores and without the captions that do not fit; a level may end empty.

        Raises `RejectedError` `caption_misaligned` when no caption is left.
        """
        kept = {
            level: [(c, s) for c, s in zip(result.captions[level], scores[level], strict=True) if s >= self.threshold]
            for level in CAPTION_LEVELS
        }
        if not any(kept.values()):
            best = max((s for values in scores.values() for s in values), default=float("nan"))
            raise RejectedError("caption_misaligned", f"the best caption scores {best:.3f}, below {self.threshold}")
        return replace(
            result,
            captions={level: [c for c, _ in pairs] for level, pairs in kept.items()},
            alignment={level: [s for _, s in pairs] for level, pairs in kept.items()},
        )


def _unit(features: Any) -> torch.Tensor:
    # transformers 5 returns a model output here, 4 returned the tensor.
    values = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(values.float(), dim=-1)
