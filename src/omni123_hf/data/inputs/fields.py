"""One row of a table, one sidecar or one metadata entry as the words of an asset."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omni123_hf.data.inputs.base import InputOptions
from omni123_hf.data.inputs.licences import normalise_licence
from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.errors import Omni123Error


# Of the three lengths of captions (1-5, 10-25 and 40-70 words), a text belongs to the nearest.
MAX_SHORT_WORDS = 7
MAX_MEDIUM_WORDS = 32

# Characters. Far above what describes one object; beyond them a table of millions of rows would not fit into memory.
MAX_CAPTION_LENGTH = 10_000
MAX_WORDS_LENGTH = 10_000
MAX_CAPTIONS_LENGTH = 100_000
MAX_OTHERS_LENGTH = 100_000
MAX_DEPTH = 32

_SURROGATE = re.compile("[\ud800-\udfff]")

COLUMNS = {
    "path": ("path", "file", "file_name", "filename", "file_path"),
    "id": ("id", "uid", "sha256"),
    "name": ("name", "title"),
    "licence": ("licence", "license"),
    "attribution": ("attribution", "credit", "author"),
    "category": ("category",),
    "tags": ("tags",),
    "up": ("up",),
    "caption": ("caption", "captions", "text", "description"),
} | {f"caption_{level}": (f"caption_{level}", f"{level}_caption") for level in CAPTION_LEVELS}


@dataclass
class Fields:
    """What a row says. Empty where it says nothing; `others` are the columns with no meaning here."""

    path: str = ""
    id: str = ""
    name: str = ""
    licence: str = "unknown"
    attribution: str = ""
    category: str = ""
    tags: list[str] = field(default_factory=list)
    up: str = ""
    captions: dict[str, list[str]] = field(default_factory=lambda: {level: [] for level in CAPTION_LEVELS})
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def has_captions(self) -> bool:
        """Any caption at all."""
        return any(self.captions.values())


def read_fields(row: Mapping[str, Any], where: str) -> Fields:
    """The meaning of a row's columns (see `COLUMNS`); the first name that is there and not empty counts.

    Lone surrogates become U+FFFD. Captions and tags of another kind, text beyond the lengths above and values nested
    deeper than `MAX_DEPTH` raise `Omni123Error` naming `where`.
    """
    values = {clean_text(str(name)): value for name, value in row.items() if not _is_empty(value)}
    found: dict[str, Any] = {}
    for meaning, names in COLUMNS.items():
        present = [name for name in names if name in values]
        if present:
            found[meaning] = values.pop(present[0])
    words: dict[str, Any] = {
        name: _words(found, name, where) for name in ("path", "id", "name", "attribution", "category", "up")
    }
    fields = Fields(
        **words,
        licence=normalise_licence(_words(found, "licence", where)),
        tags=_tags(found.get("tags"), where),
        others={name: plain_value(value, where) for name, value in values.items() if not isinstance(value, bytes)},
    )
    fields.up = fields.up.lower()
    if fields.up not in ("", "y", "z"):
        raise Omni123Error(f"{where}: up must be y or z, got {fields.up!r}")
    if "caption" in found:
        _add_captions(fields.captions, found["caption"], where)
    for level in CAPTION_LEVELS:
        if f"caption_{level}" in found:
            _add_captions(fields.captions, {level: found[f"caption_{level}"]}, where)
    texts = [text for level in CAPTION_LEVELS for text in fields.captions[level]]
    _check_length("a caption", max(map(len, texts), default=0), MAX_CAPTION_LENGTH, where)
    _check_length("all captions", sum(map(len, texts)), MAX_CAPTIONS_LENGTH, where)
    others = len(json.dumps([fields.others, fields.tags]))
    _check_length("the tags and further columns", others, MAX_OTHERS_LENGTH, where)
    return fields


def asset_values(
    fields: Fields, source: str, options: InputOptions, caption_source: str, fallback: str
) -> dict[str, Any]:
    """Arguments that every kind of asset shares: words, licence and attributes; without its id and place.

    fallback: words to use as a caption where the row has none (its name comes first). What was used is kept in the
    attribute "caption_source".
    """
    captions = fields.captions
    if not fields.has_captions:
        words = fields.name or fallback
        caption_source = "name" if fields.name else "file_name" if words else "none"
        if words:
            captions[level_of(words)].append(words)
    attributes: dict[str, Any] = {"caption_source": caption_source}
    if fields.tags:
        attributes["tags"] = fields.tags
    if fields.others:
        attributes["columns"] = fields.others
    stated = fields.licence != "unknown"
    return {
        "source": source,
        "name": fields.name or fallback,
        "category": fields.category or "object",
        "captions": captions,
        "licence": fields.licence if stated else normalise_licence(options.licence),
        "attribution": fields.attribution or options.attribution,
        "attributes": attributes,
        "up": fields.up or options.up,
    }


def level_of(text: str) -> str:
    """The caption level whose length is nearest."""
    words = len(text.split())
    return "short" if words <= MAX_SHORT_WORDS else "medium" if words <= MAX_MEDIUM_WORDS else "long"


def words_of(file_name: str) -> str:
    """The words in a file's name without its suffix, "" for a number or a hash: "Old_armChair-02" is "old arm chair"."""
    if re.fullmatch(r"[0-9a-fA-F-]{16,}", file_name):
        return ""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", file_name)
    return " ".join(word.lower() for word in re.findall(r"[^\W\d_]{2,}", spaced))


def clean_text(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate: broken file names and JSON bring them, and no UTF-8 file takes them."""
    return _SURROGATE.sub("\ufffd", text)


def plain_value(value: Any, where: str, depth: int = 0) -> Any:
    """A value that JSON can hold; what it cannot becomes text. Deeper than `MAX_DEPTH` it raises `Omni123Error`."""
    if depth > MAX_DEPTH:
        raise Omni123Error(f"{where}: a value is nested more than {MAX_DEPTH} deep; leave that column out")
    if isinstance(value, Mapping):
        return {
            clean_text(str(name)): plain_value(each, where, depth + 1)
            for name, each in value.items()
            if not isinstance(each, bytes)
        }
    if isinstance(value, (list, tuple)):
        return [plain_value(each, where, depth + 1) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, bool)) or value is None else clean_text(str(value))


def _words(found: Mapping[str, Any], name: str, where: str) -> str:
    value = found.get(name, "")
    if isinstance(value, (Mapping, list, tuple)):
        raise Omni123Error(f"{where}: {name} must be text, got {type(value).__name__}")
    text = clean_text(str(value))
    _check_length(name, len(text), MAX_WORDS_LENGTH, where)
    return text


def _check_length(what: str, length: int, most: int, where: str) -> None:
    if length > most:
        raise Omni123Error(f"{where}: {what} has {length} characters, more than {most}; shorten it")


def _add_captions(captions: dict[str, list[str]], value: Any, where: str) -> None:
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass  # a caption may begin with a bracket
    if isinstance(value, Mapping) and set(value) <= set(CAPTION_LEVELS):
        for level, texts in value.items():
            captions[level] += _texts([texts] if isinstance(texts, str) else texts, where)
    elif isinstance(value, (str, list, tuple)):
        for text in _texts([value] if isinstance(value, str) else value, where):
            captions[level_of(text)].append(text)
    else:
        raise Omni123Error(f"{where}: captions must be text, a list of texts, or {'/'.join(CAPTION_LEVELS)} to texts")


def _texts(value: Any, where: str) -> list[str]:
    texts = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise Omni123Error(f"{where}: a caption is not text")
    return [" ".join(clean_text(text).split()) for text in texts if text.strip()]


def _tags(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [tag.strip() for tag in re.split(r"[,;]", clean_text(value)) if tag.strip()]
    if not isinstance(value, (list, tuple)):
        raise Omni123Error(f"{where}: tags must be text or a list, got {type(value).__name__}")
    tags = [tag.get("name", "") if isinstance(tag, Mapping) else tag for tag in value]
    return [clean_text(str(tag)) for tag in tags if tag]


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or (isinstance(value, float) and math.isnan(value))
