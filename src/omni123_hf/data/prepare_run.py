"""A run in a folder: the shards that are missing of a plan (`run_folder.py`), made by one of the engines.

Assets (`prepare.py`) and editing pairs (`editing/prepare_pairs.py`) are prepared by the same steps.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omni123_hf.data.engines import Engine, Job, run_local, run_ray
from omni123_hf.data.prepare_shard import Work, shard_file
from omni123_hf.data.run_folder import PLAN, RunKind, is_finished
from omni123_hf.data.run_lock import only_run
from omni123_hf.data.store import write_json
from omni123_hf.errors import Omni123Error


def run_in_folder(
    out: Path,
    items: Sequence[Any],
    work: Work,
    kind: RunKind,
    plan: Mapping[str, Any],
    finish: Callable[[Sequence[Path]], None],
    workers: int = 1,
    engine: Engine = "local",
    show_progress: bool = True,
) -> None:
    """Prepare what is missing of `plan` in `out`, then call `finish` with all shard files, in order.

    A folder where the plan is complete is left as it is. A folder begun with another plan or by another version, one
    that holds anything else, and one where another run is at work raise `Omni123Error`.
    """
    if is_finished(out, plan, kind):
        return
    if importlib.util.find_spec("igl") is None:
        # Labelling a closed mesh would fail, item by item, and leave a data set of the open ones only.
        raise Omni123Error("preparing data needs libigl; install it with: pip install 'omni123-hf[data]'")
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        # Another run may have begun or ended since.
        if is_finished(out, plan, kind):
            return
        write_json(out / PLAN, plan)
        shards = out / "shards"
        shards.mkdir(exist_ok=True)
        for leftover in shards.glob(".*"):
            leftover.unlink()
        size = work.config.shard_size
        files = [shard_file(shards, number) for number in range(-(-len(items) // size))]
        jobs = [
            Job(items[number * size : (number + 1) * size], file)
            for number, file in enumerate(files)
            if not file.is_file()
        ]
        if jobs:
            steps = run_ray(jobs, work) if engine == "ray" else run_local(jobs, work, workers)
            _follow(steps, kind, len(items), sum(len(job.items) for job in jobs), show_progress)
        finish(files)


def check_engine(workers: int, engine: str) -> None:
    """Refuse fewer workers than one, and engines that do not exist."""
    if workers < 1:
        raise Omni123Error(f"workers must be at least 1, got {workers}")
    if engine not in ("local", "ray"):
        raise Omni123Error(f"unknown engine {engine!r}; choose local or ray")


def _follow(steps: Iterator[str], kind: RunKind, total: int, missing: int, show: bool) -> None:
    """Count what comes in, on the screen if wanted."""
    counts: Counter[str] = Counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.2f} " + kind.many + "/s"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    # An item may take many seconds: a rate over half a minute, as is usual, would jump.
    # rich cannot draw a moving line in a notebook without ipywidgets, and warns.
    with Progress(*columns, disable=not show or get_console().is_jupyter, speed_estimate_period=600.0) as progress:
        task = progress.add_task(f"preparing {kind.many}", total=total, completed=total - missing, speed=0.0)
        for outcome in steps:
            counts[outcome] += 1
            words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            speed = counts.total() / (time.monotonic() - start)
            progress.update(task, advance=1, description=words, speed=speed)
