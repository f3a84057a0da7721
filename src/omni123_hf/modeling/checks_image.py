"""What the image models refuse: inputs that they would turn into plausible nonsense.

Checks of values wait for the device, so they are left out while `torch.compile` traces; those of shapes are not.
"""

import torch

from ..errors import Omni123Error


# Decoded or noisy pixels may leave [-1, 1] a little; ImageNet-normalised ones reach 2.1 and 8-bit ones 255.
PIXEL_LIMIT = 1.5


def check_pixels(pixel_values: torch.Tensor, patch_size: int) -> None:
    """Raises `Omni123Error` unless `pixel_values` are float `(B, 3, H, W)` in [-1, 1], sides multiples of a patch."""
    _check_float(pixel_values, "pixel_values", "scale 8-bit images with x / 127.5 - 1")
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or 0 in pixel_values.shape:
        raise Omni123Error(f"pixel_values has shape {tuple(pixel_values.shape)}: give (B, 3, H, W) in [-1, 1].")
    if pixel_values.shape[2] % patch_size or pixel_values.shape[3] % patch_size:
        raise Omni123Error(
            f"The image size {tuple(pixel_values.shape[2:])} is not a multiple of the patch size {patch_size}: "
            f"resize first."
        )
    if torch.compiler.is_compiling():
        return
    low, high = _finite_range(pixel_values, "pixel_values")
    if low < -PIXEL_LIMIT or high > PIXEL_LIMIT:
        hint = "these look like 0..255, so use x / 127.5 - 1" if high > 10 else "use 2 * x - 1 on images in [0, 1]"
        raise Omni123Error(
            f"pixel_values span {low:.3g}..{high:.3g}, but must lie in [-1, 1] without any other normalisation: {hint}, "
            "or clamp decoded ones."
        )


def check_latent(latent: torch.Tensor, channels: int, what: str = "as encode() of the image VAE returns it") -> None:
    """Raises `Omni123Error` unless `latent` is a finite float `(B, channels, h, w)`."""
    _check_float(latent, "latent", f"give it {what}")
    if latent.ndim != 4 or latent.shape[1] != channels or 0 in latent.shape:
        raise Omni123Error(f"latent has shape {tuple(latent.shape)}: give (B, {channels}, h, w) {what}.")
    if not torch.compiler.is_compiling():
        _finite_range(latent, "latent")


def check_grid(grid: tuple[int, int]) -> None:
    """Raises `Omni123Error` unless `grid` is (rows, columns), two whole numbers of at least 1."""
    is_pair = isinstance(grid, (tuple, list)) and len(grid) == 2
    # Sizes are symbols while a graph with free shapes is traced.
    if not is_pair or not all(isinstance(size, (int, torch.SymInt)) and size >= 1 for size in grid):
        raise Omni123Error(f"the grid {grid!r} is no (rows, columns) of at least one cell: give two whole numbers.")


def _check_float(x: torch.Tensor, name: str, fix: str) -> None:
    if not torch.is_tensor(x):
        raise Omni123Error(f"{name} is a {type(x).__name__}: give a torch tensor of floats.")
    if not x.is_floating_point():
        raise Omni123Error(f"{name} is of type {x.dtype}: give floats; {fix}.")


def _finite_range(x: torch.Tensor, name: str) -> tuple[float, float]:
    # One transfer for both; NaN and infinity come through as such.
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise Omni123Error(f"{name} contains NaN or infinity: look for the step that made it, or a diverged model.")
    return low, high
