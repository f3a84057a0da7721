"""What a run is mixed from: subsets of the pools, each with the tasks it serves (paper §4.4 "Data Mixture", Table 5, Eq. 2).

```yaml
options:
  mixture:
    text-image: {pool: images, tasks: [text-to-image], priority: 1.0, probability: 0.30}
    image-3d: {pool: pairs, tasks: {image-to-3d: 0.5, 3d-to-image: 0.5}, priority: 1.5, probability: 0.53}
    text-3d: {pool: pairs, tasks: [text-to-3d], priority: 3.0, probability: 0.17}
  mixture_temperature: 0.5
```

Without `probability` Eq. 2 gives it, `P ∝ size^T × priority`; given, it wins. Tasks of a subset are drawn with equal or the
given probabilities. `options.tasks`, a mapping of tasks to probabilities over the pool `pairs`, is the short form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..data.shards.format import image_field
from ..errors import Omni123Error
from ..geometry.cameras import CANONICAL_VIEWS
from ..modeling.tasks import DEFAULT_NUM_EXTRA_IMAGES, DEFAULT_NUM_IMAGES, Task, get_task
from .record_pools import RecordPool


SUBSET_KEYS = {"pool", "tasks", "priority", "size", "probability"}


@dataclass(frozen=True)
class Subset:
    """One line of the mixture: the tasks with their probabilities inside it, and the probability of the subset itself."""

    name: str
    pool: str
    tasks: dict[str, float]
    probability: float


def normalized(weights: Mapping[str, float], what: str) -> dict[str, float]:
    """Probabilities of a recipe. Raises `Omni123Error` unless they are non-negative numbers that sum to 1."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in weights.values())
    total = sum(weights.values()) if numbers else float("nan")
    if not weights or not numbers or min(weights.values()) < 0 or not abs(total - 1) <= 1e-6:
        raise Omni123Error(f"{what} {dict(weights)} sum to {total:g}: give non-negative probabilities that sum to 1.")
    return dict(weights)


def mixture_probabilities(
    sizes: Mapping[str, float], priorities: Mapping[str, float], temperature: float
) -> dict[str, float]:
    """Eq. 2: `P_i = size_i^T × priority_i / Σ_j size_j^T × priority_j`. T in (0, 1]; sizes and priorities above 0."""
    if not 0 < temperature <= 1:
        raise Omni123Error(f"mixture_temperature is {temperature}: Eq. 2 takes a temperature in (0, 1].")
    for name in sizes:
        if sizes[name] <= 0 or priorities[name] <= 0:
            raise Omni123Error(
                f"subset {name!r} has size {sizes[name]} and priority {priorities[name]}: both must be above 0."
            )
    # Relative sizes, so that no power of a large count is formed.
    largest = max(sizes.values())
    weights = {name: (size / largest) ** temperature * priorities[name] for name, size in sizes.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def build_mixture(options: Mapping[str, Any], pools: Mapping[str, RecordPool], get: "TaskTable") -> list[Subset]:
    """The subsets of a recipe's `options`, checked against the pools they draw from. Raises `Omni123Error`."""
    if (options.get("tasks") is None) == (options.get("mixture") is None):
        raise Omni123Error("the recipe's options need either tasks or mixture.")
    if options.get("tasks") is not None:
        lines: Mapping[str, Any] = {
            "pairs": {"pool": "pairs", "tasks": normalized(options["tasks"], "task probabilities")}
        }
    else:
        lines = options["mixture"]
        if not isinstance(lines, Mapping) or not lines:
            raise Omni123Error(
                "options.mixture must map names of subsets to pool and tasks: see recipes/ for examples."
            )
    for name, line in lines.items():
        unknown = set(line) - SUBSET_KEYS if isinstance(line, Mapping) else {str(line)}
        if unknown or "tasks" not in line:
            raise Omni123Error(
                f"subset {name!r} of the mixture must have tasks and may have {', '.join(sorted(SUBSET_KEYS - {'tasks'}))}; "
                f"got {line}."
            )
    probabilities = subset_probabilities(lines, pools, options.get("mixture_temperature", 1.0))
    subsets = []
    for name, line in lines.items():
        pool_name = line.get("pool", name)
        if pool_name not in pools:
            raise Omni123Error(
                f"subset {name!r} draws from the pool {pool_name!r}, which data.pools does not have: it has "
                f"{', '.join(pools)}."
            )
        tasks = line["tasks"]
        if isinstance(tasks, str):
            tasks = [tasks]
        if not isinstance(tasks, Mapping):
            tasks = {task: 1 / len(tasks) for task in tasks}
        tasks = normalized(tasks, f"task probabilities of {name!r}")
        for task in tasks:
            problem = why_not(get(task), pools[pool_name])
            if problem:
                raise Omni123Error(f"task {task!r} cannot be trained on pool {pool_name!r}: {problem}.")
        subsets.append(Subset(name, pool_name, tasks, probabilities[name]))
    return subsets


def subset_probabilities(
    lines: Mapping[str, Mapping[str, Any]], pools: Mapping[str, RecordPool], temperature: float
) -> dict[str, float]:
    """Explicit probabilities where all subsets have them, otherwise Eq. 2 on `size` (default: training records of the pool)."""
    explicit = [name for name, line in lines.items() if "probability" in line]
    if len(lines) == 1 and not explicit:
        return dict.fromkeys(lines, 1.0)
    if len(explicit) == len(lines):
        return normalized({name: line["probability"] for name, line in lines.items()}, "subset probabilities")
    if explicit:
        raise Omni123Error(
            f"subset {explicit[0]!r} has a probability and others have none: give all or none (then Eq. 2 gives them)."
        )
    sizes = {}
    for name, line in lines.items():
        pool = line.get("pool", name)
        if "size" not in line and pool not in pools:
            raise Omni123Error(f"subset {name!r} draws from the pool {pool!r}, which data.pools does not have.")
        sizes[name] = line["size"] if "size" in line else len(pools[pool].indices("train"))
    return mixture_probabilities(sizes, {name: line.get("priority", 1.0) for name, line in lines.items()}, temperature)


@dataclass(frozen=True)
class TaskTable:
    """The task table as a run uses it: N and M of Table 7, and dropout that a recipe may change.

    Several numbers of images mean that each micro-batch draws one, all alike. Called with a name, the table gives the longest
    row, which checks and validation use; `variants` gives every one.
    """

    num_images: int | tuple[int, ...] = DEFAULT_NUM_IMAGES
    num_extra_images: int | tuple[int, ...] = DEFAULT_NUM_EXTRA_IMAGES
    text_dropout: float | None = None
    prefix_dropout: float | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "TaskTable":
        """Of a recipe's options. Raises `Omni123Error` for what is no number of images, and no list of them."""
        given = {name: options[name] for name in ("num_images", "num_extra_images") if options[name] is not None}
        counts = {name: image_counts(value, name) for name, value in given.items()}
        return cls(text_dropout=options["text_dropout"], prefix_dropout=options["prefix_dropout"], **counts)

    def __call__(self, name: str) -> Task:
        return self.variants(name)[-1]

    def variants(self, name: str) -> list[Task]:
        """The rows that `name` stands for, shortest first: one, or one for every choice of N and M that changes it."""
        rows: dict[Task, None] = {}
        for n in sorted(as_tuple(self.num_images)):
            for m in sorted(as_tuple(self.num_extra_images)):
                task = get_task(name, n, m)
                if self.text_dropout is not None:
                    task = replace(task, text_dropout=self.text_dropout)
                if self.prefix_dropout is not None and task.prefix:
                    task = replace(task, prefix_dropout=self.prefix_dropout)
                rows[task] = None
        return list(rows)


def as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def image_counts(value: Any, name: str) -> int | tuple[int, ...]:
    """The option `num_images` or `num_extra_images`: a number, or a list of different ones. Raises `Omni123Error`."""
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    fine = all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers)
    if not numbers or not fine or len(set(numbers)) != len(numbers):
        raise Omni123Error(
            f"options.{name} is {value!r}: give a whole number of at least 1, or a list of different ones."
        )
    return tuple(numbers) if isinstance(value, list | tuple) else value


def posed_views(pool: RecordPool) -> list[str]:
    """Canonical views that the records of a pool hold, in the order of the view tokens."""
    return [view for view in CANONICAL_VIEWS if image_field(view) in pool.fields]


def why_not(task: Task, pool: RecordPool) -> str:
    """Why a pool cannot serve a task; empty when it can."""
    names = {segment.name for segment in task.segments}
    if "source_shape" in names:
        if "source_tokens" not in pool.fields:
            return "it needs editing pairs, a pool `edits`"
        return "" if pool.fields["source_tokens"].kind == "shape" else "it edits shapes, and its pairs are pictures"
    if "source_tokens" in pool.fields:
        return "editing pairs serve edit-3d only"
    kinds = [segment.kind for segment in task.segments]
    if "shape" in kinds and "shape_tokens" not in pool.fields:
        return "its records have no shape tokens"
    views = kinds.count("view")
    if views > len(posed_views(pool)):
        return f"it needs {views} posed views, and its records have {len(posed_views(pool))}"
    if kinds.count("image") > views and not any(field.kind == "image" for field in pool.fields.values()):
        return "its records have no image tokens"
    return ""
