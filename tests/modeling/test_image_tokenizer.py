"""The image tokenizer and its quantiser: pooled levels, grids, code book life cycle, losses, save and load."""

import pytest
import torch
import torch.nn.functional as F

from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer, level_grids, multi_level_pool
from omni123_hf.modeling.quantization_image import CosineVectorQuantizer, code_statistics, spherical_kmeans


def tiny(**fields) -> Omni123ImageTokenizerConfig:
    sizes = {
        "latent_dim": 12,
        "semantic_dim": 8,
        "num_tokens": 16,
        "num_codes": 32,
        "code_dim": 4,
        "encoder_hidden_size": 32,
        "num_encoder_layers": 1,
        "num_encoder_heads": 2,
        "decoder_hidden_size": 48,
        "num_decoder_layers": 2,
        "num_decoder_heads": 2,
        "mlp_ratio": 2.0,
        "num_frequencies": 4,
        "entropy_tokens": 64,
        "restart_after": 20,
    }
    return Omni123ImageTokenizerConfig(**{**sizes, **fields})


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


def test_paper_grids_get_256_and_1024_tokens():
    config = Omni123ImageTokenizerConfig.paper()
    with torch.device("meta"):
        model = Omni123ImageTokenizer(config)
    assert model.tokens_for((16, 16)) == 256 and model.tokens_for((32, 32)) == 1024


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


def test_nearest_code_does_not_depend_on_length_or_chunk():
    quantizer = CosineVectorQuantizer(16, 4, chunk=3)
    torch.nn.init.normal_(quantizer.codebook)
    tokens = torch.randn(5, 7, 4)
    expected = F.cosine_similarity(tokens[..., None, :], quantizer.codebook, dim=-1).argmax(-1)
    assert torch.equal(quantizer.encode(tokens), expected)
    assert torch.equal(quantizer.encode(tokens * 37), expected)
    torch.testing.assert_close(quantizer.decode(expected).norm(dim=-1), torch.ones(5, 7))


def test_gradients_pass_straight_through_and_reach_the_codes():
    quantizer = CosineVectorQuantizer(16, 4, restart_after=0).train()
    torch.nn.init.normal_(quantizer.codebook)
    quantizer.started.fill_(True)
    tokens = F.normalize(torch.randn(8, 4), dim=-1).requires_grad_()
    output = quantizer(tokens)
    direction = torch.randn(8, 4)
    (through,) = torch.autograd.grad((output.quantized * direction).sum(), tokens, retain_graph=True)
    (direct,) = torch.autograd.grad((F.normalize(tokens, dim=-1) * direction).sum(), tokens)
    torch.testing.assert_close(through, direct)
    output.loss.backward()
    used = torch.bincount(output.indices, minlength=16) > 0
    assert (quantizer.codebook.grad[used].abs().sum(-1) > 0).all()


def test_warm_up_then_start_from_data():
    quantizer = CosineVectorQuantizer(8, 4, warmup_steps=3).train()
    torch.nn.init.zeros_(quantizer.codebook)
    centres = F.normalize(torch.randn(8, 4), dim=-1)
    batch = centres.repeat(16, 1) + 0.01 * torch.randn(128, 4)
    for _ in range(2):
        output = quantizer(batch)
        assert output.indices is None
        torch.testing.assert_close(output.quantized, F.normalize(batch, dim=-1))
    output = quantizer(batch)
    assert output.indices is not None and bool(quantizer.started)
    assert (output.quantized - F.normalize(batch, dim=-1)).norm(dim=-1).median() < 0.1


def test_idle_codes_move_to_the_data_and_deterministically():
    def run() -> torch.Tensor:
        torch.manual_seed(5)
        quantizer = CosineVectorQuantizer(16, 4, restart_after=4).train()
        quantizer.started.fill_(True)
        data = F.normalize(torch.randn(64, 4).abs(), dim=-1)
        with torch.no_grad():
            quantizer.codebook.copy_(-data[:16])
            quantizer.codebook[0] = data[0]
        before = code_statistics(quantizer.encode(data), 16)["code_usage"]
        for _ in range(12):
            quantizer(data)
        after = code_statistics(quantizer.encode(data), 16)["code_usage"]
        assert before < 0.2 and after > 0.7
        return quantizer.codebook.detach().clone()

    assert torch.equal(run(), run())


def test_entropy_prefers_a_spread_assignment():
    quantizer = CosineVectorQuantizer(8, 8, entropy_weight=1.0)
    codes = torch.eye(8)
    spread, collapsed = torch.eye(8), torch.eye(8)[:1].repeat(8, 1)
    assert quantizer._entropy_loss(spread, codes) < quantizer._entropy_loss(collapsed, codes) - 1.5


def test_kmeans_finds_separated_centres_and_copes_with_too_few_points():
    centres = torch.eye(6)
    points = F.normalize(centres.repeat(20, 1) + 0.02 * torch.randn(120, 6), dim=-1)
    found = spherical_kmeans(points, 24, 5, torch.Generator().manual_seed(0))
    assert ((found @ centres.t()).max(0).values > 0.99).all()
    few = spherical_kmeans(points[:3], 24, 2)
    torch.testing.assert_close(few.norm(dim=-1), torch.ones(24))


def test_code_statistics():
    figures = code_statistics(torch.tensor([[0, 1], [2, 3]]), 8)
    assert figures["code_usage"] == 0.5
    assert figures["perplexity"] == pytest.approx(4.0)


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


def test_bad_sizes_and_inputs_are_named():
    with pytest.raises(ValueError, match="power of two"):
        tiny(num_tokens=24)
    with pytest.raises(ValueError, match="semantic_dim"):
        tiny(semantic_dim=12)
    model = Omni123ImageTokenizer(tiny()).eval()
    with pytest.raises(ValueError, match="latent has shape"):
        model.encode(torch.zeros(1, 11, 4, 4))
    with pytest.raises(ValueError, match="pool down"):
        model.encode(torch.zeros(1, 12, 2, 2), num_tokens=16)
    with pytest.raises(ValueError, match="image offset"):
        model.decode(torch.full((1, 16), 32), (4, 4))
    with pytest.raises(ValueError, match="indices have shape"):
        model.decode(torch.zeros(1, 32, dtype=torch.long), (4, 4))
