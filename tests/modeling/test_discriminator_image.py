"""The patch discriminator: what it sees, how steep it may be, and that it learns."""

import pytest
import torch
from tiny_image import shapes_on_white

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.discriminator_image import PatchDiscriminator, discriminator_loss, generator_loss


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_score_judges_a_patch_of_54_pixels():
    model = PatchDiscriminator(width=4).eval()
    pixels = torch.randn(1, 3, 128, 128).requires_grad_()
    scores = model(pixels)
    assert scores.shape == (1, 1, 16, 16)
    (gradient,) = torch.autograd.grad(scores[0, 0, 8, 8], pixels)
    rows = gradient[0].abs().sum((0, 2)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 54


def test_spectral_norms_bound_each_layer():
    model = PatchDiscriminator(width=8, num_layers=2)
    with torch.no_grad():
        for layer in model.layers[::2]:
            layer.parametrizations.weight.original.mul_(50)
    images = shapes_on_white(2, 32)
    for _ in range(30):
        model(images)
    for layer in model.layers[::2]:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.05)


def test_autocast_does_not_reach_it():
    model, images = PatchDiscriminator(width=8, num_layers=2).eval(), shapes_on_white(2, 32)
    exact = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(images), exact)


def test_hinge_losses():
    assert discriminator_loss(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0])).item() == 0
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])).item() == pytest.approx(0.5 * (1 + 1.5))
    assert generator_loss(torch.tensor([1.0, 2.0])).item() == -1.5


def test_it_learns_to_tell_images_from_blurred_ones():
    model = PatchDiscriminator(width=8, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.5, 0.9))
    real = shapes_on_white(16, 32)
    fake = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(real, 4), scale_factor=4)
    for _ in range(40):
        loss = discriminator_loss(model(real), model(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 and model(real).mean() > model(fake).mean() + 0.5


def test_what_it_cannot_judge_is_refused():
    with pytest.raises(Omni123Error, match="lower discriminator_layers"):
        PatchDiscriminator(4)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(Omni123Error, match="must be at least 1"):
        PatchDiscriminator(0)
