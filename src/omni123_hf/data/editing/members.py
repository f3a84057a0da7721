"""Files that belong together by name: `000123_source.npy`, `src/000123.glb` and `000123.json` are parts of pair 000123.

Works on a folder and inside a tar alike. Nothing is unpacked beside a member that is read, and sizes are bounded.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading.files import read_confined


ROLES = {
    **dict.fromkeys(("source", "src", "before", "input"), "source"),
    **dict.fromkeys(("target", "tar", "tgt", "after", "edited"), "target"),
    **dict.fromkeys(("instruction", "instructions", "prompt", "text", "meta", "edit"), "words"),
}
WORD_SUFFIXES = (".txt", ".json")
MAX_MEMBERS = 2_000_000


@dataclass(frozen=True)
class Member:
    """A file of a folder, or inside the tar `archive` when that is not empty. `name` is relative to the folder or tar."""

    root: str
    archive: str
    name: str

    def read(self, most: int) -> bytes:
        """Its bytes; more than `most`, a link, or a file that is gone raise RejectedError."""
        if not self.archive:
            root = Path(os.path.realpath(self.root))
            data = read_confined(root / self.name, root, most)
            if data is None:
                raise RejectedError("missing_file", f"{self.name[:80]} does not exist")
            return data
        try:
            with tarfile.open(Path(self.root) / self.archive, "r:*") as tar:
                return read_member(tar, tar.getmember(self.name), most)
        except (KeyError, tarfile.TarError, OSError) as error:
            raise RejectedError("broken_archive", f"{self.archive} gives no {self.name[:80]}: {error}") from error


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    """Bytes of a regular member of at most `most` bytes."""
    stream = tar.extractfile(member) if member.isreg() else None
    if stream is None:
        raise RejectedError("archive_link", f"{member.name[:80]} is no plain file; pack the file itself")
    if member.size > most:
        raise RejectedError("file_too_large", f"{member.name[:80]} has {member.size} bytes, more than {most}")
    return stream.read(most)


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


def group_members(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Keys, in order, with the members "source", "target" and perhaps "words" of a folder or of one tar.

    Two files with one role and key raise `Omni123Error`: the names do not tell the pairs apart.
    """
    groups: dict[str, dict[str, Member]] = {}
    for member in _members(path):
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


def _members(path: Path) -> Iterator[Member]:
    if path.is_dir():
        for number, file in enumerate(sorted(path.rglob("*"))):
            if number >= MAX_MEMBERS:
                raise Omni123Error(f"{path} holds more than {MAX_MEMBERS} files; read its parts one by one")
            if file.is_file() and not file.is_symlink():
                yield Member(str(path), "", file.relative_to(path).as_posix())
        return
    try:
        with tarfile.open(path, "r:*") as tar:
            for number, info in enumerate(tar):
                if number >= MAX_MEMBERS:
                    raise Omni123Error(f"{path.name} holds more than {MAX_MEMBERS} members; split it")
                if info.isreg():
                    yield Member(str(path.parent), path.name, info.name)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Omni123Error(f"{path} is no readable folder or tar: {error}") from error
