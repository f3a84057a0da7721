"""Perceptual terms of the image VAE's training: distances of two images that need nothing downloaded.

The paper states no perceptual term. LPIPS proper is a VGG network with weights that this project neither ships nor can
check; its idea (unit-length features of a pretrained network, squared differences, mean over layers; arXiv 1801.03924)
works with any pretrained encoder, and the VAE has one: the frozen DINOv3. Where nothing is pretrained, structural
similarity at several scales stands in: it compares local contrast and structure, which an L1 blur loses first.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..errors import Omni123Error


if TYPE_CHECKING:
    from .modeling_image_vae import Omni123ImageVAE


# Wang et al. 2004: a Gaussian window of 11 pixels, and the two constants for a data range of 1.
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def feature_depths(num_layers: int) -> list[int]:
    """Hidden states that are compared beside the last layer: the outputs at a quarter, half and three quarters."""
    return sorted({max(1, round(num_layers * quarter / 4)) for quarter in (1, 2, 3)} - {num_layers})


class EncoderPerceptualLoss:
    """LPIPS-style distance `(reconstruction, target) -> scalar` in the features of a VAE's frozen encoder.

    Images are `(B, 3, H, W)` in [-1, 1]; the reconstruction may leave that range. Of the layers of `feature_depths` and
    the last one, patch tokens pass the encoder's own final norm (a DINOv3 stream has a few channels that would drown all
    others) and become unit vectors; the term is their squared difference, mean over patches and layers: 0 for equal
    images, 4 at most. The gradient reaches the reconstruction alone.

    Raises `Omni123Error` for a VAE whose encoder is trained, for it would learn features that do not tell images apart.
    """

    def __init__(self, vae: "Omni123ImageVAE"):
        if not vae.config.freeze_encoder:
            raise Omni123Error(
                "a perceptual loss in the VAE's own encoder needs that encoder frozen: set freeze_encoder to true with a "
                "pretrained encoder, or take the perceptual term 'ssim'."
            )
        self.vae = vae
        self.depths = feature_depths(vae.encoder.config.num_hidden_layers)

    def features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Unit patch features `(B, h*w, width)` float32, one tensor a layer."""
        vae = self.vae
        mean = pixels.new_tensor(vae.config.image_mean).view(1, 3, 1, 1)
        std = pixels.new_tensor(vae.config.image_std).view(1, 3, 1, 1)
        outputs = vae.encoder(((pixels + 1) / 2 - mean) / std, output_hidden_states=True)
        # The last entry of the hidden states is normed in some releases of transformers and not in others.
        layers = [vae.encoder.norm(outputs.hidden_states[depth]) for depth in self.depths] + [
            outputs.last_hidden_state
        ]
        return [F.normalize(layer[:, vae.num_prefix_tokens :].float(), dim=-1) for layer in layers]

    def __call__(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.features(target)
        found = self.features(reconstruction)
        return torch.stack([(a - b).square().sum(-1).mean() for a, b in zip(found, wanted, strict=True)]).mean()


def gaussian_filter(x: torch.Tensor) -> torch.Tensor:
    """Means of `x (B, C, H, W)` under the Gaussian window, where it fits wholly: `(B, C, H - 10, W - 10)`."""
    offsets = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    weights = (-0.5 * (offsets / SIGMA).square()).exp()
    weights = weights / weights.sum()
    channels = x.shape[1]
    column = weights.view(1, 1, WINDOW, 1).expand(channels, 1, -1, -1)
    row = weights.view(1, 1, 1, WINDOW).expand(channels, 1, -1, -1)
    return F.conv2d(F.conv2d(x, column, groups=channels), row, groups=channels)


def structural_similarity(first: torch.Tensor, second: torch.Tensor, data_range: float = 2.0) -> torch.Tensor:
    """Mean SSIM (a scalar, 1 for equal images) of `(B, C, H, W)` images of at least 11 pixels a side, in float32."""
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float(), second.float()
        mean_a, mean_b = gaussian_filter(first), gaussian_filter(second)
        variance_a = gaussian_filter(first.square()) - mean_a.square()
        variance_b = gaussian_filter(second.square()) - mean_b.square()
        covariance = gaussian_filter(first * second) - mean_a * mean_b
        c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
        brightness = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
        return (brightness * structure).mean()


def check_window(size: int) -> None:
    """Raises `Omni123Error` for images, `size` pixels along their shorter side, into which the window does not fit."""
    if size < WINDOW:
        raise Omni123Error(
            f"the perceptual term 'ssim' needs images of at least {WINDOW} pixels a side, got {size}: take 'none' or 'encoder'."
        )


def structural_loss(reconstruction: torch.Tensor, target: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """1 - SSIM of images `(B, C, H, W)` in [-1, 1], mean over `scales` halvings of their size (fewer for small images).

    A mean in place of the usual product of powers: a product has no useful gradient where one factor is near zero, as
    all are at the start of training. Errors as those of `check_window`.
    """
    check_window(min(reconstruction.shape[-2:]))
    values = []
    for scale in range(scales):
        if scale:
            reconstruction, target = F.avg_pool2d(reconstruction, 2), F.avg_pool2d(target, 2)
            if min(reconstruction.shape[-2:]) < WINDOW:
                break
        values.append(1 - structural_similarity(reconstruction, target))
    return torch.stack(values).mean()
