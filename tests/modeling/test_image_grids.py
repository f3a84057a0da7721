"""The 1D tokenizer on the grids of the paper (32 x 32 and 16 x 16) and of omni123-mini, at reduced width: one set of
weights, one code book, and tokens that mean the same at every resolution."""

import pytest
import torch
import torch.nn.functional as F
from tiny_image import tiny_tokenizer_config

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer, level_grids, multi_level_pool


def build(**fields) -> Omni123ImageTokenizer:
    torch.manual_seed(0)
    return Omni123ImageTokenizer(
        tiny_tokenizer_config(num_tokens=1024, num_codes=512, num_frequencies=32, **fields)
    ).eval()


@pytest.fixture(scope="module")
def model() -> Omni123ImageTokenizer:
    return build()


@pytest.mark.parametrize(
    "grid, tokens",
    [
        ((32, 32), 1024),
        ((16, 16), 256),
        ((8, 8), 64),
        ((16, 32), 512),
        ((32, 16), 512),
        ((24, 24), 512),
        ((40, 48), 1024),
    ],
)
def test_round_trip_on_the_real_grids(model, grid, tokens):
    latent = torch.randn(2, 12, *grid)
    indices = model.encode(latent)
    assert indices.shape == (2, tokens) and indices.dtype == torch.int64
    assert 0 <= indices.min() and indices.max() < 512 and len(indices.unique()) > 8
    decoded = model.decode(indices, grid)
    assert decoded.shape == latent.shape
    output = model(latent)
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(output.reconstruction, decoded, atol=1e-5, rtol=1e-5)


def test_mini_gives_64_tokens_on_its_grid():
    mini = Omni123ImageTokenizer(Omni123ImageTokenizerConfig.mini()).eval()
    assert mini.encode(torch.randn(1, 48, 8, 8)).shape == (1, 64)


def test_levels_of_1024_begin_with_those_of_256():
    assert level_grids(1024)[:9] == level_grids(256) and level_grids(1024)[-1] == (16, 32)
    assert sum(rows * columns for rows, columns in level_grids(256)) == 256


def test_the_first_256_queries_at_512_are_the_queries_at_256_of_the_averaged_image():
    fine = torch.randn(2, 5, 32, 32)
    coarse = F.avg_pool2d(fine, 2)
    pooled = multi_level_pool(fine, 1024)
    torch.testing.assert_close(pooled[:, :256], multi_level_pool(coarse, 256), atol=1e-6, rtol=1e-5)
    # The rest is new: it holds what the average lost.
    assert pooled[:, 256:].reshape(2, 3, 256, 5).std() > 0.1


def test_the_model_asks_the_same_queries_of_the_same_scene_at_both_resolutions(model):
    coarse = torch.randn(1, 12, 16, 16)
    fine = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def queries(latent: torch.Tensor, count: int) -> torch.Tensor:
        found = []
        handle = model.query_proj.register_forward_hook(lambda module, inputs, output: found.append(output))
        assert model.encode(latent).shape == (1, count)
        handle.remove()
        return found[0]

    torch.testing.assert_close(queries(fine, 1024)[:, :256], queries(coarse, 256), atol=1e-5, rtol=1e-5)


def test_both_resolutions_train_the_same_weights_and_code_book():
    model = build(quantizer_warmup_steps=0, restart_after=0).train()
    model.quantizer.started.fill_(True)
    grids = ((32, 32), (16, 16))
    touched = []
    for grid in grids:
        model.zero_grad()
        model(torch.randn(1, 12, *grid)).loss.backward()
        touched.append({name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0})
    assert touched[0] == touched[1] == {name for name, _ in model.named_parameters()}
    # Of the 1D positions only the first 256 serve a 256² image.
    assert model.encoder_position_1d.grad[256:].abs().sum() == 0 < model.encoder_position_1d.grad[:256].abs().sum()


def test_fewer_tokens_may_be_asked_for_and_more_than_the_grid_holds_may_not(model):
    latent = torch.randn(1, 12, 32, 32)
    few = model.encode(latent, num_tokens=256)
    assert few.shape == (1, 256) and model.decode(few, (32, 32)).shape == latent.shape
    with pytest.raises(Omni123Error, match="enlarge the image before the VAE"):
        model.encode(torch.randn(1, 12, 16, 16), num_tokens=1024)
    with pytest.raises(Omni123Error, match="enlarge the image before the VAE"):
        model.decode(model.encode(latent), (16, 16))


@pytest.mark.parametrize("grid, tokens", [((1, 1), 1), ((1, 4), 4), ((4, 1), 2), ((8, 32), 256), ((32, 8), 128)])
def test_narrow_grids_get_what_can_be_pooled(model, grid, tokens):
    indices = model.encode(torch.randn(1, 12, *grid))
    assert indices.shape == (1, tokens)
    assert model.decode(indices, grid).shape == (1, 12, *grid)
