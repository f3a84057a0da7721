"""Pictures with captions and no shape: the two-dimensional pool of text-to-image training.

| file | content |
|---|---|
| `images.npy` | (N,S,S,4) uint8: RGB on white and coverage, as the views of `data.store` |
| `manifest.jsonl` | `AssetRecord` lines, line i is row i |
| `rejected.jsonl` | pictures left out, with a reason |
| `images.json` | counts, size, content hash |
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from omni123_hf.data.assets import DescribedAsset
from omni123_hf.data.records import AssetRecord, read_records, write_records
from omni123_hf.data.splits import SPLITS, split_of
from omni123_hf.data.store import dataset_hash, write_json
from omni123_hf.errors import Omni123Error


IMAGE_FORMAT = 1
MAX_SIZE = 256


class PictureAsset(DescribedAsset, Protocol):
    """A picture with words and a licence; `data.sources.fluent_emoji.ImageAsset` is one."""

    def load(self) -> Image.Image:
        """The picture as RGBA; raises `Omni123Error` when it cannot be used."""
        ...


class ImageStore:
    """Read access to prepared pictures. Row arguments are an int or an array of ints (then rows come stacked)."""

    def __init__(self, folder: Path, summary: dict[str, Any], records: list[AssetRecord], images: np.ndarray) -> None:
        self.folder, self.summary, self.records, self._images = folder, summary, records, images

    @classmethod
    def open(cls, folder: str | Path) -> ImageStore:
        """Memory-map the store in `folder`. A missing, unfinished or inconsistent one raises `Omni123Error`."""
        folder = Path(folder)
        if not (folder / "images.json").is_file():
            raise Omni123Error(f"{folder} holds no prepared pictures (no images.json); run prepare_images")
        summary = json.loads((folder / "images.json").read_text(encoding="utf-8"))
        if summary.get("format") != IMAGE_FORMAT:
            raise Omni123Error(f"{folder} has format {summary.get('format')}, this version reads {IMAGE_FORMAT}")
        records = read_records(folder / "manifest.jsonl")
        try:
            images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Omni123Error(f"{folder}/images.npy is broken or truncated; prepare the pictures again") from error
        size = summary["size"]
        if images.shape != (len(records), size, size, 4) or any(r.index != row for row, r in enumerate(records)):
            raise Omni123Error(f"{folder}: manifest, array and summary do not match; prepare the pictures again")
        return cls(folder, summary, records, images)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the content hashes of all pictures in order."""
        return str(self.summary["content_hash"])

    def indices(self, split: str) -> np.ndarray:
        """(M,) int64 rows of a split."""
        if split not in SPLITS:
            raise Omni123Error(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        return np.asarray([r.index for r in self.records if r.split == split], dtype=np.int64)

    def images(self, index: int | np.ndarray) -> np.ndarray:
        """(S,S,4) uint8: RGB on white and coverage; `data.views.pixels_from_views` makes model input of it."""
        return np.array(self._images[index])


def prepare_images(assets: Iterable[PictureAsset], out: str | Path, size: int = 64, seed: int = 0) -> ImageStore:
    """Bring pictures to `size`² on white and write them as a folder that appears whole; returns the open store.

    A folder that is there already is opened when it was made from the same pictures with the same settings. Broken
    pictures are listed in `rejected.jsonl`. Bad settings, ids given twice, and no usable picture raise `Omni123Error`.
    """
    if not 1 <= size <= MAX_SIZE:
        raise Omni123Error(f"size must be from 1 to {MAX_SIZE}, got {size}")
    out, listed = Path(out), list(assets)
    ids = [asset.id for asset in listed]
    if len(set(ids)) != len(ids):
        raise Omni123Error("picture ids must be unique")
    settings = {"size": size, "seed": seed, "ids_hash": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    if out.exists():
        store = ImageStore.open(out)
        if store.summary["settings"] != settings:
            raise Omni123Error(f"{out} was made from other pictures or settings; choose another folder or remove it")
        return store
    rows: list[np.ndarray] = []
    records: list[AssetRecord] = []
    rejected: list[dict[str, str]] = []
    for asset in listed:
        try:
            pixels = fit_square(asset.load(), size)
        except Omni123Error as error:
            rejected.append({"id": asset.id, "reason": "invalid", "detail": str(error)})
            continue
        rows.append(pixels)
        records.append(_record(asset, pixels, len(records), seed))
    if not records:
        raise Omni123Error(f"there is no usable picture among {len(listed)}; the first reason: {rejected[:1]}")
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / "images.npy", np.stack(rows))
    write_records(temporary / "manifest.jsonl", records)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rejected)
    (temporary / "rejected.jsonl").write_text(lines, encoding="utf-8")
    summary = {
        "format": IMAGE_FORMAT,
        "count": len(records),
        "size": size,
        "content_hash": dataset_hash(records),
        "splits": dict(Counter(r.split for r in records)),
        "sources": dict(Counter(r.source for r in records)),
        "licences": dict(Counter(r.licence for r in records)),
        "settings": settings,
    }
    write_json(temporary / "images.json", summary)
    temporary.rename(out)
    return ImageStore.open(out)


def fit_square(picture: Image.Image, size: int) -> np.ndarray:
    """(size,size,4) uint8 of an RGBA picture: centred in a square, scaled, RGB put on white, coverage kept as alpha."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    # Premultiplied, so that the hidden colour of transparent pixels does not bleed into the edges.
    scaled = square.convert("RGBa").resize(
        (size, size), Image.Resampling.BOX if side % size == 0 else Image.Resampling.LANCZOS
    )
    premultiplied = np.asarray(scaled, dtype=np.int32)
    alpha = premultiplied[..., 3:]
    color = (premultiplied[..., :3] + 255 - alpha).clip(0, 255)
    return np.concatenate([color, alpha], axis=-1).astype(np.uint8)


def _record(asset: PictureAsset, pixels: np.ndarray, index: int, seed: int) -> AssetRecord:
    digest = hashlib.sha256(pixels.tobytes())
    digest.update(json.dumps(asset.captions, sort_keys=True, ensure_ascii=False).encode())
    return AssetRecord(
        id=asset.id,
        source=asset.source,
        licence=asset.licence,
        attribution=asset.attribution,
        category=asset.category,
        captions={level: list(texts) for level, texts in asset.captions.items()},
        split=split_of(asset.id, seed),
        attributes=dict(asset.attributes),
        content_hash=digest.hexdigest(),
        index=index,
    )
