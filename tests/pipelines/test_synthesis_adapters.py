"""Our own pipeline as a generator of data synthesis: tiny random components, real codes."""

import numpy as np
import pytest
from PIL import Image

from omni123_hf.errors import RejectedError
from omni123_hf.pipelines.synthesis_adapters import Omni123ImageTo3D, Omni123TextToImage


PROMPT = "a round wooden table with three legs"


def test_images_depend_on_the_seed_and_fit_the_checkpoint(tiny_pipeline):
    generator = Omni123TextToImage(tiny_pipeline, temperature=1.0)
    first, again, other = (np.asarray(generator([PROMPT], seed)[0]) for seed in (1, 1, 2))
    side = tiny_pipeline.image_vae.config.image_size
    assert first.shape == (side, side, 3)
    assert (first == again).all() and (first != other).any()
    assert len(generator([PROMPT, "a tall red vase"], 1)) == 2
    assert str(tiny_pipeline.revision) in generator.generator_id
    with pytest.raises(RejectedError, match="empty") as caught:
        generator([" "], 1)
    assert caught.value.reason == "prompt_unusable"


def test_the_shape_depends_on_the_image(tiny_pipeline, monkeypatch):
    codes = []

    def keep(tokens, resolution):
        codes.append(tokens.tolist())
        return [None] * len(tokens), ["no surface"] * len(tokens)

    monkeypatch.setattr(tiny_pipeline, "decode_shapes", keep, raising=True)
    generator = Omni123ImageTo3D(tiny_pipeline, temperature=0.5)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    images = [Image.new("RGB", (40, 40), "white"), Image.fromarray(noise)]
    assert generator(images, [PROMPT] * 2, 3) == [None, None]
    generator(images[:1], [PROMPT], 3)
    generator(images[1:], [PROMPT], 3)
    assert codes[1] != codes[2]


def test_meshes_come_in_our_frame(tiny_pipeline):
    (mesh,) = Omni123ImageTo3D(tiny_pipeline, resolution=16)([Image.new("RGB", (40, 40), "red")], [PROMPT], 0)
    assert mesh is None or mesh.extents.max() <= 2.1
