"""`options.samples` of an autoregressive recipe: what is generated while training, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import Omni123Error
from ..modeling.generation_omni123 import DEFAULT_GUIDANCE_SCALE


# What a task that the run trains shows best, tried in order; a run that trains none of them shows its first task.
SHOWN = (("text-to-image-to-3d",), ("text-to-image", "text-to-3d"), ("text-to-3d",), ("text-to-image",), ("edit-3d",))
MIN_RESOLUTION = 8


@dataclass(frozen=True)
class SampleOptions:
    """Every `every` steps, `count` fixed validation records of each task in `tasks`, decoded and drawn.

    `resolution`: points on a side of the grid that a surface is taken from. `size`: pixels a side of a drawing. `temperature`
    0 is greedy, else codes are drawn with the recipe's seed, the same at every step.
    """

    every: int
    count: int = 4
    tasks: tuple[str, ...] = ()
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    temperature: float = 0.0
    resolution: int = 48
    size: int = 160

    @classmethod
    def read(cls, section: Any, trained: Sequence[str]) -> "SampleOptions | None":
        """The options of a recipe whose run trains the tasks `trained`; None without a section. Raises `Omni123Error`."""
        if section is None:
            return None
        known = [field.name for field in fields(cls)]
        if not isinstance(section, dict) or set(section) - set(known) or "every" not in section:
            raise Omni123Error(
                f"options.samples must be a mapping with every and may have {', '.join(known[1:])}: got {section}."
            )
        for name, least in (("every", 1), ("count", 1), ("resolution", MIN_RESOLUTION), ("size", 16)):
            value = section.get(name, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise Omni123Error(f"options.samples.{name} is {value!r}: give a whole number of at least {least}.")
        for name in ("guidance_scale", "temperature"):
            value = section.get(name, 0.0)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise Omni123Error(f"options.samples.{name} is {value!r}: give a number of at least 0.")
        tasks = section.get("tasks") or default_tasks(trained)
        unknown = [name for name in tasks if name not in trained]
        if isinstance(tasks, str) or unknown:
            raise Omni123Error(
                f"options.samples.tasks {tasks} must be a list of tasks that the run trains: {', '.join(trained)}."
            )
        return cls(**{**section, "tasks": tuple(tasks)})


def default_tasks(trained: Sequence[str]) -> tuple[str, ...]:
    return next((tasks for tasks in SHOWN if set(tasks) <= set(trained)), (trained[0],))
