"""What the pipelines return."""

from dataclasses import dataclass, field
from typing import Any

import PIL.Image
import torch
import trimesh
from diffusers.utils import BaseOutput

from omni123_hf.geometry.normalization import NormalizationTransform


@dataclass
class Omni123PipelineOutput(BaseOutput):
    """One entry a sample in every list: the samples of the first input, then those of the second, and so on.

    images: RGB pictures, or None with `output_type="tokens"` and for tasks without pictures.
    meshes: watertight meshes in the frame y up, +z front, longest side about 1.92; None in the place of a failed surface.
    image_tokens (B, Li), shape_tokens (B, Ls): codes of the two tokenizers, each counted from 0.
    health: `geometry.health.MeshHealth.to_dict()` of each mesh; None in the place of a failed surface.
    failures: the reason in the place of each failed surface, otherwise None.
    extraction: `geometry.extraction_report.ExtractionReport.to_dict()` of each mesh: how its surface was found.
    scores: what candidates are ranked by, higher is better, where something was ranked.
    timings: seconds per part: text_encoder, input_encoder, transformer, image_decoder, shape_decoder, mesh_health (those
        that the task has; the decoders only with `output_type="trimesh"`).
    """

    images: list[PIL.Image.Image] | None = None
    meshes: list[trimesh.Trimesh | None] | None = None
    image_tokens: torch.Tensor | None = None
    shape_tokens: torch.Tensor | None = None
    health: list[dict[str, Any] | None] | None = None
    failures: list[str | None] | None = None
    scores: list[float] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    extraction: list[dict[str, Any] | None] | None = None


@dataclass
class Omni123MultiViewOutput(BaseOutput):
    """As `Omni123PipelineOutput`, with several posed pictures a sample.

    images: for each sample its pictures; views: for each sample the names of the views they show, in the same order.
    image_tokens (B, V, Li).
    """

    images: list[list[PIL.Image.Image]] | None = None
    views: list[list[str]] | None = None
    meshes: list[trimesh.Trimesh | None] | None = None
    image_tokens: torch.Tensor | None = None
    shape_tokens: torch.Tensor | None = None
    health: list[dict[str, Any] | None] | None = None
    failures: list[str | None] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    extraction: list[dict[str, Any] | None] | None = None


@dataclass
class Omni123EditOutput(BaseOutput):
    """One entry a sample in every list, in the order of the shapes.

    meshes, health, failures, extraction, timings: as in `Omni123PipelineOutput`. shape_tokens, source_tokens (B, Ls): codes after and
    before. transforms: from the given mesh's frame to the model's (None for given tokens). changed: whether any code differs.
    locality: `geometry.edit_locality.EditLocality.to_dict()` of what was decoded, None with `output_type="tokens"`.
    """

    meshes: list[trimesh.Trimesh | None] | None = None
    shape_tokens: torch.Tensor | None = None
    source_tokens: torch.Tensor | None = None
    transforms: list[NormalizationTransform | None] | None = None
    changed: list[bool] | None = None
    locality: list[dict[str, Any]] | None = None
    health: list[dict[str, Any] | None] | None = None
    failures: list[str | None] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    extraction: list[dict[str, Any] | None] | None = None
