"""Three ways to batch the same samples give the same losses."""

import numpy as np
import pytest
import torch
from tiny_pools import KI, KS, LI, LS

from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.mixture import Subset, TaskTable
from omni123_hf.training.task_samples import TaskSampler
from omni123_hf.training.text_conditioned import TextConditionedOmni123, build_text_encoders


CAPTIONS = ["red box", "a plain box that is red", "make it red"]
TASKS = {"text-to-3d": 0.3, "image-to-posed-image": 0.4, "text-to-images-to-3d-to-images": 0.3}


@pytest.fixture(scope="module")
def parts(pools_workspace):
    pools = {"pairs": TrainingPool.open(pools_workspace / "shards", "pairs")}
    subsets = [Subset("pairs", "pairs", TASKS, 1.0)]
    # Often, so that all regimes occur among a few samples.
    table = TaskTable(num_images=2, num_extra_images=1, text_dropout=0.5, prefix_dropout=0.5)
    sampler = TaskSampler(pools, subsets, table, {"short": 1.0}, 12, 0, batching="packed")
    samples = [sampler(np.random.default_rng(k), k) for k in range(12)]
    assert len({sample.task.name for sample in samples}) == 3 and any(sample.drop_prefix for sample in samples)
    tokenizers = build_clip_tokenizer(CAPTIONS, 64, 8), build_qwen_tokenizer(CAPTIONS, 300, 16)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = {"text_encoder": text, "text_encoder_2": {**text, "num_key_value_heads": 1, "head_dim": 8}}
    torch.manual_seed(0)
    encoders = build_text_encoders(options, *tokenizers)
    config = Omni123Config(
        num_shape_codes=KS, num_image_codes=KI, num_shape_tokens=LS, num_image_tokens=LI, hidden_size=32,
        num_dual_layers=2, num_single_layers=1, num_attention_heads=2, text_embed_dim=16, text_embed_dim_2=16,
        token_dropout=0.0, initializer_range=0.2,
    )  # fmt: skip
    model = TextConditionedOmni123(Omni123ForConditionalGeneration(config), *encoders)
    return model.eval(), tokenizers, samples


def loss_of(model, batch) -> torch.Tensor:
    batch = dict(batch)
    batch.pop("task_name")
    return model(**batch).loss


def test_padded_and_packed_batches_have_the_loss_of_single_rows(parts):
    model, tokenizers, samples = parts
    config = model.transformer.config
    with torch.no_grad():
        total, count = 0.0, 0
        for sample in samples:
            batch = TaskCollator(config, *tokenizers)([sample])
            targets = int((batch["labels"] != -100).sum())
            total, count = total + float(loss_of(model, batch)) * targets, count + targets
        padded = TaskCollator(config, *tokenizers, "padded")(samples)
        packed = TaskCollator(config, *tokenizers, "packed", 32)(samples)
        assert float(loss_of(model, padded)) == pytest.approx(total / count, abs=1e-5)
        assert float(loss_of(model, packed)) == pytest.approx(total / count, abs=1e-5)
    assert packed["input_ids"].shape[0] == 1 and packed["input_ids"].shape[1] % 32 == 0
    assert packed["input_ids"].numel() < padded["input_ids"].numel()
    assert padded["task_name"] == packed["task_name"] == ""


def test_the_collator_lays_a_prefix_task_out_as_declared(parts):
    model, tokenizers, samples = parts
    chosen = [sample for sample in samples if sample.task.name == "image-to-posed-image"]
    batch = TaskCollator(model.transformer.config, *tokenizers)(chosen)
    prefix = 2 + LI
    assert batch["task_name"] == "image-to-posed-image"
    assert batch["prefix_length"].tolist() == [prefix] * len(chosen)
    assert (batch["labels"][:, : prefix + 2] == -100).all() and (batch["labels"][:, prefix + 2 :] >= 0).all()
    assert batch["drop_prefix"].dtype == torch.bool and batch["text_ids"].shape[1] == 8


def test_a_model_without_a_learned_null_reads_the_empty_prompt(parts):
    model, tokenizers, samples = parts
    config = Omni123Config(**{**model.transformer.config.to_diff_dict(), "null_condition": "empty_prompt"})
    batch = TaskCollator(config, *tokenizers, "packed")(samples)
    empty = tokenizers[0]("", padding="max_length", return_tensors="pt")["input_ids"][0]
    for row, sample in zip(batch["text_ids"], samples, strict=True):
        assert torch.equal(row, empty) == sample.null_text
    assert "null_text" not in batch


def test_a_batch_of_several_tasks_is_refused_where_one_is_promised(parts):
    model, tokenizers, samples = parts
    with pytest.raises(Omni123Error, match="one task"):
        TaskCollator(model.transformer.config, *tokenizers)(samples)
