"""Pictures that the caller gives, brought to the tokens that the backbone reads."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from omni123_hf.data.pictures import PictureLimits, decode_picture, fit_square
from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE


Picture = Image.Image | str | Path | np.ndarray


def encode_pictures(
    pictures: Picture | list[Picture], vae: Omni123ImageVAE, tokenizer: Omni123ImageTokenizer
) -> torch.Tensor:
    """Pictures of any size, mode and depth to image tokens (B, Li): on white, centred in a square, at the VAE's size.

    A picture is a PIL image, the path of a PNG, JPEG or WebP, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16.
    Raises `Omni123Error` for one that is missing, broken, fully transparent or above 64 million pixels.
    """
    listed = pictures if isinstance(pictures, list) else [pictures]
    if not listed:
        raise Omni123Error("the list of images is empty; give at least one")
    squares = [square(picture, vae.config.image_size) for picture in listed]
    pixels = pixels_from_views(np.stack(squares)).to(vae.device, vae.dtype)
    return tokenizer.encode(vae.encode(pixels))


def square(picture: Picture, size: int) -> np.ndarray:
    """(size, size, 4) uint8: RGB on white, and coverage. Raises `Omni123Error`."""
    try:
        return fit_square(decode_picture(*encoded(picture)), size)
    except RejectedError as error:
        raise Omni123Error(f"the image cannot be used: {error}") from error


def encoded(picture: Picture) -> tuple[bytes, str]:
    """A picture as the bytes of a file, and a name for messages: one decoder treats every colour mode and depth."""
    limits = PictureLimits()
    if isinstance(picture, str | Path):
        path = Path(picture)
        if not path.is_file():
            raise Omni123Error(f"the image file {str(path)!r} does not exist")
        if path.stat().st_size > limits.max_file_bytes:
            raise Omni123Error(
                f"the image file {path.name!r} is larger than {limits.max_file_bytes} bytes; scale it down"
            )
        return path.read_bytes(), path.name
    if isinstance(picture, np.ndarray):
        shape, dtype = picture.shape, picture.dtype
        try:
            picture = Image.fromarray(picture)
        except (TypeError, ValueError) as error:
            raise Omni123Error(
                f"the image array is {shape} of {dtype}; give (H, W), (H, W, 3) or (H, W, 4) of uint8"
            ) from error
    if not isinstance(picture, Image.Image):
        raise Omni123Error(f"an image must be a PIL image, a path or an array; got {type(picture).__name__}")
    if picture.width * picture.height > limits.max_pixels:
        raise Omni123Error(
            f"the image is {picture.width} x {picture.height}, more than {limits.max_pixels:,} pixels; scale it down"
        )
    buffer = io.BytesIO()
    try:
        if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "F"):
            picture = picture.convert("RGB")
        # Without compression: this is a way into the one decoder, not storage.
        picture.save(buffer, "PNG", compress_level=0)
    except (OSError, ValueError) as error:
        raise Omni123Error(f"the image of mode {picture.mode} cannot be read: {error}") from error
    return buffer.getvalue(), "image"
