"""A run in a folder: the plan that it was begun with, the shards that are missing, and one run at a time.

Assets (`prepare.py`) and editing pairs (`editing/prepare_pairs.py`) are prepared by the same steps. A folder that was
begun belongs to its plan: the same items with the same settings go on there, anything else is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omni123_hf.data.engines import Engine, Job, run_local, run_ray
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_shard import Work, shard_file
from omni123_hf.data.store import write_json, write_text
from omni123_hf.errors import Omni123Error


# Of plans and shard files. A folder begun with another one is refused.
RUN_FORMAT = 2
LOCK = ".lock"


@dataclass(frozen=True)
class RunKind:
    """What a run prepares. complete: the file that is written last."""

    one: str
    many: str
    complete: str


def make_plan(
    kind: RunKind,
    items: Sequence[Any],
    fingerprint: Callable[[Any], str],
    config: PreparationConfig,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a folder is begun with; equal plans may share a folder. No items, and ids given twice, raise `Omni123Error`."""
    if not items:
        raise Omni123Error(f"there are no {kind.many} to prepare")
    counts = Counter(item.id for item in items)
    if len(counts) != len(items):
        twice = next(name for name, count in counts.items() if count > 1)
        raise Omni123Error(f"{kind.one} ids must be unique, but {twice!r} is given more than once")
    digest = hashlib.sha256()
    for item in items:
        digest.update(fingerprint(item).encode() + b"\n")
    plan = {
        "format": RUN_FORMAT,
        kind.many: len(items),
        f"{kind.many}_hash": digest.hexdigest(),
        "config": config.to_dict(),
        **(further or {}),
    }
    # As it will be read back.
    return dict(json.loads(json.dumps(plan)))


def fingerprint_line(kind: str, place: Any, files: Iterable[Path], stated: Mapping[str, Any]) -> str:
    """One line that differs when anything stated about an item does, or size or time of one of its files.

    place: where it lies in its source; folders of this machine must not be in it, so that a source may be moved.
    """
    stamps = [_stamp(file) for file in files]
    return json.dumps([kind, place, stamps, sorted(stated.items())], sort_keys=True, default=repr)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None  # it is rejected later; what matters here is that it was not there
    return status.st_size, status.st_mtime_ns


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
    with _only_run(out):
        # Another run may have begun or ended since.
        if is_finished(out, plan, kind):
            return
        write_json(out / "plan.json", plan)
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


def is_finished(out: Path, plan: Mapping[str, Any], kind: RunKind) -> bool:
    """Whether `plan` is done in `out`; a folder that this plan did not begin raises `Omni123Error`."""
    if out.exists() and not out.is_dir():
        raise Omni123Error(f"{out} is a file; choose a folder")
    if (out / "plan.json").is_file():
        try:
            begun = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise Omni123Error(f"{out / 'plan.json'} is not readable ({error}); choose another folder") from error
        if not isinstance(begun, dict) or begun.get("format") != plan["format"]:
            raise Omni123Error(
                f"{out} was begun by another version of omni123-hf; what is finished there can be read, but to prepare"
                " choose another folder or remove it"
            )
        if begun != plan:
            raise Omni123Error(
                f"{out} was begun with other {kind.many} or settings, or its sources have changed since; "
                "choose another folder or remove it"
            )
        return (out / kind.complete).is_file()
    if (out / kind.complete).is_file():
        raise Omni123Error(f"{out} holds a data set that was not prepared here (a merged one?); choose another folder")
    # What a run that was killed before its plan was there may leave.
    if out.is_dir() and any(not entry.name.startswith((LOCK, ".plan.json.")) for entry in out.iterdir()):
        raise Omni123Error(f"{out} is not empty and holds no run of this command; choose another folder")
    return False


@contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Keeps other runs out of `out`; the lock ends with the process, however that ends."""
    with open(out / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Omni123Error(f"another run is preparing {out}; wait for it, or choose another folder") from error
        yield


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
    with Progress(*columns, disable=not show, speed_estimate_period=600.0) as progress:
        task = progress.add_task(f"preparing {kind.many}", total=total, completed=total - missing, speed=0.0)
        for outcome in steps:
            counts[outcome] += 1
            words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            speed = counts.total() / (time.monotonic() - start)
            progress.update(task, advance=1, description=words, speed=speed)


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, at once."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
