"""What the training benchmark trains: token shards of random codes with real captions, and a new model with its text encoders.

Random codes cost what real ones cost. Captions are those of the parametric objects, so texts have their true lengths.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from omni123_hf.data.parametric.captions import captions
from omni123_hf.data.parametric.registry import CATEGORIES, sample_program
from omni123_hf.data.shards.format import Field, PoolLayout, image_field
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.data.shards.writer import WriterOptions, write_pool
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from omni123_hf.training.mixture import TaskTable, build_mixture
from omni123_hf.training.task_samples import TaskSampler
from omni123_hf.training.text_conditioned import TextConditionedOmni123, build_text_encoders
from omni123_hf.training.text_tokenizer_folders import training_captions


# Table 5; the tasks of a subset are drawn alike.
PAPER_MIXTURE = {
    "text-image": {"pool": "images", "tasks": ["text-to-image"], "probability": 0.30},
    "image-3d": {"pool": "pairs", "tasks": ["image-to-3d", "3d-to-image"], "probability": 0.53},
    "text-3d": {"pool": "pairs", "tasks": ["text-to-3d"], "probability": 0.17},
}
CAPTION_LEVELS = {"short": 0.35, "medium": 0.5, "long": 0.15}
# The text side of omni123-mini (recipes/mini_pretrain.yaml).
VOCABULARY, CLIP_LENGTH, QWEN_LENGTH = 1024, 32, 96
TEXT_ENCODERS = {
    "text_encoder": {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "projection_dim": 128,
    },
    "text_encoder_2": {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32,
    },
}  # fmt: skip
Pools = dict[str, TrainingPool]
Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]


def object_record(number: int, rng: np.random.Generator) -> ShardRecord:
    program = sample_program(sorted(CATEGORIES)[number % len(CATEGORIES)], rng)
    return ShardRecord(
        id=f"object/{number}",
        source="synthetic",
        split="train",
        licence="CC0-1.0",
        attribution="nobody",
        category=program.category,
        captions=captions(program, rng),
        views=ALL_VIEWS,
        content_hash=f"{number:064x}",
        source_row=number,
    )


@contextmanager
def synthetic_pools(config: Omni123Config, records: int, workspace: Path | None = None) -> Iterator[Pools]:
    """Pools `pairs` (a shape and seven views) and `images`, of the config's lengths and vocabularies, in a temporary folder."""
    rng = np.random.default_rng(0)
    rows = [object_record(number, rng) for number in range(records)]
    shape = Field("shape_tokens", "shape", config.num_shape_tokens, config.num_shape_codes)

    def image(name: str) -> Field:
        return Field(name, "image", config.num_image_tokens, config.num_image_codes)

    layouts = (
        PoolLayout("pairs", (shape, *(image(image_field(view)) for view in ALL_VIEWS))),
        PoolLayout("images", (image("image_tokens"),)),
    )
    with tempfile.TemporaryDirectory(dir=workspace) as folder:
        for layout in layouts:

            def encode(batch: list[ShardRecord], fields: tuple[Field, ...] = layout.fields) -> np.ndarray:
                return np.concatenate([rng.integers(0, f.codes, (len(batch), f.length)) for f in fields], axis=1)

            # A record of `images` is a picture of no named view.
            held = rows if layout.name == "pairs" else [replace(row, views=()) for row in rows]
            write_pool(folder, layout, held, encode, {"tokenizers": {}}, WriterOptions(shards=4, progress=False))
        yield {layout.name: TrainingPool.open(folder, layout.name) for layout in layouts}


def text_tokenizers_for(pools: Pools) -> Tokenizers:
    texts = list(training_captions(list(pools.values())))
    return (
        build_clip_tokenizer(texts, VOCABULARY, CLIP_LENGTH),
        build_qwen_tokenizer(texts, VOCABULARY, QWEN_LENGTH),
    )


def make_sampler(pools: Pools, batch: int, batching: str, seed: int = 0) -> TaskSampler:
    """Samples of the paper's pre-training mixture, as a run with this batching draws them."""
    subsets = build_mixture({"mixture": PAPER_MIXTURE}, pools, TaskTable())
    return TaskSampler(pools, subsets, TaskTable(), CAPTION_LEVELS, batch, seed, batching=batching)


def make_model(config: Omni123Config, tokenizers: Tokenizers, attention: str = "sdpa") -> TextConditionedOmni123:
    """A new backbone with the mini's text encoders, all of it trained; `config` is given their widths."""
    torch.manual_seed(0)
    text_encoder, text_encoder_2 = build_text_encoders(TEXT_ENCODERS, *tokenizers)
    config.text_embed_dim, config.text_embed_dim_2 = (
        text_encoder.config.hidden_size,
        text_encoder_2.config.hidden_size,
    )
    transformer = Omni123ForConditionalGeneration(config)
    transformer.set_attn_implementation(attention)
    return TextConditionedOmni123(transformer, text_encoder, text_encoder_2).train()
