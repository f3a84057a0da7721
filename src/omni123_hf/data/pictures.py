"""Bytes of strangers to a picture, and a picture to the square that a store holds.

What a file may be: PNG, JPEG or WebP of any colour mode and depth, told by its content and not by its name. Turned as its
EXIF data say, brought to sRGB by its colour profile, 16 bits to 8. What goes beyond the limits is refused before it is
decoded; call it in a sandbox all the same, decoders are C code.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

from omni123_hf.errors import RejectedError


PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
MIB = 2**20
# Grey of 16 bits, which Pillow would clip to white when it is asked for 8.
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class PictureLimits:
    """Upper bounds of one picture: bytes of its file, and pixels (width times height) once decoded."""

    max_file_bytes: int = 64 * MIB
    max_pixels: int = 64 * MIB


def decode_picture(data: bytes, name: str, limits: PictureLimits = PictureLimits()) -> Image.Image:
    """An upright RGBA picture in sRGB; `name` is for messages.

    Raises `RejectedError`: "file_too_large", "too_many_pixels", "animated", "transparent" (nothing to be seen),
    "colour_profile" (one that cannot be applied), "unreadable_picture" (broken, cut off, or of another format).
    """
    if len(data) > limits.max_file_bytes:
        raise RejectedError("file_too_large", f"{name} has {len(data)} bytes, more than {limits.max_file_bytes}")
    try:
        with warnings.catch_warnings():
            # Of broken EXIF data and of sizes below Pillow's own limit: nobody reads them from a worker.
            warnings.simplefilter("ignore")
            picture = _opened(data, name, limits)
            ImageOps.exif_transpose(picture, in_place=True)
            rgba = _rgba(picture, name)
    except (RejectedError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise RejectedError("unreadable_picture", f"{name} is no PNG, JPEG or WebP") from error
    except Exception as error:  # Pillow's decoders raise nearly everything on broken bytes, struct and zlib errors too
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise RejectedError("unreadable_picture", f"{name} is no readable picture: {detail}") from error
    if rgba.getchannel("A").getextrema()[1] == 0:
        raise RejectedError("transparent", f"{name} is fully transparent; leave it out")
    return rgba


def fit_square(picture: Image.Image, size: int) -> np.ndarray:
    """(size,size,4) uint8 of an RGBA picture: scaled, centred in a square, RGB put on white, coverage kept as alpha.

    Raises `RejectedError` "too_narrow" for a picture of which less than one pixel would be left across.
    """
    side = max(picture.size)
    width, height = (round(length * size / side) for length in picture.size)
    if min(width, height) < 1:
        raise RejectedError("too_narrow", f"{picture.width} x {picture.height} pixels leave nothing at {size} pixels")
    # Premultiplied, so that the hidden colour of transparent pixels does not bleed into the edges.
    scaled = picture.convert("RGBa").resize(
        (width, height), Image.Resampling.BOX if side % size == 0 else Image.Resampling.LANCZOS
    )
    premultiplied = np.zeros((size, size, 4), dtype=np.int32)
    top, left = (size - height) // 2, (size - width) // 2
    premultiplied[top : top + height, left : left + width] = np.asarray(scaled)
    alpha = premultiplied[..., 3:]
    color = (premultiplied[..., :3] + 255 - alpha).clip(0, 255)
    return np.concatenate([color, alpha], axis=-1).astype(np.uint8)


def _opened(data: bytes, name: str, limits: PictureLimits) -> Image.Image:
    """The picture by its header; its pixels are not decoded yet."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RejectedError(
            "too_many_pixels", f"{name} has more than {limits.max_pixels} pixels; scale it down"
        ) from error
    if picture.width * picture.height > limits.max_pixels:
        size = f"{picture.width} x {picture.height}"
        raise RejectedError(
            "too_many_pixels", f"{name} is {size}, more than {limits.max_pixels} pixels; scale it down"
        )
    # A JPEG with further pictures inside (of a phone's second lens) is one picture all the same.
    if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) != 1:
        raise RejectedError("animated", f"{name} has {getattr(picture, 'n_frames', 1)} frames; save one of them")
    return picture


def _rgba(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode in _DEEP_MODES:
        picture = _eight_bits(picture)
    profile = picture.info.get("icc_profile")
    if picture.mode == "CMYK":
        return (_to_srgb(picture, profile, name) if profile else picture.convert("RGB")).convert("RGBA")
    rgba = picture.convert("RGBA")
    if profile:
        is_grey = picture.mode in ("1", "L", "LA")
        plain = picture.convert("L") if is_grey and _color_space(profile) == "GRAY" else rgba.convert("RGB")
        converted = _to_srgb(plain, profile, name)
        converted.putalpha(rgba.getchannel("A"))
        return converted
    return rgba


def _to_srgb(picture: Image.Image, profile: bytes, name: str) -> Image.Image:
    """RGB of a picture in the colours of its profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        detail = " ".join(str(error).split())[:100]
        raise RejectedError("colour_profile", f"the colour profile of {name} does not fit: {detail}") from error
    assert converted is not None
    return converted


def _color_space(profile: bytes) -> str:
    """As a profile's header states it: "RGB", "GRAY", "CMYK"."""
    return profile[16:20].decode("latin-1").strip()


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey and alpha of 8; a level that the file declares transparent is so."""
    deep = np.asarray(picture).astype(np.int64)
    grey = np.rint(deep.clip(0, 65_535) / 257.0).astype(np.uint8)
    clear = picture.info.get("transparency")
    alpha = np.where(deep == clear, 0, 255) if isinstance(clear, int) else np.full(deep.shape, 255)
    layered = Image.fromarray(np.stack([grey, alpha.astype(np.uint8)], axis=-1), "LA")
    layered.info = {name: value for name, value in picture.info.items() if name == "icc_profile"}
    return layered
