"""What every source of real meshes gives: an asset that knows its words and its licence, and loads its mesh on demand."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trimesh

from ...errors import Omni123Error
from ...geometry.loading.surface import colored_mesh, weld


MAX_FACES = 200_000


@dataclass(frozen=True)
class SourceAsset(ABC):
    """One real asset. Only strings and numbers, so it can be sent to a worker process; `load` reads the mesh there.

    `captions` has the lengths "short" (1-5 words), "medium" (10-25) and "long" (40-70); the sources here fill each, one of
    your own may leave some empty, but not all. Evaluation takes only assets with a medium caption.
    `licence` is an SPDX identifier; `attribution` is the credit line that the licence asks for.
    """

    id: str
    source: str
    name: str
    category: str
    captions: dict[str, list[str]]
    licence: str
    attribution: str
    path: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def load(self) -> trimesh.Trimesh:
        """One mesh, y up, front +z, in metres, with a colour for every face.

        Raises Omni123Error when the file is missing, broken, empty or too large.
        """


def seeded_generator(*parts: str) -> np.random.Generator:
    """A generator that depends only on the words given: the same asset always gets the same colour and wording."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def build_mesh(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, label: str) -> trimesh.Trimesh:
    """Checked and welded mesh from vertices (V,3), faces (F,3) and face colours (F,3) uint8.

    Duplicate vertices are welded, so that neighbouring faces share edges; faces that collapse and faces listed twice
    are dropped, unused vertices too. Raises Omni123Error, naming `label`, when no usable mesh is left.
    """
    if len(faces) == 0 or len(vertices) == 0:
        raise Omni123Error(f"{label}: no faces; leave this asset out")
    if len(faces) > MAX_FACES:
        raise Omni123Error(f"{label}: {len(faces)} faces, more than {MAX_FACES}; simplify it or leave it out")
    used = np.unique(faces)
    if used[0] < 0 or used[-1] >= len(vertices):
        raise Omni123Error(f"{label}: a face names a vertex that does not exist; the file is broken")
    points = np.asarray(vertices, dtype=np.float64)[used]
    if not np.isfinite(points).all():
        raise Omni123Error(f"{label}: vertex coordinates are not finite; the file is broken")
    low = points.min(axis=0)
    longest = float((points.max(axis=0) - low).max())
    if longest <= 0.0:
        raise Omni123Error(f"{label}: all vertices coincide; leave this asset out")
    first, corners, keep = weld(points, np.searchsorted(used, faces), longest)
    if not keep.any():
        raise Omni123Error(f"{label}: every face is degenerate; leave this asset out")
    return colored_mesh(points[first], corners[keep], colors[keep])
