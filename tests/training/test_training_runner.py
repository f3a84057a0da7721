"""What a run leaves in its folder, how its log goes on, and switches that work for every stage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import make_workspace, read_log, stage_recipe
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from omni123_hf.errors import Omni123Error
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.run_log import JsonLinesLog
from omni123_hf.training.runner import recompute_activations, run
from omni123_hf.training.stages import get_stage


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


def train(stage, workspace, output, **training):
    raw = stage_recipe(stage, workspace, output, **{"max_steps": 4, **training})
    return get_stage(stage)(Recipe(**{**raw, "output_dir": Path(output)}))


def test_a_run_folder_says_what_was_run_on_what_and_with_which_data(workspace, tmp_path):
    metrics = train("pretrain", workspace, tmp_path, logging_steps=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "recipe.json",
        "run.json",
        "environment.json",
        "log.jsonl",
        "metrics.json",
        "final",
        "checkpoint-4",
    } == names
    described = json.loads((tmp_path / "run.json").read_text())["run"]
    summary = json.loads((workspace / "data" / "dataset.json").read_text())
    assert described["data"]["pools"] == {"pairs": summary["content_hash"]}
    assert len(described["data"]["tokenizers"]["shape_tokenizer"]) == 64
    assert json.loads((tmp_path / "recipe.json").read_text())["options"]["real_share"] == 0.5
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for name in ("recipe.json", "run.json"):
        assert (tmp_path / "checkpoint-4" / name).read_text() == (tmp_path / name).read_text()
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    (last,) = [line for line in lines if "train_loss" in line]
    assert last["train_loss"] == pytest.approx(sum(line["loss"] for line in lines if "loss" in line) / 4, rel=1e-5)


@pytest.mark.parametrize("stage", ["pretrain", "image-tokenizer"])
def test_recomputed_activations_change_nothing_but_memory(stage, workspace, tmp_path, monkeypatch):
    from torch.utils import checkpoint

    calls = []
    original = checkpoint.checkpoint

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    for target in ("torch.utils.checkpoint.checkpoint", "transformers.modeling_utils.checkpoint"):
        monkeypatch.setattr(target, counted)
    steps = {"max_steps": 2, "logging_steps": 1}
    train(stage, workspace, tmp_path / "plain", **steps)
    assert not calls
    train(stage, workspace, tmp_path / "recomputed", activation_checkpointing=True, **steps)
    assert calls
    logs = [read_log(tmp_path / name) for name in ("plain", "recomputed")]
    assert logs[0] == logs[1]
    model = "final/transformer/model.safetensors" if stage == "pretrain" else "final/model.safetensors"
    plain, recomputed = (load_file(tmp_path / name / model) for name in ("plain", "recomputed"))
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


def test_what_cannot_recompute_activations_is_named():
    with pytest.raises(Omni123Error, match="Sequential has no part that supports it"):
        recompute_activations(nn.Sequential(nn.Linear(2, 2)))


def test_plain_trainers_are_refused(tmp_path):
    trainer = Trainer(nn.Linear(2, 2), TrainingArguments(tmp_path, use_cpu=True))
    with pytest.raises(TypeError, match="must derive from PartsTrainer"):
        run(trainer, Recipe("pretrain", tmp_path), lambda folder: None)


def logged(log, step, **values):
    state = TrainerState(global_step=step, is_world_process_zero=True)
    log.on_log(None, state, TrainerControl(), logs=values)


def test_the_log_goes_on_where_the_checkpoint_stood(tmp_path):
    path, state = tmp_path / "log.jsonl", TrainerState(is_world_process_zero=True)
    first = JsonLinesLog(path)
    first.on_train_begin(None, state, None)
    logged(first, 3, loss=1 / 3, learning_rate=3e-8)
    kept = first.bytes()
    logged(first, 6, loss=0.5)
    # A kill may cut the last line off.
    with path.open("a") as file:
        file.write('{"step": 9, "lo')
    resumed = JsonLinesLog(path, kept)
    resumed.on_train_begin(None, state, None)
    logged(resumed, 6, loss=0.25)
    logged(resumed, 6, loss=0.25)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 0.33333333), (6, 0.25)]
    assert lines[0]["learning_rate"] == 3e-8 and lines[1]["seconds"] >= lines[0]["seconds"]
    # A new run in the same folder begins a new log.
    JsonLinesLog(path).on_train_begin(None, state, None)
    assert path.read_text() == ""
