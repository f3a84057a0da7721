"""Assets that lie in files, and the options that hold for a whole source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import trimesh

from omni123_hf.data.bounded_asset import BoundedAsset, UpAxis
from omni123_hf.data.inputs.ids import path_id
from omni123_hf.errors import RejectedError
from omni123_hf.geometry.loading import LoadLimits, load_mesh


@dataclass(frozen=True)
class InputOptions:
    """What the command line says about a source.

    raw: folder of fetched libraries. per_category, limit: most assets of a category and of the source. seed: first seed
    of parametric objects. licence, attribution: of assets that state none. up: axis that points up in the files.
    """

    raw: Path = Path("data/raw")
    per_category: int | None = None
    limit: int | None = None
    seed: int = 0
    licence: str = ""
    attribution: str = ""
    up: UpAxis = "y"


@dataclass(frozen=True)
class FileAsset(BoundedAsset):
    """A mesh file. root: the folder that neither the file nor what it refers to may leave."""

    root: str = "."

    @property
    def place(self) -> str:
        """See `BoundedAsset.place`."""
        return place_under(self.path, self.root)

    @property
    def file(self) -> Path:
        """See `BoundedAsset.file`."""
        return Path(self.path)

    def read(self, limits: LoadLimits) -> trimesh.Trimesh:
        """See `BoundedAsset.read`."""
        return load_mesh(Path(self.path), limits, Path(self.root))


@dataclass(frozen=True)
class BadMetadataAsset(BoundedAsset):
    """Stands for one asset whose words cannot be read, so that it is rejected and counted instead of stopping its source.

    problem: what is wrong, without folders of this machine. Its `path` is its place in the source already.
    """

    problem: str = ""

    def read(self, limits: LoadLimits) -> trimesh.Trimesh:
        """Raises `RejectedError` with the reason "bad_metadata"."""
        raise RejectedError("bad_metadata", self.problem)


def bad_metadata(source: str, place: str, problem: object) -> BadMetadataAsset:
    """The asset at `place` of `source`, to be rejected with `problem`; place must be unique among those of the source."""
    return BadMetadataAsset(
        id=path_id(source, f"bad metadata {place}"),
        source=source,
        name="",
        category="object",
        captions={"short": [], "medium": [], "long": []},
        # Not "unknown": an asset without a licence is rejected for that before anything else is said about it.
        licence="unread",
        attribution="",
        path=place,
        problem=str(problem),
    )


def place_under(path: str, root: str) -> str:
    """`path` relative to `root`; its last part alone when it leads elsewhere."""
    relative = os.path.relpath(path, root)
    return Path(path).name if relative.startswith("..") else Path(relative).as_posix()
