"""Novel view figures: a picture of one side of a held-out object in, a picture of another side out, against the true view.

Each object gives one pair of different canonical views, chosen by hash. Beside the model stand:

- `copy`: the input picture itself, which is what a model gives that does nothing; `copy_tokens`: the same through the image tokenizer;
- `category_mean`: the mean picture of that view over the training objects of the true category; `chance`: a white picture;
- `ceiling`: the true view through the image tokenizer, the best that tokens can say.

The model is asked with the object's first medium caption, as it is trained for the most part (`model`), and with the picture
alone (`model_without_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from omni123_hf.evaluation.baselines import baseline_key
from omni123_hf.evaluation.evaluation_set import EvaluationSet, hash_order
from omni123_hf.evaluation.figures_tokenizers import reconstruct_views
from omni123_hf.evaluation.figures_views import decode_pictures, generate_rows
from omni123_hf.evaluation.image_metrics import psnr, psnr_summary, ssim_summary
from omni123_hf.evaluation.joint_metrics import foreground_mask, silhouette_iou
from omni123_hf.geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS
from omni123_hf.modeling.tasks import get_task


TASK = "image-to-posed-image"
Progress = Callable[[str, int, int], None]


@dataclass
class NovelViews:
    """One pair of views for each of B objects, and the model's answers with and without text."""

    pairs: list[tuple[str, str]]
    images: list[Image.Image]
    images_without_text: list[Image.Image]


def view_pairs(ids: Sequence[str], seed: int = 0) -> list[tuple[str, str]]:
    """For each id a given view and a wanted one, two different canonical views by hash."""
    ordered = [(one, two) for one in CANONICAL_VIEWS for two in CANONICAL_VIEWS if one != two]
    return [ordered[int(hash_order(seed, f"view {name}")[:8], 16) % len(ordered)] for name in ids]


def run_novel_views(
    pipeline: Any, evaluation_set: EvaluationSet, seed: int = 0, progress: Progress | None = None
) -> NovelViews:
    """Draw each object's wanted view from its given one, greedily."""
    pairs = view_pairs([record.id for record in evaluation_set.records], seed)
    given, wanted = (torch.tensor([CANONICAL_VIEWS.index(pair[side]) for pair in pairs]) for side in (0, 1))
    _, _, codes = reconstruct_views(pipeline, stored_views(evaluation_set, [pair[0] for pair in pairs]))
    parts = {"source_image": torch.from_numpy(codes), "source_view": given, "view": wanted}
    drawn = []
    for turn, prompts in enumerate((evaluation_set.prompts, None), 1):
        answer = generate_rows(pipeline, get_task(TASK), prompts, parts, len(pairs))
        drawn.append(decode_pictures(pipeline, answer["image"]))
        if progress is not None:
            progress(TASK, turn, 2)
    return NovelViews(pairs, *drawn)


def stored_views(evaluation_set: EvaluationSet, views: Sequence[str]) -> np.ndarray:
    """The true picture (B, S, S, 3) in [0, 1] of one view of each object."""
    places = [ALL_VIEWS.index(view) for view in views]
    return evaluation_set.views[np.arange(len(places)), places, ..., :3].astype(np.float64) / 255


def novel_view_figures(pipeline: Any, outputs: NovelViews, evaluation_set: EvaluationSet) -> dict[str, Any]:
    """Scores of the model and of everything that it is compared with."""
    source, target = (stored_views(evaluation_set, [pair[side] for pair in outputs.pairs]) for side in (0, 1))
    means = [
        evaluation_set.baselines.mean_view(baseline_key(record))[ALL_VIEWS.index(view), ..., :3]
        for record, (_, view) in zip(evaluation_set.records, outputs.pairs, strict=True)
    ]
    pictures = {
        "model": as_array(outputs.images),
        "model_without_text": as_array(outputs.images_without_text),
        "copy": source,
        "copy_tokens": reconstruct_views(pipeline, source)[0],
        "category_mean": np.stack(means),
        "chance": np.ones_like(target),
        "ceiling": reconstruct_views(pipeline, target)[0],
    }
    return picture_scores(pictures, target) | {"objects": len(target)}


def as_array(images: Sequence[Image.Image]) -> np.ndarray:
    """Pictures as (B, S, S, 3) in [0, 1]."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images]).astype(np.float64) / 255


def picture_scores(pictures: dict[str, np.ndarray], target: np.ndarray) -> dict[str, Any]:
    """PSNR (mean of images, and data set), SSIM and silhouette IoU of stacks (B, S, S, 3), and how often `model` beats others.

    `better_than` holds the share of objects on which the model's PSNR is strictly higher.
    """
    figures: dict[str, Any] = {"psnr": {}, "psnr_dataset": {}, "ssim": {}, "silhouette_iou": {}, "better_than": {}}
    masks = [foreground_mask(picture) for picture in target]
    single: dict[str, np.ndarray] = {}
    for who, stack in pictures.items():
        summary = psnr_summary(stack, target)
        figures["psnr"][who], figures["psnr_dataset"][who] = summary["mean"], summary["dataset"]
        figures["ssim"][who] = ssim_summary(stack, target)
        figures["silhouette_iou"][who] = float(
            np.mean(
                [silhouette_iou(foreground_mask(picture), mask) for picture, mask in zip(stack, masks, strict=True)]
            )
        )
        single[who] = np.array([psnr(picture, truth) for picture, truth in zip(stack, target, strict=True)])
    for who, values in single.items():
        if who != "model":
            figures["better_than"][who] = float((single["model"] > values).mean())
    return figures
