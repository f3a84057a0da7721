"""Decoding: the same picture from every mode and format, and one reason for everything that is no picture."""

import io
import struct

import numpy as np
import pytest
from picture_samples import BLUE, RED, animation, deep_png, encoded, halves, png, srgb_profile, turned_jpeg
from PIL import Image

from omni123_hf.data.pictures import PictureLimits, decode_picture, fit_square
from omni123_hf.errors import RejectedError


GREY = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])


def corners(data: bytes) -> tuple[list[int], list[int]]:
    """Upper left and lower right pixel."""
    pixels = np.asarray(decode_picture(data, "x"))
    return pixels[1, 1].tolist(), pixels[-2, -2].tolist()


SAME = {
    "rgb": (encoded(halves()), 0),
    "rgba": (encoded(halves(mode="RGBA")), 0),
    "palette": (encoded(halves().quantize(4)), 0),
    "webp": (encoded(halves(), "WEBP", lossless=True), 0),
    "jpeg": (encoded(halves(), "JPEG", quality=95), 4),
    "cmyk": (encoded(halves(mode="CMYK"), "JPEG", quality=95), 4),
    "profile": (encoded(halves(), "PNG", icc_profile=srgb_profile()), 1),
    "rgba_profile": (encoded(halves(mode="RGBA"), "PNG", icc_profile=srgb_profile()), 1),
    "deep": (deep_png(np.asarray(halves()).astype(np.uint16) * 257), 0),
    "exif": (turned_jpeg(), 4),
}


@pytest.mark.parametrize("data, tolerance", SAME.values(), ids=SAME)
def test_every_mode_gives_the_same_picture(data, tolerance):
    for found, wanted in zip(corners(data), (RED, BLUE), strict=True):
        assert found[3] == 255 and np.abs(np.subtract(found[:3], wanted)).max() <= tolerance


def test_exif_turns_a_picture_upright():
    with Image.open(io.BytesIO(turned_jpeg())) as stored:
        assert stored.size == (32, 16)
    assert decode_picture(turned_jpeg(), "x").size == (16, 32)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_pictures(mode):
    level = 255 if mode == "1" else GREY
    image = Image.new("L", (8, 8), 255 if mode == "1" else GREY).convert(mode)
    for options in ({}, {"icc_profile": srgb_profile()}):
        found = corners(encoded(image, **options))[0]
        assert found[3] == 255 and np.abs(np.array(found[:3]) - level).max() <= 1


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(decode_picture(deep_png(ramp), "x"))
    assert np.array_equal(pixels[..., 0].reshape(-1), np.arange(256)) and (pixels[..., 3] == 255).all()
    layered = np.stack([ramp, ramp[::-1]], axis=-1)
    pixels = np.asarray(decode_picture(deep_png(layered), "x")).astype(int)
    assert np.abs(pixels[..., 3] - layered[..., 1] / 257).max() < 1
    # The level that stands in tRNS is transparent.
    pixels = np.asarray(decode_picture(deep_png(ramp, tRNS=struct.pack(">H", int(ramp[3, 3]))), "x"))
    assert pixels[3, 3, 3] == 0 and pixels[3, 4, 3] == 255


def test_transparency_of_palettes_and_colours():
    image = halves().quantize(4)
    clear = image.getpixel((0, 0))
    left, right = corners(encoded(image, transparency=clear))
    assert left[3] == 0 and right == [*BLUE, 255]
    left, right = corners(encoded(halves(), transparency=RED))
    assert left[3] == 0 and right[3] == 255


def test_a_profile_of_other_colours_is_applied():
    gray = encoded(halves(), "JPEG")
    assert corners(gray)[0][0] > 150
    swapped = bytearray(srgb_profile())
    swapped = bytes(swapped).replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    left, right = corners(encoded(halves(), "PNG", icc_profile=swapped))
    # Its red primary is sRGB's blue one.
    assert left[2] > left[0] and right[0] > right[2]


BAD = {
    "empty": (b"", "unreadable_picture", "no PNG, JPEG or WebP"),
    "gif": (encoded(halves(), "GIF"), "unreadable_picture", "no PNG, JPEG or WebP"),
    "tiff": (encoded(halves(), "TIFF"), "unreadable_picture", "no PNG, JPEG or WebP"),
    "cut_png": (encoded(halves())[:70], "unreadable_picture", "no readable picture"),
    "cut_jpeg": (encoded(halves(), "JPEG")[:-200], "unreadable_picture", "no readable picture"),
    "cut_webp": (encoded(halves(), "WEBP")[:-20], "unreadable_picture", "found/x.png"),
    "no_pixels": (png(16, 16), "unreadable_picture", "no readable picture"),
    "huge": (png(20_000, 20_000), "too_many_pixels", "more than"),
    "large": (png(9_000, 9_000), "too_many_pixels", "9000 x 9000"),
    "absurd": (png(2**31 - 1, 2**31 - 1), "too_many_pixels", "more than"),
    "animated_png": (animation("PNG"), "animated", "2 frames"),
    "animated_webp": (animation("WEBP"), "animated", "2 frames"),
    "clear": (encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), "transparent", "transparent"),
    "profile": (encoded(halves(), "PNG", icc_profile=b"no profile"), "colour_profile", "does not fit"),
}


@pytest.mark.parametrize("data, reason, detail", BAD.values(), ids=BAD)
def test_what_is_no_picture_is_one_reason(data, reason, detail):
    with pytest.raises(RejectedError, match=detail) as caught:
        decode_picture(data, "found/x.png")
    assert caught.value.reason == reason and "found/x.png" in str(caught.value)
    assert "0x" not in str(caught.value), "the same words in every run"


def test_a_file_beyond_the_limit_is_not_decoded():
    with pytest.raises(RejectedError) as caught:
        decode_picture(encoded(halves()), "x", PictureLimits(max_file_bytes=50))
    assert caught.value.reason == "file_too_large"


def test_flipped_bits_never_raise_anything_else():
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x010E] = "words" * 20
    originals = [encoded(halves(), fmt, exif=exif, icc_profile=srgb_profile()) for fmt in ("PNG", "JPEG", "WEBP")]
    outcomes = set()
    for _ in range(300):
        data = bytearray(originals[rng.integers(3)])
        for place in rng.integers(len(data), size=rng.integers(1, 9)):
            data[place] = rng.integers(256)
        try:
            outcomes.add(decode_picture(bytes(data), "x").mode)
        except RejectedError as error:
            outcomes.add(error.reason)
    assert {"RGBA", "unreadable_picture"} <= outcomes


def test_transparent_pixels_are_white_and_do_not_bleed():
    image = Image.new("RGBA", (32, 24), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 16, 24))
    pixels = fit_square(image, 8)
    assert pixels[0, 0].tolist() == [255, 255, 255, 0], "the square is filled up above"
    assert pixels[4, 1].tolist() == [0, 0, 255, 255] and pixels[4, 6].tolist() == [255, 255, 255, 0]
    assert (pixels[..., 0] <= pixels[..., 2]).all(), "hidden red must not show"


def test_a_picture_keeps_its_proportions_and_a_thread_is_refused():
    wide = fit_square(halves(64, 16, "RGBA"), 16)
    assert (wide[..., 3] == 255).sum(0).tolist() == [4] * 16 and wide[8, 1, :3].tolist() == list(RED)
    # Never padded at its own size: that would take 10^10 pixels here.
    assert fit_square(Image.new("RGBA", (100_000, 100), (0, 0, 0, 255)), 1000)[..., 3].any()
    with pytest.raises(RejectedError) as caught:
        fit_square(Image.new("RGBA", (10_000, 2)), 64)
    assert caught.value.reason == "too_narrow"
