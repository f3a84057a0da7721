"""The image VAE: shapes, standardisation, save and load, and that it learns."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_image import ENCODER, shapes_on_white
from tiny_image import tiny_vae_config as tiny

from omni123_hf.modeling.configuration_image_vae import Omni123ImageVAEConfig
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE, gradient_l1, image_psnr, patch_centres


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_shapes_on_square_and_oblong_images():
    model = Omni123ImageVAE(tiny()).eval()
    for height, width in ((16, 16), (32, 16)):
        pixels = torch.rand(2, 3, height, width) * 2 - 1
        latent = model.encode(pixels)
        assert latent.shape == (2, 16, height // 4, width // 4)
        assert model.decode(latent).shape == pixels.shape


def test_mini_and_paper_sizes():
    mini = Omni123ImageVAE(Omni123ImageVAEConfig.mini()).eval()
    assert mini.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 48, 8, 8)
    paper = Omni123ImageVAEConfig.paper()
    assert (paper.latent_dim, paper.patch_size, paper.encoder().num_hidden_layers) == (832, 16, 24)
    assert paper.encoder().num_register_tokens == 4 and paper.freeze_encoder
    with torch.device("meta"):
        encoder_parameters = sum(p.numel() for p in Omni123ImageVAE(paper).encoder.parameters())
    assert 300e6 < encoder_parameters < 310e6


def test_semantic_channels_come_first_and_texture_reads_the_taps_only():
    model = Omni123ImageVAE(tiny()).eval()
    pixels = torch.rand(1, 3, 16, 16)
    before = model.encode(pixels)
    with torch.no_grad():
        model.encoder.norm.weight.mul_(3.0)
    after = model.encode(pixels)
    assert not torch.allclose(before[:, :8], after[:, :8])
    torch.testing.assert_close(before[:, 8:], after[:, 8:])


def test_the_reader_of_pixels_uses_the_encoders_own_normalisation():
    model = Omni123ImageVAE(tiny()).eval()
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.config.image_mean, model.config.image_std))
    deep = model.encoder(((pixels + 1) / 2 - mean) / std).last_hidden_state[:, 3:]
    expected = model.semantic_proj(deep).transpose(1, 2).reshape(1, 8, 4, 4)
    torch.testing.assert_close(model.encode(pixels)[:, :8], expected)


def test_fitted_statistics_standardise_every_channel():
    model = Omni123ImageVAE(tiny()).eval()
    batches = [shapes_on_white(16, 16, seed) for seed in range(3)]
    model.fit_latent_statistics(batches)
    flat = model.encode(torch.cat(batches)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.ones(16), atol=1e-2, rtol=0)


def test_training_statistics_follow_the_batches():
    model = Omni123ImageVAE(tiny(freeze_encoder=True, statistics_momentum=1.0)).train()
    pixels = shapes_on_white(8, 16)
    model(pixels)
    flat = model.raw_latent(pixels).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.latent_mean, flat.mean(1).detach(), atol=1e-4, rtol=1e-3)


def test_pca_start_of_the_semantic_projection():
    model = Omni123ImageVAE(tiny(freeze_semantic=True)).eval()
    pixels = shapes_on_white(32, 16)
    model.fit_semantic_projection([pixels[:16], pixels[16:]])
    flat = model.raw_latent(pixels)[:, :8].transpose(0, 1).flatten(1)
    covariance = torch.cov(flat)
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-3, rtol=0)
    assert (covariance.diagonal().diff() <= 1e-6).all()
    assert not model.semantic_proj.weight.requires_grad


def test_save_and_load_give_the_same_pixels(tmp_path):
    model = Omni123ImageVAE(tiny()).eval()
    pixels = shapes_on_white(4, 16)
    model.fit_latent_statistics([pixels])
    model.save_pretrained(tmp_path)
    loaded = Omni123ImageVAE.from_pretrained(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(loaded.encode(pixels), model.encode(pixels))
    torch.testing.assert_close(loaded(pixels).reconstruction, model(pixels).reconstruction)
    half = Omni123ImageVAE.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.decode(half.encode(pixels).float()).dtype == torch.bfloat16


def test_a_plain_state_dict_with_published_encoder_names_loads(tmp_path):
    # What a resuming Trainer does; transformers warns and goes on with a random encoder if a name does not match.
    model = Omni123ImageVAE(tiny()).eval()
    model.save_pretrained(tmp_path)
    other = Omni123ImageVAE(tiny()).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    pixels = shapes_on_white(2, 16)
    torch.testing.assert_close(other.encode(pixels), model.encode(pixels))


def test_noise_is_training_only_and_seeded():
    model = Omni123ImageVAE(tiny(freeze_encoder=True)).train()
    pixels = shapes_on_white(4, 16)
    torch.manual_seed(3)
    first = model(pixels).reconstruction
    second = model(pixels).reconstruction
    torch.manual_seed(3)
    torch.testing.assert_close(model(pixels).reconstruction, first)
    assert not torch.allclose(first, second)
    model.eval()
    torch.testing.assert_close(model(pixels).reconstruction, model(pixels).reconstruction)


def test_an_injected_perceptual_loss_is_added():
    model = Omni123ImageVAE(tiny()).eval()
    output = model(shapes_on_white(2, 16), perceptual_loss=lambda a, b: (a - b).pow(2).mean() * 0 + 7.0)
    torch.testing.assert_close(output.loss, output.pixel_loss + 7.0)


def test_it_learns_a_small_set():
    model = Omni123ImageVAE(tiny(encoder_config={**ENCODER, "pos_embed_rescale": None}, mse_loss_weight=2.0)).train()
    pixels = shapes_on_white(16, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(150):
        loss = model(pixels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert image_psnr(model(pixels).reconstruction, pixels).mean() > 18


def test_gradient_loss_ignores_a_constant_shift_and_sees_an_edge():
    image = shapes_on_white(1, 16)
    assert gradient_l1(image + 0.3, image) < 1e-6
    assert gradient_l1(image, image.flip(-1) * 0) > 0.01


def test_psnr_of_a_known_error():
    image = torch.zeros(2, 3, 8, 8)
    # One 8-bit level is 1 / 127.5: an error of 10 levels gives 20 log10(255 / 10).
    torch.testing.assert_close(image_psnr(image + 10 / 127.5, image), torch.full((2,), 28.1308), atol=1e-2, rtol=0)


def test_patch_centres_cover_the_same_square_at_every_resolution():
    coarse, fine = patch_centres((2, 2)), patch_centres((4, 4)).view(4, 4, 2)
    pooled = fine.view(2, 2, 2, 2, 2).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(pooled, coarse)
    assert coarse.tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]


def test_sharded_save_and_load(tmp_path):
    model = Omni123ImageVAE(tiny()).eval()
    pixels = shapes_on_white(2, 16)
    model.fit_latent_statistics([pixels])
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded, report = Omni123ImageVAE.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    for (name, a), b in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    torch.testing.assert_close(loaded(pixels).reconstruction, model(pixels).reconstruction, atol=0, rtol=0)


def test_a_channel_without_variance_is_not_blown_up():
    model = Omni123ImageVAE(tiny()).eval()
    with torch.no_grad():
        model.semantic_proj.weight[3] = 0
    pixels = shapes_on_white(8, 16)
    model.fit_latent_statistics([pixels])
    with torch.no_grad():
        model.semantic_proj.weight[3] = 1e-6 * torch.randn(32)
    assert model.encode(pixels)[:, 3].abs().max() < 0.1


def test_output_as_a_tuple():
    model = Omni123ImageVAE(tiny()).eval()
    pixels = shapes_on_white(2, 16)
    output = model(pixels)
    loss, pixel_loss, reconstruction, latent = model(pixels, return_dict=False)
    assert loss == output.loss == pixel_loss
    assert torch.equal(reconstruction, output.reconstruction) and torch.equal(latent, output.latent)
