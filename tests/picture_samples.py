"""Pictures as bytes, of every mode that PNG, JPEG and WebP know, and such as no honest program writes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms


RED, BLUE = (200, 30, 30), (30, 30, 200)


def encoded(image: Image.Image, fmt: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def halves(width: int = 32, height: int = 16, mode: str = "RGB") -> Image.Image:
    """The left half red, the right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image.convert(mode)


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes | None = None, **chunks: bytes) -> bytes:
    """A PNG by hand; without `rows` it has no pixels, whatever size it states."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    parts += [chunk(name.encode(), data) for name, data in chunks.items()]
    parts += [chunk(b"IDAT", zlib.compress(rows or b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(values: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of 16 bits: grey (H,W), or (H,W,C) with alpha or colours."""
    height, width = values.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, colour, rows, **chunks)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def turned_jpeg() -> bytes:
    """A tall picture, red above and blue below, stored lying on its side with the EXIF tag that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = halves().transpose(Image.Transpose.ROTATE_270)
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


def animation(fmt: str) -> bytes:
    return encoded(halves(), fmt, save_all=True, append_images=[halves(mode="L").convert("RGB")])
