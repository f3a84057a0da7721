"""The image tokenizer: pooled levels, grids, losses, save and load."""

import pytest
import torch
import torch.nn.functional as F
from tiny_image import tiny_tokenizer_config as tiny

from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer, level_grids, multi_level_pool
from omni123_hf.modeling.quantization_image import code_statistics


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_levels_double_and_columns_split_first():
    assert level_grids(64) == [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
    for tokens in (1, 2, 16, 256, 1024):
        assert sum(rows * columns for rows, columns in level_grids(tokens)) == tokens


def test_pools_are_means_and_the_short_list_is_a_prefix_of_the_long_one():
    features = torch.rand(2, 5, 8, 8)
    pooled = multi_level_pool(features, 64)
    torch.testing.assert_close(pooled[:, 0], features.mean((2, 3)))
    torch.testing.assert_close(pooled[:, 2], features[..., :4].mean((2, 3)))
    torch.testing.assert_close(pooled[:, :16], multi_level_pool(features, 16))
    # Same scene at twice the resolution: same first tokens.
    fine = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(multi_level_pool(fine, 256)[:, :64], pooled)


def test_one_model_serves_several_grids():
    model = Omni123ImageTokenizer(tiny()).eval()
    for grid, tokens in (((2, 2), 4), ((4, 4), 16), ((8, 8), 16), ((4, 8), 16)):
        latent = torch.randn(2, 12, *grid)
        indices = model.encode(latent)
        assert indices.shape == (2, tokens) and indices.dtype == torch.int64
        assert model.decode(indices, grid).shape == latent.shape
    assert model.encode(torch.randn(1, 12, 8, 8), num_tokens=4).shape == (1, 4)


def test_eval_forward_equals_encode_then_decode():
    model = Omni123ImageTokenizer(tiny()).eval()
    latent = torch.randn(3, 12, 4, 4)
    output = model(latent)
    indices = model.encode(latent)
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(output.reconstruction, model.decode(indices, (4, 4)), atol=1e-5, rtol=1e-5)


def test_groups_are_balanced():
    model = Omni123ImageTokenizer(tiny(cosine_loss_weight=0.0)).eval()
    latent = torch.zeros(1, 12, 4, 4)
    semantic_off, texture_off = latent.clone(), latent.clone()
    semantic_off[:, :8] = 1.0
    texture_off[:, 8:] = 1.0
    losses = [model.feature_losses(x, latent)[0] for x in (semantic_off, texture_off)]
    torch.testing.assert_close(losses[0], losses[1])


def test_training_lowers_the_loss_and_uses_the_codes():
    model = Omni123ImageTokenizer(tiny(quantizer_warmup_steps=20)).train()
    basis = torch.randn(3, 12, 4, 4)
    latent = torch.einsum("bk,kchw->bchw", torch.randn(64, 3), basis)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        output = model(latent)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.feature_loss.detach()))
    model.eval()
    indices = model.encode(latent)
    error = F.mse_loss(model.decode(indices, (4, 4)), latent) / latent.var()
    assert losses[-1] < 0.5 * losses[0]
    assert error < 0.5
    assert code_statistics(indices, 32)["code_usage"] > 0.6


def test_save_and_load(tmp_path):
    model = Omni123ImageTokenizer(tiny()).train()
    model(torch.randn(8, 12, 4, 4))
    model.eval().save_pretrained(tmp_path)
    loaded = Omni123ImageTokenizer.from_pretrained(tmp_path)
    latent = torch.randn(2, 12, 4, 4)
    indices = model.encode(latent)
    assert torch.equal(loaded.encode(latent), indices)
    torch.testing.assert_close(loaded.decode(indices, (4, 4)), model.decode(indices, (4, 4)))
    assert bool(loaded.quantizer.started) == bool(model.quantizer.started) is True
    half = Omni123ImageTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.quantizer.codebook.dtype == torch.float32
    assert half.decode(half.encode(latent.bfloat16()), (4, 4)).dtype == torch.bfloat16


def test_sharded_and_half_precision_load_keep_the_quantiser_in_float32(tmp_path):
    model = Omni123ImageTokenizer(tiny(num_codes=512)).eval()
    # Values that bfloat16 cannot hold.
    torch.nn.init.normal_(model.quantizer.codebook)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded, report = Omni123ImageTokenizer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    for (name, a), b in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    half = Omni123ImageTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {name for name, p in half.named_parameters() if p.dtype == torch.float32} == {"quantizer.codebook"}
    assert torch.equal(half.quantizer.codebook, model.quantizer.codebook)
    latent = torch.randn(4, 12, 4, 4)
    output = half(latent)
    assert output.reconstruction.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    assert torch.equal(half.encode(latent), output.indices)


def test_gradient_checkpointing_changes_no_number():
    model = Omni123ImageTokenizer(tiny(restart_after=0, num_encoder_layers=2)).train()
    model.quantizer.started.fill_(True)
    latent = torch.randn(3, 12, 4, 4)

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(1)
        model.zero_grad()
        loss = model(latent).loss
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    loss, gradients = run()
    model.gradient_checkpointing_enable()
    recomputed = []
    model.decoder.layers[0].norm1.register_forward_hook(lambda *_: recomputed.append(1))
    loss_checkpointed, gradients_checkpointed = run()
    assert len(recomputed) == 2
    torch.testing.assert_close(loss_checkpointed, loss, atol=0, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_checkpointed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
