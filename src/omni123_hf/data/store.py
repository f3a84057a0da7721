"""The prepared data set on disk: plain .npy arrays that are memory-mapped, one JSON line an asset, one summary.

| file | content |
|---|---|
| `surface.npy` | (N,P,6) float16: surface points and unit normals |
| `queries.npy` | (N,Q,3) float16: first half uniform in ±1.05, second half near the surface |
| `occupancy.npy` | (N,Q/8) uint8: one bit a query, true inside, in `numpy.packbits` order |
| `views.npy` | (N,7,S,S,4) uint8: shaded RGB on white and coverage, in the order of `geometry.cameras.ALL_VIEWS` |
| `manifest.jsonl` | `AssetRecord` lines, line i is row i |
| `dataset.json` | sizes, counts, preparation settings, content hash; written last, so it marks a complete store |

Arrays that a store may have or not; `dataset.json` names their sizes under "optional":

| file | content |
|---|---|
| `sharp.npy` | (N,E,6) float16: further surface points, on sharp edges as far as there are any |
| `sharp_flags.npy` | (N,E/8) uint8: one bit a point of `sharp.npy`, true on a sharp edge |
| `signed_distance.npy` | (N,Q) float16: truncated distance of each query to the surface, positive inside |
| `random_views.npy` | (N,K,S,S,4) uint8: as `views.npy`; cameras and lights are in the record's attributes |
| `view_depth.npy` | (N,7,S,S) float16: depth of each pixel of `views.npy`; +inf is background |
| `view_normals.npy` | (N,7,S,S,3) uint8: normal of each pixel of `views.npy`; 0, 0, 0 is background |
| `random_view_depth.npy`, `random_view_normals.npy` | the same of `random_views.npy` |

The silhouette of a view is its fourth channel, coverage from 0 to 255. Depth is that of `Camera.project` of the view's
camera: the distance from the camera plane along the axis, in units of the normalised frame (longest side 1.92), 2 at the
origin for the orthographic cameras; the nearest of a pixel's samples. Normals are unit vectors of the object's frame (y up,
+z to the front) turned to the viewer, kept as `rendered_view.encode_normals` does: `round((n + 1) * 127.5)`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from omni123_hf.data.records import AssetRecord, read_records, write_records
from omni123_hf.data.splits import SPLITS
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.geometry.rendered_view import decode_normals


STORE_FORMAT = 1
ARRAYS = ("surface", "queries", "occupancy", "views")
OPTIONAL_SIZES = ("sharp_points", "signed_distance", "random_views", "view_geometry")


@dataclass(frozen=True)
class StoreSizes:
    """Array sizes of a store: surface points, queries (a multiple of 8) and pixels along a view's side.

    Optional arrays: sharp_points (a multiple of 8) and random_views are numbers an asset, signed_distance says whether
    the queries have one, view_geometry whether all views, also the random ones, have depth and normals.
    """

    surface_points: int = 2048
    queries: int = 8192
    view_size: int = 64
    sharp_points: int = 0
    signed_distance: bool = False
    random_views: int = 0
    view_geometry: bool = False

    def __post_init__(self) -> None:
        if min(self.surface_points, self.queries, self.view_size) < 1 or self.queries % 8:
            raise Omni123Error(f"store sizes must be positive and queries a multiple of 8, got {self}")
        if min(self.sharp_points, self.random_views) < 0 or self.sharp_points % 8:
            raise Omni123Error(f"sharp points must be a multiple of 8 and random views not negative, got {self}")

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays of this store: `ARRAYS` and the optional ones that it has."""
        sharp = ("sharp", "sharp_flags") if self.sharp_points else ()
        distance = ("signed_distance",) if self.signed_distance else ()
        random = ("random_views",) if self.random_views else ()
        geometry = ("view_depth", "view_normals") if self.view_geometry else ()
        both = ("random_view_depth", "random_view_normals") if self.view_geometry and self.random_views else ()
        return ARRAYS + sharp + distance + random + geometry + both

    @property
    def bytes_per_asset(self) -> int:
        """Of all arrays together."""
        rows = [self.array(name) for name in self.names]
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in rows)

    def array(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape of one row and dtype of the named array."""
        posed = (len(ALL_VIEWS), self.view_size, self.view_size)
        random = (self.random_views, self.view_size, self.view_size)
        rows: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "surface": ((self.surface_points, 6), np.dtype(np.float16)),
            "queries": ((self.queries, 3), np.dtype(np.float16)),
            "occupancy": ((self.queries // 8,), np.dtype(np.uint8)),
            "views": ((*posed, 4), np.dtype(np.uint8)),
            "sharp": ((self.sharp_points, 6), np.dtype(np.float16)),
            "sharp_flags": ((self.sharp_points // 8,), np.dtype(np.uint8)),
            "signed_distance": ((self.queries,), np.dtype(np.float16)),
            "random_views": ((*random, 4), np.dtype(np.uint8)),
            "view_depth": (posed, np.dtype(np.float16)),
            "view_normals": ((*posed, 3), np.dtype(np.uint8)),
            "random_view_depth": (random, np.dtype(np.float16)),
            "random_view_normals": ((*random, 3), np.dtype(np.uint8)),
        }
        return rows[name]


class AssetStore:
    """Read access to a prepared data set. Row arguments are an int or an array of ints (then rows come stacked)."""

    def __init__(self, folder: Path, summary: dict[str, Any], records: list[AssetRecord]):
        self.folder, self.summary, self.records = folder, summary, records
        try:
            self.sizes = StoreSizes(**summary["sizes"], **summary.get("optional", {}))
        except TypeError as error:
            raise Omni123Error(
                f"{folder}/dataset.json names arrays that this version does not know: {error}"
            ) from error
        self._arrays = {name: self._map(name) for name in self.sizes.names}

    @classmethod
    def open(cls, folder: str | Path) -> AssetStore:
        """Memory-map the store in `folder`. A missing, unfinished or inconsistent store raises `Omni123Error`."""
        folder = Path(folder)
        if not (folder / "dataset.json").is_file():
            raise Omni123Error(
                f"{folder} holds no finished data set (no dataset.json); run its preparation to the end"
            )
        summary = read_summary(folder / "dataset.json")
        records = read_records(folder / "manifest.jsonl")
        if len(records) != summary["count"] or any(r.index != row for row, r in enumerate(records)):
            raise Omni123Error(f"{folder}/manifest.jsonl does not match dataset.json; prepare the data set again")
        return cls(folder, summary, records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the content hashes of all assets in order: equal hashes mean equal training data."""
        return str(self.summary["content_hash"])

    def indices(self, split: str, source: str | None = None) -> np.ndarray:
        """(M,) int64 rows of a split, of one source when it is given."""
        if split not in SPLITS:
            raise Omni123Error(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        rows = [r.index for r in self.records if r.split == split and (source is None or r.source == source)]
        return np.asarray(rows, dtype=np.int64)

    def surface(self, index: int | np.ndarray) -> np.ndarray:
        """(P,6) float32 surface points and normals."""
        return self._arrays["surface"][index].astype(np.float32)

    def queries(self, index: int | np.ndarray) -> np.ndarray:
        """(Q,3) float32 query points, exactly those that were labelled."""
        return self._arrays["queries"][index].astype(np.float32)

    def occupancy(self, index: int | np.ndarray) -> np.ndarray:
        """(Q,) bool, true where the query point is inside the solid."""
        return np.unpackbits(self._arrays["occupancy"][index], axis=-1).astype(bool)

    def views(self, index: int | np.ndarray) -> np.ndarray:
        """(7,S,S,4) uint8 views: RGB on white and coverage."""
        return np.array(self._arrays["views"][index])

    def sharp(self, index: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(E,6) float32 further surface points and normals, and (E,) bool: whether each lies on a sharp edge."""
        flags = np.unpackbits(self.raw("sharp_flags")[index], axis=-1).astype(bool)
        return self.raw("sharp")[index].astype(np.float32), flags

    def signed_distance(self, index: int | np.ndarray) -> np.ndarray:
        """(Q,) float32 truncated distance of each query to the surface, positive inside."""
        return self.raw("signed_distance")[index].astype(np.float32)

    def random_views(self, index: int | np.ndarray) -> np.ndarray:
        """(K,S,S,4) uint8 views from sampled cameras under sampled lights."""
        return np.array(self.raw("random_views")[index])

    def view_geometry(self, index: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of `views`: (7,S,S) float32 depth, +inf outside, and (7,S,S,3) float32 unit normals, zero outside."""
        return self._geometry("view", index)

    def random_view_geometry(self, index: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of `random_views`, as `view_geometry`: (K,S,S) and (K,S,S,3)."""
        return self._geometry("random_view", index)

    def raw(self, name: str) -> np.ndarray:
        """The memory-mapped array of one of `sizes.names` as stored; an array that is not there raises `Omni123Error`."""
        if name not in self._arrays:
            raise Omni123Error(f"{self.folder} was prepared without {name}; prepare it again with that setting on")
        return self._arrays[name]

    def _geometry(self, kind: str, index: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        depth = self.raw(f"{kind}_depth")[index].astype(np.float32)
        return depth, decode_normals(np.array(self.raw(f"{kind}_normals")[index]))

    def _map(self, name: str) -> np.ndarray:
        try:
            array = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Omni123Error(
                f"{self.folder}/{name}.npy is missing, broken or truncated; prepare the data set again"
            ) from error
        shape, dtype = self.sizes.array(name)
        if array.shape != (len(self.records), *shape) or array.dtype != dtype:
            raise Omni123Error(f"{name}.npy is {array.dtype}{array.shape}, dataset.json says otherwise; prepare again")
        return array


class StoreWriter:
    """Writes a store of a known number of assets row by row; `close` (or leaving `with` normally) completes it."""

    def __init__(self, folder: str | Path, count: int, sizes: StoreSizes, settings: Mapping[str, Any] | None = None):
        """settings: JSON values kept in `dataset.json` under "settings" (seed, preparation options)."""
        if count < 1:
            raise Omni123Error("a data set needs at least one asset")
        self.folder, self.count, self.sizes, self.settings = Path(folder), count, sizes, dict(settings or {})
        self.folder.mkdir(parents=True, exist_ok=True)
        # Without its summary a store is unfinished, also when it is written a second time.
        (self.folder / "dataset.json").unlink(missing_ok=True)
        self.records: list[AssetRecord] = []
        self._arrays = {}
        for name in sizes.names:
            shape, dtype = sizes.array(name)
            self._arrays[name] = np.lib.format.open_memmap(
                self.folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape)
            )

    def append(self, record: AssetRecord, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the next row; `arrays` holds each of `sizes.names` with the row's shape and dtype."""
        row = len(self.records)
        if row >= self.count:
            raise Omni123Error(f"the store was opened for {self.count} assets and is full")
        for name in self.sizes.names:
            shape, dtype = self.sizes.array(name)
            if arrays[name].shape != shape or arrays[name].dtype != dtype:
                raise Omni123Error(
                    f"{record.id}: {name} is {arrays[name].dtype}{arrays[name].shape}, not {dtype}{shape}"
                )
            self._arrays[name][row] = arrays[name]
        record.index = row
        self.records.append(record)

    def close(self) -> AssetStore:
        """Write the manifest and the summary and open the result. Too few rows raise `Omni123Error`."""
        if len(self.records) != self.count:
            raise Omni123Error(f"the store was opened for {self.count} assets but got {len(self.records)}")
        for array in self._arrays.values():
            array.flush()
        self._arrays.clear()
        write_records(self.folder / "manifest.jsonl", self.records)
        summary = {
            "format": STORE_FORMAT,
            "count": self.count,
            "content_hash": dataset_hash(self.records),
            "sizes": {
                "surface_points": self.sizes.surface_points,
                "queries": self.sizes.queries,
                "view_size": self.sizes.view_size,
            },
            **self._optional(),
            "views": list(ALL_VIEWS),
            "splits": dict(Counter(r.split for r in self.records)),
            "sources": dict(Counter(r.source for r in self.records)),
            "categories": dict(sorted(Counter(r.category for r in self.records).items())),
            "licences": dict(Counter(r.licence for r in self.records)),
            "settings": self.settings,
        }
        write_json(self.folder / "dataset.json", summary)
        return AssetStore.open(self.folder)

    def _optional(self) -> dict[str, Any]:
        """Nothing for a store of the four arrays, so that older versions keep reading it."""
        present = {name: getattr(self.sizes, name) for name in OPTIONAL_SIZES if getattr(self.sizes, name)}
        return {"optional": present} if present else {}

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


def asset_hash(arrays: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of one asset's arrays and captions."""
    digest = hashlib.sha256()
    for name in ARRAYS + tuple(sorted(set(arrays) - set(ARRAYS))):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    digest.update(json.dumps(captions, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def dataset_hash(records: Sequence[AssetRecord]) -> str:
    """SHA-256 over ids, splits and content hashes in row order."""
    lines = "".join(f"{r.id} {r.split} {r.content_hash}\n" for r in records)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_summary(path: Path) -> dict[str, Any]:
    """The content of a `dataset.json`; anything else, or another format, raises `Omni123Error`."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Omni123Error(f"{path} is not readable JSON ({error}); prepare the data set again") from error
    if not isinstance(summary, dict):
        raise Omni123Error(f"{path} must hold a JSON object; prepare the data set again")
    if summary.get("format") != STORE_FORMAT:
        raise Omni123Error(f"{path.parent} has data format {summary.get('format')}, this version reads {STORE_FORMAT}")
    missing = [name for name in ("count", "content_hash", "sizes") if name not in summary]
    if missing:
        raise Omni123Error(f"{path} lacks {', '.join(missing)}; prepare the data set again")
    return summary


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its place and rename it there."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text beside its place and rename it there; nothing stays when it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
