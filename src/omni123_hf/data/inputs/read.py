"""Which kind of source a word on the command line is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.inputs.arrow import import_datasets, open_on_disk, open_on_hub, read_dataset
from omni123_hf.data.inputs.base import BadMetadataAsset, InputOptions
from omni123_hf.data.inputs.fields import clean_text
from omni123_hf.data.inputs.folder import file_asset, read_folder
from omni123_hf.data.inputs.labels import split_label
from omni123_hf.data.inputs.manifest import read_manifest
from omni123_hf.data.inputs.named import read_named, source_names, take_turns
from omni123_hf.data.inputs.repository import HubRepository, LocalRepository, is_repository, read_repository
from omni123_hf.data.inputs.tables import TABLE_SUFFIXES
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.loading import supported_suffixes


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PREFIX = "hf://"


def read_source(text: str, options: InputOptions | None = None) -> list[Any]:
    """Assets of one source: `NAME`, `PATH`, `OWNER/NAME` on the Hub (`hf://OWNER/NAME@REVISION` to leave no doubt), or
    `LABEL=PATH` to choose the name under which its assets are recorded.

    Raises `Omni123Error` when it is none of these or cannot be read.
    """
    options = options or InputOptions()
    label, text = split_label(text)
    if text in source_names():
        return read_named(text, options)
    path = Path(text)
    if path.exists():
        source = label or clean_text(path.resolve().name.split(".")[0]) or "files"
        return _limited(_read_path(path, source, options), options)
    if text.startswith(_PREFIX) or (_HUB_ID.fullmatch(text) and not path.parent.exists()):
        name, _, revision = text.removeprefix(_PREFIX).partition("@")
        return _limited(_read_hub(name, revision or None, label or name.split("/")[-1], options), options)
    if _HUB_ID.fullmatch(text):
        raise Omni123Error(f"{text} does not exist; for a data set of that name on the Hub write {_PREFIX}{text}")
    return read_named(text, options)


def check_licences(assets: list[Any], source: str) -> None:
    """Raise `Omni123Error` when no asset of a source states a licence: then the user has to say what it is."""
    read = [asset for asset in assets if not isinstance(asset, BadMetadataAsset)]
    if read and all(asset.licence == UNKNOWN_LICENCE for asset in read):
        raise Omni123Error(
            f"{source} states no licence for any of its {len(read)} assets; "
            "give it with --licence (an SPDX name), or --allow-unknown-licence to keep them as 'unknown'"
        )


def _limited(assets: list[Any], options: InputOptions) -> list[Any]:
    # A table keeps its own order unless a part of it is asked for.
    return assets if options.per_category is None and options.limit is None else take_turns(assets, options)


def _read_path(path: Path, source: str, options: InputOptions) -> list[Any]:
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in TABLE_SUFFIXES:
            return list(read_manifest(path, source, options))
        if suffix in supported_suffixes():
            return [file_asset(path, path.parent, source, options)]
        known = ", ".join([*TABLE_SUFFIXES, *supported_suffixes()])
        raise Omni123Error(f"{path} is neither a table nor a mesh; known: {known}")
    if (path / "manifest.jsonl").is_file() and (path / "dataset.json").is_file():
        raise Omni123Error(f"{path} is a prepared data set already; use 'omni123 data merge' to join it with others")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return list(read_dataset(open_on_disk(path), source, path, options))
    repository = LocalRepository(source, str(path))
    top = [file.name for file in path.iterdir()]
    if (path / "metadata").is_dir():
        top += [f"metadata/{file.name}" for file in (path / "metadata").iterdir()]
    if is_repository(top):
        return list(read_repository(repository, source, options))
    return list(read_folder(path, source, options))


def _read_hub(name: str, revision: str | None, source: str, options: InputOptions) -> list[Any]:
    repository = HubRepository.open(name, revision)
    if is_repository(repository.files()):
        return list(read_repository(repository, source, options))
    dataset = open_on_hub(name, repository.revision)
    # Files that its rows name were downloaded there; a path that leads elsewhere is none of the data set's business.
    cache = Path(import_datasets().config.HF_CACHE_HOME)
    return list(read_dataset(dataset, source, cache, options))
