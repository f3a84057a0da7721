"""What the source of an asset knows about it, as the metadata of a conversation (paper §3.4: "for factual world
knowledge grounding")."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from omni123_hf.data.captioning.result import Metadata


# Attributes of our sources that tell about the object. Others (scale, seed, creator) would only invite nonsense.
TELLING_ATTRIBUTES = ("title", "group", "keywords", "colors", "color")
# Category of found assets that have none.
NO_CATEGORY = "object"
# A longer column is a text of its own (a licence, a log), and an address says nothing about the object.
COLUMN_CHARACTERS = 300


def grounding(name: str, category: str, attributes: Mapping[str, Any]) -> Metadata:
    """Metadata of an asset from its category and its attributes.

    Read from `attributes`: "tags"; "size_cm", real width (x), depth (z) and height (y) in centimetres; what else is
    telling, the words of a generator's "program", and the "columns" of a table that have no meaning of their own
    ("size_cm" may be one of them). A size that is not three positive numbers counts as unknown.
    """
    columns = attributes.get("columns") or {}
    facts = {"category": category} if category and category != NO_CATEGORY else {}
    for key, value in _statements(attributes, columns):
        words = _words(value)
        if words:
            facts.setdefault(key, words)
    return Metadata(
        name=name,
        tags=tuple(str(tag) for tag in attributes.get("tags") or ()),
        size_cm=_size(attributes.get("size_cm")) or _size(columns.get("size_cm")),
        facts=facts,
    )


def _statements(attributes: Mapping[str, Any], columns: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((key, attributes.get(key)) for key in TELLING_ATTRIBUTES)
    # Numbers of a program are in units of the generator; as facts they would pass for real sizes.
    program = attributes.get("program") or {}
    yield from ((key, value) for key, value in program.items() if isinstance(value, str))
    for key, value in columns.items():
        words = _words(value)
        if key != "size_cm" and len(words) <= COLUMN_CHARACTERS and "://" not in words:
            yield key, value


def _words(value: Any) -> str:
    """A text, a number or a list of those as words; empty for anything else."""
    if isinstance(value, (list, tuple)):
        return ", ".join(word for word in map(_words, value) if word)
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return " ".join(str(value).split())
    return ""


def _size(value: Any) -> tuple[float, float, float] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    if not all(isinstance(side, (int, float)) and math.isfinite(side) and side > 0 for side in value):
        return None
    width, depth, height = (float(side) for side in value)
    return width, depth, height
