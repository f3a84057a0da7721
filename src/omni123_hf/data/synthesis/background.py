"""What of an image is the object (paper §3.5, step 3). The paper uses BiRefNet; any such callable can stand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from omni123_hf.data.sources.captions import to_lab
from omni123_hf.errors import RejectedError


@dataclass(frozen=True)
class Cutout:
    """mask: (H,W) bool, true on the object. confidence: 0..1, how far the method trusts itself on this image."""

    mask: np.ndarray
    confidence: float


BackgroundRemover = Callable[[Image.Image], Cutout]


@dataclass(frozen=True)
class BorderFlood:
    """Takes away what has the border's colour and hangs together with the border; for plain backgrounds only.

    tolerance: CIELAB distance within which a pixel has the border's colour. Of what is left the largest piece is
    kept, and smaller ones that hold at least `piece` of its area. An enclosed patch of the background's colour
    (inside a handle) counts as object, because a light part of an object looks the same. A border of many colours
    gives low confidence.
    """

    tolerance: float = 8.0
    piece: float = 0.02

    def __call__(self, image: Image.Image) -> Cutout:
        """The object of an RGB image."""
        rgb = np.asarray(image.convert("RGB"), dtype=np.float64)
        lab = to_lab(rgb.reshape(-1, 3)).reshape(rgb.shape)
        border = np.concatenate([lab[0], lab[-1], lab[1:-1, 0], lab[1:-1, -1]])
        color = np.median(border, axis=0)
        close = np.linalg.norm(lab - color, axis=2) <= self.tolerance
        outside = _hangs_on_border(close)
        labels, count = ndimage.label(~outside, structure=np.ones((3, 3)))
        confidence = float((np.linalg.norm(border - color, axis=1) <= self.tolerance).mean())
        if count == 0:
            return Cutout(np.zeros(outside.shape, dtype=bool), confidence)
        areas = np.bincount(labels.reshape(-1))[1:]
        kept = np.flatnonzero(areas >= self.piece * areas.max()) + 1
        return Cutout(np.isin(labels, kept), confidence)


@dataclass(frozen=True)
class MaskRules:
    """What a good mask is. confidence: least. area: least and most share of the image. border: most share of the
    border's pixels that the object may touch (more: it is cut off). largest: least share of the largest piece."""

    confidence: float = 0.6
    area: tuple[float, float] = (0.02, 0.9)
    border: float = 0.02
    largest: float = 0.9

    def check(self, cutout: Cutout) -> dict[str, float]:
        """The measured figures.

        Raises `RejectedError`: `background_uncertain`, `mask_area`, `mask_truncated`, `mask_fragmented`.
        """
        mask = cutout.mask
        edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        areas = np.bincount(labels.reshape(-1))[1:]
        figures = {
            "confidence": cutout.confidence,
            "area": float(mask.mean()),
            "border": float(edge.mean()),
            "largest": float(areas.max() / areas.sum()) if count else 0.0,
        }
        problems = {
            "background_uncertain": figures["confidence"] < self.confidence,
            "mask_area": not self.area[0] <= figures["area"] <= self.area[1],
            "mask_truncated": figures["border"] > self.border,
            "mask_fragmented": figures["largest"] < self.largest,
        }
        for reason, is_bad in problems.items():
            if is_bad:
                raise RejectedError(reason, ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        return figures


def on_white(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The object on white, as the renders of a data set are."""
    pixels = np.asarray(image.convert("RGB")).copy()
    pixels[~mask] = 255
    return Image.fromarray(pixels)


def _hangs_on_border(region: np.ndarray) -> np.ndarray:
    """The pixels of `region` (H,W) bool that reach the image's border through it, by sides."""
    labels, _ = ndimage.label(region)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, touching[touching > 0])
