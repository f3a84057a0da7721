"""Puts the outputs of the training stages together as one pipeline folder that can be shipped or pushed to the Hub."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from .pipeline_joint import Omni123JointPipeline
from .registry import write_provenance


STAGE_FOLDERS = {"shape_tokenizer": "shape_tokenizer", "image_vae": "image_vae", "image_tokenizer": "image_tokenizer"}
LOG_NAMES = {
    "shape_tokenizer": "shape_tokenizer",
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


def assemble(runs: str | Path, data: str | Path, out: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Builds `out` from the runs of the four stages below `runs` and the data set they were trained on.

    Writes components, `model_index.json`, `data_lineage.json`, `logs/`, `recipes/` and, last, `provenance.json`. An existing
    `out` is replaced only when the new folder is complete. Raises `Omni123Error` when a stage has no final model.
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
    )
    store = AssetStore.open(data)
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    (temporary / "data_lineage.json").write_text(json.dumps(data_lineage(store), indent=1) + "\n")
    for folder in ("logs", "recipes"):
        (temporary / folder).mkdir()
    for stage, name in LOG_NAMES.items():
        shutil.copyfile(runs / stage / "log.jsonl", temporary / "logs" / f"{name}.jsonl")
        shutil.copyfile(runs / stage / "recipe.json", temporary / "recipes" / f"{name}.json")
    write_provenance(temporary, data_hash=store.content_hash, licence="Apache-2.0", lineage="data_lineage.json")
    if out.exists():
        shutil.rmtree(out)
    temporary.replace(out)
    return out
