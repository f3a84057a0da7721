"""Colour on meshes: the model draws a shape from all six sides, and the pictures are projected back onto it.

Beyond the paper, whose meshes have no colour. The views are drawn by the task 3D -> posed image, six rows in one batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS
from omni123_hf.geometry.color_baking import bake_vertex_colors
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase, StepCallback, TextConditioning
from omni123_hf.pipelines.sampling import Sampling


@dataclass(frozen=True)
class Coloring:
    """mesh: with vertex colours. views: the pictures by name. seen_share: share of the vertices that a view coloured."""

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
) -> Coloring:
    """Colour for `mesh` (normalised frame), which `shape_tokens` (Ls,) decode to.

    pipeline: any with the image components. sampling: None is greedy with the checkpoint's guidance. Raises `Omni123Error`
    for a pipeline without image components, and when no picture meets the mesh.
    """
    if getattr(pipeline, "image_vae", None) is None or getattr(pipeline, "image_tokenizer", None) is None:
        raise Omni123Error("colour needs the image components of the checkpoint; load it as another pipeline")
    if sampling is None:
        sampling = pipeline.prepare_sampling()
    rows = len(views)
    prompts = pipeline.match_prompts(prompt, rows)
    text: TextConditioning | None = None if prompts is None else pipeline.encode_prompt(prompts)
    given: dict[str, Any] = {
        "shape": shape_tokens.reshape(1, -1).expand(rows, -1),
        "view": torch.tensor([CANONICAL_VIEWS.index(name) for name in views]),
    }
    codes = pipeline.generate_codes(get_task("3d-to-posed-image"), text, sampling, given, rows=rows, callback=callback)
    pictures = dict(zip(views, pipeline.decode_images(codes["image"]), strict=True))
    colored, baked = bake_vertex_colors(mesh, {name: np.asarray(picture) for name, picture in pictures.items()})
    return Coloring(colored, pictures, baked.seen_share)
