"""How codes are drawn: the settings that every pipeline's `__call__` takes, checked in one place."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.generation_omni123 import GUIDANCE_DROPS, GUIDANCE_SCHEDULES


OUTPUT_TYPES = ("trimesh", "tokens")
MAX_SAMPLES = 1024
Schedule = Literal["constant", "linear_decay"]
Drops = Literal["text", "text_and_prefix"]


@dataclass(frozen=True)
class Sampling:
    """guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided, 0 ignores the condition.

    guidance_schedule: constant or linear_decay (towards 1). guidance_drops: what the unconditional rows go without, the text
    or the text and the given image or shape. temperature: 0 is greedy (then top_k, top_p and the seed change nothing).
    """

    guidance_scale: float
    guidance_schedule: Schedule
    guidance_drops: Drops
    temperature: float
    top_k: int | None
    top_p: float | None
    generator: torch.Generator | None

    def arguments(self) -> dict[str, Any]:
        """As `generate_plan` takes them."""
        return dict(self.__dict__)


def check_settings(
    guidance_scale: float,
    guidance_schedule: str,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    generator: torch.Generator | None,
    output_type: str,
    guidance_drops: str = "text",
) -> None:
    """Raises `Omni123Error` for a setting of a pipeline's `__call__` that cannot be."""
    for name, value in (("guidance scale", guidance_scale), ("temperature", temperature)):
        # Written so that NaN is refused, too.
        if not 0 <= value < float("inf"):
            raise Omni123Error(f"the {name} must be a finite number of at least 0; got {value}")
    if guidance_schedule not in GUIDANCE_SCHEDULES:
        raise Omni123Error(
            f"unknown guidance schedule {guidance_schedule!r}; use one of {', '.join(GUIDANCE_SCHEDULES)}"
        )
    if guidance_drops not in GUIDANCE_DROPS:
        raise Omni123Error(f"unknown guidance drops {guidance_drops!r}; use one of {', '.join(GUIDANCE_DROPS)}")
    if top_k is not None and top_k < 1:
        raise Omni123Error(f"top-k must be at least 1, or left out; got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise Omni123Error(f"top-p must lie in (0, 1], or be left out; got {top_p}")
    if seed is not None and generator is not None:
        raise Omni123Error("give a seed or a generator, not both")
    if seed is not None and not 0 <= seed < 2**63:
        raise Omni123Error(f"the seed must lie in [0, 2**63); got {seed}")
    if output_type not in OUTPUT_TYPES:
        raise Omni123Error(f"unknown output type {output_type!r}; use one of {', '.join(OUTPUT_TYPES)}")


def check_samples(num_samples: int) -> None:
    """Raises `Omni123Error` unless it is a whole number from 1 to `MAX_SAMPLES`."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or not 1 <= num_samples <= MAX_SAMPLES:
        raise Omni123Error(f"num_samples must be a whole number from 1 to {MAX_SAMPLES}; got {num_samples!r}")
