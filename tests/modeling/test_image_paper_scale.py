"""The image models at the paper's size: their parameters by part, and one layer of each kind at full width."""

import pytest
import torch
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer, DINOv3ViTRopePositionEmbedding

from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig
from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.configuration_image_vae import Omni123ImageVAEConfig
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer, QFormerLayer
from omni123_hf.modeling.modeling_image_vae import DecoderBlock, Omni123ImageVAE, UpsampleStage, axial_rotary_table
from omni123_hf.modeling.parameter_tables import (
    image_tokenizer_parameter_table,
    image_vae_parameter_table,
    shape_tokenizer_parameter_table,
)


def on_meta(model_class, config):
    with torch.device("meta"):
        return model_class(config)


def millions(table: dict[str, int]) -> dict[str, float]:
    return {part: round(count / 1e6, 1) for part, count in table.items()}


def test_the_papers_image_vae():
    model = on_meta(Omni123ImageVAE, Omni123ImageVAEConfig.paper())
    table = image_vae_parameter_table(model)
    assert list(table)[-1] == "total" and table["total"] == sum(p.numel() for p in model.parameters())
    assert table["semantic projection"] == 1024 * 768 + 768
    # DINOv3 ViT-L/16 is published as 0.3 billion parameters.
    assert millions(table) == {
        "encoder (DINOv3)": 303.1,
        "semantic projection": 0.8,
        "texture head": 3.2,
        "decoder, transformer": 152.0,
        "decoder, upsampler": 10.4,
        "total": 469.5,
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == table["total"] - table["encoder (DINOv3)"] - table["semantic projection"]


def test_the_papers_image_tokenizer():
    model = on_meta(Omni123ImageTokenizer, Omni123ImageTokenizerConfig.paper())
    assert model.tokens_for((32, 32)) == 1024 and model.tokens_for((16, 16)) == 256
    table = image_tokenizer_parameter_table(model)
    assert table["total"] == sum(p.numel() for p in model.parameters())
    assert table["code book"] == 65536 * 64
    # GigaTok's B and L Q-Formers have 113 and 403 million.
    assert millions(table)["encoder Q-Former"] == 113.4 and millions(table)["decoder Q-Former"] == 403.1
    assert millions(table)["total"] == 531.8


def test_the_shape_tokenizer_and_a_part_that_no_table_knows():
    model = on_meta(Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig.mini())
    table = shape_tokenizer_parameter_table(model)
    assert table["total"] == sum(p.numel() for p in model.parameters()) and min(table.values()) > 0
    model.extra_head = torch.nn.Linear(2, 3, device="meta")
    assert shape_tokenizer_parameter_table(model)["extra_head"] == 9


def check_layer(layer: torch.nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """Forward and backward with random weights: finite outputs, and a gradient for every parameter."""
    output = layer.train()(*inputs)
    output.pow(2).mean().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in layer.parameters())
    return output


@pytest.mark.slow
def test_one_layer_of_each_kind_of_the_vae_at_full_width():
    torch.manual_seed(0)
    config = Omni123ImageVAEConfig.paper()
    encoder = config.encoder()
    pixels = torch.zeros(1, 3, 512, 512)
    position = DINOv3ViTRopePositionEmbedding(encoder).eval()(pixels)
    tokens = 1 + encoder.num_register_tokens + 32 * 32
    encoder._attn_implementation = "sdpa"
    layer = DINOv3ViTLayer(encoder)
    hidden = layer.train()(torch.randn(1, tokens, 1024), position_embeddings=position)
    hidden.pow(2).mean().backward()
    assert hidden.shape == (1, tokens, 1024) and hidden.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())

    cos, sin = axial_rotary_table((32, 32), config.decoder_hidden_size // config.num_decoder_heads, pixels.device)
    assert check_layer(DecoderBlock(config), torch.randn(1, 1024, 1024), cos, sin).shape == (1, 1024, 1024)

    stage = UpsampleStage(config.decoder_hidden_size, config.upsampler_channels[0], config.upsampler_blocks)
    assert check_layer(stage, torch.randn(1, 1024, 32, 32)).shape == (1, 512, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_layer_of_each_q_former_at_full_width(side):
    torch.manual_seed(0)
    config = Omni123ImageTokenizerConfig.paper()
    width, heads = getattr(config, f"{side}_hidden_size"), getattr(config, f"num_{side}_heads")
    assert width == {"encoder": 768, "decoder": 1024}[side]
    layer = QFormerLayer(config, width, heads)
    inputs = [torch.randn(1, 1024, width), torch.randn(1024, width), torch.randn(1, 1024, width)]
    assert check_layer(layer, *inputs, torch.randn(1024, width)).shape == (1, 1024, width)
