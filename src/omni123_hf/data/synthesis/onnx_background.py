"""Background removal by a segmentation network in an ONNX file, of the kind that rembg runs (U²-Net, IS-Net, BiRefNet).

The file is the user's: none is shipped or downloaded, and its licence is its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omni123_hf.data.synthesis.background import Cutout
from omni123_hf.errors import Omni123Error


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A probability may leave its range by a rounding error only; a logit leaves it by more.
RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class NetworkKind:
    """How a family of networks reads and answers.

    size: side of its input where the file leaves that open. mean, std: of RGB in 0..1. is_logit: whether the answer is
    a logit and not a probability.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    is_logit: bool


KINDS = {
    "u2net": NetworkKind(320, *IMAGENET, is_logit=False),
    "isnet": NetworkKind(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), is_logit=False),
    "birefnet": NetworkKind(1024, *IMAGENET, is_logit=True),
}


class OnnxBackground:
    """A `BackgroundRemover`: what the network gives a probability of at least a half is object.

    The answer is taken as it is. Stretching it to 0..1 first, as is common, would find an object in every picture.
    Confidence is the soft overlap of the probability with the mask: 1 when all is certain, and 0 without an object.
    """

    def __init__(self, path: str | Path, kind: str = "u2net"):
        """Raises `Omni123Error` without onnxruntime, and for a file that is no such network."""
        if kind not in KINDS:
            raise Omni123Error(f"unknown kind of network {kind!r}; choose from {', '.join(KINDS)}")
        try:
            import onnxruntime
        except ImportError as error:
            raise Omni123Error(
                "an ONNX background remover needs onnxruntime; install it with: pip install 'omni123-hf[background]'"
            ) from error
        self.path, self.kind = Path(path), kind
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise Omni123Error(f"cannot read the background model {str(path)!r}: {error.strerror}") from error
        self._hash = hashlib.sha256(content).hexdigest()[:12]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise Omni123Error(f"{self.path.name} is no ONNX network that can be run: {_line(error)}") from error
        self._input = self._session.get_inputs()[0]
        height, width = _sides(self._input.shape, self.path.name)
        self._size = (width or KINDS[kind].size, height or KINDS[kind].size)
        # A network of another kind fails on any picture: better now than once an item.
        self(Image.new("RGB", self._size, "white"))

    @property
    def remover_id(self) -> str:
        """Kind and content of the file."""
        return f"onnx {self.kind} {self._hash}"

    def __call__(self, image: Image.Image) -> Cutout:
        """The object of an RGB image. An answer of another form raises `Omni123Error`."""
        probability = self._probability(image.convert("RGB"))
        full = Image.fromarray(probability).resize(image.size, Image.Resampling.BILINEAR)
        soft = np.asarray(full)
        mask = soft >= 0.5
        confidence = float(soft[mask].sum() / (mask.sum() + soft[~mask].sum())) if mask.any() else 0.0
        return Cutout(mask, confidence)

    def _probability(self, image: Image.Image) -> np.ndarray:
        """(h,w) float32 of an RGB image, at the network's own size."""
        kind = KINDS[self.kind]
        small = image.resize(self._size, Image.Resampling.LANCZOS)
        mean, std = (np.asarray(values, dtype=np.float32) for values in (kind.mean, kind.std))
        pixels = (np.asarray(small, dtype=np.float32) / 255.0 - mean) / std
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        try:
            answer = np.asarray(self._session.run(None, {self._input.name: batch})[0], dtype=np.float32)
        except Exception as error:  # as above
            raise Omni123Error(f"{self.path.name} cannot be run on a picture: {_line(error)}") from error
        if answer.ndim != 4 or answer.shape[:2] != (1, 1) or not np.isfinite(answer).all():
            raise Omni123Error(
                f"the first output of {self.path.name} is {answer.shape}, not one finite mask (1,1,H,W); it is no network "
                "that removes backgrounds"
            )
        mask = answer[0, 0]
        if kind.is_logit:
            return 1.0 / (1.0 + np.exp(-np.clip(mask, -60.0, 60.0)))
        if mask.min() < -RANGE_TOLERANCE or mask.max() > 1.0 + RANGE_TOLERANCE:
            raise Omni123Error(
                f"{self.path.name} answers with values from {mask.min():.2f} to {mask.max():.2f}, which are no "
                "probabilities; choose the kind whose answers are logits (birefnet)"
            )
        return np.clip(mask, 0.0, 1.0)


def _sides(shape: list[Any], name: str) -> tuple[int, int]:
    """Height and width of the input; 0 where the file leaves them open."""
    if len(shape) != 4 or shape[1] not in (3, None) and isinstance(shape[1], int):
        raise Omni123Error(f"the input of {name} is {shape}, not one RGB picture (1,3,H,W)")
    height, width = (side if isinstance(side, int) and side > 0 else 0 for side in shape[2:])
    return height, width


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
