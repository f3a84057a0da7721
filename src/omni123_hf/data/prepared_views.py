"""The pictures of a prepared asset: the seven fixed views, and views from sampled cameras under sampled lights.

Each view comes with its depth and its normals; `data.store` says in which units and frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import trimesh

from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera, random_camera
from omni123_hf.geometry.lighting import random_lighting
from omni123_hf.geometry.rasterizer import RenderResult, render
from omni123_hf.geometry.rendered_view import RenderedView, encode_normals
from omni123_hf.geometry.rendering import SoftwareRenderer


@dataclass(frozen=True)
class ViewArrays:
    """V views as a store keeps them.

    colors: (V,S,S,4) uint8, RGB on white and coverage (the silhouette). depth: (V,S,S) float16, +inf outside. normals:
    (V,S,S,3) uint8 by `encode_normals`, 0 outside.
    """

    colors: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


def render_fixed_views(mesh: trimesh.Trimesh, size: int, supersample: int = 2) -> ViewArrays:
    """The seven views of a normalised mesh in the order of `ALL_VIEWS`, with depth and normals."""
    results = _fixed(mesh, size, supersample)
    return ViewArrays(_colors(results), *_geometry(results))


def render_views(mesh: trimesh.Trimesh, size: int, supersample: int = 2) -> np.ndarray:
    """(7,size,size,4) uint8 views of a normalised mesh in the order of `ALL_VIEWS`: RGB on white, and coverage."""
    return _colors(_fixed(mesh, size, supersample))


def render_random_views(
    mesh: trimesh.Trimesh, count: int, size: int, supersample: int, rng: np.random.Generator
) -> tuple[ViewArrays, list[dict[str, Any]]]:
    """`count` views of a normalised mesh with depth and normals, and {"camera", "lighting"} of each as plain JSON."""
    views, settings = [], []
    renderer = SoftwareRenderer(supersample)
    for number in range(count):
        camera, lighting = random_camera(rng, name=f"random_{number}"), random_lighting(rng)
        views.append(renderer.render_view(mesh, camera, size, lighting))
        settings.append({"camera": camera.to_dict(), "lighting": asdict(lighting)})
    colors = np.stack([np.concatenate([view.on(), view.rgba[..., 3:]], axis=-1) for view in views])
    return ViewArrays(colors, *_geometry(views)), settings


def _fixed(mesh: trimesh.Trimesh, size: int, supersample: int) -> list[RenderResult]:
    return [render(mesh, get_camera(name), size, supersample) for name in ALL_VIEWS]


def _colors(results: Sequence[RenderResult]) -> np.ndarray:
    coverage = [np.rint(result.mask * 255.0).astype(np.uint8)[..., None] for result in results]
    return np.stack([np.concatenate([r.color, c], axis=-1) for r, c in zip(results, coverage, strict=True)])


def _geometry(results: Sequence[RenderResult | RenderedView]) -> tuple[np.ndarray, np.ndarray]:
    depth = np.stack([result.depth for result in results]).astype(np.float16)
    return depth, np.stack([encode_normals(result.normal) for result in results])
