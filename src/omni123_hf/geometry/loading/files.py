"""Files of one asset. A model names other files (buffers, materials, textures): none outside its root is ever opened."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ...errors import RejectedError
from .limits import LoadBudget


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class FileSource(ABC):
    """Where the files beside a model come from: a folder or an archive."""

    def __init__(self, budget: LoadBudget) -> None:
        self.budget = budget
        # Textures and material libraries that are not there; the loaded mesh says so in its metadata.
        self.missing: list[str] = []

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Bytes of the file `name`, relative to the model; None when there is none.

        Raises RejectedError for a name that leaves the root, an address, a file that is not a regular one, and a file
        beyond the limits.
        """

    def read_optional(self, name: str) -> bytes | None:
        """As `read`, and a file that is not there is put down in `missing`."""
        data = self.read(name)
        if data is None and name not in self.missing:
            self.missing.append(name)
        return data


@dataclass
class ModelFile:
    """The file to read. `folder` is the one it lies in and `root` the one it may not leave; None inside an archive."""

    name: str
    data: bytes
    files: FileSource
    budget: LoadBudget
    folder: Path | None = None
    root: Path | None = None

    @property
    def suffix(self) -> str:
        """Lower-case suffix with its dot."""
        return posixpath.splitext(self.name)[1].lower()


def relative_name(name: str) -> str:
    """A reference with "/" between its parts. Raises RejectedError for an address, an absolute path and a NUL."""
    text = name.replace("\\", "/")
    if _SCHEME.match(text):
        raise RejectedError("remote_reference", f"{name[:80]!r} is an address; put the file beside the model")
    if text.startswith("/") or re.match(r"[A-Za-z]:", text) or "\0" in text:
        raise RejectedError(
            "path_outside_root", f"{name[:80]!r} is not a relative path; put the file beside the model"
        )
    return text


class FolderFiles(FileSource):
    """Files under the folder `root`, named relative to `folder`. Links are followed only when they stay inside."""

    def __init__(self, folder: Path, root: Path, budget: LoadBudget) -> None:
        super().__init__(budget)
        self.folder = folder
        self.root = root

    def read(self, name: str) -> bytes | None:
        """See `FileSource.read`."""
        data = read_confined(self.folder / relative_name(name), self.root, self.budget.limits.max_file_bytes)
        if data is not None:
            self.budget.spend_file(len(data), name[:80])
        return data


def read_confined(path: Path, root: Path, max_bytes: int) -> bytes | None:
    """Bytes of a regular file whose real path lies under `root` (a real path itself); None when there is none."""
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(root):
        raise RejectedError(
            "path_outside_root",
            f"{str(path.name)[:80]!r} lies outside the asset's folder; pass a wider root to allow it",
        )
    try:
        # Not blocking: to open a named pipe would wait for a writer. No link: it could have been put there just now.
        handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RejectedError("unreadable_file", f"{path.name[:80]} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise RejectedError("unreadable_file", f"{path.name[:80]} is not a regular file; leave this asset out")
        if status.st_size > max_bytes:
            raise RejectedError(
                "file_too_large", f"{path.name[:80]} has {status.st_size} bytes, more than {max_bytes}; simplify it"
            )
        with open(handle, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(handle)
