"""The shape tokenizer at the paper's scale: sizes on the meta device, and one layer of each kind at full width."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig
from omni123_hf.modeling.modeling_shape_tokenizer import CrossAttentionLayer, SelfAttentionLayer
from omni123_hf.modeling.quantization import SphericalVectorQuantizer


def expected_parameters(config: Omni123ShapeTokenizerConfig) -> dict[str, int]:
    """Parameters by part, written out from the published description (not from the modules)."""
    w, d, frequencies = config.hidden_size, config.code_dim, config.num_frequencies
    head, inner, embedded = w // config.num_attention_heads, int(config.mlp_ratio * w), 3 + 6 * config.num_frequencies
    mlp = (w + 1) * inner + (inner + 1) * w
    # Self: fused q and k, v, output, two gains of a head's width. Cross: q, k, v, output. Norms before them have no weights.
    self_layer = (w + 1) * 2 * w + 2 * (w + 1) * w + 2 * head + mlp
    cross_layer = 4 * (w + 1) * w + mlp
    crosses = len(config.encoder_cross_attention_layers)
    point_proj = (embedded + 3 + 1) * w + (w + 1) * w
    return {
        "point_embedding": 3 * frequencies,
        "encoder": (1 + config.num_latents) * w
        + point_proj
        + crosses * cross_layer
        + (config.num_encoder_layers - crosses) * self_layer
        + 2 * w,
        # In and shortcut, out, codes, scale and shift, frozen unit gain.
        "quantizer": 2 * (w + 1) * d + (d + 1) * w + config.num_codes * d + 2 * d + d,
        "decoder": config.num_latents * w + config.num_decoder_layers * self_layer,
        "occupancy_head": (embedded + 1) * w + (w + 1) * w + cross_layer + 2 * w + (w + 1),
    }


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        # Cube 3D's releases have codes of 32 dimensions; Table 3 of Omni123 says 16, which takes 16 * (16,384 + 3 * 768 + 5).
        ({"code_dim": 32}, 273_772_705),
        ({"code_dim": 32, "num_latents": 512}, 272_986_273),
        ({}, 273_473_617),
    ],
)
def test_paper_sizes_have_the_published_number_of_parameters(changes, total):
    config = Omni123ShapeTokenizerConfig(**{**Omni123ShapeTokenizerConfig.paper().to_diff_dict(), **changes})
    with torch.device("meta"):
        model = Omni123ShapeTokenizer(config)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert parts == expected_parameters(config)
    assert sum(parts.values()) == model.num_parameters() == total


@pytest.fixture(scope="module")
def config() -> Omni123ShapeTokenizerConfig:
    torch.manual_seed(0)
    return Omni123ShapeTokenizerConfig.paper()


def check_layer(layer: nn.Module, *inputs: torch.Tensor) -> None:
    output = layer(*inputs)
    assert output.shape == inputs[0].shape and output.isfinite().all()
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.slow
def test_a_self_attention_layer_at_full_width(config):
    check_layer(SelfAttentionLayer(config), torch.randn(1, 1 + config.num_latents, config.hidden_size))


@pytest.mark.slow
def test_a_cross_attention_layer_at_full_width(config):
    points = torch.randn(1, 8192, config.hidden_size)
    check_layer(CrossAttentionLayer(config), torch.randn(1, 1 + config.num_latents, config.hidden_size), points)


@pytest.mark.slow
def test_the_quantizer_with_all_its_codes_spreads_two_shapes_over_them(config):
    quantizer = SphericalVectorQuantizer(config).train()
    nn.init.normal_(quantizer.codebook.weight)
    # All latents in one corner of the sphere, as of an untrained encoder.
    hidden = torch.randn(1, 1, config.hidden_size) + 0.2 * torch.randn(2, config.num_latents, config.hidden_size)
    hidden.requires_grad_()
    latents, loss, indices = quantizer(hidden)
    (latents.square().mean() + loss).backward()
    assert latents.shape == hidden.shape and hidden.grad.isfinite().all() and loss.isfinite()
    used = len(indices.unique())
    nearest = len(quantizer.encode(hidden).unique())
    # 2,048 samples cannot use more codes than that, and the nearest codes are a few.
    assert used > 1.3 * nearest and used > 0.5 * 2048
    touched = quantizer.codebook.weight.grad.abs().sum(-1) > 0
    assert int(touched.sum()) == used
    # Far codes keep what they are: a code has gradient only from its own samples.
    assert F.embedding(indices, touched[:, None].float()).all()
