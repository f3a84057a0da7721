"""Pictures with captions and no shape: the two-dimensional pool of text-to-image training.

| file | content |
|---|---|
| `images.npy` | (N,S,S,4) uint8: RGB on white and coverage, as the views of `data.store` |
| `manifest.jsonl` | `AssetRecord` lines, line i is row i |
| `rejected.jsonl` | pictures left out, with a reason |
| `images.json` | counts, size, settings, content hash; written last, so it marks a complete store |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.records import AssetRecord, read_records, write_records
from omni123_hf.data.splits import SPLITS
from omni123_hf.data.store import dataset_hash, write_json
from omni123_hf.errors import Omni123Error


IMAGE_FORMAT = 1
MAX_SIZE = 1024
SUMMARY = "images.json"


class ImageStore:
    """Read access to prepared pictures. Row arguments are an int or an array of ints (then rows come stacked)."""

    def __init__(self, folder: Path, summary: dict[str, Any], records: list[AssetRecord], images: np.ndarray) -> None:
        self.folder, self.summary, self.records, self._images = folder, summary, records, images

    @classmethod
    def open(cls, folder: str | Path) -> ImageStore:
        """Memory-map the store in `folder`. A missing, unfinished or inconsistent one raises `Omni123Error`."""
        folder = Path(folder)
        if not (folder / SUMMARY).is_file():
            raise Omni123Error(
                f"{folder} holds no finished pictures (no {SUMMARY}); run 'omni123 data prepare' to its end"
            )
        try:
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            version, size = summary.get("format"), summary["size"]
            summary["content_hash"]  # noqa: B018
        except (OSError, ValueError, RecursionError, AttributeError, KeyError) as error:
            raise Omni123Error(f"{folder / SUMMARY} is no summary of pictures; prepare the pictures again") from error
        if version != IMAGE_FORMAT:
            raise Omni123Error(f"{folder} has format {version}, this version reads {IMAGE_FORMAT}")
        records = read_records(folder / "manifest.jsonl")
        try:
            images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Omni123Error(f"{folder}/images.npy is broken or truncated; prepare the pictures again") from error
        if (
            images.shape != (len(records), size, size, 4)
            or images.dtype != np.uint8
            or any(r.index != row for row, r in enumerate(records))
        ):
            raise Omni123Error(f"{folder}: manifest, array and summary do not match; prepare the pictures again")
        return cls(folder, summary, records, images)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.summary["size"])

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


def write_image_store(
    folder: Path,
    records: Sequence[AssetRecord],
    blocks: Iterable[np.ndarray],
    size: int,
    settings: Mapping[str, Any],
) -> ImageStore:
    """Write the arrays and manifest of a store, its summary last, and open it.

    records: their rows are set here. blocks: (n,S,S,4) uint8 pictures of successive records, one block in memory at once.
    settings: JSON values kept in the summary.
    """
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(len(records), size, size, 4)
    )
    row = 0
    for block in blocks:
        images[row : row + len(block)] = block
        row += len(block)
    if row != len(records):
        raise Omni123Error(f"{len(records)} pictures are described but {row} are there")
    images.flush()
    for row, record in enumerate(records):
        record.index = row
    write_records(folder / "manifest.jsonl", records)
    summary = {
        "format": IMAGE_FORMAT,
        "count": len(records),
        "size": size,
        "content_hash": dataset_hash(records),
        "splits": dict(Counter(r.split for r in records)),
        "sources": dict(Counter(r.source for r in records)),
        "licences": dict(Counter(r.licence for r in records)),
        "settings": dict(settings),
    }
    write_json(folder / SUMMARY, summary)
    return ImageStore.open(folder)
