"""A `datasets` data set, on disk (`save_to_disk`) or on the Hub, whose rows hold meshes.

The mesh column is one with the feature `Mesh()`, or one of bytes, or of paths under the data set's folder. The other
columns are those of `fields.COLUMNS`. Only the row's place is kept; its mesh is read where it is prepared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import trimesh

from omni123_hf.data.bounded_asset import BoundedAsset
from omni123_hf.data.inputs.base import BadMetadataAsset, InputOptions, bad_metadata, place_under
from omni123_hf.data.inputs.fields import asset_values, read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading import LoadLimits, load_mesh


MESH_COLUMNS = ("mesh", "model", "glb", "bytes", "file", "path", "file_name", "file_path")
FORMAT_COLUMNS = ("format", "file_type", "extension")
_MAGIC = ((b"glTF", ".glb"), (b"ply", ".ply"), (b"PK\x03\x04", ".zip"), (b"OFF", ".off"), (b"solid", ".stl"))


@dataclass(frozen=True)
class RowAsset(BoundedAsset):
    """One row of an Arrow file (`path`). root: the folder that a path in the row may not leave."""

    row: int = 0
    column: str = ""
    suffix: str = ""
    root: str = "."

    @property
    def place(self) -> str:
        """See `BoundedAsset.place`."""
        return f"{place_under(self.path, self.root)} row {self.row}"

    @property
    def file(self) -> Path:
        """See `BoundedAsset.file`."""
        return Path(self.path)

    def read(self, limits: LoadLimits) -> trimesh.Trimesh:
        """See `BoundedAsset.read`."""
        value = _table(self.path)[self.column][self.row].as_py()
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, str):
            data, name = None, data
        if data is None:
            if not name:
                raise RejectedError("missing_file", "the row holds neither bytes nor a path")
            return load_mesh(Path(self.root, name), limits, Path(self.root))
        if len(data) > limits.max_file_bytes:
            raise RejectedError("file_too_large", f"{len(data)} bytes, more than {limits.max_file_bytes}; simplify it")
        suffix = Path(name or "").suffix or self.suffix or suffix_of(data)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"model{suffix.lower()}")
            file.write_bytes(data)
            return load_mesh(file, limits)


def read_dataset(dataset: Any, source: str, root: Path, options: InputOptions) -> list[RowAsset | BadMetadataAsset]:
    """One asset a row of a `datasets` data set; of a dictionary of splits, all of them.

    A row whose words cannot be read becomes a `BadMetadataAsset`. Raises `Omni123Error` when there is no mesh column or
    the data set lies in memory.
    """
    import datasets

    if isinstance(dataset, datasets.DatasetDict):
        return [asset for split in dataset.values() for asset in read_dataset(split, source, root, options)]
    column = _mesh_column(dataset)
    words = dataset.remove_columns([column] if _holds_bytes(dataset.features[column]) else [])
    assets: list[RowAsset | BadMetadataAsset] = []
    for number, ((file, row), values) in enumerate(zip(_places(dataset), _rows(words), strict=True)):
        numbered = f"{dataset.split or 'all'}/{number}"
        try:
            fields = read_fields(values, f"{source} row {number}")
        except Omni123Error as error:
            assets.append(bad_metadata(source, f"row {numbered}", error))
            continue
        suffix = next((str(fields.others.pop(name)) for name in FORMAT_COLUMNS if name in fields.others), "")
        assets.append(
            RowAsset(
                id=given_id(fields.id) if fields.id else path_id(source, fields.path or numbered),
                path=file,
                row=row,
                column=column,
                suffix=f".{suffix.lstrip('.')}" if suffix else "",
                root=str(root),
                **asset_values(fields, source, options, "dataset", words_of(Path(fields.path).stem)),
            )
        )
    return assets


def open_on_disk(folder: Path) -> Any:
    """The data set that `save_to_disk` wrote to `folder`."""
    datasets = import_datasets()
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:
        raise Omni123Error(f"{folder} is not a readable datasets folder: {' '.join(str(error).split())}") from error


def open_on_hub(repository: str, revision: str | None) -> Any:
    """A data set of the Hub, downloaded to the cache of `datasets`."""
    datasets = import_datasets()
    try:
        return datasets.load_dataset(repository, revision=revision)
    except Exception as error:
        detail = " ".join(str(error).split())[:300]
        raise Omni123Error(f"the data set {repository} cannot be loaded from the Hub: {detail}") from error


def import_datasets() -> Any:
    """The `datasets` library, or an `Omni123Error` that says how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise Omni123Error("reading this needs datasets; install it with: pip install datasets") from error
    return datasets


def suffix_of(data: bytes) -> str:
    """The format that the first bytes show, "" for none."""
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "")


@lru_cache(maxsize=8)
def _table(path: str) -> Any:
    datasets = import_datasets()
    try:
        return datasets.Dataset.from_file(path).data
    except Exception as error:
        raise RejectedError("unreadable_file", f"{Path(path).name}: {str(error)[:200]}") from error


def _mesh_column(dataset: Any) -> str:
    import datasets

    features = dataset.features
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Mesh)]
    named = [
        name
        for name in MESH_COLUMNS
        if name in features and (_holds_bytes(features[name]) or _is_text(features[name]))
    ]
    binary = [name for name, feature in features.items() if _holds_bytes(feature)]
    for candidates in (typed, named, binary):
        if candidates:
            return str(candidates[0])
    raise Omni123Error(
        f"no column holds meshes (columns: {', '.join(features)}); name it 'mesh' with bytes or paths, or cast it to Mesh()"
    )


def _holds_bytes(feature: Any) -> bool:
    import datasets

    if isinstance(feature, datasets.Mesh):
        return True
    if isinstance(feature, dict):
        return "bytes" in feature
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _places(dataset: Any) -> Iterator[tuple[str, int]]:
    """Arrow file and row of each row of the data set."""
    datasets = import_datasets()
    if getattr(dataset, "_indices", None) is not None or not dataset.cache_files:
        raise Omni123Error(
            "the data set lies in memory or is a selection; write it with save_to_disk and give that folder"
        )
    for entry in dataset.cache_files:
        for row in range(len(datasets.Dataset.from_file(entry["filename"]))):
            yield entry["filename"], row


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    if dataset.column_names:
        yield from dataset
    else:
        yield from ({} for _ in range(len(dataset)))
