"""Stage `edit`: what the model makes of fixed validation pairs, beside the copy-source baseline (paper §5).

Doing nothing scores well on edits, for most of a shape stays. So every figure is given twice, for the generated shape and for
the source left as it is, both against the target, and the share of pairs is counted in which the model is the better one.
Shapes are compared as tokens, and decoded by the run's shape tokenizer in the frame that both sides of a pair share.

```yaml
options:
  edit_report: {pairs: 16, guidance_scale: 1.0, resolution: 32, surface_points: 4096}  # the defaults; pairs 0: no report
```
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from scipy.spatial import cKDTree

from ..data.tokens import weights_hash
from ..errors import Omni123Error
from ..geometry.export import write_atomic
from ..geometry.extraction import evaluate_grid, mesh_from_grid
from ..geometry.normalization import FIELD_BOUND
from ..geometry.sampling import sample_surface
from ..modeling.decoding import shape_field
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from ..modeling.tasks import generation_plan
from .collation import TaskCollator, generation_conditions
from .task_samples import TaskSample, TaskSampler
from .text_conditioned import TextConditionedOmni123


TASK = "edit-3d"
DEFAULTS: dict[str, Any] = {"pairs": 16, "guidance_scale": 1.0, "resolution": 32, "surface_points": 4096}
FIGURES = ("token_agreement", "volume_iou", "chamfer")
FILE = "edit_report.json"


def read_edit_report(given: Mapping[str, Any] | None, stage: str, reports_edits: bool) -> dict[str, Any] | None:
    """The option `edit_report` over its defaults; None for a stage without a report, or with `pairs: 0`."""
    if not reports_edits:
        if given is not None:
            raise Omni123Error(f"options.edit_report belongs to stage edit, and this is stage {stage}: leave it out.")
        return None
    values = {**DEFAULTS, **(given or {})}
    unknown = sorted(set(values) - set(DEFAULTS))
    if unknown:
        raise Omni123Error(f"options.edit_report has unknown keys {unknown}: it knows {', '.join(DEFAULTS)}.")
    for name, least in (("pairs", 0), ("resolution", 4), ("surface_points", 1)):
        if not isinstance(values[name], int) or values[name] < least:
            raise Omni123Error(f"edit_report.{name} is {values[name]!r}: give a whole number of at least {least}.")
    scale = values["guidance_scale"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < float("inf"):
        raise Omni123Error(f"edit_report.guidance_scale is {scale!r}: give a number of 0 or more; 1 is no guidance.")
    return values if values["pairs"] else None


@dataclass(frozen=True)
class EditPair:
    """One validation pair; the sample's parts are `source_shape` and `shape`, codes `(L,)`."""

    id: str
    edit_type: str
    sample: TaskSample


@dataclass(frozen=True)
class DecodedShape:
    """`inside` bool `(R, R, R)` over ±1.05; `surface` points `(N, 3)`, None where the field has no surface."""

    inside: np.ndarray
    surface: np.ndarray | None


def validation_pairs(sampler: TaskSampler, count: int) -> list[EditPair]:
    """Up to `count` pairs, evenly over the validation split of the pools that serve the task; texts drawn by the seed."""
    names = dict.fromkeys(subset.pool for subset in sampler.subsets if TASK in subset.tasks)
    places = [(name, int(row)) for name in names for row in sampler.choosers[name].rows]
    if not places:
        raise Omni123Error(
            f"stage edit reports on the task {TASK}, which no subset of the mixture has: add it, or set "
            "options.edit_report.pairs to 0."
        )
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    pairs = []
    for name, row in (places[place] for place in chosen):
        pool: Any = sampler.pools[name]
        record = pool.record(row)
        rng = np.random.default_rng((sampler.seed, row))
        sample = sampler.sample(pool, sampler.tasks[TASK], "medium", row, rng)
        pairs.append(EditPair(record.id, record.edit["edit_type"], sample))
    return pairs


class EditReport:
    """Called at every evaluation with the model and the step: writes `edit_report.json`, returns `eval_edit_*` figures.

    Ranks share the pairs among them. Greedy, so that a report can be repeated.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        sampler: TaskSampler,
        collator: TaskCollator,
        tokenizer_folder: Path,
        output_dir: Path,
        batch_size: int,
    ):
        self.values, self.collator, self.batch_size = dict(values), collator, batch_size
        self.path = output_dir / FILE
        self.pairs = validation_pairs(sampler, values["pairs"])
        self.lineage = {
            "shape_tokenizer": weights_hash(tokenizer_folder),
            "pools": {
                subset.pool: sampler.pools[subset.pool].content_hash
                for subset in sampler.subsets
                if TASK in subset.tasks
            },
        }
        self.tokenizer_folder = tokenizer_folder
        self.shape_tokenizer: Any = None
        self.references: dict[int, tuple[DecodedShape, dict[str, Any]]] = {}
        self.last: tuple[int, dict[str, float]] | None = None

    def __call__(
        self, model: TextConditionedOmni123, step: int, rank: int = 0, world_size: int = 1
    ) -> dict[str, float]:
        # The end of the run may be an evaluation of the schedule as well: the same weights give the same report.
        if self.last is not None and self.last[0] == step:
            return self.last[1]
        own = list(range(rank, len(self.pairs), world_size))
        results: list[tuple[int, dict[str, Any]]] = []
        for start in range(0, len(own), self.batch_size):
            numbers = own[start : start + self.batch_size]
            generated = self.generate(model, [self.pairs[number].sample for number in numbers])
            results += [
                (number, self.judge(number, codes, model)) for number, codes in zip(numbers, generated, strict=True)
            ]
        rows = [row for _, row in sorted(gather_object(results), key=lambda result: result[0])]
        report = {
            "step": step,
            "decoding": "greedy",
            **{name: value for name, value in self.values.items() if name != "pairs"},
            **self.lineage,
            "all": summarize(rows),
            "edit_types": {
                kind: summarize([row for row in rows if row["edit_type"] == kind])
                for kind in sorted({row["edit_type"] for row in rows})
            },
            "pairs": rows,
        }
        if rank == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, (json.dumps(report, indent=1) + "\n").encode())
        metrics = {f"eval_edit_{name}": value for name, value in flat(report["all"]).items()}
        self.last = (step, metrics)
        return metrics

    @torch.no_grad()
    def generate(self, model: TextConditionedOmni123, samples: Sequence[TaskSample]) -> np.ndarray:
        """Target codes `(B, L)` for the samples' texts and sources."""
        config, scale = model.transformer.config, self.values["guidance_scale"]
        conditions = generation_conditions(model, self.collator, [sample.text for sample in samples], scale)
        plan = generation_plan(
            samples[0].task, config, {"source_shape": np.stack([sample.parts["source_shape"] for sample in samples])}
        )
        # Decoding attends to a few more keys in every step, and flex attention would compile for each.
        attention = config._attn_implementation
        model.transformer.set_attn_implementation("sdpa")
        codes = model.transformer.generate_plan(
            plan,
            **conditions,
            guidance_scale=scale,
            temperature=0.0,
        )
        model.transformer.set_attn_implementation(attention)
        return codes["shape"].cpu().numpy()

    def judge(self, number: int, generated: np.ndarray, model: TextConditionedOmni123) -> dict[str, Any]:
        """All figures of one pair: every one for the generated codes (model) and for the source's (copy)."""
        pair = self.pairs[number]
        source, wanted = pair.sample.parts["source_shape"], pair.sample.parts["shape"]
        if number not in self.references:
            target = self.decode(wanted, model)
            copied = figures(source, self.decode(source, model), wanted, target)
            self.references[number] = target, copied
        target, copied = self.references[number]
        made = figures(generated, self.decode(generated, model), wanted, target)
        return {
            "id": pair.id,
            "edit_type": pair.edit_type,
            "instruction": pair.sample.text,
            "unchanged": bool(np.array_equal(generated, source)),
            "target_equals_source": bool(np.array_equal(wanted, source)),
            "target_has_surface": target.surface is not None,
            "model": made,
            "copy": copied,
        }

    def decode(self, codes: np.ndarray, model: TextConditionedOmni123) -> DecodedShape:
        """The shape of codes `(L,)` on the grid, and points of its surface."""
        device = model.transformer.device
        if self.shape_tokenizer is None:
            self.shape_tokenizer = Omni123ShapeTokenizer.from_pretrained(self.tokenizer_folder).eval().to(device)
        field = shape_field(torch.from_numpy(codes).to(device), self.shape_tokenizer)
        grid = evaluate_grid(field, self.values["resolution"], FIELD_BOUND)
        try:
            # Equal shapes get equal points, so that an exact answer is at distance 0.
            surface, _ = sample_surface(
                mesh_from_grid(grid, FIELD_BOUND), self.values["surface_points"], np.random.default_rng(0)
            )
        except Omni123Error:
            # No closed surface is a result, and is counted as one (`no_surface`).
            surface = None
        return DecodedShape(grid > 0, surface)


def figures(
    codes: np.ndarray, shape: DecodedShape, target_codes: np.ndarray, target: DecodedShape
) -> dict[str, float | None]:
    """Agreement with the target: share of equal codes, IoU on the grid, and the sum of both mean surface distances.

    Two empty shapes agree (IoU 1). Chamfer is None where either shape has no surface.
    """
    union = int((shape.inside | target.inside).sum())
    chamfer = None
    if shape.surface is not None and target.surface is not None:
        there = cKDTree(target.surface).query(shape.surface)[0].mean()
        chamfer = float(there + cKDTree(shape.surface).query(target.surface)[0].mean())
    return {
        "token_agreement": float((codes == target_codes).mean()),
        "volume_iou": 1.0 if union == 0 else int((shape.inside & target.inside).sum()) / union,
        "chamfer": chamfer,
    }


def beats_copy(row: Mapping[str, Any], figure: str) -> bool:
    """Whether the model is strictly better than the source left as it is; a shape without surface is the worst of all."""
    model, copied = row["model"][figure], row["copy"][figure]
    if figure != "chamfer":
        return model > copied
    return (float("inf") if model is None else model) < (float("inf") if copied is None else copied)


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and shares over pairs. Chamfer's means are over pairs where target, source and generated shape have a surface,
    its share over all pairs whose target has one; either is None where there is no such pair."""
    summary: dict[str, Any] = {"pairs": len(rows)}
    for name in ("unchanged", "target_equals_source"):
        summary[name] = float(np.mean([row[name] for row in rows]))
    with_surface = [row for row in rows if row["target_has_surface"]]
    summary["no_surface"] = (
        float(np.mean([row["model"]["chamfer"] is None for row in with_surface])) if with_surface else None
    )
    for figure in FIGURES:
        counted = with_surface if figure == "chamfer" else rows
        both = [row for row in counted if None not in (row["model"][figure], row["copy"][figure])]
        summary[figure] = {
            "model": float(np.mean([row["model"][figure] for row in both])) if both else None,
            "copy": float(np.mean([row["copy"][figure] for row in both])) if both else None,
            "beats_copy": float(np.mean([beats_copy(row, figure) for row in counted])) if counted else None,
            "pairs": len(both),
        }
    return summary


def flat(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures that a log line holds, by name; those that no pair gave are left out."""
    values = {name: summary[name] for name in ("unchanged", "no_surface")}
    for figure in FIGURES:
        found = summary[figure]
        values |= {
            figure: found["model"],
            f"{figure}_copy": found["copy"],
            f"{figure}_beats_copy": found["beats_copy"],
        }
    return {name: value for name, value in values.items() if value is not None}
