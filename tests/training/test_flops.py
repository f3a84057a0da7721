"""Token counts and operations against hand computations, the masks themselves, and torch's own counter."""

import pytest
import torch
from tiny_tasks import sample, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from omni123_hf.modeling import Omni123ForConditionalGeneration
from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.modeling.masking import VisibilityRule, build_masks
from omni123_hf.modeling.tasks import TASKS, get_task, sequence_length
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.flops import (
    TokenCounts,
    attention_flops,
    backbone_flops,
    causal_pairs,
    count_batch,
    count_task,
    generation_stream_flops,
    head_flops,
    text_encoder_flops,
    visible_pairs,
)
from omni123_hf.training.plan_model import KNOWN_ENCODERS


@pytest.fixture(scope="module")
def tokenizers():
    captions = ["a red box", "a tall box made of wood and iron"]
    return build_clip_tokenizer(captions, 100, 10), build_qwen_tokenizer(captions, 300, 12)


@pytest.mark.parametrize("name", list(TASKS))
def test_visible_pairs_are_those_of_the_mask(name):
    config, text = tiny_config(), 5
    counts = count_task(get_task(name), config, 3, 2)
    length = sequence_length(get_task(name), config)
    prefix = sum(1 + (part.kind != "view") * sizes(config)[part.kind] for part in get_task(name).prefix)
    rule = VisibilityRule(torch.ones(1, text, dtype=torch.bool), 0, torch.tensor([prefix]), None, config.text_causal)
    masks = build_masks(rule, length, length)
    assert counts.generation_pairs == visible_pairs(length, prefix) == int(masks.single.sum())
    # A query of the conditioning stream sees text alone.
    assert counts.text_pairs == causal_pairs(text) == int(masks.dual[0, 0, :text].sum())
    assert counts.cross_pairs == int(masks.last_dual[..., :text].sum())


def sizes(config: Omni123Config) -> dict[str, int]:
    return {"shape": config.num_shape_tokens, "image": config.num_image_tokens, "view": 0}


@pytest.mark.parametrize("batching", ["task", "padded", "packed"])
def test_a_batch_counts_as_its_samples_do(tokenizers, batching):
    config = tiny_config()
    names = ["image-to-3d"] * 3 if batching == "task" else ["image-to-3d", "text-to-3d", "3d-to-images"]
    texts = ["a red box", "a tall box made of wood and iron", "a box"]
    batch = TaskCollator(config, *tokenizers, batching, pack_multiple=64)(
        [sample(name, config, text) for name, text in zip(names, texts, strict=True)]
    )
    counted = TokenCounts(*count_batch(batch, config).tolist())
    lengths = [len(tokenizers[1](text)["input_ids"]) for text in texts]
    wanted = TokenCounts()
    for name, length in zip(names, lengths, strict=True):
        wanted = wanted + count_task(get_task(name), config, 10, length)
    assert counted == wanted and counted.samples == 3


def test_operations_of_a_tiny_model_by_hand():
    config = tiny_config()
    # Image → 3D: prefix 1 + 16, target 1 + 8, of which 8 have a loss; text 3 + 2.
    counts = count_task(get_task("image-to-3d"), config, 3, 2)
    assert (counts.generation, counts.shape_targets, counts.image_targets, counts.text) == (26, 8, 0, 5)
    assert counts.generation_pairs == 17 * 17 + sum(range(18, 27))
    layer = 4 * 32 * 32 + 3 * 32 * 128
    parts = backbone_flops(config, counts)
    assert parts["generation stream"] == 6 * (26 * 4 * layer + 26 * 32 * (4 + 6))
    assert parts["conditioning stream"] == 6 * (5 * (2 * layer + 2 * 32 * 32) + 3 * 32 * 16 + 2 * 32 * 24)
    assert parts["heads"] == 6 * 8 * 32 * 32
    pairs = 4 * counts.generation_pairs + 3 * 26 * 5 + 2 * 15
    assert parts["attention"] == 3 * 4 * 32 * pairs
    assert parts["total"] == sum(value for name, value in parts.items() if name != "total")


def test_weights_and_heads_cost_what_torch_counts(tokenizers):
    config = tiny_config()
    model = Omni123ForConditionalGeneration(config).eval()
    batch = TaskCollator(config, *tokenizers)([sample("text-to-image-to-3d", config, seed=s) for s in range(2)])
    second = batch["text_ids_2"].shape[1]
    inputs = {
        "text_embeds": torch.randn(2, 10, 16),
        "text_embeds_2": torch.randn(2, second, 24),
        **{name: batch[name] for name in ("input_ids", "labels", "prefix_length")},
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    by_operation = counter.get_flop_counts()["Global"]
    products = sum(value for name, value in by_operation.items() if "attention" not in str(name))
    counts = count_task(get_task("text-to-image-to-3d"), config, 10, second).scaled(2)
    parts = backbone_flops(config, counts)
    assert products == (parts["total"] - parts["attention"]) / 3


def test_the_figures_of_the_performance_notes():
    """8.1 GFLOP a token at 2K and 9.6 at 7,245, attention 7 % and 21 %: causal over generation alone, both heads for all."""
    config = Omni123Config.paper()
    for length, gigaflops, share in ((2048, 8.1, 0.07), (7245, 9.6, 0.21)):
        counts = TokenCounts(
            generation=length,
            shape_targets=length,
            image_targets=length,
            generation_pairs=causal_pairs(length),
        )
        attention = attention_flops(config, counts)
        total = attention + head_flops(config, counts) + generation_stream_flops(config, counts)
        assert total / length / 1e9 == pytest.approx(gigaflops, abs=0.06)
        assert attention / total == pytest.approx(share, abs=0.01)


def test_a_frozen_text_encoder_costs_its_forward_pass():
    clip, qwen = KNOWN_ENCODERS.values()
    # 12 layers of 12 d² weights and, over 77 causal positions, 4 d a pair.
    assert text_encoder_flops(clip, 77, 1, False) == 12 * (2 * 12 * 768**2 * 77 + 4 * 768 * 77 * 78 / 2)
    assert text_encoder_flops(qwen, 128, 1, True) == 3 * text_encoder_flops(qwen, 128, 1, False) > 0
    assert text_encoder_flops(clip, 0, 0, False) == 0
