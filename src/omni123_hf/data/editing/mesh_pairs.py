"""A pair of found mesh files as a pair spec. Both files are taken to share one coordinate frame, as editors write them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import trimesh

from omni123_hf.data.editing.frames import pair_frame, placed
from omni123_hf.data.editing.members import Member
from omni123_hf.data.editing.pair_specs import OpenedPair, captions_from_instruction
from omni123_hf.data.editing.records import INSTRUCTION_LEVELS, EditPair, EditSide
from omni123_hf.geometry.loading import LoadLimits, load_mesh


# Longer instructions count as the long wording.
SHORT_WORDS = 12


@dataclass(frozen=True)
class MeshPairSpec:
    """Everything about a pair but its meshes, which are read where it is prepared; see `EditPair` for the fields."""

    id: str
    object_id: str
    source: Member
    target: Member
    instruction: str
    edit_type: str
    split: str
    licence: str
    attribution: str
    generator_chain: tuple[str, ...]
    inverse_instruction: str = ""
    category: str = "object"
    licence_warning: str | None = None
    limits: LoadLimits = field(default_factory=LoadLimits)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the two meshes, or the tar that holds both."""
        return tuple(dict.fromkeys((self.source.file, self.target.file)))

    def open(self) -> OpenedPair:
        """Load both meshes into their common frame. Raises RejectedError as `load_mesh` does."""
        meshes = [load_member(member, self.limits) for member in (self.source, self.target)]
        frame = pair_frame(*meshes)
        pair = EditPair(
            id=self.id,
            object_id=self.object_id,
            source=_side(f"{self.id}/source", self.source),
            target=_side(f"{self.id}/target", self.target),
            instructions=by_length(self.instruction),
            inverse_instructions=by_length(self.inverse_instruction),
            edit_type=self.edit_type,
            generator_chain=self.generator_chain,
            licence=self.licence,
            attribution=self.attribution,
            split=self.split,
            licence_warning=self.licence_warning,
            attributes={"center": list(frame.center), "scale": frame.scale},
        )
        words = [captions_from_instruction(pair.texts, done) for done in (False, True)]
        return OpenedPair(pair, self.category, placed(meshes[0], frame), placed(meshes[1], frame), *words)


def by_length(text: str) -> dict[str, list[str]]:
    """An instruction under "short" or "long" by its number of words; no text gives empty levels."""
    levels: dict[str, list[str]] = {level: [] for level in INSTRUCTION_LEVELS}
    if text:
        levels["short" if len(text.split()) <= SHORT_WORDS else "long"].append(text)
    return levels


def load_member(member: Member, limits: LoadLimits) -> trimesh.Trimesh:
    """The mesh of a file, confined to the folder of its set, or of a member of a tar."""
    if not member.archive:
        return load_mesh(Path(member.root) / member.name, limits, root=member.root)
    data = member.read(limits.max_file_bytes)
    with tempfile.TemporaryDirectory(prefix="omni123-pair-") as folder:
        # A name of our own: the member's may hold anything.
        path = Path(folder) / f"mesh{os.path.splitext(member.name)[1].lower()}"
        path.write_bytes(data)
        return load_mesh(path, limits)


def _side(name: str, member: Member) -> EditSide:
    reference = {"path": member.name} if not member.archive else {"archive": member.archive, "member": member.name}
    return EditSide(name, "mesh", reference)
