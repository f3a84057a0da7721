"""From codes back to what they stand for: pixels of image tokens, and the field of shape tokens as a function of points."""

import math

import numpy as np
import torch

from .modeling_image_tokenizer import Omni123ImageTokenizer
from .modeling_image_vae import Omni123ImageVAE
from .modeling_shape_tokenizer import Omni123ShapeTokenizer
from .shape_grid_field import ShapeField


def image_grid(count: int, tokenizer: Omni123ImageTokenizer, vae: Omni123ImageVAE) -> tuple[int, int]:
    """Cells that `count` tokens of an image decode to: those of the VAE's image size, or a square of `count` cells.

    The second is an image of lower resolution (256 tokens of 256² pixels, where the VAE's own size is 512² with 1,024).
    """
    side = vae.config.image_size // vae.config.patch_size
    if count != tokenizer.tokens_for((side, side)) and math.isqrt(count) ** 2 == count:
        side = math.isqrt(count)
    return side, side


@torch.no_grad()
def decode_pictures(codes: torch.Tensor, tokenizer: Omni123ImageTokenizer, vae: Omni123ImageVAE) -> np.ndarray:
    """Pictures `(B, H, W, 3)` uint8 of image tokens `(B, Li)`, through the 1D tokenizer and the VAE."""
    latent = tokenizer.decode(codes, grid=image_grid(codes.shape[1], tokenizer, vae))
    pixels = vae.decode(latent).float().clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def shape_field(codes: torch.Tensor, tokenizer: Omni123ShapeTokenizer) -> ShapeField:
    """The field of one shape's tokens `(Ls,)`: points `(N, 3)` to values `(N,)` float32, positive inside."""
    return ShapeField(codes, tokenizer)
