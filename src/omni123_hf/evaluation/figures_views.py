"""Multi-view figures: do posed images and a shape of one object agree, view by view?

Three ways to ask, all by the IoU of an image's silhouette with a mesh's silhouette from that view's camera:

- *text → images → 3D*: the model draws N posed images and then the shape that they show; both are its own (the bar's figure);
- *3D → posed image*: the tokens of a true shape are given, each of the six canonical views is drawn by itself;
- *3D → images*: the same, N views in one sequence.

In the last two the mesh is the given tokens decoded, and the true silhouettes stand beside it. An image without foreground and a
shape without surface agree with nothing (0), and are counted. Every text is the object's first medium caption; decoding is greedy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image

from omni123_hf.evaluation.baselines import baseline_key
from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.figures_generation import BATCH, decode_shape
from omni123_hf.evaluation.figures_tokenizers import encode_shapes
from omni123_hf.evaluation.joint_metrics import foreground_mask, iou_matrix, silhouette_iou
from omni123_hf.geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS, get_camera
from omni123_hf.geometry.rasterizer import render
from omni123_hf.modeling.tasks import Task, get_task


TEXT_TASK, POSED_TASK, CHAIN_TASK = "text-to-images-to-3d-to-images", "3d-to-posed-image", "3d-to-images"
VIEW_ORDER = ("front", "left", "top", "back", "right", "bottom")
"""N views are the first N of these. Opposite views have mirrored silhouettes, so neighbours come first: they say more."""

Progress = Callable[[str, int, int], None]


@dataclass
class ViewOutputs:
    """Images of `views` for B objects, `images[b][v]`, and the shape they belong to: `meshes[b]` None where `failures[b]` says why."""

    views: list[str]
    images: list[list[Image.Image]]
    meshes: list[trimesh.Trimesh | None]
    failures: list[str | None]
    seconds: float


def chain_views(count: int) -> list[str]:
    """The N views that a sequence of N images is measured on."""
    if not 1 <= count <= len(VIEW_ORDER):
        raise ValueError(f"{count} views: there are 1 to {len(VIEW_ORDER)}.")
    return list(VIEW_ORDER[:count])


def views_then_shape(count: int) -> Task:
    """Text → Img×N → 3D: the row of the task table without the images after the shape."""
    task = get_task(TEXT_TASK, count, 1)
    return replace(task, segments=task.segments[: 2 * count + 1])


@torch.no_grad()
def generate_rows(
    pipeline: Any, task: Task, prompts: Sequence[str] | None, given: dict[str, Any], rows: int
) -> dict[str, torch.Tensor]:
    """Greedy codes of `rows` objects in batches, with the checkpoint's guidance; `given` holds rows (N, ...) or single values."""
    parts: list[dict[str, torch.Tensor]] = []
    for start in range(0, rows, BATCH):
        batch = slice(start, min(start + BATCH, rows))
        text = None if prompts is None else pipeline.encode_prompt(pipeline.check_prompts(list(prompts[batch])))
        own = {
            name: value[batch].to(pipeline.device) if isinstance(value, torch.Tensor) and value.ndim else value
            for name, value in given.items()
        }
        parts.append(
            pipeline.generate_codes(task, text, pipeline.prepare_sampling(), own, rows=batch.stop - batch.start)
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def decode_meshes(
    pipeline: Any, tokens: torch.Tensor, resolution: int, progress: Callable[[int], None]
) -> tuple[list[trimesh.Trimesh | None], list[str | None]]:
    """Meshes of shape tokens (N, Ls), and for each the reason why there is none."""
    meshes: list[trimesh.Trimesh | None] = []
    failures: list[str | None] = []
    for row in tokens:
        with torch.no_grad():
            mesh, failure = decode_shape(pipeline.shape_tokenizer, row.to(pipeline.device), resolution)
        meshes.append(mesh)
        failures.append(failure)
        progress(len(meshes))
    return meshes, failures


def decode_pictures(pipeline: Any, tokens: torch.Tensor) -> list[Image.Image]:
    """Pictures of image tokens (N, Li), in batches."""
    return [
        image
        for start in range(0, len(tokens), BATCH)
        for image in pipeline.decode_images(tokens[start : start + BATCH])
    ]


def run_text_to_views(
    pipeline: Any, prompts: Sequence[str], count: int, resolution: int, progress: Progress | None = None
) -> ViewOutputs:
    """Text → images of N views → 3D."""
    start, views = time.perf_counter(), chain_views(count)
    given = {f"view_{number}": CANONICAL_VIEWS.index(view) for number, view in enumerate(views, 1)}
    codes = generate_rows(pipeline, views_then_shape(count), prompts, given, len(prompts))
    drawn = [decode_pictures(pipeline, codes[f"image_{number}"]) for number in range(1, count + 1)]
    meshes, failures = decode_meshes(pipeline, codes["shape"], resolution, _counted(progress, TEXT_TASK, len(prompts)))
    images = [list(row) for row in zip(*drawn, strict=True)]
    return ViewOutputs(views, images, meshes, failures, time.perf_counter() - start)


def run_posed_views(
    pipeline: Any, prompts: Sequence[str], tokens: torch.Tensor, progress: Progress | None = None
) -> list[list[Image.Image]]:
    """3D → posed image for each of the six canonical views by itself: images `[b][v]` in the order of `CANONICAL_VIEWS`."""
    drawn = []
    for number in range(len(CANONICAL_VIEWS)):
        codes = generate_rows(pipeline, get_task(POSED_TASK), prompts, {"shape": tokens, "view": number}, len(tokens))
        drawn.append(decode_pictures(pipeline, codes["image"]))
        if progress is not None:
            progress(POSED_TASK, number + 1, len(CANONICAL_VIEWS))
    return [list(row) for row in zip(*drawn, strict=True)]


def run_shape_to_views(
    pipeline: Any, prompts: Sequence[str], tokens: torch.Tensor, count: int
) -> tuple[list[str], list[list[Image.Image]]]:
    """3D → images of N views in one sequence: the views and images `[b][v]`."""
    views = chain_views(count)
    given: dict[str, Any] = {f"view_{number}": CANONICAL_VIEWS.index(view) for number, view in enumerate(views, 1)}
    codes = generate_rows(
        pipeline, get_task(CHAIN_TASK, num_images=count), prompts, given | {"shape": tokens}, len(tokens)
    )
    drawn = [decode_pictures(pipeline, codes[f"image_{number}"]) for number in range(1, count + 1)]
    return views, [list(row) for row in zip(*drawn, strict=True)]


def image_silhouettes(images: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """Boolean silhouettes (B, V, S, S) of images on white."""
    return np.stack([np.stack([foreground_mask(np.asarray(image.convert("RGB"))) for image in row]) for row in images])


def mesh_silhouettes(meshes: Sequence[trimesh.Trimesh | None], views: Sequence[str], size: int) -> np.ndarray:
    """Boolean silhouettes (B, V, S, S) from the cameras of the views; empty where there is no mesh."""
    masks = np.zeros((len(meshes), len(views), size, size), dtype=bool)
    for row, mesh in enumerate(meshes):
        if mesh is not None:
            for column, view in enumerate(views):
                masks[row, column] = render(mesh, get_camera(view), size).mask > 0.5
    return masks


def true_silhouettes(evaluation_set: EvaluationSet, views: Sequence[str]) -> np.ndarray:
    """Boolean silhouettes (B, V, S, S) of the true objects."""
    return evaluation_set.views[:, [ALL_VIEWS.index(view) for view in views]][..., 3] > 127


def mean_silhouettes(evaluation_set: EvaluationSet, views: Sequence[str]) -> np.ndarray:
    """Boolean silhouettes (B, V, S, S) of each object's category mean."""
    places = [ALL_VIEWS.index(view) for view in views]
    means = [evaluation_set.baselines.mean_view(baseline_key(record)) for record in evaluation_set.records]
    return np.stack([mean[places][..., 3] >= 0.5 for mean in means])


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (B, V) of two stacks of silhouettes (B, V, S, S); an empty one agrees with nothing."""
    return np.array(
        [[silhouette_iou(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)]
    )


def view_figures(
    views: Sequence[str], images: np.ndarray, meshes: np.ndarray, truths: np.ndarray, means: np.ndarray
) -> dict[str, Any]:
    """Agreement of images and meshes, both silhouettes (B, V, S, S), over all objects and views.

    `chance` is the mean over all pairings of an image with *another* object's mesh in the same view; `category_mean` replaces the
    mesh by the silhouette of the object's category mean. `image_reference_iou` and `mesh_reference_iou` compare each with the
    true object: images and mesh could agree on the wrong shape.
    """
    own = pairwise_iou(images, meshes)
    chance = np.array(
        [
            iou_matrix(images[:, view], meshes[:, view])[~np.eye(len(images), dtype=bool)].mean()
            for view in range(len(views))
        ]
    )
    return {
        "silhouette_iou": {
            "model": float(own.mean()),
            "category_mean": float(pairwise_iou(images, means).mean()),
            "chance": float(chance.mean()),
            "median": float(np.median(own)),
        },
        "by_view": {view: float(own[:, place].mean()) for place, view in enumerate(views)},
        "image_reference_iou": float(pairwise_iou(images, truths).mean()),
        "mesh_reference_iou": float(pairwise_iou(meshes, truths).mean()),
        "objects": len(images),
        "views": list(views),
        "empty_images": int((~images.any(axis=(2, 3))).sum()),
        "failed": int((~meshes.any(axis=(1, 2, 3))).sum()),
    }


def text_to_views_figures(outputs: ViewOutputs, evaluation_set: EvaluationSet) -> dict[str, Any]:
    """`view_figures` of text → images → 3D."""
    images = image_silhouettes(outputs.images)
    return view_figures(
        outputs.views,
        images,
        mesh_silhouettes(outputs.meshes, outputs.views, images.shape[-1]),
        true_silhouettes(evaluation_set, outputs.views),
        mean_silhouettes(evaluation_set, outputs.views),
    )


def given_shape_figures(
    pipeline: Any,
    evaluation_set: EvaluationSet,
    resolution: int,
    chain_length: int | None,
    posed: bool,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """`view_figures` of true shapes' images: `posed_views` where asked for, `shape_to_views` for a chain of that length."""
    tokens = encode_shapes(pipeline.shape_tokenizer, evaluation_set.surface)
    report = _counted(progress, "given shapes", len(tokens))
    meshes, _ = decode_meshes(pipeline, tokens, resolution, report)
    figures: dict[str, dict[str, Any]] = {}
    for name, views, images in _given_shape_images(
        pipeline, evaluation_set.prompts, tokens, chain_length, posed, progress
    ):
        masks = image_silhouettes(images)
        figures[name] = view_figures(
            views,
            masks,
            mesh_silhouettes(meshes, views, masks.shape[-1]),
            true_silhouettes(evaluation_set, views),
            mean_silhouettes(evaluation_set, views),
        )
    return figures


def _given_shape_images(
    pipeline: Any,
    prompts: Sequence[str],
    tokens: torch.Tensor,
    chain_length: int | None,
    posed: bool,
    progress: Progress | None,
) -> Iterator[tuple[str, list[str], list[list[Image.Image]]]]:
    if posed:
        yield "posed_views", list(CANONICAL_VIEWS), run_posed_views(pipeline, prompts, tokens, progress)
    if chain_length is not None:
        yield "shape_to_views", *run_shape_to_views(pipeline, prompts, tokens, chain_length)


def _counted(progress: Progress | None, part: str, total: int) -> Callable[[int], None]:
    return (lambda done: None) if progress is None else (lambda done: progress(part, done, total))
