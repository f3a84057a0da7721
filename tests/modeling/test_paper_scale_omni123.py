"""The autoregressive model at the paper's scale: counted on the meta device, and one layer of each kind for real."""

import pytest
import torch
from torch import nn

from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration, parameter_table
from omni123_hf.modeling.blocks_omni123 import Omni123DualBlock, Omni123SingleBlock, rotary_tables
from omni123_hf.modeling.loss_omni123 import summed_cross_entropy
from omni123_hf.modeling.masking import VisibilityRule, build_masks


WIDTH, HEADS, DEPTH_DUAL, DEPTH_SINGLE, SHAPE_CODES, IMAGE_CODES = 1536, 12, 24, 6, 16384, 65536


def test_table_3_and_the_parameter_table():
    config = Omni123Config.paper()
    assert (config.hidden_size, config.num_attention_heads, config.head_dim) == (WIDTH, HEADS, 128)
    assert (config.num_dual_layers, config.num_single_layers) == (DEPTH_DUAL, DEPTH_SINGLE)
    assert (config.rope_theta, config.mlp_ratio, config.token_dropout) == (1000.0, 4.0, 0.1)
    assert (config.num_shape_codes, config.num_image_codes) == (SHAPE_CODES, IMAGE_CODES)
    assert (config.num_shape_tokens, config.num_image_tokens, config.num_views) == (1024, 1024, 6)
    with torch.device("meta"):
        model = Omni123ForConditionalGeneration(config)
    table = parameter_table(model)
    print("\n" + "\n".join(f"{part:28s}{count / 1e6:10.1f} M" for part, count in table.items()))
    assert table["total"] == sum(p.numel() for p in model.parameters())
    assert abs(table["total"] / 2.2e9 - 1) < 0.05

    # By hand: a stream of a block has qk (2 w²) and v (w² + w), two head norms, o (w² + w), and SwiGLU of 4 w with biases.
    stream = (
        2 * WIDTH**2 + (WIDTH**2 + WIDTH) + 2 * 128 + (WIDTH**2 + WIDTH) + 3 * 4 * WIDTH**2 + 2 * 4 * WIDTH + WIDTH
    )
    last_conditioning = 2 * (WIDTH**2 + WIDTH) + 128
    vocabulary = SHAPE_CODES + IMAGE_CODES + 3 + 6
    assert table == {
        "embeddings": vocabulary * WIDTH + (16 + 64) * WIDTH + WIDTH,
        "text projections": (768 + 1) * WIDTH + (1024 + 1) * WIDTH + WIDTH,
        "dual blocks, conditioning": (DEPTH_DUAL - 1) * stream + last_conditioning,
        "dual blocks, generation": DEPTH_DUAL * stream,
        "single blocks": DEPTH_SINGLE * stream,
        "shape head": SHAPE_CODES * WIDTH,
        "image head": IMAGE_CODES * WIDTH,
        "total": table["total"],
    }


@pytest.mark.slow
def test_one_layer_of_each_kind_at_full_width():
    """Forward and backward of a dual block, the last dual block, a single block and both heads, at a joint sequence."""
    torch.manual_seed(0)
    config = Omni123Config(num_dual_layers=2, num_single_layers=1)
    config._attn_implementation = "sdpa"
    text, length = 77 + 128, 256
    mask = torch.ones(1, text, dtype=torch.bool)
    mask[:, 100:] = False
    prefix = torch.tensor([100])
    masks = build_masks(VisibilityRule(mask, prefix_length=prefix), length, length)
    rotation = rotary_tables(torch.arange(length), config.head_dim, config.rope_theta)
    generation = torch.randn(1, length, WIDTH, requires_grad=True)
    conditioning = torch.randn(1, text, WIDTH, requires_grad=True)
    first, last, single = Omni123DualBlock(config, 0), Omni123DualBlock(config, 1), Omni123SingleBlock(config, 2)
    middle, middle_conditioning, _ = first(generation, conditioning, rotation, masks.dual)
    after, _, _ = last(middle, middle_conditioning, rotation, masks.last_dual)
    hidden, _ = single(after, rotation, masks.single)
    loss = torch.zeros(())
    for codes in (SHAPE_CODES, IMAGE_CODES):
        head = nn.Linear(WIDTH, codes, bias=False)
        loss = loss + summed_cross_entropy(head, hidden[0], torch.randint(codes, (length,)), 128) / length
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().max() > 0 for x in (generation, conditioning))
    for block in (first, last, single):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())
