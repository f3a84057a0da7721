"""Decoding is what the pipelines do, and finds the grid that a number of tokens belongs to."""

import numpy as np
import torch

from omni123_hf.modeling.decoding import decode_pictures, image_grid, shape_field


def test_pictures_and_fields_of_the_tiny_pipeline(tiny_pipeline):
    codes = torch.arange(32).view(2, 16)
    tokenizer, vae = tiny_pipeline.image_tokenizer, tiny_pipeline.image_vae
    pictures = decode_pictures(codes, tokenizer, vae)
    assert pictures.shape == (2, 16, 16, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures[0], np.asarray(tiny_pipeline.decode_images(codes)[0]))
    shape = tiny_pipeline.shape_tokenizer
    field = shape_field(torch.arange(8), shape)
    points = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    wanted = shape.query(
        shape.decode_latents(torch.arange(8)[None]), torch.from_numpy(points.astype(np.float32))[None]
    )
    assert np.array_equal(field(points), wanted[0].detach().numpy())


def test_fewer_tokens_are_an_image_of_lower_resolution(tiny_pipeline):
    tokenizer, vae = tiny_pipeline.image_tokenizer, tiny_pipeline.image_vae
    assert image_grid(16, tokenizer, vae) == (4, 4)
    assert image_grid(4, tokenizer, vae) == (2, 2)
    assert decode_pictures(torch.zeros(1, 4, dtype=torch.long), tokenizer, vae).shape == (1, 8, 8, 3)
