"""Best of n: candidates of one prompt ranked by the model's own cycle, without any other model (beyond the paper).

A candidate of the joint pipeline is an image and a shape. Two things should hold between them: the image is likely given the
shape (the task 3D -> image, with the prompt), and the shape's outline is the image's. `score` is the mean of the candidate's
two places among all candidates, 1 the best and 0 the worst, so that neither measure's unit matters.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import THREE_QUARTER, get_camera
from omni123_hf.geometry.rasterizer import render
from omni123_hf.modeling.tasks import build_sequence, get_task
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase, TextConditioning


# White is background; generated pictures are never quite white.
BACKGROUND_LEVEL = 245


@dataclass(frozen=True)
class Score:
    """image_log_likelihood: mean over the image's codes given shape and prompt. silhouette_iou: None without a surface."""

    score: float
    image_log_likelihood: float
    silhouette_iou: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def rank_candidates(
    pipeline: Omni123PipelineBase,
    prompt: str,
    image_tokens: torch.Tensor,
    shape_tokens: torch.Tensor,
    images: list[Image.Image],
    meshes: list[trimesh.Trimesh | None],
    view: str = THREE_QUARTER,
) -> list[Score]:
    """A score for each of n candidates of one prompt, in their order. view: the camera of un-posed images."""
    if not len(images) == len(meshes) == len(image_tokens) == len(shape_tokens) > 0:
        raise Omni123Error("candidates need an image, a mesh (or None) and both kinds of tokens each")
    text = pipeline.encode_prompt(pipeline.check_prompts(prompt))
    likelihood = image_log_likelihood(pipeline, text, image_tokens, shape_tokens)
    overlap = [
        None if mesh is None else silhouette_iou(image, mesh, view) for image, mesh in zip(images, meshes, strict=True)
    ]
    places = [
        (
            place(likelihood, value)
            + place([-1.0 if o is None else o for o in overlap], -1.0 if found is None else found)
        )
        / 2
        for value, found in zip(likelihood, overlap, strict=True)
    ]
    return [Score(*values) for values in zip(places, likelihood, overlap, strict=True)]


def place(values: list[float], value: float) -> float:
    """Share of the other values that are below, ties counting half: 1 the best, 0 the worst; 1 for an only one."""
    others = len(values) - 1
    if not others:
        return 1.0
    below = sum(other < value for other in values)
    equal = sum(other == value for other in values) - 1
    return (below + equal / 2) / others


@torch.no_grad()
def image_log_likelihood(
    pipeline: Omni123PipelineBase, text: TextConditioning, image_tokens: torch.Tensor, shape_tokens: torch.Tensor
) -> list[float]:
    """Mean log-probability of each image's codes (n, Li) given its shape (n, Ls) and the prompt (one row of text)."""
    model = pipeline.transformer
    sequence = build_sequence(get_task("3d-to-image"), {"shape": shape_tokens, "image": image_tokens}, model.config)
    rows = len(image_tokens)

    def repeated(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.expand(rows, *value.shape[1:])

    output = model(
        sequence.ids.to(model.device),
        text_embeds=repeated(text.text_embeds),
        text_embeds_2=repeated(text.text_embeds_2),
        text_attention_mask_2=repeated(text.text_attention_mask_2),
        prefix_length=sequence.prefix_length,
        modality="image",
        logits_to_keep=image_tokens.shape[1] + 1,
    )
    # The last position predicts beyond the image.
    logits = output.image_logits[:, :-1].float().log_softmax(dim=-1)
    chosen = logits.gather(-1, image_tokens.to(logits.device)[..., None])[..., 0]
    return chosen.mean(dim=1).tolist()


def silhouette_iou(image: Image.Image, mesh: trimesh.Trimesh, view: str) -> float:
    """Intersection over union of the picture's object (what is not white) and the mesh's outline from the same camera."""
    picture = np.asarray(image.convert("RGB"))
    drawn = (picture < BACKGROUND_LEVEL).any(axis=2)
    outline = render(mesh, get_camera(view), picture.shape[0]).mask > 0.5
    union = (drawn | outline).sum()
    return float((drawn & outline).sum() / union) if union else 0.0
