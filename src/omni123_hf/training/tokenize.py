"""Stage `tokenize`: a prepared data set through the trained tokenizers into a token folder of one process.

`omni123 data tokenize` writes token shards instead, from an assembled checkpoint; both encode in the same way.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.shards.tokenizers import NEEDED, StoreTokenizers, store_layout
from ..data.store import AssetStore
from ..data.tokens import TokenStore
from ..geometry.cameras import ALL_VIEWS, get_camera
from .recipe import Recipe


def train(recipe: Recipe) -> dict[str, float]:
    """Writes the tokens of all assets; returns code use over the training split."""
    store = AssetStore.open(recipe.data["root"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizers = StoreTokenizers.load({name: Path(recipe.model[name]) for name in NEEDED["pairs"]}, device)
    batch = int(recipe.options.get("batch_size", 32))
    views = [get_camera(name).name for name in recipe.options.get("views", ALL_VIEWS)]
    # Refuses vocabularies that uint16 cannot hold: ids beyond it would wrap around without a word.
    shape_field, *image_fields = store_layout(tokenizers, "pairs", views).fields
    columns = np.array([ALL_VIEWS.index(name) for name in views])
    shapes, images = [], []
    for start in tqdm(range(0, len(store), batch), desc="tokenize"):
        rows = np.arange(start, min(start + batch, len(store)))
        shapes.append(tokenizers.encode_shapes(store, rows).astype(np.uint16))
        images.append(tokenizers.encode_images(store, rows, np.tile(columns, (len(rows), 1))).astype(np.uint16))
    tokens = TokenStore(
        np.concatenate(shapes),
        np.concatenate(images),
        {"data_hash": store.content_hash, "views": views, **tokenizers.hashes},
    )
    tokens.save(recipe.output_dir)
    chosen = store.indices("train")
    return {
        "shape_codes_used": len(np.unique(tokens.shape_tokens[chosen])) / shape_field.codes,
        "image_codes_used": len(np.unique(tokens.image_tokens[chosen])) / image_fields[0].codes,
    }
