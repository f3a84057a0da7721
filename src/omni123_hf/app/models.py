"""One checkpoint, loaded once: every tab's pipeline stands on the same components, and one job at a time uses them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from omni123_hf import pipelines
from omni123_hf.app.jobs import Job
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase
from omni123_hf.pipelines.registry import trained_tasks


LOCK_POLL = 0.2


class Models:
    """`get(class_name)` is that pipeline on the loaded components; `turn(job)` is the right to compute.

    name: what the user called the checkpoint; it goes into every record.
    """

    def __init__(self, pipeline: Omni123PipelineBase, name: str):
        self.base, self.name = pipeline, name
        self.revision = pipeline.revision
        folder = Path(str(pipeline.name_or_path))
        self.trained = trained_tasks(folder) if folder.is_dir() else None
        self._made: dict[str, Omni123PipelineBase] = {type(pipeline).__name__: pipeline}
        self._lock = threading.Lock()
        # The browser shows the progress.
        pipeline.set_progress_bar_config(disable=True)

    def get(self, class_name: str) -> Any:
        """Raises `Omni123Error` where the checkpoint lacks a part that this pipeline needs."""
        if class_name not in self._made:
            missing = self.missing(class_name)
            if missing:
                raise Omni123Error(f"the checkpoint {self.name!r} has no {', '.join(missing)}, which this task needs")
            dtype = self.base.transformer.dtype
            made = getattr(pipelines, class_name).from_pipe(self.base, dtype=dtype)
            made.revision = self.revision
            made.set_progress_bar_config(disable=True)
            self._made[class_name] = made
        return self._made[class_name]

    def missing(self, class_name: str) -> list[str]:
        """Components that this pipeline needs and the checkpoint does not have."""
        wanted = getattr(pipelines, class_name)
        needed, _ = wanted._get_signature_keys(wanted)
        return sorted(
            name for name in set(needed) - set(wanted._optional_components) if self.base.components.get(name) is None
        )

    def text_class(self) -> str:
        """The pipeline of the generate tab: image and shape together where the checkpoint can."""
        return "Omni123TextTo3DPipeline" if self.missing("Omni123JointPipeline") else "Omni123JointPipeline"

    def notice(self, *class_names: str) -> str | None:
        """One sentence where these pipelines cannot be used, or were not trained for; None where all is well."""
        for class_name in class_names:
            missing = self.missing(class_name)
            if missing:
                return f"The checkpoint `{self.name}` has no {', '.join(missing)}: this tab cannot be used with it."
        tasks = sorted({getattr(pipelines, class_name).task for class_name in class_names})
        unknown = [] if self.trained is None else [task for task in tasks if task not in self.trained]
        if unknown:
            return (
                f"The checkpoint `{self.name}` was not trained on {', '.join(unknown)}: "
                "the app runs it, and what comes out means nothing."
            )
        return None

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """The only right to compute, with gradients off. Raises `JobCancelled` while waiting, too."""
        while not self._lock.acquire(timeout=LOCK_POLL):
            job.check()
        try:
            job.check()
            with torch.no_grad():
                yield
        finally:
            self._lock.release()
