"""What `omni123 data view` draws of a record, whatever kind of prepared data it stands in."""

from __future__ import annotations

import numpy as np
from PIL import Image

from omni123_hf.data.asset_picture import picture_of
from omni123_hf.data.editing.pair_picture import picture_of_pair
from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.image_store import ImageStore
from omni123_hf.data.prepared import PreparedStore
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.preview import picture_sheet


PICTURE_SIZE = 320


def picture_of_record(store: PreparedStore, record_id: str) -> Image.Image:
    """An asset with its views, a picture with its captions, or an editing pair with its region.

    An id that is not in the store, and token pairs, of which there is nothing to be seen, raise `Omni123Error`.
    """
    if isinstance(store, AssetStore):
        return picture_of(store, record_id)
    if isinstance(store, ImageStore):
        return picture_of_image(store, record_id)
    if isinstance(store, EditPairStore):
        return picture_of_pair(store, record_id)
    raise Omni123Error(f"{store.folder} holds token pairs: codes only, and nothing to draw without their tokenizer")


def picture_of_image(store: ImageStore, record_id: str) -> Image.Image:
    """A stored picture and its coverage, with facts and captions."""
    record = next((record for record in store.records if record.id == record_id), None)
    if record is None:
        raise Omni123Error(f"{store.folder} has no picture {record_id!r}; the ids stand in its manifest.jsonl")
    pixels = store.images(record.index)
    coverage = np.repeat(255 - pixels[..., 3:], 3, axis=-1)
    facts = {
        "id": record.id,
        "source": f"{record.source}, {record.licence}",
        "credit": record.attribution,
        "category": f"{record.category}, {record.split}",
        "size": f"{store.size} x {store.size} pixels",
    }
    names, rows = ["colour", "coverage"], {"stored": [pixels[..., :3], coverage]}
    return picture_sheet(names, rows, record.captions, facts, PICTURE_SIZE)
