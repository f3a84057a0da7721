"""Files that belong together by name: `000123_source.npy`, `src/000123.glb` and `000123.json` are parts of pair 000123.

Works on a folder and inside a tar alike (`archives`), and sizes are bounded.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omni123_hf.data.editing.archives import MAX_MEMBERS, MAX_UNPACKED_BYTES, ArchivePlace, archive_members
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading.files import read_confined


ROLES = {
    **dict.fromkeys(("source", "src", "before", "input"), "source"),
    **dict.fromkeys(("target", "tar", "tgt", "after", "edited"), "target"),
    **dict.fromkeys(("instruction", "instructions", "prompt", "text", "meta", "edit"), "words"),
}
WORD_SUFFIXES = (".txt", ".json")


@dataclass(frozen=True)
class Member:
    """A file of a folder, or inside the tar `archive` when that is not empty. `name` is relative to the folder or tar.

    place: where a tar's member lies. It is no part of what the member is: another run may unpack it elsewhere.
    """

    root: str
    archive: str
    name: str
    place: ArchivePlace | None = field(default=None, repr=False, compare=False)

    @property
    def file(self) -> Path:
        """Where it lies on this machine: itself, or its tar."""
        return Path(self.root) / (self.archive or self.name)

    def read(self, most: int) -> bytes:
        """Its bytes; more than `most`, a link, or a file that is gone raise RejectedError."""
        if self.place is not None:
            if self.place.size > most:
                raise RejectedError(
                    "file_too_large", f"{self.name[:80]} has {self.place.size} bytes, more than {most}"
                )
            return self.place.read()
        root = Path(os.path.realpath(self.root))
        data = read_confined(root / self.name, root, most)
        if data is None:
            raise RejectedError("missing_file", f"{self.name[:80]} does not exist")
        return data


def role_of(name: str, suffixes: tuple[str, ...]) -> tuple[str, str] | None:
    """(role, key) of a member name, None for a file that is no part of a pair.

    suffixes: of the two sides (".glb"). The last word of the name that is a role is taken out; what is left is the key.
    A text or JSON file without such a word holds the words.
    """
    stem, suffix = posixpath.splitext(name.lower())
    words = re.split(r"([/._-])", stem)
    found = [
        place
        for place, word in enumerate(words)
        if word in ROLES and (ROLES[word] == "words") == (suffix in WORD_SUFFIXES)
    ]
    if suffix in suffixes and found:
        role = ROLES[words[found[-1]]]
    elif suffix in WORD_SUFFIXES:
        role = "words"
    else:
        return None
    if found:
        words[found[-1]] = ""
    key = "/".join(part for part in re.split(r"[/._-]+", "".join(words)) if part)
    return role, key or "pair"


def group_members(
    path: Path, suffixes: tuple[str, ...], max_unpacked_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[tuple[str, dict[str, Member]]]:
    """Keys, in order, with the members "source", "target" and perhaps "words" of a folder or of one tar.

    Two files with one role and key raise `Omni123Error`: the names do not tell the pairs apart. So does an archive that
    `archives.archive_members` refuses.
    """
    groups: dict[str, dict[str, Member]] = {}
    for member in _members(path, suffixes, max_unpacked_bytes):
        placed = role_of(member.name, suffixes)
        if placed is None:
            continue
        role, key = placed
        group = groups.setdefault(key, {})
        if role in group:
            raise Omni123Error(
                f"{path.name}: {group[role].name} and {member.name} are both the {role} of pair {key!r}"
            )
        group[role] = member
    for key in sorted(groups):
        if {"source", "target"} <= set(groups[key]):
            yield key, groups[key]


def _members(path: Path, suffixes: tuple[str, ...], max_unpacked_bytes: int) -> Iterator[Member]:
    if path.is_dir():
        for number, file in enumerate(sorted(path.rglob("*"))):
            if number >= MAX_MEMBERS:
                raise Omni123Error(f"{path} holds more than {MAX_MEMBERS} files; read its parts one by one")
            if file.is_file() and not file.is_symlink():
                yield Member(str(path), "", file.relative_to(path).as_posix())
        return
    for name, place in archive_members(path, lambda name: role_of(name, suffixes) is not None, max_unpacked_bytes):
        yield Member(str(path.parent), path.name, name, place)
