"""Which kind of prepared data lies in a folder: the file that completes a store tells."""

from __future__ import annotations

from pathlib import Path

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.token_pairs import TokenPairStore
from omni123_hf.data.image_store import ImageStore
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


PreparedStore = AssetStore | ImageStore | EditPairStore | TokenPairStore
STORES: dict[str, type[PreparedStore]] = {
    "dataset.json": AssetStore,
    "images.json": ImageStore,
    "editing.json": EditPairStore,
    "token_pairs.json": TokenPairStore,
}
KINDS: dict[type[PreparedStore], str] = {
    AssetStore: "assets",
    ImageStore: "pictures",
    EditPairStore: "editing pairs",
    TokenPairStore: "token pairs",
}


def open_prepared(folder: str | Path) -> PreparedStore:
    """The asset store, image store, editing pairs or token pairs in `folder`.

    Raises `Omni123Error` for a folder without any, or with more than one, and for one that is unfinished or broken.
    """
    folder = Path(folder)
    found = [name for name in STORES if (folder / name).is_file()]
    if not found:
        raise Omni123Error(
            f"{folder} holds no finished data set (none of {', '.join(STORES)}); run its preparation to the end"
        )
    if len(found) > 1:
        raise Omni123Error(f"{folder} holds {' and '.join(found)}, two data sets in one folder; part them")
    return STORES[found[0]].open(folder)


def kind_of(store: PreparedStore) -> str:
    """What a store holds, in words."""
    return KINDS[type(store)]
