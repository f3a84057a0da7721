"""Assets with known meshes and known faults; worker processes import them from here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trimesh

from omni123_hf.data.preparation_config import MINI, PreparationConfig


CAPTIONS = {"short": ["a ball"], "medium": ["a plain round ball"], "long": ["a plain round ball and nothing else"]}

# As the shipped data sets were prepared, but small; and everything that the default does, at the smallest grids.
SMALL = PreparationConfig.from_dict(
    {"surface_points": 64, "queries": 256, "view_size": 16, "supersample": 1, "shard_size": 3}, MINI
)
WHOLE = PreparationConfig(
    surface_points=64, sharp_points=16, queries=256, view_size=16, random_views=2, supersample=1, shard_size=3,
    resolution=64, round_trip_resolution=64,
)  # fmt: skip


@dataclass(frozen=True)
class FakeAsset:
    """A real asset as a source would give it."""

    id: str
    kind: str = "ball"
    source: str = "fake"
    category: str = "ball"
    captions: dict[str, list[str]] = field(default_factory=lambda: CAPTIONS)
    licence: str = "CC0-1.0"
    attribution: str = "nobody"
    attributes: dict[str, Any] = field(default_factory=dict)

    def load(self) -> trimesh.Trimesh:
        mesh = trimesh.creation.icosphere(2, 5.0)
        if self.kind == "nan":
            mesh.vertices[0] = np.nan
        if self.kind == "empty":
            return trimesh.Trimesh()
        if self.kind == "thin":
            return trimesh.creation.box((1.0, 0.001, 0.001))
        if self.kind == "open":
            mesh.update_faces(mesh.triangles_center[:, 1] < 4.5)
        if self.kind == "stray":
            mesh = trimesh.Trimesh(np.concatenate([mesh.vertices, [[90.0, 0.0, 0.0]]]), mesh.faces, process=False)
        if self.kind == "box":
            return trimesh.creation.box((1.0, 2.0, 1.0)).subdivide()
        if self.kind == "broken":
            raise OSError("cannot read this file")
        if self.kind == "slow":
            time.sleep(60)
        if self.kind == "hungry":
            np.ones(6 * 2**27)
        if self.kind == "crash":
            os.abort()
        return mesh
