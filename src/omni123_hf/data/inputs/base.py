"""Assets that lie in files, and the options that hold for a whole source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trimesh

from omni123_hf.data.bounded_asset import BoundedAsset, UpAxis
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

    def read(self, limits: LoadLimits) -> trimesh.Trimesh:
        """See `BoundedAsset.read`."""
        return load_mesh(Path(self.path), limits, Path(self.root))
