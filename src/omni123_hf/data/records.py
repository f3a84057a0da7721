"""What is known about one asset of a prepared data set: one line of `manifest.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omni123_hf.data.splits import SPLITS
from omni123_hf.errors import Omni123Error


CAPTION_LEVELS = ("short", "medium", "long")


@dataclass
class AssetRecord:
    """Text, origin and place of one asset.

    captions: each of `CAPTION_LEVELS` to a list of texts (a level may be empty, not all). attributes: plain JSON.
    content_hash: SHA-256 of the asset's arrays and captions. index: its row in the arrays of the store.
    """

    id: str
    source: str
    licence: str
    attribution: str
    category: str
    captions: dict[str, list[str]]
    split: str
    attributes: dict[str, Any] = field(default_factory=dict)
    content_hash: str = ""
    index: int = -1

    def __post_init__(self) -> None:
        if not self.id:
            raise Omni123Error("an asset record needs an id")
        if self.split not in SPLITS:
            raise Omni123Error(f"{self.id}: unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")
        if not isinstance(self.captions, dict) or set(self.captions) != set(CAPTION_LEVELS):
            raise Omni123Error(f"{self.id}: captions need exactly the levels {', '.join(CAPTION_LEVELS)}")
        texts = [text for level in CAPTION_LEVELS for text in self.captions[level]]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise Omni123Error(f"{self.id}: captions must hold at least one text and no empty text")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values in field order."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AssetRecord:
        """Inverse of `to_dict`; an unknown or missing field raises `Omni123Error`."""
        if not isinstance(values, dict):
            raise Omni123Error(f"an asset record must be a JSON object, got {type(values).__name__}")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise Omni123Error(f"asset record has unknown fields {unknown}; it was written by another version")
        try:
            return cls(**values)
        except TypeError as error:
            raise Omni123Error(f"asset record lacks fields: {error}") from error


def write_records(path: Path, records: Iterable[AssetRecord]) -> None:
    """Write records as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")


def read_records(path: Path) -> list[AssetRecord]:
    """Read JSON lines; a line that is not a record raises `Omni123Error` with its number."""
    records = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    records.append(AssetRecord.from_dict(json.loads(line)))
                except json.JSONDecodeError as error:
                    raise Omni123Error(f"{path.name} line {number} is not JSON: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Omni123Error(f"{path} is not readable ({error}); prepare the data set again") from error
    return records
