"""The adversary of the image VAE's training: a small patch discriminator with spectral norms, and hinge losses.

The paper states no adversarial term; the VAE family that it builds on has one (GigaTok: a PatchGAN with batch norms,
hinge loss; RAE: heads on a frozen DINO). Ours judges patches of 54 pixels and is kept in bounds by spectral
normalisation (arXiv 1802.05957): batch norms would couple images, differ between ranks and micro-batches, and add
running statistics to what a resumed run must restore.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import Omni123Error


class PatchDiscriminator(nn.Module):
    """Images `(B, 3, H, W)` in [-1, 1] to scores `(B, 1, H / 2^n, W / 2^n)` of their patches, high for real ones.

    Float32 whatever autocast says. `num_layers` n convolutions of stride 2 double `width` channels up to eight times it; two of stride 1 follow.
    """

    def __init__(self, width: int = 64, num_layers: int = 3):
        super().__init__()
        if width < 1 or num_layers < 1:
            raise Omni123Error(
                f"discriminator_width {width} and discriminator_layers {num_layers} must be at least 1."
            )
        channels = [3] + [width * min(2**level, 8) for level in range(num_layers)]
        layers: list[nn.Module] = []
        for inner, outer in zip(channels[:-1], channels[1:], strict=True):
            layers += [spectral_norm(nn.Conv2d(inner, outer, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        last = min(2 * channels[-1], 8 * width)
        layers += [spectral_norm(nn.Conv2d(channels[-1], last, 3, padding=1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(last, 1, 3, padding=1))]
        self.layers = nn.Sequential(*layers)
        self.stride = 2**num_layers

    def check_size(self, size: int) -> None:
        """Raises `Omni123Error` for images, `size` pixels along their shorter side, that have no patch of their own."""
        if size < self.stride:
            raise Omni123Error(
                f"images of {size} pixels are smaller than a step of the discriminator ({self.stride}): lower "
                "discriminator_layers."
            )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.check_size(min(pixels.shape[-2:]))
        # It is small, and a spectral norm that is estimated in half precision is none.
        with torch.autocast(pixels.device.type, enabled=False):
            return self.layers(pixels.float())


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Hinge loss of scores: real ones should exceed 1, fake ones stay below -1."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """What the VAE minimises beside its own loss: minus the mean score of its reconstructions."""
    return -fake.float().mean()
