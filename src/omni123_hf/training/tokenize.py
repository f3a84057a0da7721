"""Stage `tokenize`: a prepared data set through the trained tokenizers into token shards."""

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.store import AssetStore
from ..data.tokens import TokenStore, weights_hash
from ..data.views import pixels_from_views
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS, get_camera
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from .recipe import Recipe


@torch.no_grad()
def train(recipe: Recipe) -> dict[str, float]:
    """Writes token shards for all assets; returns code use over the training split."""
    store = AssetStore.open(recipe.data["root"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folders = {name: recipe.model[name] for name in ("shape_tokenizer", "image_vae", "image_tokenizer")}
    shape_tokenizer = Omni123ShapeTokenizer.from_pretrained(folders["shape_tokenizer"]).eval().to(device)
    image_vae = Omni123ImageVAE.from_pretrained(folders["image_vae"]).eval().to(device)
    image_tokenizer = Omni123ImageTokenizer.from_pretrained(folders["image_tokenizer"]).eval().to(device)
    for name, tokenizer in (("shape_tokenizer", shape_tokenizer), ("image_tokenizer", image_tokenizer)):
        if tokenizer.config.num_codes > 2**16:
            # Ids beyond uint16 would wrap around without a word.
            raise Omni123Error(f"{name} has {tokenizer.config.num_codes} codes: token shards hold at most 65,536.")
    batch = int(recipe.options.get("batch_size", 32))
    views = list(recipe.options.get("views", ALL_VIEWS))
    columns = [ALL_VIEWS.index(get_camera(name).name) for name in views]
    shapes, images = [], []
    for start in tqdm(range(0, len(store), batch), desc="tokenize"):
        rows = range(start, min(start + batch, len(store)))
        surface = torch.from_numpy(np.stack([store.surface(i) for i in rows]).astype(np.float32)).to(device)
        points, normals = surface[..., :3].clamp(-1.05, 1.05), surface[..., 3:]
        shapes.append(shape_tokenizer.encode(points, normals).cpu().numpy().astype(np.uint16))
        pixels = pixels_from_views(np.stack([store.views(i)[columns] for i in rows])).to(device)
        codes = image_tokenizer.encode(image_vae.encode(pixels.flatten(0, 1)))
        images.append(codes.unflatten(0, pixels.shape[:2]).cpu().numpy().astype(np.uint16))
    tokens = TokenStore(
        np.concatenate(shapes),
        np.concatenate(images),
        {
            "data_hash": store.content_hash,
            "views": views,
            **{name: weights_hash(folder) for name, folder in folders.items()},
        },
    )
    tokens.save(recipe.output_dir)
    chosen = store.indices("train")
    return {
        "shape_codes_used": len(np.unique(tokens.shape_tokens[chosen])) / shape_tokenizer.config.num_codes,
        "image_codes_used": len(np.unique(tokens.image_tokens[chosen])) / image_tokenizer.config.num_codes,
    }
