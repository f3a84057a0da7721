"""A prepared data set of primitive solids, small enough to fit baselines on in a second."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import AssetStore, StoreSizes, StoreWriter
from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera
from omni123_hf.geometry.normalization import normalize_mesh
from omni123_hf.geometry.rasterizer import render
from omni123_hf.geometry.sampling import sample_queries, sample_surface


SIZES = StoreSizes(surface_points=2048, queries=4096, view_size=16)
BOXES = {"plate": (2, 0.3, 2), "pole": (0.3, 2, 0.3), "wall": (2, 2, 0.3), "cube": (2, 2, 2)}


def box_arrays(extents: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    mesh, _ = normalize_mesh(trimesh.creation.box(extents))
    points, normals = sample_surface(mesh, SIZES.surface_points, rng)
    queries = sample_queries(points, SIZES.queries, rng).astype(np.float16)
    inside = (np.abs(queries) <= mesh.bounds[1]).all(axis=1)
    views = [render(mesh, get_camera(name), SIZES.view_size, supersample=1) for name in ALL_VIEWS]
    return {
        "surface": np.concatenate([points, normals], axis=1).astype(np.float16),
        "queries": queries,
        "occupancy": np.packbits(inside),
        "views": np.stack([np.dstack([v.color, np.round(v.mask * 255).astype(np.uint8)]) for v in views]),
    }


@pytest.fixture(scope="session")
def box_store(tmp_path_factory: pytest.TempPathFactory) -> AssetStore:
    """Four parametric categories of boxes and two real sources; 8 training objects, 4 held-out ones and 2 combinations each."""
    rng = np.random.default_rng(0)
    splits = ["train"] * 8 + ["heldout"] * 4 + ["heldout_combination"] * 2
    rows = []
    for category, extents in BOXES.items():
        for number, split in enumerate(splits):
            rows.append(("parametric", category, f"parametric/{category}/{number}", split, extents))
    for source in ("library", "bricks"):
        for number, split in enumerate(["train"] * 4 + ["heldout"] * 3):
            rows.append((source, "thing", f"{source}/part/{number}", split, (2, 1, 1)))
    with StoreWriter(tmp_path_factory.mktemp("boxes") / "store", len(rows), SIZES) as writer:
        for number, (source, category, name, split, extents) in enumerate(rows):
            writer.append(
                AssetRecord(
                    id=name,
                    source=source,
                    licence="CC0-1.0" if source == "parametric" else "CC-BY-4.0",
                    attribution=""
                    if source == "parametric"
                    else f"'Thing' by author {number % 2} of {source}, {source}, CC-BY-4.0",
                    category=category,
                    captions={"short": [category], "medium": [f"a red {category} for a test"], "long": []},
                    split=split,
                    content_hash=name,
                ),
                box_arrays(np.array(extents) * rng.uniform(0.8, 1.2, 3), rng),
            )
        folder = Path(writer.folder)
    return AssetStore.open(folder)
