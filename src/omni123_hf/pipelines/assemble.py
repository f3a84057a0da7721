"""Puts the outputs of the training stages together as one pipeline folder that can be shipped or pushed to the Hub."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from ..data.store import AssetStore
from ..data.tokens import TokenStore
from ..data.views import pixels_from_views
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from .pipeline_base import PAPER_GUIDANCE_SCALE
from .pipeline_joint import Omni123JointPipeline
from .registry import write_provenance


STAGE_FOLDERS = {"shape_tokenizer": "shape_decoder", "image_vae": "image_vae", "image_tokenizer": "image_tokenizer"}
LOG_NAMES = {
    "shape_tokenizer": "shape_tokenizer",
    "shape_decoder": "shape_decoder",
    "image_vae": "image_vae",
    "image_tokenizer": "image_tokenizer",
    "pretrain": "omni123",
}


def data_lineage(store: AssetStore) -> dict[str, Any]:
    """Sources, licences and attributions of the assets that the weights were trained on, with counts."""
    trained = [record for record in store.records if record.split == "train"]
    entries = Counter((record.source, record.licence, record.attribution) for record in trained)
    return {
        "content_hash": store.content_hash,
        "assets": dict(Counter(record.split for record in store.records)),
        "sources": [
            {"source": source, "licence": licence, "attribution": attribution, "assets": count}
            for (source, licence, attribution), count in sorted(entries.items())
        ],
    }


@torch.no_grad()
def check_tokens(pipeline: Omni123JointPipeline, store: AssetStore, tokens: TokenStore, count: int = 32) -> None:
    """Raises `Omni123Error` unless the tokenizers still give the tokens that the backbone was trained on."""
    rows = np.linspace(0, len(store) - 1, count).round().astype(int)
    surface = torch.from_numpy(store.surface(rows))
    shapes = pipeline.shape_tokenizer.encode(surface[..., :3].clamp(-1.05, 1.05), surface[..., 3:])
    columns = [ALL_VIEWS.index(view) for view in tokens.info["views"]]
    pixels = pixels_from_views(store.views(rows)[:, columns])
    images = pipeline.image_tokenizer.encode(pipeline.image_vae.encode(pixels.flatten(0, 1)))
    for name, now, stored in (
        ("shape", shapes, tokens.shape_tokens[rows]),
        ("image", images.unflatten(0, pixels.shape[:2]), tokens.image_tokens[rows]),
    ):
        agreement = float((now.numpy() == stored).mean())
        # Batches of another size may flip a code whose two nearest are equally far.
        if agreement < 0.999:
            raise Omni123Error(
                f"only {agreement:.1%} of the {name} tokens are those the backbone was trained on: tokenize and train again."
            )


def assemble(
    runs: str | Path,
    data: str | Path,
    out: str | Path,
    dtype: torch.dtype = torch.float32,
    trained_on: str = "",
    guidance_scale: float = PAPER_GUIDANCE_SCALE,
) -> Path:
    """Builds `out` from the runs of the stages (`LOG_NAMES`) and the tokens below `runs` and the data set they were trained on.

    `guidance_scale` is the default that the checkpoint carries, `trained_on` says on what hardware, for the card. Writes components, `model_index.json`, `data_lineage.json`, `logs/`, `recipes/` and, last, `provenance.json`. An existing
    `out` is replaced only when the new folder is complete. Raises `Omni123Error` when a stage has no final model or `data`
    is another data set.
    """
    runs, out = Path(runs), Path(out)
    for stage in LOG_NAMES:
        if not (runs / stage / "final").is_dir():
            raise Omni123Error(f"{runs / stage} has no final model: train this stage to its end first.")
    text = runs / "pretrain" / "final"
    tokenizers = {name: runs / stage / "final" for name, stage in STAGE_FOLDERS.items()}
    pipeline = Omni123JointPipeline(
        tokenizer=PreTrainedTokenizerFast.from_pretrained(text / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(text / "text_encoder", dtype=dtype),
        tokenizer_2=PreTrainedTokenizerFast.from_pretrained(text / "tokenizer_2"),
        text_encoder_2=Qwen3Model.from_pretrained(text / "text_encoder_2", dtype=dtype),
        transformer=Omni123ForConditionalGeneration.from_pretrained(text / "transformer", dtype=dtype),
        image_vae=Omni123ImageVAE.from_pretrained(tokenizers["image_vae"], dtype=dtype),
        image_tokenizer=Omni123ImageTokenizer.from_pretrained(tokenizers["image_tokenizer"], dtype=dtype),
        shape_tokenizer=Omni123ShapeTokenizer.from_pretrained(tokenizers["shape_tokenizer"], dtype=dtype),
        default_guidance_scale=guidance_scale,
    )
    store = AssetStore.open(data)
    tokens = TokenStore.open(runs / "tokens")
    if tokens.info["data_hash"] != store.content_hash:
        raise Omni123Error(f"{data} is not the data set that was tokenized; the lineage would name other assets.")
    check_tokens(pipeline, store, tokens)
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    (temporary / "data_lineage.json").write_text(json.dumps(data_lineage(store), indent=1) + "\n")
    for folder in ("logs", "recipes"):
        (temporary / folder).mkdir()
    for stage, name in LOG_NAMES.items():
        shutil.copyfile(runs / stage / "log.jsonl", temporary / "logs" / f"{name}.jsonl")
        shutil.copyfile(runs / stage / "recipe.json", temporary / "recipes" / f"{name}.json")
    write_provenance(
        temporary,
        data_hash=store.content_hash,
        licence="Apache-2.0",
        lineage="data_lineage.json",
        trained_on=trained_on,
    )
    if out.exists():
        shutil.rmtree(out)
    temporary.replace(out)
    return out
