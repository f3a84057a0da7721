"""Image metrics as pure functions on float arrays in [0, 1], shape (H, W, C) or a stack (N, H, W, C).

The mean PSNR is the mean of per-image values; the variant from the data set's mean squared error stands alongside, because
published numbers mix the two. SSIM uses the Gaussian window of Wang et al. (2004): 11×11, σ 1.5, data range 1.0, per image.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d


MAX_PSNR = 100.0
"""Identical images have infinite PSNR; the per-image value is capped here so that a mean stays finite."""

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


def _pair(prediction: np.ndarray, reference: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    prediction, reference = np.asarray(prediction, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if prediction.shape != reference.shape or prediction.ndim != dims:
        expected = "(H, W, C)" if dims == 3 else "(N, H, W, C)"
        raise ValueError(f"Images must share one {expected} shape, got {prediction.shape} and {reference.shape}.")
    for name, image in (("prediction", prediction), ("reference", reference)):
        if not (np.isfinite(image).all() and image.min() >= -1e-6 and image.max() <= 1 + 1e-6):
            raise ValueError(f"The {name} leaves [0, 1]: scale (uint8 / 255) and clip before measuring.")
    return prediction, reference


def psnr(prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB of one image (H, W, C), capped at 100; with a boolean `mask` (H, W) only over its pixels."""
    prediction, reference = _pair(prediction, reference, 3)
    squared = (prediction - reference) ** 2
    if mask is not None:
        if not np.any(mask):
            raise ValueError("The mask of a masked PSNR is empty: skip images without foreground.")
        squared = squared[np.asarray(mask, dtype=bool)]
    return _decibel(float(squared.mean()))


def _decibel(mean_squared_error: float) -> float:
    return MAX_PSNR if mean_squared_error <= 10 ** (-MAX_PSNR / 10) else -10 * float(np.log10(mean_squared_error))


def psnr_summary(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """`mean` of per-image PSNRs and `dataset` PSNR (of the mean squared error over all) of two stacks (N, H, W, C), in dB."""
    predictions, references = _pair(predictions, references, 4)
    errors = ((predictions - references) ** 2).mean(axis=(1, 2, 3))
    return {"mean": float(np.mean([_decibel(error) for error in errors])), "dataset": _decibel(float(errors.mean()))}


def _gaussian_blur(image: np.ndarray) -> np.ndarray:
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    window /= window.sum()
    return correlate1d(correlate1d(image, window, axis=-3, mode="reflect"), window, axis=-2, mode="reflect")


def ssim(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of one image (H, W, C), mean over channels and all pixels whose window lies inside the image."""
    prediction, reference = _pair(prediction, reference, 3)
    return float(_ssim_stack(prediction[None], reference[None])[0])


def ssim_summary(predictions: np.ndarray, references: np.ndarray) -> float:
    """Mean of the per-image SSIM of two stacks (N, H, W, C)."""
    return float(_ssim_stack(*_pair(predictions, references, 4)).mean())


def _ssim_stack(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    if min(prediction.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} pixels a side, got {prediction.shape[1:3]}.")
    mean_p, mean_r = _gaussian_blur(prediction), _gaussian_blur(reference)
    # The window's weights sum to one, so these are population (not sample) moments, as in the original definition.
    var_p = _gaussian_blur(prediction**2) - mean_p**2
    var_r = _gaussian_blur(reference**2) - mean_r**2
    covariance = _gaussian_blur(prediction * reference) - mean_p * mean_r
    c1, c2 = 0.01**2, 0.03**2
    score = ((2 * mean_p * mean_r + c1) * (2 * covariance + c2)) / (
        (mean_p**2 + mean_r**2 + c1) * (var_p + var_r + c2)
    )
    border = SSIM_WINDOW // 2
    return score[:, border:-border, border:-border].mean(axis=(1, 2, 3))
