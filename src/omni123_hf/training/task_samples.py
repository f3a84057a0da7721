"""Samples of the autoregressive stages: sample k is a pure function of `(seed, k)`, so that any run resumes in O(1).

With `batching: task` the samples of one micro-batch share subset, task, number of images and caption level, drawn by the number
of the micro-batch: all have one length, and nothing is padded. With `padded` and `packed` every sample draws its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.records import CAPTION_LEVELS
from ..data.shards.format import image_field
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS
from ..modeling.tasks import Task
from .mixture import Subset, TaskTable, normalized, posed_views
from .record_pools import RecordPool


BATCHINGS = ("task", "padded", "packed")
SUBSET_STREAM, TASK_STREAM, CAPTION_STREAM, IMAGES_STREAM = 101, 102, 103, 104
INSTRUCTION = "instruction"


@dataclass(frozen=True)
class TaskSample:
    """One record laid out for one task: a text, and the codes or view index of every segment."""

    task: Task
    text: str
    parts: dict[str, Any]
    null_text: bool
    drop_prefix: bool


class RowChooser:
    """Draws rows of one split of a pool: all alike, or sources by `shares` (`{"parametric": 0.8, "*": 0.2}`, "*" the rest).

    A share of a source that the split lacks goes to the others in proportion.
    """

    def __init__(self, pool: RecordPool, split: str, shares: Mapping[str, float] | None, views: Sequence[str]):
        rows = pool.indices(split)
        if pool.name == "images":
            # Posed views without their view token would be pictures of no known side.
            rows = np.array([row for row in rows if pool.view(int(row)) in ("", *views)], dtype=np.int64)
            if not len(rows):
                raise Omni123Error(
                    f"the pool {pool.name} has no record of the view {' or '.join(views)} in split {split!r}: "
                    "tokenize that view, or change options.image_view."
                )
        self.rows = rows
        self.groups: list[np.ndarray] = [rows]
        self.bounds = np.array([1.0])
        if shares is not None:
            self._group(pool.sources[rows], normalized(shares, "source shares"))

    def _group(self, sources: np.ndarray, shares: dict[str, float]) -> None:
        named = [name for name in shares if name != "*"]
        masks = {name: sources == name for name in named}
        masks["*"] = ~np.isin(sources.astype(str), named)
        present = {name: mask for name, mask in masks.items() if mask.any()}
        weights = np.array([shares.get(name, 0.0) for name in present])
        if weights.sum() <= 0:
            raise Omni123Error(f"source shares {shares} leave no record: the pool has {sorted(set(sources))}.")
        self.groups = [self.rows[mask] for mask in present.values()]
        self.bounds = np.cumsum(weights / weights.sum())

    def __call__(self, rng: np.random.Generator) -> int:
        group = self.groups[min(int(np.searchsorted(self.bounds, rng.random(), side="right")), len(self.groups) - 1)]
        return int(group[rng.integers(len(group))])


class TaskSampler:
    """Sample k of a run as `sampler(rng, k)`; `validation_sample` gives the samples of validation, without dropout.

    `samples_per_group`: size of a micro-batch, whose samples share a task with `batching: task`.
    """

    def __init__(
        self,
        pools: Mapping[str, RecordPool],
        subsets: Sequence[Subset],
        table: TaskTable,
        caption_levels: Mapping[str, float],
        samples_per_group: int,
        seed: int,
        split: str = "train",
        batching: str = "task",
        image_view: str | Sequence[str] = "three_quarter",
        source_shares: Mapping[str, float] | None = None,
        dropout: bool = True,
    ):
        if batching not in BATCHINGS:
            raise Omni123Error(f"batching {batching!r} does not exist: use one of {', '.join(BATCHINGS)}.")
        unknown = set(caption_levels) - set(CAPTION_LEVELS)
        if unknown:
            raise Omni123Error(f"caption levels {sorted(unknown)} do not exist: use {', '.join(CAPTION_LEVELS)}.")
        self.pools, self.subsets, self.table = pools, list(subsets), table
        self.levels = normalized(caption_levels, "caption level probabilities")
        self.samples_per_group, self.seed, self.batching, self.dropout = samples_per_group, seed, batching, dropout
        self.views = (image_view,) if isinstance(image_view, str) else tuple(image_view)
        self._check_views()
        self.choosers = {
            name: RowChooser(pools[name], split, source_shares, self.views)
            for name in {subset.pool for subset in subsets}
        }
        self.tasks = {name: table(name) for subset in subsets for name in subset.tasks}
        self.variants = {name: table.variants(name) for name in self.tasks}

    def _check_views(self) -> None:
        if not self.views or set(self.views) - set(ALL_VIEWS):
            raise Omni123Error(f"image_view {list(self.views)}: name one or more of {', '.join(ALL_VIEWS)}.")
        for subset in self.subsets:
            fields = self.pools[subset.pool].fields
            for name in subset.tasks:
                kinds = [segment.kind for segment in self.table(name).segments]
                if kinds.count("image") == kinds.count("view") or "image_tokens" in fields:
                    continue
                lacking = [view for view in self.views if image_field(view) not in fields]
                if lacking:
                    held = [
                        field.removeprefix(image_field("")) for field in fields if field.startswith("image_tokens_")
                    ]
                    raise Omni123Error(
                        f"image_view {lacking[0]!r} has no tokens in pool {subset.pool!r}: use one of {', '.join(held)}."
                    )

    def __call__(self, rng: np.random.Generator, k: int) -> TaskSample:
        subset, task, level = self.choice(rng, k)
        row = self.choosers[subset.pool](rng)
        return self.sample(self.pools[subset.pool], task, level, row, rng)

    def choice(self, rng: np.random.Generator, k: int) -> tuple[Subset, Task, str]:
        """Subset, task and caption level of sample k."""
        group = k // self.samples_per_group

        def draw(stream: int, weights: Sequence[float]) -> int:
            own = np.random.default_rng((self.seed, stream, group)) if self.batching == "task" else rng
            return int(own.choice(len(weights), p=np.asarray(weights)))

        subset = self.subsets[draw(SUBSET_STREAM, [subset.probability for subset in self.subsets])]
        name = list(subset.tasks)[draw(TASK_STREAM, list(subset.tasks.values()))]
        level = list(self.levels)[draw(CAPTION_STREAM, list(self.levels.values()))]
        variants = self.variants[name]
        # Without a choice nothing is drawn, so that runs from before there was one keep their samples.
        number = draw(IMAGES_STREAM, [1 / len(variants)] * len(variants)) if len(variants) > 1 else 0
        return subset, variants[number], level

    def sample(self, pool: RecordPool, task: Task, level: str, row: int, rng: np.random.Generator) -> TaskSample:
        """One record for one task, with a text of `level` (of any level when the record has none of it)."""
        texts = pool.texts(row)
        chosen = texts.get(level) or texts.get(INSTRUCTION) or [text for group in texts.values() for text in group]
        if not chosen:
            raise Omni123Error(f"record {row} of the pool {pool.name} has no text: every record needs a caption.")
        parts = self.parts(pool, task, row, rng)
        null_text, drop_prefix = task.draw_dropout(rng) if self.dropout else (False, False)
        return TaskSample(task, chosen[int(rng.integers(len(chosen)))], parts, null_text, drop_prefix)

    def parts(self, pool: RecordPool, task: Task, row: int, rng: np.random.Generator) -> dict[str, Any]:
        """Codes and view indices by segment. Posed images show different views, drawn at random (§4.5)."""
        views = iter(
            rng.permutation(posed_views(pool)).tolist() if any(s.kind == "view" for s in task.segments) else []
        )
        parts: dict[str, Any] = {}
        posed = ""
        for segment in task.segments:
            if segment.kind == "view":
                posed = next(views)
                parts[segment.name] = CANONICAL_VIEWS.index(posed)
                continue
            if segment.kind == "shape":
                field = "shape_tokens"
                if "source_tokens" in pool.fields:
                    field = "source_tokens" if segment.name == "source_shape" else "target_tokens"
            elif posed:
                field = image_field(posed)
            elif "image_tokens" in pool.fields:
                field = "image_tokens"
            else:
                field = image_field(self.views[int(rng.integers(len(self.views)))])
            parts[segment.name] = pool.codes(row, field).astype(np.int64)
            posed = ""
        return parts

    def validation_samples(self, name: str, count: int, seed: int) -> list[TaskSample]:
        """`count` fixed samples of one task: medium captions, the subsets that train it in turn."""
        serving = [subset for subset in self.subsets if name in subset.tasks]
        samples = []
        for number in range(count):
            rng = np.random.default_rng((self.seed, seed, number))
            pool = serving[number % len(serving)].pool
            row = self.choosers[pool](rng)
            samples.append(self.sample(self.pools[pool], self.tasks[name], "medium", row, rng))
        return samples
