"""Cut-outs on plain backgrounds, honesty on others, and what a mask has to be."""

import numpy as np
import pytest
from PIL import Image

from omni123_hf.data.parametric.registry import build, sample_program
from omni123_hf.data.prepared_views import render_views
from omni123_hf.data.synthesis.background import BorderFlood, Cutout, MaskRules, on_white
from omni123_hf.errors import RejectedError
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.geometry.normalization import normalize_mesh


def scene(background=(200, 210, 220), noise: float = 0.0) -> tuple[Image.Image, np.ndarray]:
    pixels = np.empty((64, 64, 3))
    pixels[:] = background
    y, x = np.mgrid[:64, :64]
    mask = (x - 32) ** 2 + (y - 32) ** 2 < 18**2
    pixels[mask] = (150, 60, 30)
    pixels += np.random.default_rng(0).normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (90, 160, 90)])
@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_plain_backgrounds_are_removed(background, noise):
    image, mask = scene(background, noise)
    cutout = BorderFlood()(image)
    assert (cutout.mask & mask).sum() / (cutout.mask | mask).sum() > 0.95
    assert cutout.confidence > 0.9
    assert MaskRules().check(cutout)["largest"] > 0.9
    white = np.asarray(on_white(image, cutout.mask))
    assert (white[~cutout.mask] == 255).all() and (white[32, 32] == np.asarray(image)[32, 32]).all()


@pytest.mark.parametrize("category", ["chair", "mug", "car"])
def test_renders_lose_nothing(category):
    rng = np.random.default_rng(2)
    mesh, _ = normalize_mesh(build(sample_program(category, rng)).to_mesh())
    view = render_views(mesh, 96)[ALL_VIEWS.index("three_quarter")]
    cutout = BorderFlood()(Image.fromarray(view[..., :3]))
    truth = view[..., 3] > 127
    assert (cutout.mask & truth).sum() / truth.sum() > 0.97


def test_a_background_of_many_colours_gives_low_confidence_and_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    cutout = BorderFlood()(Image.fromarray(noise))
    assert cutout.confidence < 0.3
    with pytest.raises(RejectedError) as error:
        MaskRules().check(cutout)
    assert error.value.reason == "background_uncertain"


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [(slice(0, 0), slice(0, 0), "mask_area"), (slice(0, 64), slice(0, 64), "mask_area"),
     (slice(10, 40), slice(0, 20), "mask_truncated"), (slice(10, 12), slice(10, 12), "mask_area")],
)  # fmt: skip
def test_poor_masks_are_refused(rows, columns, reason):
    mask = np.zeros((64, 64), dtype=bool)
    mask[rows, columns] = True
    with pytest.raises(RejectedError) as error:
        MaskRules().check(Cutout(mask, 1.0))
    assert error.value.reason == reason


def test_an_object_in_two_pieces_is_fragmented():
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:20, 10:30] = mask[40:50, 10:30] = True
    with pytest.raises(RejectedError) as error:
        MaskRules().check(Cutout(mask, 1.0))
    assert error.value.reason == "mask_fragmented"
