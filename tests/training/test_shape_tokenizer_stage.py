"""The shape stage on boxes: it learns, starts its code book, resumes to the bit, and reports honest figures."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_store import write_tiny_store
from transformers import TrainingArguments
from two_ranks import on_two_ranks

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig
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
    "ssl_num_prototypes": 16,
    "ssl_head_size": 16,
    "ssl_bottleneck_size": 8,
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
        options={
            "points": 32,
            "queries": 64,
            "vq_warmup_steps": 10,
            "anchored_initialization": True,
            "validation_pictures": 0,
            **options,
        },
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
    tokens = model.encode(torch.zeros(1, 32, 3), torch.tensor([0.0, 1.0, 0.0]).expand(1, 32, 3))
    assert tokens.shape == (1, 8)


def cut_back_to_step_15(folder):
    """Leaves what a run that was killed between step 15 and its end had written."""
    for part in ("checkpoint-30", "final"):
        shutil.rmtree(folder / part)


@pytest.mark.parametrize("self_distillation", [False, True])
def test_an_interrupted_run_ends_with_the_same_weights(root, tmp_path, self_distillation):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"self_distillation": self_distillation, "ema_decay": 0.9 if self_distillation else 0.0}
    for folder in (whole, parts):
        shape_tokenizer.train(recipe(root, folder, 30, **options))
    cut_back_to_step_15(parts)
    shape_tokenizer.train(recipe(root, parts, 30, **options))
    a, b = (Omni123ShapeTokenizer.from_pretrained(f / "final").state_dict() for f in (whole, parts))
    assert all(torch.equal(a[key], b[key]) for key in a)
    steps = [json.loads(line)["step"] for line in (parts / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    states = [f / "checkpoint-30" / "self_distillation.safetensors" for f in (whole, parts)]
    assert [state.exists() for state in states] == [self_distillation] * 2
    if self_distillation:
        for name in ("self_distillation", "ema"):
            first, second = (load_file(f / "checkpoint-30" / f"{name}.safetensors") for f in (whole, parts))
            assert all(torch.equal(first[key], second[key]) for key in first)


def test_self_distillation_trains_beside_the_tokenizer_and_leaves_no_trace_in_it(root, tmp_path):
    shape_tokenizer.train(recipe(root, tmp_path, 20, self_distillation=True))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    values = [line["self_distillation_loss"] for line in log if "self_distillation_loss" in line]
    assert len(values) == 2 and all(0 < value < 5 for value in values)
    checkpoint = tmp_path / "checkpoint-20"
    assert set(load_file(checkpoint / "model.safetensors")) == set(load_file(tmp_path / "final" / "model.safetensors"))
    model = Omni123ShapeTokenizer.from_pretrained(tmp_path / "final")
    assert set(load_file(checkpoint / "model.safetensors")) <= set(model.state_dict())
    state = load_file(checkpoint / "self_distillation.safetensors")
    assert state["center"].abs().max() > 0
    # The head is in the optimiser, and the teacher follows both: slower than they move.
    student, teacher = state["student_head.prototypes"], state["teacher.head.prototypes"]
    assert 0 < (student - teacher).abs().max()
    query = model.encoder.query
    assert 0 < (query - state["teacher.encoder.query"]).abs().max()


def train_on_a_rank(rank, root, out, steps):
    """Sums of everything that must be equal on all ranks after training with self-distillation."""
    built = []
    build = shape_tokenizer.build_self_distillation

    def remember(model, *arguments):
        built.extend((model, build(model, *arguments)))
        return built[1]

    shape_tokenizer.build_self_distillation = remember
    parallel = recipe(root, out, steps, self_distillation=True)
    parallel.training.update(gradient_accumulation_steps=2, per_device_train_batch_size=2)
    shape_tokenizer.train(parallel)
    return [float(value.double().sum()) for module in built for value in module.state_dict().values()]


@pytest.mark.slow
def test_two_ranks_keep_model_teacher_heads_and_centre_equal_and_resume(root, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first, second = on_two_ranks(train_on_a_rank, root, whole, 30, start="spawn")
    assert first == second
    shutil.copytree(whole, parts)
    cut_back_to_step_15(parts)
    assert on_two_ranks(train_on_a_rank, root, parts, 30, start="spawn") == [first, second]


def test_a_run_cannot_change_its_mind_about_self_distillation(root, tmp_path):
    for first, second in ((False, True), (True, False)):
        folder = tmp_path / str(first)
        shape_tokenizer.train(recipe(root, folder, 15, self_distillation=first))
        with pytest.raises(Omni123Error, match=f"options.self_distillation .{first} → {second}."):
            shape_tokenizer.train(recipe(root, folder, 15, self_distillation=second))


def test_what_the_stage_cannot_train_is_refused_before_anything_is_written(root, tmp_path, monkeypatch):
    for options, message in (
        ({"querys": 5}, "stage shape-tokenizer has no option querys: it knows .*queries"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"validation_pictures": -1}, "validation_pictures is -1"),
        ({"queries": 256}, "need 128 queries of one kind, and .* has 64 of each"),
        ({"uniform": 2.0}, "uniform a share"),
        ({"picture_resolution": 2}, "picture_resolution is 2"),
    ):
        with pytest.raises(Omni123Error, match=message):
            shape_tokenizer.train(recipe(root, tmp_path / "out", 5, **options))
    model = Omni123ShapeTokenizer(Omni123ShapeTokenizerConfig(**MODEL))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(Omni123Error, match="whole weights, which FSDP splits"):
        shape_tokenizer.build_self_distillation(
            model, {"self_distillation": True, "freeze_tokens": False}, TrainingArguments(tmp_path, use_cpu=True)
        )
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    shape_tokenizer.train(recipe(root, tmp_path / "first", 5))
    frozen = recipe(root, tmp_path / "out", 5, self_distillation=True, freeze_tokens=True)
    frozen.model = {"from_pretrained": str(tmp_path / "first" / "final")}
    with pytest.raises(Omni123Error, match="drop one of them"):
        shape_tokenizer.train(frozen)
    assert not (tmp_path / "out").exists()


def test_the_code_book_starts_without_a_past_in_the_optimiser(root, tmp_path, monkeypatch):
    """Zero gradients of the warm-up would leave Adam second moments for steps several times too long."""
    sizes = []
    start = shape_tokenizer.ShapeTokenizerTrainer.start_codebook

    def watched(self, tokenizer, inputs):
        before = len(self.optimizer.state)
        start(self, tokenizer, inputs)
        sizes.append((before, len(self.optimizer.state)))

    monkeypatch.setattr(shape_tokenizer.ShapeTokenizerTrainer, "start_codebook", watched)
    shape_tokenizer.train(recipe(root, tmp_path, 3, vq_warmup_steps=2))
    ((before, after),) = sizes
    assert before - after == 5


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
