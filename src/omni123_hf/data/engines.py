"""Who prepares the shards: processes of this machine, or the tasks of a Ray cluster. Both call `prepare_shard`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from omni123_hf.data.prepare_shard import Work, open_sandbox, prepare_shard
from omni123_hf.errors import Omni123Error


Engine = Literal["local", "ray"]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IGL_NUM_THREADS")
# Workers that share a shard. At its end some wait for the slowest item: the more share it, the more wait.
WORKERS_PER_SHARD = 8
# A Ray worker may be lost to the machine it runs on; its shard is begun again this often.
RAY_RETRIES = 5


@dataclass(frozen=True)
class Job:
    """One shard to prepare: its items and the file that it becomes."""

    items: Sequence[Any]
    path: Path


def run_local(jobs: Sequence[Job], work: Work, workers: int) -> Iterator[str]:
    """Prepare the shards in `workers` sandboxed processes; yields "kept", "repaired" or "rejected" for each item.

    Left early, it finishes no further shard; those that are whole stay.
    """
    groups = min(-(-workers // WORKERS_PER_SHARD), len(jobs))
    sizes = [workers // groups + (group < workers % groups) for group in range(groups)]
    waiting: SimpleQueue[Job] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    events: SimpleQueue[str | None | BaseException] = SimpleQueue()
    stopped = False

    def report(kind: str) -> None:
        if stopped:
            raise KeyboardInterrupt
        events.put(kind)

    def serve(size: int) -> None:
        try:
            with open_sandbox(size, work) as sandbox:
                while not waiting.empty() and not stopped:
                    job = waiting.get()
                    prepare_shard(job.items, job.path, work, sandbox, report)
            events.put(None)
        except BaseException as error:
            events.put(error)

    with one_thread_each(), ThreadPoolExecutor(groups) as pool:
        try:
            for size in sizes:
                pool.submit(serve, size)
            while groups:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    groups -= 1
                else:
                    yield event
        finally:
            stopped = True


def run_ray(jobs: Sequence[Job], work: Work) -> Iterator[str]:
    """Prepare the shards as tasks of one core each on a Ray cluster; yields as `run_local`, shard by shard.

    The cluster is the one that `RAY_ADDRESS` names or that is already connected, otherwise one on this machine. Its
    nodes must see the sources and the output folder under the same paths.
    """
    try:
        import ray
    except ImportError as error:
        raise Omni123Error("--engine ray needs Ray; install it with: pip install 'omni123-hf[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, configure_logging=False)
    task = ray.remote(num_cpus=1, max_retries=RAY_RETRIES)(_shard_task)
    try:
        shared = ray.put(work)
        pending = [task.remote(job, shared) for job in jobs]
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise cause from error
    except ray.exceptions.RayError as error:
        raise Omni123Error(f"Ray lost a shard {RAY_RETRIES + 1} times ({error}); run again to go on") from error
    finally:
        if started:
            ray.shutdown()


def _shard_task(job: Job, work: Work) -> list[str]:
    kinds: list[str] = []
    job.path.parent.mkdir(parents=True, exist_ok=True)
    with one_thread_each(), open_sandbox(1, work) as sandbox:
        prepare_shard(job.items, job.path, work, sandbox, kinds.append)
    return kinds


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started here use one thread each: libraries read these variables when they load."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
