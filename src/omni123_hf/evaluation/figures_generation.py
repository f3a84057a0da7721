"""Figures of the generator: retrieval of the own object, agreement of image and mesh, health of the outputs.

Generation is greedy with default guidance from each object's first medium caption. A failed generation is never dropped: it
ranks last, its silhouette agrees with nothing, and it is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.baselines import ALL, baseline_key
from omni123_hf.evaluation.evaluation_set import KIND_COMBINATION, KIND_PARAMETRIC, KIND_REAL, EvaluationSet
from omni123_hf.evaluation.joint_metrics import (
    candidate_groups,
    foreground_mask,
    rank_of_own,
    retrieval_scores,
    silhouette_iou,
)
from omni123_hf.evaluation.sparse_field import SparseField
from omni123_hf.geometry.cameras import ALL_VIEWS, THREE_QUARTER, get_camera
from omni123_hf.geometry.extraction import extract_surface
from omni123_hf.geometry.health import mesh_health
from omni123_hf.geometry.rasterizer import render
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.modeling.tasks import generation_plan, get_task


GROUP_SIZE, WITHIN, DRAWS = 20, 5, 5
"""Own object among 20, rank 1 and within 5, each object against five draws of the other nineteen."""

CHAMFER_POINTS = 1024
BATCH = 25
QUERY_CHUNK = 16384
Progress = Callable[[str, int, int], None]


@dataclass
class Generation:
    """What one task generated for B prompts. `meshes[i]` is None where `failures[i]` says why; `images` is None without an image."""

    images: list[Image.Image] | None
    meshes: list[trimesh.Trimesh | None]
    failures: list[str | None]
    seconds: float


@torch.no_grad()
def generate(
    pipeline: Any, task: str, prompts: Sequence[str], resolution: int, progress: Progress | None = None
) -> Generation:
    """Run a text task greedily in batches and decode what it generates; `progress(part, done, total)`."""
    start = time.perf_counter()
    plan = generation_plan(get_task(task), pipeline.transformer.config)
    images: list[Image.Image] = []
    meshes: list[trimesh.Trimesh | None] = []
    failures: list[str | None] = []
    for first in range(0, len(prompts), BATCH):
        batch = list(prompts[first : first + BATCH])
        text = pipeline.encode_prompt(pipeline.check_prompts(batch))
        codes = pipeline.transformer.generate_plan(
            plan,
            text_embeds=text.text_embeds,
            text_embeds_2=text.text_embeds_2,
            text_attention_mask_2=text.text_attention_mask_2,
            guidance_scale=pipeline.config["default_guidance_scale"],
            temperature=0.0,
        )
        if "image" in codes:
            images += pipeline.decode_images(codes["image"])

        for tokens in codes["shape"]:
            mesh, failure = decode_shape(pipeline.shape_tokenizer, tokens, resolution)
            meshes.append(mesh)
            failures.append(failure)
            if progress is not None:
                progress(task, len(meshes), len(prompts))
    return Generation(images or None, meshes, failures, time.perf_counter() - start)


def decode_shape(
    shape_tokenizer: Any, tokens: torch.Tensor, resolution: int
) -> tuple[trimesh.Trimesh | None, str | None]:
    """Mesh of shape tokens (Ls,), or None and the reason; the pipeline's decoding, with a sparse field for speed."""
    memory = shape_tokenizer.project_latents(shape_tokenizer.decode_latents(tokens[None]))

    def field(points: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)).to(tokens.device)
        return shape_tokenizer.query(memory, batch[None])[0].float().cpu().numpy()

    try:
        return extract_surface(SparseField(field), resolution=resolution, chunk=QUERY_CHUNK), None
    except Omni123Error as error:
        # As in the pipeline: no surface, or none that is closed, is this object's failure and does not end the run.
        return None, str(error)


def surface_of(mesh: trimesh.Trimesh | None, seed: int) -> np.ndarray | None:
    """`CHAMFER_POINTS` surface points of a generated mesh in the frame it was generated in (the references' frame)."""
    if mesh is None or len(mesh.faces) == 0:
        return None
    return sample_surface(mesh, CHAMFER_POINTS, np.random.default_rng(seed))[0]


def chamfer_matrix(predictions: Sequence[np.ndarray | None], references: Sequence[np.ndarray]) -> np.ndarray:
    """Chamfer L1 (P, R), sum of both directed means; a failed prediction (None) is infinitely far from everything."""
    reference_trees = [cKDTree(reference) for reference in references]
    matrix = np.full((len(predictions), len(references)), np.inf)
    for row, prediction in enumerate(predictions):
        if prediction is None:
            continue
        tree = cKDTree(prediction)
        for column, (reference, reference_tree) in enumerate(zip(references, reference_trees, strict=True)):
            matrix[row, column] = reference_tree.query(prediction)[0].mean() + tree.query(reference)[0].mean()
    return matrix


def ranks_in_groups(matrix: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Rank of the own object, each group's first member, among the group by the own prediction's row of the matrix."""
    return np.array([rank_of_own(matrix[group[0], group], 0) for group in groups])


def retrieval_figures(generation: Generation, evaluation_set: EvaluationSet, seed: int = 0) -> dict[str, Any]:
    """Own object among 20 by Chamfer, one of each of 20 categories, over the set's parametric objects.

    Beside the model stand: `category_mean` (the training medoid of the prompt's true category), `text_blind` (one training
    medoid for every prompt), `shuffled` (the model's own outputs, each judged for another prompt) and `chance`.
    `real` repeats the test among the real assets (20 of them, whatever their categories).
    """
    rows = evaluation_set.of_kind(KIND_PARAMETRIC, KIND_COMBINATION)
    records = [evaluation_set.records[row] for row in rows]
    references = [evaluation_set.surface[row, :CHAMFER_POINTS, :3].astype(np.float32) for row in rows]
    generated = [surface_of(generation.meshes[row], seed) for row in rows]
    size = min(GROUP_SIZE, len({record.category for record in records}))
    within = min(WITHIN, size)
    groups = candidate_groups([record.category for record in records], size, DRAWS, np.random.default_rng(seed))
    medoids = [evaluation_set.baselines.medoid_surface(baseline_key(record))[:CHAMFER_POINTS] for record in records]
    blind = evaluation_set.baselines.medoid_surface(ALL)[:CHAMFER_POINTS]
    model = chamfer_matrix(generated, references)
    matrices = {
        "model": model,
        "category_mean": chamfer_matrix(medoids, references),
        "text_blind": np.repeat(chamfer_matrix([blind], references), len(rows), axis=0),
        "shuffled": np.roll(model, len(rows) // 3 + 1, axis=0),
    }
    figures: dict[str, Any] = {"group_size": size, "within": within, "objects": len(rows), "tests": len(groups)}
    for who, matrix in matrices.items():
        figures[who] = retrieval_scores(ranks_in_groups(matrix, groups), within)
        own = np.diag(matrix)
        figures[who]["median_chamfer_own"] = float(np.median(own)) if np.isfinite(np.median(own)) else None
    figures["chance"] = {"rank1": 1 / size, f"within{within}": within / size, "mean_rank": (size + 1) / 2}
    unseen = np.isin(rows, evaluation_set.of_kind(KIND_COMBINATION))
    chosen = [group for group in groups if unseen[group[0]]]
    figures["combination"] = retrieval_scores(ranks_in_groups(model, chosen), within) | {"objects": int(unseen.sum())}
    figures["real"] = _real_retrieval(generation, evaluation_set, seed)
    figures["failed"] = sum(mesh is None for mesh in (generation.meshes[row] for row in rows))
    return figures


def _real_retrieval(generation: Generation, evaluation_set: EvaluationSet, seed: int) -> dict[str, Any]:
    rows = evaluation_set.of_kind(KIND_REAL)[:GROUP_SIZE]
    references = [evaluation_set.surface[row, :CHAMFER_POINTS, :3].astype(np.float32) for row in rows]
    matrix = chamfer_matrix([surface_of(generation.meshes[row], seed) for row in rows], references)
    within = min(WITHIN, len(rows))
    scores = retrieval_scores([rank_of_own(matrix[i], i) for i in range(len(rows))], within)
    return scores | {"group_size": len(rows), "objects": len(rows)}


def mesh_silhouette(mesh: trimesh.Trimesh | None, size: int) -> np.ndarray:
    """Boolean silhouette (size, size) from the camera of un-posed images; empty where there is no mesh."""
    if mesh is None:
        return np.zeros((size, size), dtype=bool)
    return render(mesh, get_camera(THREE_QUARTER), size).mask > 0.5


def joint_figures(generation: Generation, evaluation_set: EvaluationSet) -> dict[str, Any]:
    """Silhouette IoU between each generated image and its mesh seen from the image's view.

    `chance` is the mean over all pairings of an image with another prompt's mesh; `category_mean` replaces the mesh by the
    silhouette of the prompt's category mean; `image_reference` and `mesh_reference` compare each with the true object.
    """
    if generation.images is None:
        raise ValueError("The joint figures need a task that generates an image; use text-to-image-to-3d.")
    size = generation.images[0].width
    images = [foreground_mask(np.asarray(image.convert("RGB"))) for image in generation.images]
    meshes = [mesh_silhouette(mesh, size) for mesh in generation.meshes]
    view = ALL_VIEWS.index(THREE_QUARTER)
    truths = list(evaluation_set.views[:, view, ..., 3] > 127)
    keys = [baseline_key(record) for record in evaluation_set.records]
    means = [evaluation_set.baselines.mean_view(key)[view, ..., 3] >= 0.5 for key in keys]
    own = np.array([silhouette_iou(i, m) for i, m in zip(images, meshes, strict=True)])
    pairs = [silhouette_iou(i, m) for a, i in enumerate(images) for b, m in enumerate(meshes) if a != b]

    def mean_iou(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        return float(np.mean([silhouette_iou(a, b) for a, b in zip(first, second, strict=True)]))

    return {
        "silhouette_iou": {
            "model": float(own.mean()),
            "category_mean": mean_iou(images, means),
            "chance": float(np.mean(pairs)),
            "median": float(np.median(own)),
        },
        "image_reference_iou": mean_iou(images, truths),
        "mesh_reference_iou": mean_iou(meshes, truths),
        "objects": len(truths),
        "empty_images": sum(not mask.any() for mask in images),
        "failed": sum(mesh is None for mesh in generation.meshes),
    }


def health_figures(generations: dict[str, Generation]) -> dict[str, Any]:
    """Of all generated meshes: how many are watertight, how many failed and said so, and the share that is either."""
    figures: dict[str, Any] = {}
    for task, generation in generations.items():
        healths = [mesh_health(mesh) for mesh in generation.meshes if mesh is not None]
        figures[task] = {
            "outputs": len(generation.meshes),
            "watertight": sum(bool(health.watertight) for health in healths),
            "reported_failures": sum(reason is not None for reason in generation.failures),
            "median_components": float(np.median([health.components for health in healths])) if healths else None,
            "median_faces": float(np.median([health.faces for health in healths])) if healths else None,
            "failures": sorted({reason for reason in generation.failures if reason is not None}),
        }
    outputs = sum(row["outputs"] for row in figures.values())
    accounted = sum(row["watertight"] + row["reported_failures"] for row in figures.values())
    return {"tasks": figures, "outputs": outputs, "watertight_or_reported": accounted / outputs}
