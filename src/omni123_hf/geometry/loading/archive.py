"""Models inside zip archives. Nothing is unpacked to disk; a member is read when the model names it."""

from __future__ import annotations

import io
import posixpath
import stat
import zipfile
import zlib
from collections.abc import Collection

from ...errors import RejectedError
from .files import FileSource, ModelFile, relative_name
from .limits import LoadBudget, LoadLimits


_CENTRAL_ENTRY = b"PK\x01\x02"
_NESTED = (".zip", ".sh3f", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".usdz", ".kmz", ".3mf")

# A small file of one repeated byte packs 1000 to 1 and harms nobody.
_RATIO_FREE_BYTES = 2**20


def open_archive(data: bytes, name: str, limits: LoadLimits) -> zipfile.ZipFile:
    """A zip archive whose every member name stays inside it and whose members are plain files.

    Raises RejectedError for a broken archive, too many members, links, and names that are absolute or climb out.
    """
    # The central directory is counted before the zip module builds an object of 500 bytes for each entry.
    if data.count(_CENTRAL_ENTRY) > limits.max_archive_members:
        raise RejectedError(
            "too_many_members", f"{name} has more than {limits.max_archive_members} members; pack one asset a file"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise RejectedError("broken_archive", f"{name} is not a readable zip archive: {error}") from error
    for member in archive.infolist():
        if ".." in relative_name(member.filename).split("/"):
            raise RejectedError(
                "path_outside_root", f"{name} holds {member.filename[:80]!r}, which climbs out of the archive"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise RejectedError(
                "archive_link", f"{name} holds the link {member.filename[:80]!r}; pack the file itself"
            )
    return archive


def read_member(archive: zipfile.ZipFile, name: str, budget: LoadBudget) -> bytes | None:
    """Bytes of a member, None when there is none; never more than it promises or the limits allow."""
    try:
        member = archive.getinfo(name)
    except KeyError:
        return None
    if member.flag_bits & 1:
        raise RejectedError("encrypted_archive", f"{name[:80]} is encrypted; pack it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RejectedError(
            "unsupported_compression", f"{name[:80]} is packed by method {member.compress_type}; use deflate"
        )
    ratio = member.file_size / max(member.compress_size, 1)
    if member.file_size > _RATIO_FREE_BYTES and ratio > budget.limits.max_compression_ratio:
        raise RejectedError(
            "compression_ratio",
            f"{name[:80]} unpacks to {ratio:.0f} times its size, more than {budget.limits.max_compression_ratio}",
        )
    budget.spend_file(member.file_size, name[:80])
    try:
        with archive.open(member) as stream:
            data = stream.read(member.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise RejectedError("broken_archive", f"{name[:80]} cannot be unpacked: {error}") from error
    if len(data) != member.file_size:
        raise RejectedError("broken_archive", f"{name[:80]} has another size than the archive says")
    return data


class ArchiveFiles(FileSource):
    """Members of an archive, named relative to the folder `folder` inside it."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, budget: LoadBudget) -> None:
        super().__init__(budget)
        self.archive = archive
        self.folder = folder

    def read(self, name: str) -> bytes | None:
        """See `FileSource.read`."""
        member = posixpath.normpath(posixpath.join(self.folder, relative_name(name)))
        if member == ".." or member.startswith("../"):
            raise RejectedError("path_outside_root", f"{name[:80]!r} climbs out of the archive")
        return read_member(self.archive, member, self.budget)


def model_in_archive(archive: zipfile.ZipFile, name: str, suffixes: Collection[str], budget: LoadBudget) -> ModelFile:
    """The one model of an archive. Raises RejectedError when there is none or more than one."""
    names = [member.filename for member in archive.infolist() if not member.is_dir()]
    # Resource forks of macOS archives repeat every file's name.
    models = [each for each in names if _suffix(each) in suffixes and not each.startswith("__MACOSX/")]
    if not models:
        nested = [each for each in names if _suffix(each) in _NESTED]
        if nested:
            raise RejectedError("nested_archive", f"{name} holds another archive, {nested[0][:80]!r}; unpack it first")
        raise RejectedError("no_model", f"{name} holds no model; known: {', '.join(sorted(suffixes))}")
    if len(models) > 1:
        raise RejectedError(
            "ambiguous_archive", f"{name} holds {len(models)} models ({models[0][:80]!r}, ...); pack one asset a file"
        )
    files = ArchiveFiles(archive, posixpath.dirname(models[0]), budget)
    data = read_member(archive, models[0], budget)
    if data is None:
        raise RejectedError("broken_archive", f"{name} lists {models[0][:80]!r} but does not hold it")
    return ModelFile(models[0], data, files, budget)


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()
