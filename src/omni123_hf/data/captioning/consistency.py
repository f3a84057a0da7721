"""Checks of captions that need no model: length, subject, words about the picture, measurements out of thin air."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omni123_hf.data.captioning.result import WORD_LIMITS, CaptionResult, Metadata
from omni123_hf.data.records import CAPTION_LEVELS


# Words about the picture. "Rear view mirror", "viewfinder" and a "picture frame" are parts of objects and stay.
BANNED = re.compile(
    r"\b(?:"
    r"(?:image|photo|photograph|picture|screenshot|render|rendering|depiction|illustration)s? (?:of|shows?|depicts?)"
    r"|(?:in|from) (?:this|the|all|every|each) (?:image|photo|picture|render|rendering|view|angle)s?"
    r"|(?:front|back|side|left|right|top|bottom|rear|three[- ]quarter) views?(?! mirror| camera)"
    r"|viewed from|(?:white|plain|grey|gray|blank|neutral|transparent) background"
    r"|background (?:is|of)|against a background"
    r"|the (?:camera|viewer|lighting)|i (?:see|cannot|can't|can not)|as an ai)\b",
    re.IGNORECASE,
)
_LENGTHS = r"mm|cm|centimet\w+|millimet\w+|met(?:re|er)s?|m|inch(?:es)?|in\.|feet|foot|ft"
MEASUREMENT = re.compile(rf"(\d+(?:[.,]\d+)?)\s?(?:-\s?)?({_LENGTHS}|kg|kilograms?)\b", re.IGNORECASE)
_CENTIMETRES = {
    "mm": 0.1, "mi": 0.1, "cm": 1.0, "ce": 1.0, "m": 100.0, "me": 100.0,
    "in": 2.54, "fe": 30.48, "fo": 30.48, "ft": 30.48,
}  # fmt: skip
MEASUREMENT_TOLERANCE = 0.15
"""A measurement may be rounded: it agrees with a size of the metadata within this share."""


def check_caption(caption: str, level: str, subject: str = "", metadata: Metadata | None = None) -> list[str]:
    """What is wrong with one caption, as sentences; an empty list when nothing is.

    subject: noun that a medium or long caption must name (its last word counts, singular or plural; "" asks for none).
    metadata: what measurements are checked against; None asks for no such check.
    """
    low, high = WORD_LIMITS[level]
    words = len(caption.split())
    quoted = f"{level} caption {caption[:60]!r}"
    errors = [] if low <= words <= high else [f"{quoted} has {words} words, not {low} to {high}"]
    banned = BANNED.search(caption)
    if banned:
        errors.append(f"{quoted} says {banned[0]!r}; describe the object, not the picture")
    if subject and level != "short" and not mentions(caption, subject):
        errors.append(f"{quoted} does not name the subject {subject!r}")
    if metadata is not None:
        errors += [
            f"{quoted} states {stated!r}, which the metadata does not" for stated in _unknown(caption, metadata)
        ]
    return errors


def check_result(result: CaptionResult, metadata: Metadata | None = None) -> list[str]:
    """`check_caption` over every caption of a result."""
    return [
        error
        for level in CAPTION_LEVELS
        for caption in result.captions[level]
        for error in check_caption(caption, level, result.subject, metadata)
    ]


def mentions(caption: str, subject: str) -> bool:
    """Whether the head noun of `subject` (its last word) stands in the caption, singular or plural."""
    wanted = _stem(re.findall(r"\w+", subject.lower())[-1:] or [""])
    return bool(wanted & _stem(re.findall(r"\w+", caption.lower())))


def _stem(words: Sequence[str]) -> set[str]:
    """Words with their likely singulars: enough to find "boxes" for "box" and "knives" for "knife"."""
    found = set(words)
    for word in words:
        for ending, singular in (("ves", "f"), ("ves", "fe"), ("ies", "y"), ("es", ""), ("s", "")):
            if word.endswith(ending) and len(word) > len(ending) + 1:
                found.add(word.removesuffix(ending) + singular)
    return found - {""}


def _unknown(caption: str, metadata: Metadata) -> list[str]:
    """Measurements of a caption that neither the size nor the words of the metadata give."""
    given = " ".join([metadata.name, *metadata.tags, *metadata.facts.values()])
    numbers = set(re.findall(r"\d+(?:[.,]\d+)?", given))
    unknown = []
    for match in MEASUREMENT.finditer(caption):
        number, unit = match[1], match[2].lower()
        scale = _CENTIMETRES.get(unit if unit == "m" else unit[:2])
        value = float(number.replace(",", ".")) * (scale or 0.0)
        close = any(abs(value - side) <= MEASUREMENT_TOLERANCE * side for side in metadata.size_cm or ())
        if number not in numbers and not close:
            unknown.append(match[0])
    return unknown
