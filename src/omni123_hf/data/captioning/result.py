"""What every captioner returns, whether a model spoke or a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.errors import Omni123Error


WORD_LIMITS = {"short": (1, 5), "medium": (10, 25), "long": (40, 70)}
"""Words of each level, both ends included (paper §3.5, multi-granularity re-captioning)."""


@dataclass(frozen=True)
class Metadata:
    """What the source says about an asset, for grounding (paper §3.4).

    size_cm: real width (x), depth (z) and height (y) in centimetres. facts: anything else, name to words.
    """

    name: str = ""
    tags: tuple[str, ...] = ()
    size_cm: tuple[float, float, float] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What is known, as plain JSON; empty when nothing is."""
        known: dict[str, Any] = {}
        if self.name:
            known["name"] = self.name
        if self.tags:
            known["tags"] = list(self.tags)
        if self.size_cm is not None:
            known["size_cm"] = dict(zip(("width", "depth", "height"), self.size_cm, strict=True))
        return known | ({"facts": dict(self.facts)} if self.facts else {})


@dataclass(frozen=True)
class Provenance:
    """How captions came to be: enough to make them again, and to count what they cost.

    captioner: "conversation" or "template". repairs: turns that asked the model to correct itself.
    """

    captioner: str
    model: str
    prompt_version: str
    seed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    repairs: int = 0


@dataclass(frozen=True)
class CaptionResult:
    """Captions of one asset.

    captions: each of `records.CAPTION_LEVELS` to its texts, as `AssetRecord.captions`. subject: the noun that names
    the object. view_notes: view name to what it shows. analysis: the rest of stage 1. contradictions: between
    metadata and renders, each with what was kept. alignment: level to one score a caption, after
    `alignment.AlignmentFilter`.
    """

    asset_id: str
    captions: dict[str, list[str]]
    category: str
    subject: str
    provenance: Provenance
    view_notes: dict[str, str] = field(default_factory=dict)
    analysis: dict[str, str] = field(default_factory=dict)
    contradictions: list[dict[str, str]] = field(default_factory=list)
    alignment: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.captions) != set(CAPTION_LEVELS):
            raise Omni123Error(f"{self.asset_id}: captions need exactly the levels {', '.join(CAPTION_LEVELS)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values in field order."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CaptionResult:
        """Inverse of `to_dict`; other fields raise `Omni123Error`."""
        if set(values) != {f.name for f in fields(cls)}:
            raise Omni123Error("the stored captions have other fields; they were written by another version")
        return cls(**values | {"provenance": Provenance(**values["provenance"])})
