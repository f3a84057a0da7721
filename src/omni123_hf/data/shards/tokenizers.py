"""A checkpoint's tokenizers, applied to rows of prepared data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from omni123_hf.data.shards.format import SIDE_FIELDS, Field, PoolLayout, image_field
from omni123_hf.data.store import AssetStore
from omni123_hf.data.tokens import weights_hash
from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer


TOKENIZERS = {
    "shape_tokenizer": Omni123ShapeTokenizer,
    "image_vae": Omni123ImageVAE,
    "image_tokenizer": Omni123ImageTokenizer,
}
NEEDED = {
    "shapes": ("shape_tokenizer",),
    "images": ("image_vae", "image_tokenizer"),
    "pairs": ("shape_tokenizer", "image_vae", "image_tokenizer"),
    "edits": ("shape_tokenizer",),
}


@dataclass
class StoreTokenizers:
    """The tokenizers of one checkpoint, those that it has, with the hashes of their weights."""

    shape_tokenizer: Omni123ShapeTokenizer | None
    image_vae: Omni123ImageVAE | None
    image_tokenizer: Omni123ImageTokenizer | None
    hashes: dict[str, str]

    @classmethod
    def load(cls, folders: dict[str, Path], device: torch.device | str = "cpu") -> StoreTokenizers:
        """Load in float32. folders: component to its folder, any of `TOKENIZERS`.

        Raises `Omni123Error` for weights that are missing, incomplete or not those of the component.
        """
        models = {name: load_component(TOKENIZERS[name], path, device) for name, path in folders.items()}
        hashes = {name: weights_hash(path) for name, path in folders.items()}
        return cls(**{name: models.get(name) for name in TOKENIZERS}, hashes=hashes)

    def check(self, pool: str) -> None:
        """Raises `Omni123Error` for a pool of another kind and for one whose tokenizers are not there."""
        if pool not in NEEDED:
            raise Omni123Error(f"there is no pool {pool!r}; choose one of {', '.join(NEEDED)}")
        missing = [name for name in NEEDED[pool] if getattr(self, name) is None]
        if missing:
            raise Omni123Error(
                f"the checkpoint has no {' and no '.join(missing)}, which the pool {pool!r} needs; choose another pool or "
                "checkpoint"
            )

    def shape_field(self) -> Field:
        assert self.shape_tokenizer is not None
        config = self.shape_tokenizer.config
        return Field("shape_tokens", "shape", config.num_latents, config.num_codes)

    def image_field(self, name: str, size: int | None = None) -> Field:
        """The codes of a picture of `size` pixels, by default of the VAE's own size; half of it has a quarter of the tokens."""
        assert self.image_vae is not None and self.image_tokenizer is not None
        cells = (size or self.image_vae.config.image_size) // self.image_vae.config.patch_size
        return Field(
            name, "image", self.image_tokenizer.tokens_for((cells, cells)), self.image_tokenizer.config.num_codes
        )

    def encode_shapes(self, store: AssetStore, rows: np.ndarray) -> np.ndarray:
        """(B,) rows to shape codes (B, Ls)."""
        return self.encode_surfaces(store.surface(rows))

    @torch.no_grad()
    def encode_surfaces(self, surfaces: np.ndarray) -> np.ndarray:
        """Surface points and unit normals (B, P, 6) float32 in the normalised frame to shape codes (B, Ls)."""
        assert self.shape_tokenizer is not None
        surface = torch.from_numpy(surfaces).to(self.shape_tokenizer.device)
        # Half precision may push a point on the border of the box just outside it.
        points, normals = surface[..., :3].clamp(-FIELD_BOUND, FIELD_BOUND), surface[..., 3:]
        return self.shape_tokenizer.encode(points, normals).cpu().numpy()

    @torch.no_grad()
    def encode_images(self, store: AssetStore, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(B,) rows and, for each, its views (B, V) by column of the store, to image codes (B, V, Li)."""
        views = store.views(rows)[np.arange(len(rows))[:, None], columns]
        codes = self.encode_pictures(views.reshape(-1, *views.shape[2:]))
        return codes.reshape(*columns.shape, -1)

    @torch.no_grad()
    def encode_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """(B,S,S,4) uint8 pictures on white, as stores hold them, to image codes (B, Li)."""
        assert self.image_vae is not None and self.image_tokenizer is not None
        pixels = pixels_from_views(pictures).to(self.image_vae.device)
        return self.image_tokenizer.encode(self.image_vae.encode(pixels)).cpu().numpy()


def load_component(model_class: type[PreTrainedModel], folder: Path, device: torch.device | str) -> Any:
    """One model in float32 and evaluation mode. Raises `Omni123Error` for a folder that does not hold it whole."""
    try:
        loaded: Any = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        line = " ".join(str(error).split())[:200]
        raise Omni123Error(f"cannot load {folder.name} of the checkpoint: {type(error).__name__}: {line}") from error
    model, report = loaded
    # transformers fills what a file lacks with random numbers and only warns: tokens of noise would look like any others.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise Omni123Error(f"{folder.name} lacks {len(missing)} tensor(s), for example {missing[0]}; copy it again")
    return model.eval().to(device)


def store_layout(tokenizers: StoreTokenizers, pool: str, views: Sequence[str], size: int | None = None) -> PoolLayout:
    """The fields of a record: shape codes first, then the codes of each view of `size` pixels; of edits both sides."""
    if pool == "edits":
        shape = tokenizers.shape_field()
        return PoolLayout(pool, tuple(replace(shape, name=name) for name in SIDE_FIELDS))
    if pool == "images":
        return PoolLayout(pool, (tokenizers.image_field("image_tokens", size),))
    images = [tokenizers.image_field(image_field(name), size) for name in views] if pool == "pairs" else []
    return PoolLayout(pool, (tokenizers.shape_field(), *images))
