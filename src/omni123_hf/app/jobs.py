"""One piece of work of a client: it runs in its own thread, tells how far it is, and stops when nobody waits for it.

A handler of the app is a generator over `Job.run`. Gradio closes a handler's generator when the user cancels and when the
client goes away; closing sets the flag, and the next callback of the pipeline raises. So a cancelled job stops computing
after at most one token or one chunk of the surface.
"""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar


T = TypeVar("T")
INTERVAL = 0.25


class JobCancelled(Exception):
    """The job was cancelled, or its client went away."""


@dataclass(frozen=True)
class Progress:
    """stage: what is being done, for people. done of total: tokens, or points of the surface grid; total 0: unknown.

    preview: GLB of the shape so far, on this machine; for the pages, not in the answers of the HTTP API.
    """

    stage: str
    done: int = 0
    total: int = 0
    preview: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "done": self.done, "total": self.total}


class Job:
    """`run` it once; `cancel` it from any thread."""

    def __init__(self) -> None:
        self.progress = Progress("waiting for the model")
        self.preview: Path | None = None
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        """Raises `JobCancelled` once the job is cancelled."""
        if self.cancelled:
            raise JobCancelled("the job was cancelled")

    def stage(self, text: str) -> None:
        """Begins a part of the work that does not count its steps."""
        self.check()
        self.progress = Progress(text)

    def on_step(self, pipeline: Any, step: int, total: int, facts: dict[str, Any]) -> None:
        """`callback_on_step_end` of a pipeline."""
        self.check()
        self.progress = Progress(f"{facts['modality']} tokens", step, total, self.preview)

    def on_extraction(self, done: int, total: int) -> None:
        """`callback_on_extraction` of a pipeline."""
        self.check()
        self.progress = Progress("surface", done, total)

    @property
    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Both, as the keyword arguments of a pipeline's call."""
        return {"callback_on_step_end": self.on_step, "callback_on_extraction": self.on_extraction}

    def run(self, work: Callable[["Job"], T], interval: float = INTERVAL) -> Generator[Progress, None, T]:
        """Yields the progress every `interval` seconds and returns what `work(self)` returns, or raises what it raises."""
        finished = threading.Event()
        outcome: list[T] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                outcome.append(work(self))
            except BaseException as error:
                # Whatever it is, it belongs to the thread that waits.
                errors.append(error)
            finally:
                finished.set()

        threading.Thread(target=body, name="omni123-job", daemon=True).start()
        try:
            while not finished.wait(interval):
                yield self.progress
        finally:
            # Closed from outside, the loop above ends by GeneratorExit; after a normal end this changes nothing.
            self.cancel()
        if errors:
            raise errors[0]
        return outcome[0]
