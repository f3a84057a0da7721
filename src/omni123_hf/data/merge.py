"""Several prepared data sets as one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import Omni123Error
from .store import AssetStore, StoreWriter


def merge_stores(folders: Sequence[str | Path], out: str | Path) -> AssetStore:
    """Writes the assets of all `folders`, in order, as one store in `out`.

    Raises `Omni123Error` when sizes differ, an asset id stands in two of them, or `out` is one of them.
    """
    if Path(out).resolve() in [Path(folder).resolve() for folder in folders]:
        raise Omni123Error(f"{out} is one of the data sets to merge and would be overwritten; give another --out")
    stores = [AssetStore.open(folder) for folder in folders]
    if not stores:
        raise Omni123Error("nothing to merge: name at least one prepared data set.")
    if any(store.sizes != stores[0].sizes for store in stores):
        raise Omni123Error(
            "the data sets were prepared with different sizes or optional arrays: prepare them with one configuration."
        )
    ids = [record.id for store in stores for record in store.records]
    if len(set(ids)) != len(ids):
        raise Omni123Error("the data sets share assets: an asset may stand in only one of them.")
    settings = {"merged": [{"content_hash": store.content_hash, **store.summary["settings"]} for store in stores]}
    with StoreWriter(out, len(ids), stores[0].sizes, settings) as writer:
        for store in stores:
            for record in store.records:
                row = record.index
                writer.append(record, {name: np.asarray(store.raw(name)[row]) for name in store.sizes.names})
    return AssetStore.open(out)
