"""Token shards of all kinds that any task can be trained on, and a recipe of a tiny model for them.

The codes of a record follow from its number, and its captions name the number, so that a model can learn all of it.
"""

from pathlib import Path

import numpy as np
import torch

from omni123_hf.data.shards.edits import EditTokens, write_edits
from omni123_hf.data.shards.format import Field, PoolLayout, image_field
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.writer import WriterOptions, write_pool
from omni123_hf.data.tokens import weights_hash
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.modeling import Omni123ImageTokenizer, Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig
from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.training.recipe import Recipe


KS, KI, LS, LI = 32, 32, 8, 16
WORDS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink", "gold", "teal", "navy", "lime")
QUIET = WriterOptions(shards=1, batch_size=4, progress=False)
SHAPE_TOKENIZER = {
    "num_latents": LS, "num_codes": KS, "code_dim": 4, "hidden_size": 32, "num_attention_heads": 2,
    "num_encoder_layers": 2, "encoder_cross_attention_layers": [0], "num_decoder_layers": 1, "num_frequencies": 4,
}  # fmt: skip
IMAGE_TOKENIZER = {
    "num_tokens": LI, "num_codes": KI, "code_dim": 4, "encoder_hidden_size": 32, "num_encoder_layers": 1,
    "num_encoder_heads": 2, "decoder_hidden_size": 32, "num_decoder_layers": 1, "num_decoder_heads": 2,
    "latent_dim": 16, "semantic_dim": 8,
}  # fmt: skip


def save_tokenizers(folder: Path) -> dict[str, Path]:
    """A shape and an image tokenizer of random weights; the image VAE's place is taken by a copy of the former's weights."""
    torch.manual_seed(0)
    folders = {name: folder / name for name in ("shape_tokenizer", "image_tokenizer", "image_vae")}
    shape = Omni123ShapeTokenizer(Omni123ShapeTokenizerConfig(**SHAPE_TOKENIZER))
    shape.save_pretrained(folders["shape_tokenizer"])
    shape.save_pretrained(folders["image_vae"])
    Omni123ImageTokenizer(Omni123ImageTokenizerConfig(**IMAGE_TOKENIZER)).save_pretrained(folders["image_tokenizer"])
    return folders


def codes_of(number: int, part: int, length: int, codes: int) -> np.ndarray:
    return np.random.default_rng((number, part)).integers(0, codes, length)


def record(number: int, views: tuple[str, ...]) -> ShardRecord:
    name = WORDS[number % len(WORDS)]
    return ShardRecord(
        id=f"box/{number}",
        source="parametric" if number % 2 else "ldraw",
        split="validation" if number % 4 == 3 else "train",
        licence="CC0-1.0",
        attribution="nobody",
        category="box",
        captions={"short": [f"{name} box"], "medium": [f"a plain box that is {name}"], "long": []},
        views=views,
        content_hash=f"{number:064x}",
        source_row=number,
    )


def write_pools(
    folder: Path, tokenizers: dict[str, Path], count: int = 12, views_held: tuple[str, ...] = ALL_VIEWS
) -> Path:
    """Pools `pairs` (views `views_held`), `images` (un-posed) and `edits` in one folder; every fourth record is for validation."""
    hashes = {name: weights_hash(path) for name, path in tokenizers.items()}
    origin = {"checkpoint": "tiny", "tokenizers": hashes, "data_hash": "d" * 64}
    image = [Field(image_field(view), "image", LI, KI) for view in views_held]
    pairs = PoolLayout("pairs", (Field("shape_tokens", "shape", LS, KS), *image))

    def encode_pairs(records):
        rows = [record.source_row for record in records]
        shapes = [codes_of(row, 0, LS, KS) for row in rows]
        views = [[codes_of(row, 1 + ALL_VIEWS.index(view), LI, KI) for view in views_held] for row in rows]
        return np.concatenate([np.array(shapes), np.array(views).reshape(len(rows), -1)], axis=1)

    def encode_images(records):
        return np.array([codes_of(record.source_row, 1 + 6, LI, KI) for record in records])

    write_pool(folder, pairs, [record(i, views_held) for i in range(count)], encode_pairs, origin, QUIET)
    images = PoolLayout("images", (Field("image_tokens", "image", LI, KI),))
    write_pool(folder, images, [record(i, ()) for i in range(count)], encode_images, origin, QUIET)
    edits = [
        EditTokens(
            id=f"edit/{i}",
            source="ours",
            split="validation" if i % 4 == 3 else "train",
            licence="Apache-2.0",
            attribution="generated",
            category="box",
            source_tokens=codes_of(i, 0, LS, KS),
            target_tokens=codes_of(i, 9, LS, KS),
            instructions=(f"make it {WORDS[i % len(WORDS)]}",),
            edit_type="replace",
            chain=("generator",),
        )
        for i in range(count)
    ]
    write_edits(folder, edits, KS, {"shape_tokenizer": hashes["shape_tokenizer"]}, options=QUIET)
    return folder


def tiny_recipe(
    workspace: Path, out: Path, stage: str = "pretrain", steps: int = 60, model: dict | None = None, **options
) -> Recipe:
    """A recipe on the pools of `workspace` (`shards/` and one folder for each tokenizer)."""
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    new = {
        "num_shape_codes": KS, "num_image_codes": KI, "num_shape_tokens": LS, "num_image_tokens": LI,
        "hidden_size": 32, "num_dual_layers": 2, "num_single_layers": 1, "num_attention_heads": 2,
        "shape_code_dim": 4, "image_code_dim": 4, "token_dropout": 0.0,
    }  # fmt: skip
    built = {
        "tokenizer": {"vocab_size": 128, "max_length": 12},
        "tokenizer_2": {"vocab_size": 320, "max_length": 24},
        "text_encoder": {**text, "projection_dim": 16},
        "text_encoder_2": {**text, "num_key_value_heads": 1, "head_dim": 8},
    }
    if "tasks" not in options and "mixture" not in options:
        options["tasks"] = {"text-to-3d": 0.5, "image-to-3d": 0.25, "3d-to-image": 0.25}
    return Recipe(
        stage=stage,
        output_dir=out,
        data={
            "pools": {name: {"shards": str(workspace / "shards")} for name in ("pairs", "images", "edits")},
            **{name: str(workspace / name) for name in ("shape_tokenizer", "image_tokenizer", "image_vae")},
        },
        model=new if model is None else model,
        options={**(built if model is None or "from_pretrained" not in model else {}), **options},
        training={
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "logging_steps": 20,
            "save_steps": 1000,
            "disable_tqdm": True,
        },
    )
