"""Pictures of hostile origin, and one colour a face from them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ...errors import RejectedError
from .files import FileSource
from .limits import LoadBudget


# Formats that models use and that Pillow decodes without starting another program.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "GIF")

# Longest side a texture is kept at: a face takes one colour, so finer detail is never seen.
KEPT_SIZE = 1024
COARSE_SIZE = 32

# Four points inside a triangle: the centre and one towards each corner. Enough to average a small patch of a texture.
_SAMPLES = np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]], dtype=np.float64)
_SAMPLES /= _SAMPLES.sum(axis=1, keepdims=True)


def decode_image(data: bytes, name: str, budget: LoadBudget) -> Image.Image:
    """The picture as RGBA, no side longer than `KEPT_SIZE`.

    Its size is checked before a pixel is decoded. Raises RejectedError for a picture that is too large, broken, or of
    another format than `IMAGE_FORMATS`.
    """
    try:
        # Pillow's own limit is a warning at one size and an error at another; ours comes first for both.
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            budget.spend_texture(image.width, image.height, name)
            # JPEG can decode straight to a smaller size.
            image.draft("RGB", (KEPT_SIZE, KEPT_SIZE))
            image.load()
            return shrink(image.convert("RGBA"), KEPT_SIZE)
    except RejectedError:
        raise
    except Image.DecompressionBombError as error:
        raise RejectedError("texture_too_large", f"{name}: {error}") from error
    # Pillow's decoders raise whatever the broken bytes lead to, from IndexError to SyntaxError.
    except Exception as error:
        formats = ", ".join(IMAGE_FORMATS)
        raise RejectedError("broken_texture", f"{name} is not a readable picture ({formats}): {error}") from error


class Textures:
    """Decoded textures of one asset by name, each decoded once however many materials use it."""

    def __init__(self, files: FileSource, budget: LoadBudget) -> None:
        self.files = files
        self.budget = budget
        self._decoded: dict[str, Image.Image | None] = {}

    def get(self, name: str) -> Image.Image | None:
        """The picture of a file; None (and a line in `files.missing`) when there is none."""
        if name not in self._decoded:
            data = self.files.read_optional(name)
            self._decoded[name] = decode_image(data, name[:80], self.budget) if data is not None else None
        return self._decoded[name]


def shrink(image: Image.Image, size: int) -> Image.Image:
    """`image` with no side longer than `size`, each side on its own: what matters is the place in uv."""
    if max(image.size) <= size:
        return image
    return image.resize((min(image.width, size), min(image.height, size)), Image.Resampling.BOX)


def sample_texture(image: Image.Image, uv: np.ndarray, size: int = KEPT_SIZE) -> np.ndarray:
    """(F,3) uint8 colour of faces with texture points uv (F,3,2), repeating, weighted by the texture's opacity.

    A face that spans much of the texture gets the mean of a coarser picture, so that a tiled pattern gives its
    average colour and not the one texel under the centre. v = 1 is the top row. `size`: side it is sampled at.
    """
    fine = shrink(image.convert("RGBA"), size)
    coarse = shrink(fine, COARSE_SIZE)
    mean = _weighted_mean(np.asarray(fine, dtype=np.float64).reshape(1, -1, 4), np.full((1, 3), 190.0))
    uv = np.nan_to_num(uv)
    extent = (uv.max(axis=1) - uv.min(axis=1)).max(axis=1)
    colors = np.tile(mean, (len(uv), 1))
    for level, chosen in (
        (fine, extent <= 2.0 / COARSE_SIZE),
        (coarse, (extent > 2.0 / COARSE_SIZE) & (extent < 0.6)),
    ):
        texels = np.asarray(level)
        points = np.einsum("sc,fcd->fsd", _SAMPLES, uv[chosen])
        columns = np.minimum((points[..., 0] % 1.0 * level.width).astype(np.int64), level.width - 1)
        rows = np.minimum(((1.0 - points[..., 1] % 1.0) * level.height).astype(np.int64), level.height - 1)
        colors[chosen] = _weighted_mean(
            texels[rows, columns].astype(np.float64), np.tile(mean, (int(chosen.sum()), 1))
        )
    return np.clip(np.rint(colors), 0, 255).astype(np.uint8)


def _weighted_mean(texels: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Mean colour (F,3) of texels (F,S,4) weighted by opacity; `otherwise` (F,3) where nothing is opaque."""
    weight = texels[..., 3:4]
    total = weight.sum(axis=1)
    mean = (texels[..., :3] * weight).sum(axis=1) / np.maximum(total, 1e-9)
    return np.where(total > 0.0, mean, otherwise)
