"""A prepared data set of a few boxes, small enough for a test and real in every field."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import trimesh

from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import AssetStore, StoreSizes, StoreWriter


SIZES = StoreSizes(surface_points=64, queries=128, view_size=16)


BOX = np.array([0.8, 0.4, 0.6])


def box_distance(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Signed distance `(N,)`, positive inside, of points `(N, 3)` to the box of half sides `half (3,)`."""
    beyond = np.abs(points) - half
    return -np.linalg.norm(np.maximum(beyond, 0), axis=-1) - np.minimum(beyond.max(-1), 0)


def write_tiny_store(folder: Path, count: int = 16, truncation: float = 0.0, one_box: bool = False) -> AssetStore:
    """`count` axis-aligned boxes of different proportions; every fourth is for validation, every second is "real".

    With `truncation` the queries also have signed distances, cut at that length. With `one_box` all are the box of
    `BOX`, each with other samples.
    """
    sizes = replace(SIZES, signed_distance=truncation > 0)
    with StoreWriter(folder, count, sizes) as writer:
        for i in range(count):
            rng = np.random.default_rng(i)
            half = rng.uniform(0.3, 0.9, 3)
            half = BOX if one_box else half
            mesh = trimesh.creation.box(extents=2 * half)
            points, faces = trimesh.sample.sample_surface(mesh, SIZES.surface_points, seed=i)
            near = points[rng.integers(len(points), size=SIZES.queries // 2)] + rng.normal(size=(64, 3)) * 0.05
            queries = np.concatenate([rng.uniform(-1.05, 1.05, (SIZES.queries // 2, 3)), near]).astype(np.float16)
            inside = (np.abs(queries.astype(np.float32)) < half).all(-1)
            name = "flat box" if half[1] < 0.6 else "tall box"
            captions = {"short": [name], "medium": [f"a plain {name} made of wood"], "long": []}
            record = AssetRecord(
                f"box/{i}",
                "parametric" if i % 2 else "ldraw",
                "CC0-1.0",
                "nobody",
                "box",
                captions,
                "validation" if i % 4 == 3 else "train",
                content_hash=f"{i:064x}",
            )
            arrays = {
                "surface": np.concatenate([points, mesh.face_normals[faces]], axis=1).astype(np.float16),
                "queries": queries,
                "occupancy": np.packbits(inside),
                "views": rng.integers(0, 255, (7, 16, 16, 4)).astype(np.uint8),
            }
            if truncation:
                distance = box_distance(queries.astype(np.float32), half)
                arrays["signed_distance"] = distance.clip(-truncation, truncation).astype(np.float16)
            writer.append(record, arrays)
    return AssetStore.open(folder)
