"""A found asset: it is loaded within limits, and its file may have another axis up."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh

from omni123_hf.data.sources.base import SourceAsset
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.loading import LoadLimits


UpAxis = Literal["y", "z"]

# What stands for a licence that nobody stated.
UNKNOWN_LICENCE = "unknown"


class SourceUnreachableError(Omni123Error):
    """The place where an asset lies cannot be reached. No asset's fault: a run stops and can be taken up again."""


@dataclass(frozen=True)
class BoundedAsset(SourceAsset):
    """An asset of unknown quality. up: axis that points up in the file."""

    up: UpAxis = "y"

    def load(self) -> trimesh.Trimesh:
        """As `SourceAsset.load`, within the default limits."""
        return self.load_within(LoadLimits())

    def load_within(self, limits: LoadLimits) -> trimesh.Trimesh:
        """One mesh, y up, front +z. Raises `RejectedError` when it is missing, broken or beyond `limits`."""
        mesh = self.read(limits)
        if self.up == "z":
            mesh.vertices = np.asarray(mesh.vertices)[:, [0, 2, 1]] * (1.0, 1.0, -1.0)
        return mesh

    @property
    def place(self) -> str:
        """Where it lies in its source, with nothing of this machine's folders."""
        return self.path

    @property
    def file(self) -> Path | None:
        """The file on this machine whose change makes it another asset; None when something else fixes its content."""
        return None

    @abstractmethod
    def read(self, limits: LoadLimits) -> trimesh.Trimesh:
        """The mesh in the file's own frame."""
