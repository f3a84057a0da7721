"""A later stage's weights in a checkpoint: what stays, what is new, and what is refused."""

import json
import shutil

import pytest
import torch
from tiny_store import write_tiny_store

from omni123_hf.data.shards.store_tokens import tokenize_store
from omni123_hf.data.shards.tokenizers import TOKENIZERS, StoreTokenizers
from omni123_hf.data.shards.writer import WriterOptions
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines import Omni123JointPipeline
from omni123_hf.pipelines.extend_checkpoint import extend_checkpoint
from omni123_hf.pipelines.registry import checkpoint_revision, trained_tasks


@pytest.fixture
def run(tiny_pipeline, tiny_pipeline_folder, tmp_path):
    """Output folder of a stage that changed one weight, trained on a pool of token shards."""
    tokenizers = StoreTokenizers.load({name: tiny_pipeline_folder / name for name in TOKENIZERS})
    store = write_tiny_store(tmp_path / "data", 8)
    info = tokenize_store(
        store, tokenizers, tmp_path / "shards", "pairs", options=WriterOptions(shards=1, progress=False)
    )
    folder = tmp_path / "run"
    for part in ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.copytree(tiny_pipeline_folder / part, folder / "final" / part)
    changed = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder).transformer
    with torch.no_grad():
        changed.embed_tokens.weight.add_(1.0)
    changed.save_pretrained(folder / "final" / "transformer")
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    recipe = {
        "data": {"pools": {"pairs": {"shards": str(tmp_path / "shards")}}},
        "options": {"mixture": {"a": {"pool": "pairs", "tasks": ["images-to-3d"]}}},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "run.json").write_text(json.dumps({"run": {"data": {"tokenizers": tokenizers.hashes, "pools": {}}}}))
    assert info.splits
    return folder


def test_the_later_weights_come_in_and_the_history_stays(run, tiny_pipeline_folder, tmp_path):
    out = extend_checkpoint(tiny_pipeline_folder, run, tmp_path / "out", "tasks", trained_on="a test")
    before, after = (Omni123JointPipeline.from_pretrained(folder) for folder in (tiny_pipeline_folder, out))
    old, new = before.transformer.embed_tokens.weight, after.transformer.embed_tokens.weight
    assert torch.equal(new, old + 1.0)
    for name, value in before.shape_tokenizer.state_dict().items():
        assert torch.equal(value, after.shape_tokenizer.state_dict()[name])
    assert after.revision != before.revision and "images-to-3d" in (trained_tasks(out) or set())
    facts = json.loads((out / "provenance.json").read_text())["later_stages"]["tasks"]
    assert facts["began_from"] == checkpoint_revision(tiny_pipeline_folder) and facts["trained_on"] == "a test"
    pool = json.loads((out / "data_lineage.json").read_text())["later_stages"]["tasks"]["pairs"]
    assert pool["content_hash"] == facts["pools"]["pairs"]
    assert sum(pool["records"].values()) == 8 and {entry["licence"] for entry in pool["sources"]} == {"CC0-1.0"}
    assert (out / "logs/omni123_tasks.jsonl").is_file()
    assert after.edit_guidance() is None and after.transformer.config.edit_source_bias == 0.0
    again = extend_checkpoint(out, run, out, "tasks_2", edit_guidance_scale=1.5, edit_source_bias=2.0)
    told = Omni123JointPipeline.from_pretrained(again)
    assert told.edit_guidance() == 1.5 and told.transformer.config.edit_source_bias == 2.0
    assert told.revision != after.revision
    assert again == out and not out.with_name("out.tmp").exists()
    assert set(json.loads((out / "provenance.json").read_text())["later_stages"]) == {"tasks", "tasks_2"}


def test_runs_that_do_not_belong_are_refused(run, tiny_pipeline_folder, tmp_path):
    out = tmp_path / "out"
    description = json.loads((run / "run.json").read_text())
    other = {"run": {"data": {"tokenizers": {"shape_tokenizer": "0" * 64}, "pools": {}}}}
    (run / "run.json").write_text(json.dumps(other))
    with pytest.raises(Omni123Error, match="another shape_tokenizer"):
        extend_checkpoint(tiny_pipeline_folder, run, out, "tasks")
    description["run"]["data"]["pools"] = {"pairs": "f" * 64}
    (run / "run.json").write_text(json.dumps(description))
    with pytest.raises(Omni123Error, match="does not hold the pool 'pairs' that the run was trained on any more"):
        extend_checkpoint(tiny_pipeline_folder, run, out, "tasks")
    (run / "final").rename(run / "checkpoint-1")
    with pytest.raises(Omni123Error, match="lacks final"):
        extend_checkpoint(tiny_pipeline_folder, run, out, "tasks")
    with pytest.raises(Omni123Error, match="no name of a stage"):
        extend_checkpoint(tiny_pipeline_folder, run, out, "../tasks")
    assert not out.exists() and not out.with_name("out.tmp").exists()


def test_defaults_of_editing_that_are_none_are_refused(run, tiny_pipeline_folder, tmp_path):
    with pytest.raises(Omni123Error, match="edit_guidance_scale is -1"):
        extend_checkpoint(tiny_pipeline_folder, run, tmp_path / "out", "tasks", edit_guidance_scale=-1.0)
    assert not (tmp_path / "out").exists()
