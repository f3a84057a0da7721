"""An Objaverse-style repository: model files, and JSON files that map ids to metadata and to paths.

`metadata/*.json.gz` (or `metadata*.json` at the top) holds {uid: {"name", "tags", "license", "user", ...}} or a list of
such entries with their "uid"; `object-paths.json.gz` holds {uid: path} and may be missing when files are named by uid.
The repository is a data set on the Hub, of which a model is downloaded where it is prepared, or a local copy.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import trimesh

from omni123_hf.data.bounded_asset import BoundedAsset, SourceUnreachableError
from omni123_hf.data.inputs.base import BadMetadataAsset, InputOptions, bad_metadata
from omni123_hf.data.inputs.fields import asset_values, clean_text, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading import LoadLimits, load_mesh, supported_suffixes


_METADATA = re.compile(r"metadata/[^/]+\.json(\.gz)?|metadata[^/]*\.json(\.gz)?")
_PATHS = re.compile(r"object[-_]paths\.json(\.gz)?")
MAX_JSON_BYTES = 2 * 2**30


@dataclass(frozen=True)
class LocalRepository:
    """A copy in a folder."""

    name: str
    # Not shown: what is hashed or printed of an asset must not depend on where its source lies.
    folder: str = field(repr=False)

    def files(self) -> list[str]:
        """Paths of all files, sorted."""
        return sorted(
            Path(parent, name).relative_to(self.folder).as_posix()
            for parent, _, names in os.walk(self.folder)
            for name in names
        )

    def fetch(self, path: str) -> Path:
        """The file on this machine."""
        return Path(self.folder, path)


@dataclass(frozen=True)
class HubRepository:
    """A data set repository of the Hub at one commit."""

    name: str
    revision: str

    @classmethod
    def open(cls, name: str, revision: str | None) -> HubRepository:
        """Looks up the commit, so that a long run reads one state. Raises `Omni123Error` when there is none to be had."""
        from huggingface_hub import HfApi

        try:
            info = HfApi().dataset_info(name, revision=revision)
        except Exception as error:  # the network errors are those of an HTTP library that changes with the version
            raise Omni123Error(
                f"{name} is neither a path here nor a data set that the Hub gives: {_line(error)}"
            ) from error
        return cls(name, str(info.sha))

    def files(self) -> list[str]:
        """Paths of all files, sorted."""
        from huggingface_hub import HfApi

        try:
            return sorted(HfApi().list_repo_files(self.name, repo_type="dataset", revision=self.revision))
        except Exception as error:  # as above
            raise SourceUnreachableError(f"the files of {self.name} cannot be listed: {_line(error)}") from error

    def fetch(self, path: str) -> Path:
        """The file on this machine, downloaded unless it is in the cache."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.name, path, repo_type="dataset", revision=self.revision))
        except LocalEntryNotFoundError as error:  # neither in the cache nor to be had now
            raise SourceUnreachableError(f"{self.name}: {path} cannot be downloaded: {_line(error)}") from error
        except EntryNotFoundError as error:
            raise RejectedError("missing_file", f"{path} is not in {self.name}") from error
        except Exception as error:  # as above
            raise SourceUnreachableError(f"{self.name}: {path} cannot be downloaded: {_line(error)}") from error


Repository = LocalRepository | HubRepository


@dataclass(frozen=True)
class RepositoryAsset(BoundedAsset):
    """One model file of a repository; `path` is its path there. Files that it refers to are not downloaded."""

    repository: Repository = LocalRepository("", ".")

    @property
    def file(self) -> Path | None:
        """See `BoundedAsset.file`; on the Hub the revision fixes the content."""
        return self.repository.fetch(self.path) if isinstance(self.repository, LocalRepository) else None

    def read(self, limits: LoadLimits) -> trimesh.Trimesh:
        """See `BoundedAsset.read`."""
        file = self.repository.fetch(self.path)
        if isinstance(self.repository, LocalRepository):
            return load_mesh(file, limits, Path(self.repository.folder))
        # In the Hub's cache a file is a link into a folder of blobs beside the snapshots.
        return load_mesh(file, limits, Path(os.path.commonpath([file.parent, os.path.realpath(file)])))


def is_repository(files: list[str]) -> bool:
    """Whether a list of files looks like an Objaverse-style repository."""
    return any(_METADATA.fullmatch(file) for file in files)


def read_repository(
    repository: Repository, source: str, options: InputOptions
) -> list[RepositoryAsset | BadMetadataAsset]:
    """One asset for each entry of the metadata that has a model file; entries without one are left out.

    An entry that cannot be read becomes a `BadMetadataAsset`; a file that cannot be read raises `Omni123Error`.
    """
    files = repository.files()
    known = set(files)
    models = [file for file in files if PurePosixPath(file).suffix.lower() in supported_suffixes()]
    by_stem = {PurePosixPath(file).stem: file for file in models}
    paths: dict[str, Any] = {}
    for file in files:
        if _PATHS.fullmatch(file):
            content = _read_json(repository, file)
            if not isinstance(content, dict):
                raise Omni123Error(f"{repository.name}: {file} must map ids to paths")
            paths |= content
    assets: dict[str, RepositoryAsset | BadMetadataAsset] = {}
    for file in files:
        if not _METADATA.fullmatch(file):
            continue
        for number, (uid, entry) in enumerate(_entries(_read_json(repository, file))):
            where = f"{file} entry {clean_text(uid) if isinstance(uid, str) else number}"
            if not isinstance(uid, str) or not isinstance(entry, Mapping):
                assets[where] = bad_metadata(source, where, f"{where} must be an object with an id")
                continue
            path = str(paths.get(uid) or entry.get("path") or by_stem.get(uid, ""))
            if path not in known:
                continue
            try:
                fields = read_fields(_flat(entry), where)
            except Omni123Error as error:
                assets[uid] = bad_metadata(source, where, error)
                continue
            # The path was used above; a thumbnail's or another file's name is no caption of the object.
            assets[uid] = RepositoryAsset(
                id=given_id(clean_text(uid)),
                path=path,
                repository=repository,
                **asset_values(fields, source, options, "metadata", words_of(PurePosixPath(path).stem)),
            )
    if not assets:
        raise Omni123Error(f"{repository.name}: no entry of its metadata has a model file in the repository")
    return [assets[uid] for uid in sorted(assets)]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with the user's name as attribution and the first of its categories."""
    row = {
        name: value for name, value in entry.items() if name not in ("user", "categories", "path", "uid", "thumbnails")
    }
    user = entry.get("user")
    author = (user.get("displayName") or user.get("username")) if isinstance(user, Mapping) else user
    categories = entry.get("categories")
    first = categories[0] if isinstance(categories, list) and categories else None
    return {
        "attribution": f"{entry.get('name') or 'Model'} by {author}" if author else "",
        "category": first.get("name") if isinstance(first, Mapping) else first,
        **row,
    }


def _entries(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, Mapping):
        yield from content.items()
    else:
        yield from ((each.get("uid") if isinstance(each, Mapping) else None, each) for each in content)


def _read_json(repository: Repository, path: str) -> Any:
    try:
        file = repository.fetch(path)
        if isinstance(repository, LocalRepository) and not file.resolve().is_relative_to(
            Path(repository.folder).resolve()
        ):
            raise Omni123Error(f"{repository.name}: {path} is a link out of the repository; copy the file there")
        with gzip.open(file, "rb") if path.endswith(".gz") else open(file, "rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise Omni123Error(f"{path} has more than {MAX_JSON_BYTES} bytes; split it")
        content = json.loads(data)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, Omni123Error):
            raise
        raise Omni123Error(f"{repository.name}: {path} is not readable JSON: {error}") from error
    if not isinstance(content, (dict, list)):
        raise Omni123Error(f"{repository.name}: {path} must map ids to objects, or list objects with a 'uid'")
    return content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
