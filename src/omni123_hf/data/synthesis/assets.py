"""A finished item as an asset: what `data.prepare.prepare_dataset` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trimesh

from omni123_hf.errors import Omni123Error


@dataclass(frozen=True)
class SynthesizedAsset:
    """`prepare.MeshAsset` of a synthesised mesh; small enough to send to a worker. path: of its PLY file.

    attributes: the prompt, the generators with their seed, the ratings and where the captions come from.
    """

    id: str
    category: str
    captions: dict[str, list[str]]
    licence: str
    attribution: str
    path: str
    source: str = "synthesis"
    attributes: dict[str, Any] = field(default_factory=dict)

    def load(self) -> trimesh.Trimesh:
        """The mesh, y up and +z to the front, as its generator left it."""
        return read_mesh(self.path)


def read_mesh(path: str) -> trimesh.Trimesh:
    """A mesh of the image-to-3D step, vertices and colours as they were. A broken file raises `Omni123Error`."""
    try:
        return trimesh.load_mesh(path, process=False)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise Omni123Error(
            f"cannot read the synthesised mesh {path!r}; remove its item folder and run again"
        ) from error
