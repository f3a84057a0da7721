"""Perceptual terms: structural similarity against scikit-image, features of a frozen encoder against their definition."""

import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity as reference_similarity
from tiny_image import ENCODER, shapes_on_white, tiny_vae_config
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.perceptual_image import (
    EncoderPerceptualLoss,
    feature_depths,
    structural_loss,
    structural_similarity,
)


def frozen_vae() -> Omni123ImageVAE:
    torch.manual_seed(0)
    encoder = DINOv3ViTModel(DINOv3ViTConfig(**ENCODER)).eval()
    sizes = {
        "decoder_hidden_size": 32,
        "num_decoder_layers": 1,
        "num_decoder_heads": 2,
        "upsampler_channels": [16, 8],
        "image_size": 16,
    }
    return Omni123ImageVAE.from_dinov3(encoder, **sizes)


def blurred(images: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(images, factor), scale_factor=factor, mode="bilinear")


def test_similarity_is_that_of_scikit_image():
    images = shapes_on_white(3, 32)
    noisy = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    wanted = [
        reference_similarity(
            a.numpy(), b.numpy(), channel_axis=0, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for a, b in zip(images, noisy, strict=True)
    ]  # fmt: skip
    assert structural_similarity(images, noisy).item() == pytest.approx(sum(wanted) / 3, abs=1e-5)


def test_the_structural_term_grows_with_blur_and_has_a_gradient_everywhere():
    images = shapes_on_white(4, 48)
    values = [structural_loss(blurred(images, factor), images).item() for factor in (2, 4, 8)]
    assert structural_loss(images, images).item() == pytest.approx(0, abs=1e-6)
    assert 0.01 < values[0] < values[1] < values[2] < 2
    # The flat grey image with which an untrained decoder begins.
    grey = torch.zeros_like(images).requires_grad_()
    structural_loss(grey, images).backward()
    assert grey.grad.isfinite().all() and grey.grad.abs().sum() > 0
    with pytest.raises(Omni123Error, match="at least 11 pixels"):
        structural_loss(images[..., :8, :8], images[..., :8, :8])


def test_half_precision_does_not_reach_the_similarity():
    images = shapes_on_white(2, 32)
    exact = structural_loss(blurred(images, 2), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(structural_loss(blurred(images, 2), images), exact)


def test_the_encoder_term_is_the_squared_difference_of_unit_features():
    vae, images = frozen_vae(), shapes_on_white(2, 16)
    other = blurred(images, 4)
    loss = EncoderPerceptualLoss(vae)
    assert loss(images, images).item() == 0
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (vae.config.image_mean, vae.config.image_std))
    layers: list[list[torch.Tensor]] = []
    for pixels in (images, other):
        hidden = [((pixels + 1) / 2 - mean) / std]
        output = vae.encoder(hidden[0], output_hidden_states=True)
        states = [vae.encoder.norm(output.hidden_states[depth]) for depth in (1, 2)] + [output.last_hidden_state]
        layers.append([state[:, 3:] for state in states])
    cosines = torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in zip(*layers, strict=True)])
    assert feature_depths(3) == [1, 2] and feature_depths(24) == [6, 12, 18] and feature_depths(1) == []
    assert loss(other, images).item() == pytest.approx((2 - 2 * cosines).mean().item(), rel=1e-4)


def test_the_encoder_term_changes_the_decoder_and_nothing_of_the_encoder():
    vae, images = frozen_vae().train(), shapes_on_white(2, 16)
    loss = EncoderPerceptualLoss(vae)
    gradients = []
    for term in (None, loss):
        vae.zero_grad()
        torch.manual_seed(1)
        vae(images, perceptual_loss=term).loss.backward()
        gradients.append(vae.decoder.out_conv.weight.grad.clone())
        assert all(p.grad is None for p in vae.encoder.parameters())
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3 * gradients[0].abs().max()
    target = images.clone().requires_grad_()
    assert not loss(images.detach(), target).requires_grad


def test_an_encoder_that_learns_is_refused():
    with pytest.raises(Omni123Error, match="needs that encoder frozen"):
        EncoderPerceptualLoss(Omni123ImageVAE(tiny_vae_config()))
