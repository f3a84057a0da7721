"""One rendered view and its files.

`<name>.png` colour and coverage, `<name>.depth.png`, `<name>.normal.png`, `<name>.silhouette.png` and `<name>.json` with
the camera and the depth scale. Each file appears whole, and the JSON last: a view that has one is complete.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera
from omni123_hf.geometry.export import write_atomic


FORMAT = "omni123-view-1"
# Faster than the default level by a factor of three or so, for files about a tenth larger.
PNG_LEVEL = 3


@dataclass(frozen=True)
class RenderedView:
    """What one camera sees; row 0 is the top of the picture.

    rgba: (H,W,4) uint8, straight alpha (colour of the surface alone; alpha is coverage). depth: (H,W) float32 along the
    camera's axis, see `Camera.project`, the nearest of a pixel's samples, inf outside. normal: (H,W,3) float32 unit
    vectors in the world frame turned to the viewer, zero outside. silhouette: (H,W) uint8, 255 where at least half of
    the pixel is covered, otherwise 0.
    """

    rgba: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    silhouette: np.ndarray
    camera: Camera

    @property
    def size(self) -> int:
        """Side of the picture in pixels."""
        return self.rgba.shape[0]

    def on(self, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
        """(H,W,3) uint8: the colours on a plain background."""
        alpha = self.rgba[..., 3:].astype(np.float32) / 255.0
        blended = self.rgba[..., :3] * alpha + np.asarray(background, dtype=np.float32) * (1.0 - alpha)
        return np.rint(blended).astype(np.uint8)

    def save(self, folder: str | Path, name: str) -> Path:
        """Write the files of this view into `folder`; returns the path of the JSON."""
        folder = Path(folder)
        if not name or Path(name).name != name:
            raise Omni123Error(f"{name!r} is not a file name; give a name without folders")
        step = depth_step(self.camera)
        pictures = {
            "": self.rgba,
            ".depth": encode_depth(self.depth, step),
            ".normal": encode_normals(self.normal),
            ".silhouette": self.silhouette,
        }
        for part, pixels in pictures.items():
            write_atomic(folder / f"{name}{part}.png", _png(pixels))
        facts = {"format": FORMAT, "size": self.size, "depth_step": step, "camera": self.camera.to_dict()}
        path = folder / f"{name}.json"
        write_atomic(path, (json.dumps(facts, indent=1) + "\n").encode())
        return path

    @classmethod
    def load(cls, folder: str | Path, name: str) -> RenderedView:
        """The view that `save` wrote: depth to half a step, normals to half a degree. Missing or foreign files raise
        `Omni123Error`."""
        folder = Path(folder)
        path = folder / f"{name}.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise Omni123Error(f"{path} has format {facts['format']!r}; this version reads {FORMAT!r}")
            camera, step = Camera.from_dict(facts["camera"]), float(facts["depth_step"])
            rgba, depth, normal, silhouette = (
                _read_png(folder / f"{name}{part}.png") for part in ("", ".depth", ".normal", ".silhouette")
            )
        except (KeyError, TypeError, json.JSONDecodeError, OSError) as error:
            raise Omni123Error(f"{path} and its pictures are not a saved view: {error}") from error
        return cls(rgba, decode_depth(depth, step), decode_normals(normal), silhouette, camera)


def depth_step(camera: Camera) -> float:
    """World units between neighbouring values of a 16-bit depth picture.

    The 65,535 values reach to twice the camera's distance, behind everything in the field box: steps of 6e-5 for an
    orthographic camera. One camera distance means one step, so that pictures compare.
    """
    return 2.0 * camera.distance / 65535.0


def encode_depth(depth: np.ndarray, step: float) -> np.ndarray:
    """(H,W) depth to uint16: `round(depth / step)`, at least 1; 0 is outside. Depth out of range raises
    `Omni123Error`."""
    inside = np.isfinite(depth)
    values = np.rint(depth[inside].astype(np.float64) / step)
    if len(values) and values.max() > 65535:
        raise Omni123Error("the mesh reaches beyond the range of 16-bit depth; normalise it before rendering")
    encoded = np.zeros(depth.shape, dtype=np.uint16)
    encoded[inside] = np.maximum(values, 1)
    return encoded


def decode_depth(encoded: np.ndarray, step: float) -> np.ndarray:
    """Inverse of `encode_depth` to half a step: (H,W) float32, inf outside."""
    depth = (encoded * step).astype(np.float32)
    depth[encoded == 0] = np.inf
    return depth


def encode_normals(normal: np.ndarray) -> np.ndarray:
    """(H,W,3) unit vectors to uint8: `round((n + 1) * 127.5)`, x, y, z as red, green, blue; black is outside."""
    encoded = np.rint((normal + 1.0) * 127.5).astype(np.uint8)
    encoded[~normal.any(axis=-1)] = 0
    return encoded


def decode_normals(encoded: np.ndarray) -> np.ndarray:
    """Inverse of `encode_normals` to half a degree: (H,W,3) float32, zero outside."""
    normal = encoded.astype(np.float32) / np.float32(127.5) - 1.0
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal[~encoded.any(axis=-1)] = 0.0
    return normal


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16)
