"""One asset of a prepared data set as a picture: what training will see of it (`omni123 data view`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, Camera, get_camera
from omni123_hf.geometry.preview import asset_sheet
from omni123_hf.geometry.rendered_view import RenderedView


# Points are drawn as squares of this many times their mean distance, and of at least 3 pixels. Samples are random: a
# square must hold a dozen of them on average for no pixel of a closed surface to stay empty.
POINT_SIZE = 4.0
# The stored views are pictures of the surface; what stands below them is drawn from samples and as coarse as they are.
COLOUR, STORED, SAMPLED = ("colour",), ("normals", "depth"), ("sampled\nnormals", "sampled\ndepth")


def picture_of(store: AssetStore, asset_id: str) -> Image.Image:
    """Stored views above the stored surface points in the same cameras (normals and depth), facts and captions.

    Where the views have depth and normals of their own, these stand between. Views and points come from different steps of preparation: a picture in which they disagree shows a fault. An id
    that is not in the store raises `Omni123Error`.
    """
    record = next((record for record in store.records if record.id == asset_id), None)
    if record is None:
        raise Omni123Error(f"{store.folder} has no asset {asset_id!r}; the ids stand in its manifest.jsonl")
    index = record.index
    surface = store.surface(index)
    if store.sizes.sharp_points:
        surface = np.concatenate([surface, store.sharp(index)[0]])
    pictures = list(store.views(index))
    cameras = [get_camera(name) for name in ALL_VIEWS]
    if store.sizes.random_views:
        pictures += list(store.random_views(index))
        cameras += [Camera.from_dict(view["camera"]) for view in record.attributes["random_views"]]
    shown = list(zip(pictures, cameras, strict=True))
    sampled = [_view(*view, *_draw_points(surface, view[1], len(view[0]))) for view in shown]
    if not store.sizes.view_geometry:
        return asset_sheet(sampled, record.captions, _facts(store, record), row_names=COLOUR + SAMPLED)
    stored = [_view(*view, *each) for view, each in zip(shown, _stored_geometry(store, index), strict=True)]
    names = COLOUR + STORED + SAMPLED
    return asset_sheet(stored, record.captions, _facts(store, record), row_names=names, compared=sampled)


def _stored_geometry(store: AssetStore, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Depth and normals of each view, the random ones last."""
    yield from zip(*store.view_geometry(index), strict=True)
    if store.sizes.random_views:
        yield from zip(*store.random_view_geometry(index), strict=True)


def _view(picture: np.ndarray, camera: Camera, depth: np.ndarray, normal: np.ndarray) -> RenderedView:
    # Stored colours are on white already: opaque, so that they are not blended with it twice.
    rgba = np.concatenate([picture[..., :3], np.full_like(picture[..., 3:], 255)], axis=-1)
    return RenderedView(rgba, depth, normal, np.where(picture[..., 3] >= 128, 255, 0).astype(np.uint8), camera)


def _draw_points(surface: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth (S,S), inf outside, and normals (S,S,3) of points with normals (N,6), the nearest in front."""
    xy, depth = camera.project(surface[:, :3])
    # On an object of about the picture's size, N points cover its two sides with N / 2 squares.
    radius = max(int(np.ceil((POINT_SIZE * size / np.sqrt(len(surface) / 2.0) - 1.0) / 2.0)), 1)
    column, row = ((xy[:, 0] + 1) * size / 2).astype(int), ((1 - xy[:, 1]) * size / 2).astype(int)
    nearest = np.full((size, size), np.inf, dtype=np.float32)
    normal = np.zeros((size, size, 3), dtype=np.float32)
    facing = surface[:, 3:] @ np.asarray(camera.direction) > 0
    for point in np.argsort(-depth):
        if facing[point]:
            top, left = max(row[point] - radius, 0), max(column[point] - radius, 0)
            place = np.s_[top : row[point] + radius + 1, left : column[point] + radius + 1]
            nearest[place], normal[place] = depth[point], surface[point, 3:]
    return nearest, normal


def _facts(store: AssetStore, record: AssetRecord) -> dict[str, Any]:
    qa = record.attributes.get("qa", {})
    facts: dict[str, Any] = {
        "id": record.id,
        "source": f"{record.source}, {record.licence}",
        "credit": record.attribution,
        "category": f"{record.category}, {record.split}",
        "inside": f"{store.occupancy(record.index)[: store.sizes.queries // 2].mean():.1%} of the field box",
    }
    if "mesh" in qa:
        facts["mesh"] = f"{qa['mesh']['faces']} faces, {qa['mesh']['components']} pieces"
    if "solid" in qa:
        facts["solid"] = " ".join(filter(None, (qa["solid"]["method"], qa["solid"]["reason"].replace("_", " "))))
    if "round_trip" in qa:
        facts["round trip"] = (
            f"volume IoU {qa['round_trip']['volume_iou']:.3f}, chamfer {qa['round_trip']['chamfer']:.5f}"
        )
    return facts
