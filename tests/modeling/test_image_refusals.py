"""What the image models refuse, and that the message names the problem and the fix."""

import numpy as np
import pytest
import torch
from tiny_image import ENCODER, shapes_on_white, tiny_tokenizer_config, tiny_vae_config

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE


@pytest.fixture(scope="module")
def vae() -> Omni123ImageVAE:
    return Omni123ImageVAE(tiny_vae_config()).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Omni123ImageTokenizer:
    return Omni123ImageTokenizer(tiny_tokenizer_config()).eval()


GOOD = shapes_on_white(2, 16)
WITH_NAN = GOOD.clone()
WITH_NAN[1, 2, 3, 4] = float("nan")
BAD_PIXELS = {
    "NaN": (WITH_NAN, "NaN or infinity"),
    "infinity": (GOOD.masked_fill(GOOD > 0.99, float("inf")), "NaN or infinity"),
    "8-bit values": ((GOOD + 1) * 127.5, r"0\.\.255, so use x / 127\.5 - 1"),
    "ImageNet-normalised": ((GOOD * 0.5 + 0.5 - 0.45) / 0.22, "without any other normalisation"),
    "uint8": (((GOOD + 1) * 127.5).to(torch.uint8), r"torch\.uint8.*x / 127\.5 - 1"),
    "NumPy": (GOOD.numpy(), "ndarray: give a torch tensor"),
    "one image": (GOOD[0], r"give \(B, 3, H, W\)"),
    "channels": (GOOD[:, :2], r"give \(B, 3, H, W\)"),
    "channels last": (GOOD.movedim(1, -1), r"give \(B, 3, H, W\)"),
    "no image": (GOOD[:0], r"give \(B, 3, H, W\)"),
    "size": (GOOD[..., :14], "multiple of the patch size 4"),
}


@pytest.mark.parametrize("case", BAD_PIXELS)
def test_bad_pixels_are_refused_at_every_door(vae, case):
    pixels, words = BAD_PIXELS[case]
    statistics = vae.latent_mean.clone()
    doors = (
        vae.encode,
        vae.raw_latent,
        vae,
        lambda x: vae.fit_latent_statistics([GOOD, x]),
        lambda x: vae.fit_semantic_projection([GOOD, x]),
    )
    for door in doors:
        with pytest.raises(Omni123Error, match=words) as caught:
            door(pixels)
        assert "\n" not in str(caught.value)
    assert torch.equal(vae.latent_mean, statistics)


def test_pixels_a_little_outside_are_taken(vae):
    torch.manual_seed(0)
    jittered = GOOD + 0.1 * torch.randn_like(GOOD)
    assert jittered.max() > 1.1
    assert vae.encode(jittered).isfinite().all()
    assert vae.encode(vae.decode(torch.randn(2, 16, 4, 4))).isfinite().all()


LATENT = torch.zeros(1, 12, 4, 4)
BAD_LATENTS = {
    "NaN": (LATENT.masked_fill(torch.arange(4) == 2, float("nan")), "NaN or infinity"),
    "channels": (LATENT[:, :11], r"latent has shape \(1, 11, 4, 4\)"),
    "flat": (LATENT.flatten(2), "latent has shape"),
    "no cell": (LATENT[..., :0], "latent has shape"),
    "code ids": (LATENT.long(), "give floats"),
    "NumPy": (np.zeros((1, 12, 4, 4), np.float32), "ndarray"),
    "one axis": (torch.zeros(3), r"latent has shape \(3,\)"),
    "a number": (torch.tensor(1.0), r"latent has shape \(\)"),
    "None": (None, "NoneType: give a torch tensor"),
}


@pytest.mark.parametrize("case", BAD_LATENTS)
def test_bad_latents_are_refused_by_both_models(tokenizer, case):
    latent, words = BAD_LATENTS[case]
    vae = Omni123ImageVAE(tiny_vae_config(texture_dim=4)).eval()
    for door in (vae.decode, tokenizer.encode, tokenizer):
        with pytest.raises(Omni123Error, match=words):
            door(latent)


IDS = torch.zeros(1, 16, dtype=torch.long)
BAD_IDS = {
    "flat vocabulary": (IDS + 32, (4, 4), "span 32..32.*image offset"),
    "negative": (IDS - 1, (4, 4), "image offset"),
    "floats": (IDS.float(), (4, 4), "give an integer tensor"),
    "booleans": (IDS.bool(), (4, 4), "give an integer tensor"),
    "a list": (IDS.tolist(), (4, 4), "type list"),
    "one row": (IDS[0], (4, 4), r"give \(B, N\)"),
    "too many": (torch.zeros(1, 32, dtype=torch.long), (8, 8), "at most 16 tokens"),
    "none": (IDS[:, :0], (4, 4), r"give \(B, N\)"),
    "no power of two": (IDS[:, :12], (4, 4), "power of two"),
    "grid too small": (IDS, (2, 2), r"pool down to \(2, 4\) cells"),
    "grid of nothing": (IDS, (4, 0), r"no \(rows, columns\)"),
    "grid of three": (IDS, (4, 4, 4), r"no \(rows, columns\)"),
    "grid of one number": (IDS, 4, "the grid 4 is no .*two whole numbers"),
    "no grid": (IDS, None, "the grid None is no"),
    "grid of fractions": (IDS, (4.0, 4.0), r"the grid \(4.0, 4.0\) is no"),
    "grid of words": (IDS, "44", "the grid '44' is no"),
    "grid first": (IDS.tolist(), 4, "the grid 4 is no"),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_bad_code_ids_are_refused(tokenizer, case):
    ids, grid, words = BAD_IDS[case]
    with pytest.raises(Omni123Error, match=words):
        tokenizer.decode(ids, grid)


def test_any_integer_type_of_code_ids_is_taken(tokenizer):
    ids = torch.randint(0, 32, (2, 16))
    wanted = tokenizer.decode(ids, (4, 4))
    for dtype in (torch.int32, torch.uint8, torch.uint16):
        torch.testing.assert_close(tokenizer.decode(ids.to(dtype), (4, 4)), wanted)


@pytest.mark.parametrize("grid", [4, None, (4,), (0, 4), (4, -1), (4.0, 4)])
def test_grids_that_have_no_number_of_tokens(tokenizer, grid):
    with pytest.raises(Omni123Error, match="two whole numbers"):
        tokenizer.tokens_for(grid)


@pytest.mark.parametrize("num_tokens", [0, -4, 3, 12, 32, 4.0, "4"])
def test_numbers_of_tokens_that_no_level_has(tokenizer, num_tokens):
    for door in (tokenizer.encode, tokenizer):
        with pytest.raises(Omni123Error, match="power of two of at most 16"):
            door(LATENT, num_tokens=num_tokens)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"upsampler_channels": [16]}, r"log2\(patch size\) = 2 entries"),
        ({"encoder_config": {**ENCODER, "patch_size": 14}}, "power of two, such as 16"),
        ({"encoder_config": {**ENCODER, "num_channels": 1}}, "images here have 3"),
        ({"texture_taps": [3]}, "texture_taps"),
        ({"texture_taps": []}, "texture_taps"),
        ({"image_size": 18}, "image_size 18"),
        ({"texture_dim": 0}, "at least 1"),
        ({"decoder_hidden_size": 36}, "multiple of 4"),
        ({"semantic_dim": 33, "freeze_semantic": True}, "cannot widen"),
        ({"num_decoder_heads": 0}, "num_decoder_heads is 0"),
        ({"num_decoder_heads": -2}, "num_decoder_heads is -2"),
        ({"decoder_hidden_size": 0}, "decoder_hidden_size is 0"),
        ({"decoder_hidden_size": -32}, "decoder_hidden_size is -32"),
        ({"texture_hidden_size": 0}, "texture_hidden_size is 0"),
        ({"num_decoder_layers": -1}, "num_decoder_layers is -1"),
        ({"upsampler_blocks": -1}, "upsampler_blocks is -1"),
        ({"upsampler_channels": [16, 0]}, "upsampler_channels"),
        ({"decoder_mlp_ratio": 0.0}, "decoder_mlp_ratio is 0.0"),
        ({"decoder_mlp_ratio": 0.01}, "without a channel"),
        ({"decoder_mlp_ratio": float("inf")}, "finite number"),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps"),
        ({"encoder_config": {**ENCODER, "num_attention_heads": 0}}, "the encoder's num_attention_heads is 0"),
        ({"encoder_config": {**ENCODER, "num_attention_heads": 16}}, "four"),
        ({"encoder_config": {**ENCODER, "hidden_size": -32}}, "the encoder's hidden_size is -32"),
        ({"encoder_config": {**ENCODER, "num_hidden_layers": -1}}, "the encoder's num_hidden_layers is -1"),
        ({"encoder_config": {**ENCODER, "num_register_tokens": -1}}, "the encoder's num_register_tokens is -1"),
    ],
)
def test_sizes_that_form_no_vae(fields, words):
    with pytest.raises(Omni123Error, match=words):
        tiny_vae_config(**fields)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"num_tokens": 24}, "power of two"),
        ({"num_tokens": 0}, "power of two"),
        ({"semantic_dim": 12}, "semantic_dim"),
        ({"num_encoder_heads": 3}, "encoder_hidden_size"),
        ({"num_decoder_heads": 5}, "decoder_hidden_size"),
        ({"num_encoder_heads": 0}, "num_encoder_heads is 0"),
        ({"num_decoder_heads": -2}, "num_decoder_heads is -2"),
        ({"encoder_hidden_size": 0}, "encoder_hidden_size is 0"),
        ({"decoder_hidden_size": -48}, "decoder_hidden_size is -48"),
        ({"num_encoder_layers": 0}, "num_encoder_layers is 0"),
        ({"num_decoder_layers": -1}, "num_decoder_layers is -1"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"code_dim": -4}, "code_dim is -4"),
        ({"num_frequencies": 0}, "num_frequencies is 0"),
        ({"entropy_tokens": 0}, "entropy_tokens is 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan"),
        ({"entropy_temperature": 0.0}, "entropy_temperature is 0.0"),
    ],
)
def test_sizes_that_form_no_tokenizer(fields, words):
    with pytest.raises(Omni123Error, match=words):
        tiny_tokenizer_config(**fields)


def test_fitting_needs_enough_patches_and_a_projection_that_does_not_widen():
    vae = Omni123ImageVAE(tiny_vae_config(semantic_dim=32)).eval()
    for fit in (vae.fit_latent_statistics, vae.fit_semantic_projection):
        with pytest.raises(Omni123Error, match="got no pixels"):
            fit([])
    with pytest.raises(Omni123Error, match="got 32 patches and needs 33"):
        vae.fit_semantic_projection([GOOD])
    wide = Omni123ImageVAE(tiny_vae_config(semantic_dim=40)).eval()
    with pytest.raises(Omni123Error, match="cannot widen"):
        wide.fit_semantic_projection([shapes_on_white(8, 16)])


def test_the_checks_do_not_stop_torch_compile(vae, tokenizer):
    ids = torch.randint(0, 32, (1, 16))
    with torch.no_grad():
        for door, arguments in (
            (vae.encode, (GOOD,)),
            (vae.decode, (torch.randn(1, 16, 4, 4),)),
            (tokenizer.decode, (ids, (4, 4))),
        ):
            compiled = torch.compile(door, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(*arguments), door(*arguments))
