"""Files inside a tar, found in one forward pass and then read by their place.

A plain tar stays where it is. A compressed one has no places to jump to: the members that are wanted are unpacked once
into one temporary file, which goes when the last of them is dropped. What an archive may unpack to is bounded, and the
bound holds before anything beyond it is decompressed.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import sys
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from omni123_hf.errors import Omni123Error, RejectedError


MAX_MEMBERS = 2_000_000
MAX_UNPACKED_BYTES = 20_000_000_000
# Beside data, a tar holds headers; no honest one comes near this, and tarfile takes each into memory whole.
MAX_HEADER_BYTES = 1 << 20
COPY_BYTES = 1 << 18


@dataclass(frozen=True)
class ArchivePlace:
    """`size` bytes at `offset` of a plain file."""

    file: os.PathLike[str]
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes; RejectedError "broken_archive" when the file is gone or shorter than it was."""
        try:
            with open(self.file, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise RejectedError(
                "broken_archive", f"{Path(self.file).name} cannot be read: {error.strerror}"
            ) from error
        if len(data) != self.size:
            raise RejectedError("broken_archive", f"{Path(self.file).name} became shorter while its pairs were read")
        return data


class Spool(os.PathLike[str]):
    """A temporary file that is removed with this object, at the latest when Python exits.

    Pickled, it is its path alone: only the process that made the file removes it.
    """

    def __init__(self) -> None:
        handle, self._path = tempfile.mkstemp(prefix="omni123-pairs-", suffix=".bin")
        os.close(handle)
        self._remover = weakref.finalize(self, _remove, self._path, os.getpid())

    def __fspath__(self) -> str:
        return self._path

    def __reduce__(self) -> tuple[type[Path], tuple[str]]:
        return Path, (self._path,)


def archive_members(
    path: Path, is_wanted: Callable[[str], bool], max_unpacked_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[tuple[str, ArchivePlace]]:
    """Names and places of the regular members of a tar (plain, gzip, bzip2 or xz) that `is_wanted`.

    Links are passed over. `Omni123Error`: no readable tar, more members than 2,000,000, a compressed archive that
    unpacks to more than `max_unpacked_bytes`, a sparse member, a header of more than 1 MiB.
    """
    if not path.is_file():
        raise Omni123Error(f"{path} is no readable folder or tar: there is no such file")
    try:
        with open(path, "rb") as packed:
            opener = _decompressor(packed)
            if opener is None:
                yield from _plain_members(path, packed, is_wanted)
            else:
                with opener(packed) as unpacked:
                    stream = _ForwardReader(unpacked, max_unpacked_bytes, path.name)
                    yield from _spooled_members(stream, is_wanted)
    except Omni123Error:
        raise
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Omni123Error(
                f"{path.name} does not fit into {tempfile.gettempdir()!r} unpacked; set TMPDIR to a folder with room"
            ) from error
        raise Omni123Error(f"{path} is no readable folder or tar: {error}") from error


def _plain_members(path: Path, file: BinaryIO, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, ArchivePlace]]:
    for info in _headers(_ForwardReader(file, sys.maxsize, path.name)):
        if is_wanted(info.name):
            yield info.name, ArchivePlace(path.absolute(), info.offset_data, info.size)


def _spooled_members(stream: _ForwardReader, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, ArchivePlace]]:
    spool = Spool()
    with open(spool, "wb") as file:
        for info in _headers(stream):
            stream.check(info.offset_data + info.size)
            if is_wanted(info.name):
                place = ArchivePlace(spool, file.tell(), info.size)
                stream.copy(info, file)
                # The member may be read at once.
                file.flush()
                yield info.name, place


def _headers(stream: _ForwardReader) -> Iterator[tarfile.TarInfo]:
    """Headers of the regular members in order."""
    name, number = stream.name, 0
    with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
        while (info := tar.next()) is not None:
            # tarfile keeps every header it has seen; millions of them, or large ones, would fill the memory.
            tar.members.clear()
            number += 1
            if number > MAX_MEMBERS:
                raise Omni123Error(f"{name} holds more than {MAX_MEMBERS} members; split it")
            if info.size < 0:
                raise Omni123Error(f"{name} is broken: a member has a size below zero")
            if info.issparse():
                raise Omni123Error(f"{name}: {info.name[:80]} is stored as a sparse file; pack without --sparse")
            if info.isreg():
                yield info


class _ForwardReader:
    """A file as tarfile reads it, which refuses large headers and to pass the byte `most`."""

    def __init__(self, file: Any, most: int, name: str) -> None:
        self._file, self._most, self.name = file, most, name

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise Omni123Error(f"{self.name} has a header of {size} bytes; more than {MAX_HEADER_BYTES} is no tar")
        self.check(self.tell() + size)
        return bytes(self._file.read(size))

    def seek(self, position: int) -> int:
        self.check(position)
        return int(self._file.seek(position))

    def tell(self) -> int:
        return int(self._file.tell())

    def check(self, position: int) -> None:
        """Raise `Omni123Error` when reaching `position` would unpack too much."""
        if position > self._most:
            raise Omni123Error(
                f"{self.name} unpacks to more than {self._most} bytes; split it, or unpack it yourself and give the"
                " folder"
            )

    def copy(self, info: tarfile.TarInfo, target: BinaryIO) -> None:
        """Append the data of the member that was just listed to `target`."""
        left = info.size
        while left:
            data = self._file.read(min(left, COPY_BYTES))
            if not data:
                raise tarfile.ReadError(f"it ends within {info.name[:80]}")
            target.write(data)
            left -= len(data)


def _decompressor(file: BinaryIO) -> Callable[[BinaryIO], Any] | None:
    """What unpacks the file, told by its first bytes; None for a plain one."""
    start = file.read(10)
    file.seek(0)
    if start.startswith(b"\x1f\x8b\x08"):
        return lambda packed: gzip.GzipFile(fileobj=packed)
    if start.startswith(b"BZh") and start[4:] == b"1AY&SY":
        return bz2.BZ2File
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile
    return None


def _remove(path: str, owner: int) -> None:
    # A forked child holds a copy of the object, not the file.
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)
