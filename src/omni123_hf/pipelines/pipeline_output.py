"""What the pipelines return."""

from dataclasses import dataclass, field
from typing import Any

import PIL.Image
import torch
import trimesh
from diffusers.utils import BaseOutput


@dataclass
class Omni123PipelineOutput(BaseOutput):
    """One entry a prompt in every list, in the order of the prompts.

    images: RGB pictures, or None with `output_type="tokens"`.
    meshes: watertight meshes in the frame y up, +z front, longest side about 1.92; None in the place of a failed surface.
    image_tokens (B, Li), shape_tokens (B, Ls): codes of the two tokenizers, each counted from 0.
    health: `geometry.health.MeshHealth.to_dict()` of each mesh; None in the place of a failed surface.
    failures: the reason in the place of each failed surface, otherwise None.
    timings: seconds per part: text_encoder, transformer, image_decoder, shape_decoder, mesh_health (the last three only
        with `output_type="trimesh"`).
    """

    images: list[PIL.Image.Image] | None = None
    meshes: list[trimesh.Trimesh | None] | None = None
    image_tokens: torch.Tensor | None = None
    shape_tokens: torch.Tensor | None = None
    health: list[dict[str, Any] | None] | None = None
    failures: list[str | None] | None = None
    timings: dict[str, float] = field(default_factory=dict)
