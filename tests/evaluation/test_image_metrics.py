import numpy as np
import pytest
from skimage.metrics import structural_similarity

from omni123_hf.evaluation.image_metrics import MAX_PSNR, psnr, psnr_summary, ssim, ssim_summary


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.2, 0.8, (3, 24, 20, 3))
    return np.clip(reference + rng.normal(scale=0.05, size=reference.shape), 0, 1), reference


def test_psnr_of_a_known_error():
    black = np.zeros((4, 4, 3))
    assert psnr(black + 0.1, black) == pytest.approx(20.0)
    assert psnr(black, black) == MAX_PSNR


def test_masked_psnr_counts_only_the_foreground():
    black, half_wrong = np.zeros((4, 4, 3)), np.zeros((4, 4, 3))
    half_wrong[:2] = 0.1
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    assert psnr(half_wrong, black, mask) == pytest.approx(20.0)
    assert psnr(half_wrong, black) == pytest.approx(20 + 10 * np.log10(2))
    with pytest.raises(ValueError, match="empty"):
        psnr(half_wrong, black, ~(mask | True))


def test_mean_of_per_image_psnr_differs_from_the_data_set_psnr():
    black = np.zeros((2, 4, 4, 3))
    prediction = black.copy()
    prediction[0] += 0.1
    prediction[1] += 0.01
    summary = psnr_summary(prediction, black)
    assert summary["mean"] == pytest.approx((20 + 40) / 2)
    assert summary["dataset"] == pytest.approx(-10 * np.log10((0.01 + 0.0001) / 2))


def test_ssim_agrees_with_scikit_image(images):
    prediction, reference = images
    expected = [
        structural_similarity(
            p, r, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for p, r in zip(prediction, reference, strict=True)
    ]
    assert ssim(prediction[0], reference[0]) == pytest.approx(expected[0], abs=1e-6)
    assert ssim_summary(prediction, reference) == pytest.approx(np.mean(expected), abs=1e-6)
    assert ssim(reference[0], reference[0]) == pytest.approx(1.0)


def test_bad_images_are_named(images):
    prediction, reference = images
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        psnr(prediction[0] * 255, reference[0])
    with pytest.raises(ValueError, match="shape"):
        psnr_summary(prediction, reference[:2])
    with pytest.raises(ValueError, match="at least 11"):
        ssim(prediction[0, :8], reference[0, :8])
