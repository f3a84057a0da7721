"""Colour on meshes: the model draws a shape from all six sides, and the pictures are projected back onto it, as colours of the
vertices or as a texture.

Beyond the paper, whose meshes have no colour. The views are drawn by the task 3D -> posed image, six rows in one batch.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS
from omni123_hf.geometry.color_baking import bake_vertex_colors
from omni123_hf.geometry.texture_baking import MAX_TEXTURE_SIZE, MIN_TEXTURE_SIZE, TEXTURE_SIZE, bake_texture
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase, StepCallback, TextConditioning
from omni123_hf.pipelines.sampling import Sampling


logger = logging.getLogger(__name__)

COLOR_MODES = ("vertex", "texture")
TASK = "3d-to-posed-image"


@dataclass(frozen=True)
class Coloring:
    """mesh: with vertex colours or a texture. views: the pictures by name. seen_share: share of the vertices, or with
    a texture of the surface, that a view coloured."""

    mesh: trimesh.Trimesh
    views: dict[str, Image.Image]
    seen_share: float


@torch.no_grad()
def color_mesh(
    pipeline: Omni123PipelineBase,
    mesh: trimesh.Trimesh,
    shape_tokens: torch.Tensor,
    prompt: str | None = None,
    sampling: Sampling | None = None,
    views: tuple[str, ...] = CANONICAL_VIEWS,
    callback: StepCallback | None = None,
    mode: str = "vertex",
    texture_size: int = TEXTURE_SIZE,
) -> Coloring:
    """Colour for `mesh` (normalised frame), which `shape_tokens` (Ls,) decode to.

    pipeline: any with the image components. sampling: None is greedy with the checkpoint's guidance. mode: "vertex" keeps the
    mesh as it is; "texture" is finer than the mesh and splits its vertices along seams. texture_size: texels on a side.
    Raises `Omni123Error` for a pipeline without image components, an unknown mode or size, and when no picture meets the
    mesh; logs a warning when the checkpoint was not trained on the task.
    """
    check_coloring(pipeline, mode, texture_size)
    if sampling is None:
        sampling = pipeline.prepare_sampling()
    rows = len(views)
    prompts = pipeline.match_prompts(prompt, rows)
    text: TextConditioning | None = None if prompts is None else pipeline.encode_prompt(prompts)
    given: dict[str, Any] = {
        "shape": shape_tokens.reshape(1, -1).expand(rows, -1),
        "view": torch.tensor([CANONICAL_VIEWS.index(name) for name in views]),
    }
    codes = pipeline.generate_codes(get_task(TASK), text, sampling, given, rows=rows, callback=callback)
    pictures = dict(zip(views, pipeline.decode_images(codes["image"]), strict=True))
    pipeline.maybe_free_model_hooks()
    arrays = {name: np.asarray(picture) for name, picture in pictures.items()}
    if mode == "texture":
        textured, texture = bake_texture(mesh, arrays, texture_size)
        return Coloring(textured, pictures, texture.seen_share)
    colored, baked = bake_vertex_colors(mesh, arrays)
    return Coloring(colored, pictures, baked.seen_share)


def check_coloring(pipeline: Omni123PipelineBase, mode: str, texture_size: int = TEXTURE_SIZE) -> None:
    """Raises `Omni123Error`, before any work, for what `color_mesh` refuses of its pipeline and settings."""
    if mode not in COLOR_MODES:
        raise Omni123Error(f"there is no colour mode {mode!r}; use {' or '.join(COLOR_MODES)}")
    is_size = isinstance(texture_size, int) and not isinstance(texture_size, bool)
    if not is_size or not MIN_TEXTURE_SIZE <= texture_size <= MAX_TEXTURE_SIZE:
        raise Omni123Error(
            f"the texture size must be {MIN_TEXTURE_SIZE} to {MAX_TEXTURE_SIZE} texels; got {texture_size!r}"
        )
    if getattr(pipeline, "image_vae", None) is None or getattr(pipeline, "image_tokenizer", None) is None:
        raise Omni123Error("colour needs the image components of the checkpoint; load it as another pipeline")
    if pipeline.trained_tasks is not None and TASK not in pipeline.trained_tasks:
        logger.warning("the checkpoint was not trained on %s: the colours mean nothing", TASK)
