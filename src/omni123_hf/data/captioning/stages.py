"""The three answers of §3.4: their schemas, and the checks that a schema cannot express."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omni123_hf.data.captioning.consistency import check_caption
from omni123_hf.data.captioning.result import WORD_LIMITS, Metadata
from omni123_hf.data.captioning.schema import Schema, array, choice, record, text


ANALYSIS_FIELDS = ("orientation", "appearance", "geometry", "function", "origin")
# Characters of a caption: a bound that no caption of the right word count comes near.
_CAPTION = {level: text(1, 30 * high) for level, (_, high) in WORD_LIMITS.items()}


@dataclass(frozen=True)
class CaptionCounts:
    """Captions of each level to ask for."""

    short: int = 3
    medium: int = 2
    long: int = 1


def analysis_schema(views: Sequence[str]) -> Schema:
    """Stage 1: notes on each view before anything is concluded from them."""
    note = record(view=choice(list(views)), description=text(1, 2000))
    return record(views=array(note, len(views)), **{name: text(1, 2000) for name in ANALYSIS_FIELDS})


def check_analysis(answer: dict[str, Any], views: Sequence[str]) -> list[str]:
    """Each view is described once."""
    counts = Counter(note["view"] for note in answer["views"])
    return [f"$.views describes {view!r} {counts[view]} times, not once" for view in views if counts[view] != 1]


def caption_schema(categories: list[str], counts: CaptionCounts) -> Schema:
    """Stage 2: contradictions are settled before the captions are written."""
    contradiction = record(metadata=text(1, 300), seen=text(1, 300), kept=choice(["metadata", "renders"]))
    return record(
        contradictions=array(contradiction, 0, 8),
        subject=text(1, 60),
        category=choice(categories),
        long=array(_CAPTION["long"], counts.long),
        medium=array(_CAPTION["medium"], counts.medium),
    )


def check_captions(answer: dict[str, Any], metadata: Metadata) -> list[str]:
    """Lengths, subject, banned phrases and measurements of stage 2."""
    errors = [] if len(answer["subject"].split()) <= 3 else ["$.subject has more than three words"]
    for level in ("long", "medium"):
        for caption in answer[level]:
            errors += check_caption(caption, level, answer["subject"], metadata)
    return errors + _repeated(answer["medium"]) + _repeated(answer["long"])


def short_schema(counts: CaptionCounts) -> Schema:
    """Stage 3."""
    return record(short=array(_CAPTION["short"], counts.short))


def check_short(answer: dict[str, Any]) -> list[str]:
    """Lengths and banned phrases of stage 3, and that the captions differ."""
    return [e for caption in answer["short"] for e in check_caption(caption, "short")] + _repeated(answer["short"])


def _repeated(captions: list[str]) -> list[str]:
    counts = Counter(" ".join(caption.lower().split()) for caption in captions)
    return [f"{caption[:60]!r} is given {count} times" for caption, count in counts.items() if count > 1]
