"""What the tabs and the HTTP API stand on: the checkpoint, the clients, the limits, and how work is done for a client."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omni123_hf.app.jobs import Job, Progress
from omni123_hf.app.models import Models
from omni123_hf.app.results import Sample, keep
from omni123_hf.app.sessions import Session, Sessions
from omni123_hf.errors import Omni123Error


T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """max_queue: jobs that may wait. max_upload_mb: of one file. The others bound one job, because all clients share it."""

    max_queue: int = 16
    max_upload_mb: int = 64
    max_samples: int = 4
    min_resolution: int = 16
    max_resolution: int = 256
    max_edits: int = 64
    max_text: int = 2000
    min_preview: int = 4


@dataclass(frozen=True)
class Settings:
    """How one job draws codes and extracts surfaces; made by `Service.settings`, which checks them."""

    seed: int = 0
    guidance_scale: float | None = None
    temperature: float = 0.0
    resolution: int = 64
    num_samples: int = 1
    preview_every: int = 0

    def call(self) -> dict[str, Any]:
        """As keyword arguments of a pipeline's call, but for `num_samples`; previews change nothing of the result."""
        return {name: value for name, value in self.__dict__.items() if name not in ("num_samples", "preview_every")}


@dataclass
class Service:
    models: Models
    sessions: Sessions
    limits: Limits = field(default_factory=Limits)
    outputs: Path | None = None

    def run(self, key: str | None, work: Callable[[Session, Job], T]) -> Generator[Progress, None, T]:
        """`work(session, job)` in its own thread when the model is free; yields the progress, returns the result."""
        job = Job()

        def in_turn(job: Job) -> T:
            with self.sessions.working(key, job) as session, self.models.turn(job):
                return work(session, job)

        return (yield from job.run(in_turn))

    def facts(self, task: str, settings: Settings, **more: Any) -> dict[str, Any]:
        """The record of what was asked for."""
        return {
            "task": task,
            **more,
            "seed": settings.seed,
            "model": {"name": self.models.name, "revision": self.models.revision},
            "settings": {name: value for name, value in settings.call().items() if name != "seed"},
            "licences": self.models.base.licences,
        }

    def publish(self, session: Session, tab: str, samples: list[Sample], name: str) -> list[Sample]:
        """The session's samples of this tab are these now; with `--outputs` they are kept beyond it."""
        session.samples[tab] = samples
        session.viewed[tab] = samples[0].mesh
        session.shown = next((sample for sample in samples if sample.mesh is not None), session.shown)
        keep(samples, self.outputs, name)
        return samples

    def settings(
        self,
        seed: Any = 0,
        guidance_scale: Any = None,
        temperature: Any = 0.0,
        resolution: Any = 64,
        num_samples: Any = 1,
        preview_every: Any = 0,
        is_edit: bool = False,
    ) -> Settings:
        """Checks types and this server's limits; the pipelines check the rest. is_edit: edits may have a guidance of their own.

        Raises `Omni123Error`.
        """
        limits, base = self.limits, self.models.base
        scale = None if guidance_scale is None else number("guidance scale", guidance_scale)
        settings = Settings(
            seed=whole("seed", seed, 0, 2**63 - 1),
            # The checkpoint's own is named in the record, too.
            guidance_scale=base.guidance(base.edit_guidance(scale) if is_edit else scale, None)[0],
            temperature=number("temperature", temperature),
            resolution=whole("resolution", resolution, limits.min_resolution, limits.max_resolution),
            num_samples=whole("number of samples", num_samples, 1, limits.max_samples),
            preview_every=whole("number of tokens between previews", preview_every, 0, 4096),
        )
        if 0 < settings.preview_every < limits.min_preview:
            raise Omni123Error(f"previews come every {limits.min_preview} tokens or less often; 0 turns them off")
        if settings.num_samples > 1 and settings.temperature == 0:
            raise Omni123Error("at temperature 0 all samples are the same; raise the temperature, or make one sample")
        return settings

    def text(self, name: str, value: Any, needed: bool = True) -> str | None:
        """A text of a bounded length; None where it is empty and not needed. Raises `Omni123Error`."""
        if value is not None and not isinstance(value, str):
            raise Omni123Error(f"the {name} must be a text")
        text: str = value or ""
        if not text.strip():
            if needed:
                raise Omni123Error(f"the {name} is empty; say what you want, for example 'a round wooden table'")
            return None
        if len(text) > self.limits.max_text:
            raise Omni123Error(f"the {name} has {len(text):,} characters; this server takes {self.limits.max_text:,}")
        return text


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Omni123Error(f"the {name} must be a number; got {value!r:.40}")
    return float(value)


def whole(name: str, value: Any, least: int, most: int) -> int:
    found = number(name, value)
    if (
        found != found
        or found in (float("inf"), float("-inf"))
        or found != int(found)
        or not least <= int(value) <= most
    ):
        raise Omni123Error(f"the {name} must be a whole number from {least} to {most}; got {value!r:.40}")
    return int(value)
