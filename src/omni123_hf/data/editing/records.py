"""One editing pair: two shapes of one object in one frame, the words that lead from one to the other, and the origin.

The same schema holds for pairs of programs, of meshes and of token sequences, whoever made them (paper §5).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omni123_hf.data.editing.regions import EditRegion
from omni123_hf.data.splits import SPLITS
from omni123_hf.errors import Omni123Error


# "unknown" is for pairs of others that come without a type.
EDIT_TYPES = ("add", "remove", "replace", "resize", "pose", "unknown")
INVERSE_TYPE = {"add": "remove", "remove": "add"}
INSTRUCTION_LEVELS = ("short", "long")
SIDE_KINDS = ("program", "mesh", "pose", "tokens")


@dataclass(frozen=True)
class EditSide:
    """One of the two shapes.

    id: of the asset, equal in every pair that it takes part in. kind: what `reference` names: "program" (category and
    attributes), "mesh" (path, or archive and member), "pose" (path, animation, seconds) or "tokens" (archive and member;
    the codes stand in the arrays of a token store).
    """

    id: str
    kind: str
    reference: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditPair:
    """One line of `pairs.jsonl`.

    object_id: the object both shapes come from; all pairs of an object are in one split. instructions and
    inverse_instructions: each of `INSTRUCTION_LEVELS` to a list of texts; the inverse may be empty when the source
    does not say how to undo the edit. region: in the normalised frame of the pair; None when it was never computed.
    changed_share: changed volume as a share of the volume of both shapes together, in (0, 1]. generator_chain: every
    program and model that had a part in making the pair, in order. tokenizer_hash: of the tokenizer of token sides.
    index: row in the arrays of its store.
    """

    id: str
    object_id: str
    source: EditSide
    target: EditSide
    instructions: dict[str, list[str]]
    edit_type: str
    generator_chain: tuple[str, ...]
    licence: str
    attribution: str
    split: str
    inverse_instructions: dict[str, list[str]] = field(default_factory=lambda: {k: [] for k in INSTRUCTION_LEVELS})
    region: EditRegion | None = None
    changed_share: float | None = None
    tokenizer_hash: str | None = None
    licence_warning: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    index: int = -1

    def __post_init__(self) -> None:
        for name in ("id", "object_id", "licence", "attribution"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise Omni123Error(f"editing pair {self.id!r} needs a {name}")
        self._check_choice("edit_type", self.edit_type, EDIT_TYPES)
        self._check_choice("split", self.split, SPLITS)
        for side in (self.source, self.target):
            self._check_choice("kind of side", side.kind, SIDE_KINDS)
            if not side.id:
                raise Omni123Error(f"editing pair {self.id!r}: each side needs an id")
        if self.source.kind != self.target.kind:
            raise Omni123Error(
                f"editing pair {self.id!r}: a {self.source.kind} cannot be edited into a {self.target.kind}"
            )
        if (self.source.kind == "tokens") != (self.tokenizer_hash is not None):
            raise Omni123Error(f"editing pair {self.id!r}: token pairs, and no others, name a tokenizer_hash")
        if not self.generator_chain:
            raise Omni123Error(f"editing pair {self.id!r} needs a generator_chain: say what made it")
        self._check_texts("instructions", self.instructions, needed=True)
        self._check_texts("inverse_instructions", self.inverse_instructions, needed=False)
        if self.changed_share is not None and not 0.0 < self.changed_share <= 1.0:
            raise Omni123Error(f"editing pair {self.id!r}: changed_share {self.changed_share} is not in (0, 1]")

    def _check_choice(self, what: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise Omni123Error(
                f"editing pair {self.id!r}: unknown {what} {value!r}; choose one of {', '.join(allowed)}"
            )

    def _check_texts(self, name: str, texts: Mapping[str, list[str]], needed: bool) -> None:
        if set(texts) != set(INSTRUCTION_LEVELS):
            raise Omni123Error(
                f"editing pair {self.id!r}: {name} need exactly the levels {', '.join(INSTRUCTION_LEVELS)}"
            )
        every = [text for level in INSTRUCTION_LEVELS for text in texts[level]]
        if (needed and not every) or not all(isinstance(text, str) and text.strip() for text in every):
            raise Omni123Error(
                f"editing pair {self.id!r}: {name} must hold no empty text, and at least one instruction"
            )

    @property
    def texts(self) -> list[str]:
        """All instructions, short ones first."""
        return [text for level in INSTRUCTION_LEVELS for text in self.instructions[level]]

    def inverse(self) -> EditPair:
        """The pair that undoes this one, in the same frame. Without inverse instructions it raises `Omni123Error`."""
        if not any(self.inverse_instructions.values()):
            raise Omni123Error(f"editing pair {self.id!r} has no inverse instructions and cannot be turned round")
        return replace(
            self,
            id=self.id.removesuffix("/inverse") if self.id.endswith("/inverse") else f"{self.id}/inverse",
            source=self.target,
            target=self.source,
            instructions=self.inverse_instructions,
            inverse_instructions=self.instructions,
            edit_type=INVERSE_TYPE.get(self.edit_type, self.edit_type),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values in field order."""
        values = asdict(self)
        values["region"] = None if self.region is None else self.region.to_dict()
        values["generator_chain"] = list(self.generator_chain)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EditPair:
        """Inverse of `to_dict`; unknown, missing or ill-typed fields raise `Omni123Error`."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise Omni123Error(f"editing pair has unknown fields {unknown}; it was written by another version")
        changed = dict(values)
        try:
            changed["source"], changed["target"] = EditSide(**values["source"]), EditSide(**values["target"])
            changed["generator_chain"] = tuple(values["generator_chain"])
            region = values.get("region")
            changed["region"] = None if region is None else EditRegion.from_dict(region)
            return cls(**changed)
        except (TypeError, KeyError) as error:
            raise Omni123Error(f"editing pair {values.get('id')!r} lacks or misuses a field: {error}") from error


def write_pairs(path: Path, pairs: Iterable[EditPair]) -> None:
    """Write pairs as JSON lines; the file appears whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(pair.to_dict(), ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def read_pairs(path: Path) -> list[EditPair]:
    """Read JSON lines; a line that is no pair, and an id given twice, raise `Omni123Error` with the line's number."""
    pairs: list[EditPair] = []
    seen: set[str] = set()
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                pair = EditPair.from_dict(json.loads(line))
            except (json.JSONDecodeError, AttributeError, TypeError) as error:
                raise Omni123Error(f"{path.name} line {number} is no editing pair: {error}") from error
            except Omni123Error as error:
                raise Omni123Error(f"{path.name} line {number}: {error}") from error
            if pair.id in seen:
                raise Omni123Error(f"{path.name} line {number}: the pair {pair.id!r} stands there twice")
            seen.add(pair.id)
            pairs.append(pair)
    return pairs


def lines_hash(path: Path) -> str:
    """SHA-256 of a `pairs.jsonl`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pair_summary(path: Path, version: int, needed: tuple[str, ...]) -> dict[str, Any]:
    """The summary of a set of pairs; one of another format, or that lacks what is needed, raises `Omni123Error`."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Omni123Error(f"{path} is not readable JSON ({error}); prepare the pairs again") from error
    if not isinstance(summary, dict) or summary.get("format") != version:
        found = summary.get("format") if isinstance(summary, dict) else None
        raise Omni123Error(f"{path.parent} has format {found}, this version reads {version}")
    missing = [name for name in needed if name not in summary]
    if missing:
        raise Omni123Error(f"{path} lacks {', '.join(missing)}; prepare the pairs again")
    return summary
