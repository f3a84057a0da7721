"""What a recipe would cost, before anything is trained: parameters, tokens, operations, memory, time, and what would be refused.

Nothing is written, no weight is loaded, and data need not be there: models stand on the meta device, and sizes that data would
give come from the recipe. What could not be looked at is listed under `missing`, what was taken for granted under `assumptions`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ..errors import Omni123Error
from .device_peaks import DEFAULT_DEVICE, PEAKS, given_peak
from .recipe import Recipe
from .stages import AUTOREGRESSIVE, STAGES
from .tracking import check_reporters


DEFAULT_MFU = 0.4
Result = TypeVar("Result")


@dataclass(frozen=True)
class PlanSettings:
    """For whom a plan is made: `devices` in all, `shard` of them dividing the states (None: as accelerate's environment says)."""

    devices: int = 1
    peak_tflops: float | None = None
    mfu: float = DEFAULT_MFU
    shard: int | None = None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise Omni123Error(f"--devices is {self.devices}: give at least 1.")
        if not 0 < self.mfu <= 1:
            raise Omni123Error(f"--mfu is {self.mfu}: it is a share of the peak, in (0, 1].")
        if self.devices % self.sharding:
            raise Omni123Error(
                f"{self.sharding} devices cannot divide the states among {self.devices}: --shard must divide --devices."
            )

    @property
    def sharding(self) -> int:
        """How many devices divide weights, gradients and moments: FSDP2 over all, HSDP over groups."""
        if self.shard is not None:
            if self.shard < 1:
                raise Omni123Error(f"--shard is {self.shard}: give at least 1.")
            return self.shard
        groups = int(os.environ.get("PARALLELISM_CONFIG_DP_SHARD_SIZE", "1") or 1)
        if groups > 1:
            return groups
        return self.devices if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes") else 1


@dataclass
class Findings:
    """`refused`: what training would raise; `missing`: what is not here; `assumptions`: what the figures rest on."""

    refused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    def attempt(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result | None:
        """The result of a check or step of training; None where it refuses, which is noted."""
        try:
            return function(*args, **kwargs)
        except Omni123Error as error:
            if str(error) not in self.refused:
                self.refused.append(str(error))
            return None


@dataclass
class Plan:
    """The plan of one recipe. Sections that a refusal makes impossible are empty.

    `parameters`: model to part to count, with "trainable" and "frozen". `tasks`: a row a task with its share and counts of one
    sample. `step` and `run`: samples and tokens. `operations`: training FLOPs. `memory`: bytes of one device by part, without
    and with recomputation of activations. `time`: device-hours and wall hours at the peak and utilisation named there.
    """

    stage: str
    output_dir: str
    devices: int
    parameters: dict[str, Any] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    step: dict[str, float] = field(default_factory=dict)
    run: dict[str, float] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        findings = values.pop("findings")
        return {**values, **findings}


def make_plan(recipe: Recipe, settings: PlanSettings, recipes_beside: Mapping[str, Recipe] | None = None) -> Plan:
    """The plan of a recipe of any stage. `recipes_beside`: `final` folders to the recipes whose runs write them.

    Raises `Omni123Error` only for settings that no plan can be made for; what training would refuse stands in the plan.
    """
    plan = Plan(recipe.stage, str(recipe.output_dir), settings.devices)
    plan.findings.attempt(check_reporters, recipe.training.get("report_to"))
    if recipe.stage in AUTOREGRESSIVE:
        from .plan_autoregressive import fill
    elif recipe.stage in STAGES:
        from .plan_tokenizers import fill
    else:
        raise Omni123Error(f"unknown stage {recipe.stage!r}: choose one of {', '.join(sorted(STAGES))}.")
    fill(plan, recipe, settings, recipes_beside or {})
    if plan.operations.get("total"):
        add_time(plan, settings)
    return plan


def add_time(plan: Plan, settings: PlanSettings) -> None:
    """Device-hours and wall hours of `operations["total"]`."""
    given = given_peak(settings.peak_tflops, "--peak-tflops")
    peak, origin = given or (PEAKS[DEFAULT_DEVICE][0], f"vendor's figure for {DEFAULT_DEVICE}, dense bf16")
    hours = plan.operations["total"] / (peak * 1e12 * settings.mfu) / 3600
    plan.time = {
        "peak_tflops": peak,
        "peak_origin": origin,
        "mfu": settings.mfu,
        "device_hours": hours,
        "wall_hours": hours / settings.devices,
    }
    plan.findings.assumptions.append(
        f"{peak:g} TFLOP/s a device ({origin}), of which {settings.mfu:.0%} go into the operations counted above; the figure for "
        "MFU is assumed, not measured"
    )


def micro_batches(training: Mapping[str, Any], devices: int) -> tuple[int, int]:
    """Samples of a micro-batch on one device, and micro-batches of one step."""
    batch = training.get("per_device_train_batch_size", 8)
    accumulation = training.get("gradient_accumulation_steps", 1)
    for name, value in (
        ("per_device_train_batch_size", batch),
        ("gradient_accumulation_steps", accumulation),
        ("global_batch_size", training.get("global_batch_size", 1)),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Omni123Error(f"training.{name} is {value!r}: give a whole number above 0.")
    if "global_batch_size" not in training:
        return batch, accumulation
    steps, rest = divmod(training["global_batch_size"], batch * devices)
    if rest or not steps:
        raise Omni123Error(
            f"global_batch_size {training['global_batch_size']} is no multiple of {batch} samples "
            f"(per_device_train_batch_size) × {devices} devices: change one of them."
        )
    return batch, steps


def uses_bf16(training: Mapping[str, Any]) -> bool:
    """As on a CUDA device: bf16 unless the recipe says otherwise."""
    return bool(training.get("bf16", not training.get("use_cpu", False) and not training.get("fp16", False)))


def recomputes(training: Mapping[str, Any]) -> bool:
    return bool(training.get("activation_checkpointing") or training.get("gradient_checkpointing"))


def check_training(recipe: Recipe) -> None:
    """Refuses a training section that the trainer would refuse. The batch of a step is checked by `micro_batches`."""
    from dataclasses import replace

    from .runner import training_arguments

    # For one process here; the plan divides the batch among the devices it is made for.
    training = {key: value for key, value in recipe.training.items() if key != "global_batch_size"}
    training_arguments(replace(recipe, training=training))
