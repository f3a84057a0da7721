"""Stages to a pipeline folder: what is written, and that tokens of other tokenizers are refused."""

import json

import numpy as np
import pytest
import torch
from tiny_store import write_tiny_store

from omni123_hf.data.tokens import TokenStore
from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.pipelines import Omni123JointPipeline
from omni123_hf.pipelines.assemble import LOG_NAMES, assemble


@pytest.fixture
def runs(tiny_pipeline, tmp_path):
    """Output folders of all stages, as training leaves them, holding the tiny pipeline's parts."""
    store = write_tiny_store(tmp_path / "data")
    folder = tmp_path / "runs"
    for stage in LOG_NAMES:
        (folder / stage / "final").mkdir(parents=True)
        (folder / stage / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        (folder / stage / "recipe.json").write_text("{}\n")
    for stage, part in (("shape_decoder", "shape_tokenizer"), ("image_vae",) * 2, ("image_tokenizer",) * 2):
        getattr(tiny_pipeline, part).save_pretrained(folder / stage / "final")
    for part in ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        getattr(tiny_pipeline, part).save_pretrained(folder / "pretrain" / "final" / part)
    rows = np.arange(len(store))
    surface = torch.from_numpy(store.surface(rows))
    with torch.no_grad():
        shapes = tiny_pipeline.shape_tokenizer.encode(surface[..., :3], surface[..., 3:])
        pixels = pixels_from_views(store.views(rows)[:, ALL_VIEWS.index("three_quarter")])
        images = tiny_pipeline.image_tokenizer.encode(tiny_pipeline.image_vae.encode(pixels))
    info = {"views": ["three_quarter"], "data_hash": store.content_hash}
    TokenStore(shapes.numpy(), images.numpy()[:, None], info).save(folder / "tokens")
    return folder


def test_an_assembled_folder_loads_and_carries_lineage_logs_and_hashes(runs, tmp_path):
    out = assemble(runs, tmp_path / "data", tmp_path / "checkpoint")
    pipeline = Omni123JointPipeline.from_pretrained(out)
    assert pipeline.revision == json.loads((out / "provenance.json").read_text())["revision"]
    lineage = json.loads((out / "data_lineage.json").read_text())
    assert {entry["licence"] for entry in lineage["sources"]} == {"CC0-1.0"}
    assert sum(entry["assets"] for entry in lineage["sources"]) == lineage["assets"]["train"]
    assert {path.stem for path in (out / "logs").glob("*.jsonl")} == set(LOG_NAMES.values())
    again = assemble(runs, tmp_path / "data", out)
    assert again == out and not (tmp_path / "checkpoint.tmp").exists()


def test_tokens_of_another_tokenizer_and_missing_stages_are_refused(runs, tmp_path):
    tokens = TokenStore.open(runs / "tokens")
    TokenStore((np.array(tokens.shape_tokens) + 1) % 32, np.array(tokens.image_tokens), tokens.info).save(
        runs / "tokens"
    )
    with pytest.raises(Omni123Error, match="shape tokens"):
        assemble(runs, tmp_path / "data", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()
    (runs / "pretrain" / "final").rename(runs / "pretrain" / "elsewhere")
    with pytest.raises(Omni123Error, match="pretrain"):
        assemble(runs, tmp_path / "data", tmp_path / "checkpoint")


def test_another_data_set_is_refused(runs, tmp_path):
    write_tiny_store(tmp_path / "other", 12)
    with pytest.raises(Omni123Error, match="not the data set"):
        assemble(runs, tmp_path / "other", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()
