"""The pictures of a prepared asset: the seven fixed views, and views from sampled cameras under sampled lights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import trimesh

from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera, random_camera
from omni123_hf.geometry.lighting import random_lighting
from omni123_hf.geometry.rasterizer import render
from omni123_hf.geometry.rendering import SoftwareRenderer


def render_views(mesh: trimesh.Trimesh, size: int, supersample: int = 2) -> np.ndarray:
    """(7,size,size,4) uint8 views of a normalised mesh in the order of `ALL_VIEWS`: RGB on white, and coverage."""
    views = np.empty((len(ALL_VIEWS), size, size, 4), dtype=np.uint8)
    for view, name in zip(views, ALL_VIEWS, strict=True):
        result = render(mesh, get_camera(name), size, supersample)
        view[..., :3] = result.color
        view[..., 3] = np.rint(result.mask * 255.0)
    return views


def render_random_views(
    mesh: trimesh.Trimesh, count: int, size: int, supersample: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(count,size,size,4) uint8 views as in `render_views`, and {"camera", "lighting"} of each as plain JSON."""
    views = np.empty((count, size, size, 4), dtype=np.uint8)
    settings = []
    renderer = SoftwareRenderer(supersample)
    for number in range(count):
        camera, lighting = random_camera(rng, name=f"random_{number}"), random_lighting(rng)
        picture = renderer.render_view(mesh, camera, size, lighting)
        views[number, ..., :3] = picture.on()
        views[number, ..., 3] = picture.rgba[..., 3]
        settings.append({"camera": camera.to_dict(), "lighting": asdict(lighting)})
    return views, settings
