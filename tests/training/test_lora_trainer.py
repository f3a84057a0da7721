"""Old batches are held to the base: the divergence is that of its definition, and zero for an adapter that changes nothing."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from omni123_hf.modeling import build_sequence, get_task
from omni123_hf.training.initial_model import load_initial
from omni123_hf.training.lora import TARGETS
from omni123_hf.training.lora_trainer import divergence


@pytest.fixture(params=[None, ["shape_head", "image_head"]], ids=["adapters", "with heads"])
def model(request, tiny_pipeline_folder):
    torch.manual_seed(0)
    model, *_ = load_initial(tiny_pipeline_folder, {}, freeze_text_encoders=True)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=list(TARGETS), modules_to_save=request.param)
    model.transformer = get_peft_model(model.transformer, config)
    return model.train()


@pytest.fixture
def inputs(model):
    config = model.transformer.config
    g = torch.Generator().manual_seed(1)
    parts = {"image": torch.randint(32, (2, 16), generator=g), "shape": torch.randint(32, (2, 8), generator=g)}
    sequence = build_sequence(get_task("text-to-image-to-3d"), parts, config)
    text = {"text_ids": torch.ones(2, 16, dtype=torch.long), "text_ids_2": torch.ones(2, 5, dtype=torch.long)}
    text["text_attention_mask_2"] = torch.ones(2, 5, dtype=torch.long)
    return {"input_ids": sequence.ids, "labels": sequence.labels, **text}


def move(model) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                value.normal_(std=0.3)


def test_an_adapter_that_changes_nothing_is_at_zero_under_token_dropout(model, inputs):
    assert model.transformer.config.token_dropout > 0
    torch.manual_seed(3)
    _, total = divergence(model, inputs)
    assert abs(float(total)) < 1e-4
    move(model)
    torch.manual_seed(3)
    assert float(divergence(model, inputs)[1]) > 0.1


@pytest.mark.parametrize("chunk", [0, 3])
def test_it_is_the_sum_over_targets_of_the_divergence_of_each_head(model, inputs, chunk):
    move(model)
    model.eval()
    config = model.transformer.config
    config.loss_chunk_size = chunk
    plain = {name: value for name, value in inputs.items() if name != "labels"}
    adapted = model(**plain)
    with model.transformer.disable_adapter():
        base = model(**plain)
    labels, wanted = inputs["labels"], 0.0
    for row in range(labels.shape[0]):
        for place in range(labels.shape[1] - 1):
            if labels[row, place + 1] < 0:
                continue
            field = "shape_logits" if labels[row, place + 1] < config.num_shape_codes else "image_logits"
            p = getattr(base, field)[row, place].log_softmax(-1)
            q = getattr(adapted, field)[row, place].log_softmax(-1)
            wanted += (p.exp() * (p - q)).sum().item()
    output, total = divergence(model, inputs)
    assert float(total) == pytest.approx(wanted, rel=1e-4)
    total.backward()
    trained = [value for name, value in model.named_parameters() if value.requires_grad]
    assert trained and any(value.grad is not None and value.grad.abs().sum() > 0 for value in trained)
    assert all(value.grad is None for name, value in model.named_parameters() if not value.requires_grad)
    assert torch.isfinite(output.loss)
