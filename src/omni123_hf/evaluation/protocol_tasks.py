"""The figures of protocol `omni123-mini-v1` for the tasks beyond text: edits, posed views, novel views.

They stand beside the older figures and change none of them. A task that the checkpoint was not trained on is left out, with the
reason in the result, because figures of an untrained task mean nothing; so are edits where the set has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from omni123_hf.evaluation.edit_set import EditSet
from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.figures_edits import TASK as EDIT_TASK
from omni123_hf.evaluation.figures_edits import EditOutputs, edit_figures, run_edits
from omni123_hf.evaluation.figures_generation import Generation, health_figures
from omni123_hf.evaluation.figures_novel_view import TASK as NOVEL_TASK
from omni123_hf.evaluation.figures_novel_view import NovelViews, novel_view_figures, run_novel_views
from omni123_hf.evaluation.figures_views import (
    CHAIN_TASK,
    POSED_TASK,
    TEXT_TASK,
    ViewOutputs,
    given_shape_figures,
    run_text_to_views,
    text_to_views_figures,
)


DEFAULT_IMAGES = 2
"""N of Table 7 where the checkpoint keeps no recipe that says how many images it was trained on."""

PARTS = {
    "edits": EDIT_TASK,
    "text_to_views": TEXT_TASK,
    "posed_views": POSED_TASK,
    "shape_to_views": CHAIN_TASK,
    "novel_view": NOVEL_TASK,
}
"""Part of the result, and the task that it measures."""

NO_EDITS = "the evaluation set holds no held-out edits (add them with 'omni123 evaluate export-subset --edits PAIRS')"
Progress = Callable[[str, int, int], None]


@dataclass
class FurtherResult:
    """`figures` by part, `left_out` part to reason, `seconds` by part, and the outputs that the sheets show."""

    figures: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    edits: EditOutputs | None = None
    views: ViewOutputs | None = None
    novel_views: NovelViews | None = None


def run_further_tasks(
    pipeline: Any,
    evaluation_set: EvaluationSet,
    edit_set: EditSet | None,
    seed: int,
    resolution: int,
    trained: Set[str] | None = None,
    num_images: int | None = None,
    edit_guidance_scale: float | None = None,
    progress: Progress | None = None,
) -> FurtherResult:
    """Run every part whose task is among `trained` (None: not known, all of them); `num_images` is N of the chains."""
    result = FurtherResult()
    count = num_images or DEFAULT_IMAGES
    prompts = evaluation_set.prompts
    for part, task in PARTS.items():
        if trained is not None and task not in trained:
            result.left_out[part] = f"the checkpoint was not trained on {task}"
    if edit_set is None:
        result.left_out.setdefault("edits", NO_EDITS)

    clock = time.perf_counter()

    def done(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        result.seconds[part], clock = round(now - clock, 2), now
        if progress is not None:
            progress(part, 1, 1)

    health: dict[str, Generation] = {}
    if edit_set is not None and "edits" not in result.left_out:
        result.edits = run_edits(pipeline, edit_set, resolution, edit_guidance_scale, progress)
        health[EDIT_TASK] = Generation(
            None, result.edits.meshes["model"], result.edits.failures["model"], result.edits.seconds
        )
        done(EDIT_TASK)
        result.figures["edits"] = edit_figures(pipeline, result.edits, edit_set)
        done("edit scores")
    if "text_to_views" not in result.left_out:
        result.views = run_text_to_views(pipeline, prompts, count, resolution, progress)
        health[TEXT_TASK] = Generation(None, result.views.meshes, result.views.failures, result.views.seconds)
        result.figures["text_to_views"] = text_to_views_figures(result.views, evaluation_set)
        done(TEXT_TASK)
    given = {part for part in ("posed_views", "shape_to_views") if part not in result.left_out}
    if given:
        result.figures |= given_shape_figures(
            pipeline,
            evaluation_set,
            resolution,
            count if "shape_to_views" in given else None,
            "posed_views" in given,
            progress,
        )
        done("views of given shapes")
    if "novel_view" not in result.left_out:
        result.novel_views = run_novel_views(pipeline, evaluation_set, seed, progress)
        result.figures["novel_view"] = novel_view_figures(pipeline, result.novel_views, evaluation_set)
        done(NOVEL_TASK)
    if health:
        result.figures["further_outputs"] = health_figures(health)
    return result
