"""A prepared data set of primitive solids, small enough to fit baselines on in a second."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from omni123_hf.data.editing.pair_store import EditPairStore, write_summary
from omni123_hf.data.editing.records import EditPair, EditSide, write_pairs
from omni123_hf.data.editing.regions import EditRegion, RegionBox
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


LID = np.array([0.3, 0.3, 0.3])


def boxes_mesh(boxes: list[tuple[np.ndarray, np.ndarray]]) -> trimesh.Trimesh:
    return trimesh.util.concatenate([trimesh.creation.box(bounds=np.stack(box)) for box in boxes])


def edit_sides(number: int, kind: str) -> tuple[list, list]:
    """A box on the floor with and without a small box on top; removing starts with both."""
    half = np.array([0.5 + 0.02 * number, 0.4, 0.6 - 0.02 * number])
    body, lid = (
        (-half - [0, 0.3, 0], half - [0, 0.3, 0]),
        (np.array([-LID[0], 0.15, -LID[2]]), np.array([0.3, 0.6, 0.3])),
    )
    plain, whole = [body], [body, lid]
    return (plain, whole) if kind == "add" else (whole, plain)


@pytest.fixture(scope="session")
def edit_store(tmp_path_factory: pytest.TempPathFactory) -> EditPairStore:
    """Six held-out edits of each type in three categories, two of them of unseen combinations, and a training pair of each."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("edits")
    pairs = []
    rows = [(kind, number) for kind in ("add", "remove") for number in range(7)]
    with (
        StoreWriter(folder / "source", len(rows), SIZES) as source,
        StoreWriter(folder / "target", len(rows), SIZES) as target,
    ):
        for index, (kind, number) in enumerate(rows):
            split = "train" if number == 6 else "heldout_combination" if number == 5 else "heldout"
            name, words = f"edit/box/{kind}/{number}", f"{kind} lid {number % 4}"
            sides = edit_sides(number, kind)
            meshes = [boxes_mesh(side) for side in sides]
            sampled = [sample_surface(mesh, SIZES.surface_points, rng) for mesh in meshes]
            queries = sample_queries(sampled[0][0], SIZES.queries, rng).astype(np.float16)
            for writer, side, boxes, mesh, (points, normals) in zip(
                (source, target), ("source", "target"), sides, meshes, sampled, strict=True
            ):
                views = [render(mesh, get_camera(view), SIZES.view_size, supersample=1) for view in ALL_VIEWS]
                inside = np.any([((queries >= low) & (queries <= high)).all(axis=1) for low, high in boxes], axis=0)
                writer.append(
                    AssetRecord(
                        id=f"{name}/{side}",
                        source="editing",
                        licence="CC0-1.0",
                        attribution="",
                        category=f"box{number % 3}",
                        captions={"short": ["box"], "medium": ["a box"], "long": []},
                        split=split,
                        content_hash=f"{name}/{side}",
                    ),
                    {
                        "surface": np.concatenate([points, normals], axis=1).astype(np.float16),
                        "queries": queries,
                        "occupancy": np.packbits(inside),
                        "views": np.stack(
                            [np.dstack([v.color, np.round(v.mask * 255).astype(np.uint8)]) for v in views]
                        ),
                    },
                )
            pairs.append(
                EditPair(
                    id=name,
                    object_id=f"box/{number}",
                    source=EditSide(f"{name}/source", "mesh"),
                    target=EditSide(f"{name}/target", "mesh"),
                    instructions={"short": [words], "long": []},
                    edit_type=kind,
                    generator_chain=("boxes",),
                    licence="CC0-1.0",
                    attribution="boxes",
                    split=split,
                    region=EditRegion((RegionBox("lid", (-0.31, 0.09, -0.31), (0.31, 0.61, 0.31)),), True),
                    index=index,
                )
            )
    write_pairs(folder / "pairs.jsonl", pairs)
    write_summary(folder, pairs, {})
    return EditPairStore.open(folder)
