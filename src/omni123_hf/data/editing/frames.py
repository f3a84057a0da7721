"""The one frame of a pair.

Each shape normalised alone would move everything: a table that loses its top would be scaled up to fill the box. Both
are therefore normalised by the box around **both** together. Where the target stays inside the source's box (most
removals, replacements and small additions) this is exactly the source's own frame, the one an editor sees at
inference. Where the target outgrows it, the source is given smaller, with room to grow: an editor must be given that
room too. A pair and its inverse share one frame, so one preparation serves both.
"""

from __future__ import annotations

import numpy as np
import trimesh

from omni123_hf.errors import RejectedError
from omni123_hf.geometry.normalization import HALF_EXTENT, NormalizationTransform


def pair_frame(*meshes: trimesh.Trimesh) -> NormalizationTransform:
    """The transform that centres the box around all meshes and makes its longest side 1.92."""
    used = []
    for mesh in meshes:
        if not len(mesh.faces):
            raise RejectedError("no_faces", "one side of the pair has no faces")
        used.append(np.asarray(mesh.vertices, dtype=np.float64)[np.unique(mesh.faces)])
    points = np.concatenate(used)
    if not np.isfinite(points).all():
        raise RejectedError("not_finite", "one side of the pair has vertices that are not finite")
    low, high = points.min(axis=0), points.max(axis=0)
    longest = float((high - low).max())
    if longest <= 1e-9:
        raise RejectedError("no_area", "the two sides of the pair have no extent")
    x, y, z = ((low + high) / 2).tolist()
    return NormalizationTransform((x, y, z), 2 * HALF_EXTENT / longest)


def placed(mesh: trimesh.Trimesh, frame: NormalizationTransform) -> trimesh.Trimesh:
    """A copy of `mesh` in the frame."""
    moved = mesh.copy()
    moved.vertices = frame.apply(mesh.vertices)
    return moved
