"""Memory of a training step: states exactly, activations as a real step of a small model keeps them."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny_tasks import sample

from omni123_hf.modeling import Omni123ForConditionalGeneration
from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.flops import TokenCounts, count_batch
from omni123_hf.training.initial_model import load_initial
from omni123_hf.training.plan_memory import (
    MicroBatch,
    activation_bytes,
    loss_bytes,
    saved_bytes,
    state_bytes,
    tensors_of,
    text_activation_bytes,
    train_memory,
)
from omni123_hf.training.text_conditioned import TextConditionedOmni123


MINI = Path(__file__).parents[2] / "checkpoints" / "omni123-mini"
# Of activations, heads and loss together.
TOLERANCE = 0.08


@pytest.fixture(scope="module")
def mini():
    return load_initial(MINI, {}, False)


def micro_batch(batch, config) -> MicroBatch:
    counts = TokenCounts(*count_batch(batch, config).tolist())
    rows = len(batch["input_ids"])
    lengths = batch["text_ids"].shape[1], batch["text_ids_2"].shape[1]
    return MicroBatch(
        rows, sum(lengths), batch["input_ids"].shape[1], int(counts.shape_targets), int(counts.image_targets), rows, lengths
    )  # fmt: skip


def collated(model, tokenizers, name, rows=3):
    config = model.transformer.config
    batch = TaskCollator(config, *tokenizers)([sample(name, config, "a wooden chair", seed) for seed in range(rows)])
    batch.pop("task_name")
    return batch


def test_states_of_a_real_step_exactly(mini):
    model, *tokenizers = mini
    model.train()
    batch = collated(model, tokenizers, "text-to-image-to-3d")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(**batch).loss.backward()
    optimizer.step()
    real = {
        "weights": sum(p.numel() * p.element_size() for p in tensors_of(model)),
        "gradients": sum(p.grad.numel() * p.grad.element_size() for p in model.parameters()),
        "AdamW moments": sum(
            value.numel() * value.element_size()
            for state in optimizer.state.values()
            for name, value in state.items()
            if name != "step"
        ),
    }
    optimizer.zero_grad()
    encoders = [model.text_encoder, model.text_encoder_2]
    kept, _ = train_memory(model.transformer, encoders, micro_batch(batch, model.transformer.config), 1, 1, False)
    assert {name: kept[name] for name in real} == real


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["text-to-3d", "3d-to-images"])
def test_activations_of_a_real_step_within_the_tolerance(mini, name, bf16):
    model, *tokenizers = mini
    model.train()
    config, batch = model.transformer.config, collated(model, tokenizers, name)
    with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
        real = saved_bytes(lambda: model(**batch).loss, tensors_of(model))
    shape = micro_batch(batch, config)
    planned = activation_bytes(config, shape, bf16)[0] + loss_bytes(config, shape, bf16)
    planned += text_activation_bytes([model.text_encoder, model.text_encoder_2], shape, bf16)
    assert planned == pytest.approx(real, rel=TOLERANCE)


def test_chunked_loss_and_other_sizes(mini):
    _, *tokenizers = mini
    config = Omni123Config(
        hidden_size=64, num_attention_heads=2, num_dual_layers=4, num_single_layers=2, num_shape_codes=512,
        num_image_codes=2048, num_shape_tokens=64, num_image_tokens=128, text_embed_dim=128, text_embed_dim_2=128,
        loss_chunk_size=64,
    )  # fmt: skip
    model = TextConditionedOmni123(
        Omni123ForConditionalGeneration(config), mini[0].text_encoder, mini[0].text_encoder_2
    )
    model.text_encoder.requires_grad_(False)
    model.text_encoder_2.requires_grad_(False)
    batch = collated(model, tokenizers, "text-to-image-to-3d", rows=4)
    real = saved_bytes(lambda: model(**batch).loss, tensors_of(model))
    for module in (model.text_encoder, model.text_encoder_2):
        module.requires_grad_(True)
    shape = micro_batch(batch, config)
    planned = activation_bytes(config, shape, False)[0] + loss_bytes(config, shape, False)
    assert planned == pytest.approx(real, rel=TOLERANCE)


def test_recomputation_keeps_inputs_of_blocks_and_one_block(mini):
    config = mini[0].transformer.config
    batch = MicroBatch(2, 20, 40, 64, 0, 2, (10, 10))
    kept, recomputed = activation_bytes(config, batch, False)
    inputs = 2 * 192 * 4 * (4 * (40 + 20) + 40)
    assert inputs < recomputed < kept


def test_sharding_divides_states_and_data_parallelism_keeps_gradients_twice():
    whole, divided = (state_bytes(1000, 500, 10, shard, 4) for shard in (1, 4))
    assert whole == {"weights": 6010, "gradients": 4000, "AdamW moments": 8000, "DDP buckets": 4000}
    assert divided == {"weights": 1510, "gradients": 1000, "AdamW moments": 2000}
