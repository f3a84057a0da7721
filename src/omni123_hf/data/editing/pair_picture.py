"""One editing pair as a picture: source over target, the changed region in every view, and the words."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.records import INSTRUCTION_LEVELS, EditPair
from omni123_hf.data.editing.regions import EditRegion, RegionBox
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera, get_camera
from omni123_hf.geometry.preview import picture_sheet


SIZE = 160
REGION_INK = (220, 40, 40)
ADDED, REMOVED = (30, 140, 60), (200, 90, 20)
POINT = 2


def picture_of_pair(store: EditPairStore, pair_id: str) -> Image.Image:
    """Stored views of the source above those of the target, both with the boxes of the region, and a third row of the query
    points that the edit adds (green) and removes (orange); facts and instructions below.

    Boxes, views and points come from different steps of preparation: a picture in which they disagree shows a fault. An id
    that is not in the store raises `Omni123Error`.
    """
    pair = next((pair for pair in store.pairs if pair.id == pair_id), None)
    if pair is None:
        raise Omni123Error(f"{store.folder} has no pair {pair_id!r}; the ids stand in its pairs.jsonl")
    cameras = [get_camera(name) for name in store.source.summary["views"]]
    rows = {
        side: [
            _with_region(picture, camera, pair.region)
            for picture, camera in zip(views.views(pair.index), cameras, strict=True)
        ]
        for side, views in (("source", store.source), ("target", store.target))
    }
    changed = store.changed(pair.index)
    points, added = store.source.queries(pair.index)[changed], store.target.occupancy(pair.index)[changed]
    rows["changed\npoints"] = [_changes(points, added, camera, pair.region) for camera in cameras]
    undo = [text for level in INSTRUCTION_LEVELS for text in pair.inverse_instructions[level]]
    texts = {"instruction": pair.texts, "undo": undo}
    return picture_sheet([camera.name for camera in cameras], rows, texts, _facts(store, pair), SIZE)


def _with_region(picture: np.ndarray, camera: Camera, region: EditRegion | None) -> np.ndarray:
    sheet = Image.fromarray(picture[..., :3]).resize((SIZE, SIZE), Image.Resampling.BOX)
    _draw_region(sheet, camera, region)
    return np.asarray(sheet)


def _changes(points: np.ndarray, added: np.ndarray, camera: Camera, region: EditRegion | None) -> np.ndarray:
    sheet = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for (x, y), is_added in zip(_pixels(points, camera), added, strict=True):
        draw.rectangle((x - 1, y - 1, x - 1 + POINT, y - 1 + POINT), fill=ADDED if is_added else REMOVED)
    _draw_region(sheet, camera, region)
    return np.asarray(sheet)


def _draw_region(sheet: Image.Image, camera: Camera, region: EditRegion | None) -> None:
    draw = ImageDraw.Draw(sheet)
    for box in region.boxes if region is not None else ():
        ends = _pixels(_corners(box), camera)
        for one in range(8):
            # Along each axis, corner `one` and the corner that differs in that axis only.
            for other in (one | 1, one | 2, one | 4):
                if other != one:
                    draw.line([*ends[one], *ends[other]], fill=REGION_INK)


def _corners(box: RegionBox) -> np.ndarray:
    """(8,3): bit 0, 1, 2 of the number takes the high x, y, z."""
    ends = np.array([box.low, box.high])
    return np.array([[ends[number >> axis & 1, axis] for axis in range(3)] for number in range(8)])


def _pixels(points: np.ndarray, camera: Camera) -> list[tuple[int, int]]:
    """Places of points (N,3) in a picture of `SIZE` pixels."""
    xy, _ = camera.project(np.asarray(points, dtype=np.float64).reshape(-1, 3))
    columns = np.rint((xy[:, 0] + 1) * SIZE / 2 - 0.5).astype(int)
    rows = np.rint((1 - xy[:, 1]) * SIZE / 2 - 0.5).astype(int)
    return list(zip(columns.tolist(), rows.tolist(), strict=True))


def _facts(store: EditPairStore, pair: EditPair) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": pair.id,
        "edit": f"{pair.edit_type} of {store.source.records[pair.index].category}, {pair.split}",
        "made by": ", ".join(pair.generator_chain),
        "licence": pair.licence,
        "credit": pair.attribution,
    }
    if pair.region is not None:
        kind = "exact" if pair.region.exact else "measured"
        parts = ", ".join(dict.fromkeys(box.name for box in pair.region.boxes))
        facts["region"] = f"{len(pair.region.boxes)} boxes, {kind}: {parts}"
    if pair.changed_share is not None:
        facts["changed"] = f"{pair.changed_share:.1%} of the volume of both"
    if pair.licence_warning:
        facts["warning"] = pair.licence_warning
    return facts
