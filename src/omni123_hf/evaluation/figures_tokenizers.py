"""Figures of the two tokenizers on held-out objects: occupancy IoU, PSNR and SSIM, use of the codes.

Every figure stands beside a baseline that looks at no input but the true category (`baselines`), and beside chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from omni123_hf.evaluation.baselines import baseline_key
from omni123_hf.evaluation.evaluation_set import KIND_COMBINATION, KIND_PARAMETRIC, KIND_REAL, EvaluationSet
from omni123_hf.evaluation.image_metrics import psnr, psnr_summary, ssim_summary
from omni123_hf.evaluation.joint_metrics import code_histogram, code_statistics
from omni123_hf.evaluation.shape_metrics import occupancy_iou
from omni123_hf.geometry.normalization import FIELD_BOUND


BATCH = 16
QUERY_CHUNK = 2048
Progress = Callable[[int, int], None]


def by_kind(scores: np.ndarray, evaluation_set: EvaluationSet) -> dict[str, float]:
    """Mean of per-object scores (N,): `parametric` (with the unseen combinations), `combination` (these alone), `real`, `all`."""
    groups = {
        "parametric": evaluation_set.of_kind(KIND_PARAMETRIC, KIND_COMBINATION),
        "combination": evaluation_set.of_kind(KIND_COMBINATION),
        "real": evaluation_set.of_kind(KIND_REAL),
        "all": np.arange(len(evaluation_set)),
    }
    return {name: float(scores[rows].mean()) for name, rows in groups.items() if len(rows)}


def shape_inputs(surface: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Surfaces (B, P, 6) as points and unit normals (B, P, 3), the rounding of half precision taken back."""
    values = torch.from_numpy(surface.astype(np.float32)).to(device)
    points, normals = values[..., :3].clamp(-FIELD_BOUND, FIELD_BOUND), values[..., 3:]
    return points, torch.nn.functional.normalize(normals, dim=-1)


@torch.no_grad()
def encode_shapes(shape_tokenizer: Any, surfaces: np.ndarray) -> torch.Tensor:
    """Shape tokens (N, Ls) int64 on the CPU of surfaces (N, P, 6)."""
    device = shape_tokenizer.device
    batches = (surfaces[start : start + BATCH] for start in range(0, len(surfaces), BATCH))
    return torch.cat([shape_tokenizer.encode(*shape_inputs(batch, device)).cpu() for batch in batches])


@torch.no_grad()
def predict_occupancy(shape_tokenizer: Any, tokens: torch.Tensor, queries: np.ndarray) -> np.ndarray:
    """Boolean occupancy (N, Q) that shape tokens (N, Ls) decode to at queries (N, Q, 3)."""
    device, rows = shape_tokenizer.device, []
    for start in range(0, len(tokens), BATCH):
        memory = shape_tokenizer.project_latents(
            shape_tokenizer.decode_latents(tokens[start : start + BATCH].to(device))
        )
        points = torch.from_numpy(queries[start : start + BATCH].astype(np.float32)).to(device)
        chunks = [shape_tokenizer.query(memory, chunk) > 0 for chunk in points.split(QUERY_CHUNK, dim=1)]
        rows.append(torch.cat(chunks, dim=1).cpu().numpy())
    return np.concatenate(rows)


def shape_tokenizer_figures(shape_tokenizer: Any, evaluation_set: EvaluationSet) -> dict[str, Any]:
    """Volume IoU (queries uniform in the box) and near-surface IoU of each kind of held-out object, through the codes.

    `category_mean` is the IoU of the category's mean occupancy; `chance` is the IoU of another object's reconstruction.
    """
    queries, labels = evaluation_set.queries, evaluation_set.occupancy
    tokens = encode_shapes(shape_tokenizer, evaluation_set.surface)
    # A shift by an odd share of the set never pairs an object with itself and seldom with its own category.
    other = np.roll(np.arange(len(evaluation_set)), len(evaluation_set) // 3 + 1)
    predictions = {
        "model": predict_occupancy(shape_tokenizer, tokens, queries),
        "category_mean": np.stack(
            [
                evaluation_set.baselines.mean_occupancy(baseline_key(record), points)
                for record, points in zip(evaluation_set.records, queries, strict=True)
            ]
        ),
        "chance": predict_occupancy(shape_tokenizer, tokens[torch.from_numpy(other)], queries),
    }
    half = queries.shape[1] // 2
    figures: dict[str, Any] = {}
    for name, part in (("volume_iou", slice(0, half)), ("near_surface_iou", slice(half, None))):
        figures[name] = {}
        for who, predicted in predictions.items():
            scores = np.array([occupancy_iou(p[part], r[part]) for p, r in zip(predicted, labels, strict=True)])
            figures[name][who] = by_kind(scores, evaluation_set)
    return figures | {"objects": len(evaluation_set), "queries_per_half": half}


@torch.no_grad()
def reconstruct_views(pipeline: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (N, S, S, 3) in [0, 1] through the codes and through the VAE alone, and their tokens (N, Li)."""
    vae, tokenizer = pipeline.image_vae, pipeline.image_tokenizer
    quantised: list[np.ndarray] = []
    continuous: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    for start in range(0, len(pixels), 4 * BATCH):
        batch = torch.from_numpy(pixels[start : start + 4 * BATCH].astype(np.float32)).to(vae.device)
        latent = vae.encode(batch.permute(0, 3, 1, 2) * 2 - 1)
        tokens = tokenizer.encode(latent)
        for latents, rows in (
            (tokenizer.decode(tokens, grid=tuple(latent.shape[-2:])), quantised),
            (latent, continuous),
        ):
            decoded = ((vae.decode(latents).float() + 1) / 2).clamp(0, 1)
            rows.append(decoded.permute(0, 2, 3, 1).cpu().numpy())
        codes.append(tokens.cpu().numpy())
    return np.concatenate(quantised), np.concatenate(continuous), np.concatenate(codes)


def image_tokenizer_figures(pipeline: Any, evaluation_set: EvaluationSet) -> tuple[dict[str, Any], np.ndarray]:
    """PSNR and SSIM of all views of all objects, and the tokens (N * V, Li) of the views.

    Reported through the codes (`model`), through the VAE alone (`vae`), of the category's mean picture of the view
    (`category_mean`) and of an empty white picture (`chance`). `foreground` is the PSNR inside the silhouettes only:
    renders are mostly white, which flatters the plain PSNR.
    """
    count, views, size = evaluation_set.views.shape[:3]
    reference = evaluation_set.views[..., :3].reshape(-1, size, size, 3).astype(np.float64) / 255
    masks = evaluation_set.views[..., 3].reshape(-1, size, size) > 127
    quantised, continuous, codes = reconstruct_views(pipeline, reference)
    means = [evaluation_set.baselines.mean_view(baseline_key(record))[..., :3] for record in evaluation_set.records]
    pictures = {
        "model": quantised,
        "vae": continuous,
        "category_mean": np.stack(means).reshape(reference.shape),
        "chance": np.ones_like(reference),
    }
    figures: dict[str, Any] = {"psnr": {}, "psnr_dataset": {}, "psnr_foreground": {}, "ssim": {}}
    for who, picture in pictures.items():
        summary = psnr_summary(picture, reference)
        figures["psnr"][who], figures["psnr_dataset"][who] = summary["mean"], summary["dataset"]
        foreground = [psnr(p, r, m) for p, r, m in zip(picture, reference, masks, strict=True) if m.any()]
        figures["psnr_foreground"][who] = float(np.mean(foreground))
        figures["ssim"][who] = ssim_summary(picture, reference)
    per_object = (
        np.array([psnr(p, r) for p, r in zip(quantised, reference, strict=True)]).reshape(count, views).mean(axis=1)
    )
    figures["psnr_by_kind"] = by_kind(per_object, evaluation_set)
    return figures | {"images": len(reference)}, codes


def code_figures(pipeline: Any, evaluation_set: EvaluationSet, image_codes: np.ndarray) -> dict[str, Any]:
    """Use and perplexity of both codebooks. Shape codes are counted on the held-out objects and on the set's extra surfaces."""
    tokenizer = pipeline.shape_tokenizer
    extra = encode_shapes(tokenizer, evaluation_set.code_surfaces)
    held_out = encode_shapes(tokenizer, evaluation_set.surface)
    shape_codes = np.concatenate([held_out.numpy().reshape(-1), extra.numpy().reshape(-1)])
    return {
        "shape": code_statistics(code_histogram(shape_codes, tokenizer.config.num_codes)),
        "image": code_statistics(code_histogram(image_codes, pipeline.image_tokenizer.config.num_codes)),
    }
