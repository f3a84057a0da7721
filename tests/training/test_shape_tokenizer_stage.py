"""The shape stage on boxes: it learns, starts its code book, resumes to the bit, and reports honest figures."""

import json

import pytest
import torch
from tiny_store import write_tiny_store

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ShapeTokenizer
from omni123_hf.training import shape_tokenizer
from omni123_hf.training.recipe import Recipe


MODEL = {
    "num_latents": 8,
    "num_codes": 32,
    "code_dim": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_encoder_layers": 2,
    "encoder_cross_attention_layers": [0],
    "num_decoder_layers": 1,
    "num_frequencies": 4,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    write_tiny_store(folder)
    return folder


def recipe(root, out, steps, **options):
    return Recipe(
        stage="shape-tokenizer",
        output_dir=out,
        data={"root": str(root)},
        model=dict(MODEL),
        options={"points": 32, "queries": 64, "vq_warmup_steps": 10, "anchored_initialization": True, **options},
        training={
            "max_steps": steps,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "lr_scheduler_type": "constant",
            "logging_steps": 10,
            "save_steps": 15,
            "disable_tqdm": True,
        },
    )


def test_the_stage_learns_boxes_and_writes_model_log_and_figures(root, tmp_path):
    metrics = shape_tokenizer.train(recipe(root, tmp_path, 120))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["occupancy_loss"] for line in log if "occupancy_loss" in line]
    assert losses[-1] < 0.75 * losses[0]
    assert metrics["eval_volume_iou_parametric"] > 0.4
    assert 0 < metrics["eval_codes_used"] <= 1
    assert any("batch_codes_used" in line for line in log)
    model = Omni123ShapeTokenizer.from_pretrained(tmp_path / "final")
    tokens = model.encode(torch.zeros(1, 32, 3), torch.ones(1, 32, 3))
    assert tokens.shape == (1, 8)


def test_an_interrupted_run_ends_with_the_same_weights(root, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    shape_tokenizer.train(recipe(root, whole, 30))
    first = recipe(root, parts, 30)
    # The run is cut by hand: the newest checkpoint is then at step 15, as after a kill.
    shape_tokenizer.train(first)
    for folder in (parts / "checkpoint-30", parts / "final"):
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        folder.rmdir()
    shape_tokenizer.train(recipe(root, parts, 30))
    a, b = (Omni123ShapeTokenizer.from_pretrained(f / "final").state_dict() for f in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)
    steps = [json.loads(line)["step"] for line in (parts / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_the_code_book_starts_once_with_gradient_accumulation(root, tmp_path, monkeypatch):
    starts = []
    start = shape_tokenizer.ShapeTokenizerTrainer.start_codebook
    monkeypatch.setattr(
        shape_tokenizer.ShapeTokenizerTrainer, "start_codebook", lambda self, *a: (starts.append(1), start(self, *a))
    )
    accumulating = recipe(root, tmp_path, 3, vq_warmup_steps=1)
    accumulating.training["gradient_accumulation_steps"] = 2
    shape_tokenizer.train(accumulating)
    assert starts == [1]


def test_real_assets_get_their_share_of_the_draws(root):
    store = write_tiny_store(root)
    indices = store.indices("train")
    weights = shape_tokenizer.source_weights(store, indices, 0.25)
    real = [store.records[int(i)].source != "parametric" for i in indices]
    assert weights.sum() == pytest.approx(1)
    assert weights[real].sum() == pytest.approx(0.25)
    with pytest.raises(Omni123Error, match="real_share is 2"):
        shape_tokenizer.source_weights(store, indices, 2)
    with pytest.raises(Omni123Error, match="no assets in split 'train'"):
        shape_tokenizer.source_weights(store, indices[:0], 0.5)


def test_frozen_tokens_stay_while_the_decoder_learns(root, tmp_path):
    first = recipe(root, tmp_path / "first", 40)
    shape_tokenizer.train(first)
    second = recipe(root, tmp_path / "second", 40, freeze_tokens=True)
    second.model = {"from_pretrained": str(tmp_path / "first" / "final"), "vq_assignment": "nearest"}
    shape_tokenizer.train(second)
    before, after = (Omni123ShapeTokenizer.from_pretrained(tmp_path / part / "final") for part in ("first", "second"))
    points, normals = torch.rand(4, 32, 3) - 0.5, torch.nn.functional.normalize(torch.randn(4, 32, 3), dim=-1)
    tokens = before.encode(points, normals)
    assert torch.equal(tokens, after.encode(points, normals))
    queries = torch.rand(4, 16, 3) - 0.5
    difference = before.query(before.decode_latents(tokens), queries) - after.query(
        after.decode_latents(tokens), queries
    )
    assert difference.abs().max() > 1e-3
    with pytest.raises(Omni123Error, match="from_pretrained"):
        shape_tokenizer.train(recipe(root, tmp_path / "third", 1, freeze_tokens=True))
