"""A shard: about a hundred items, assets or editing pairs, in one file that appears whole.

Whether a shard is done is whether its file is there, so preparing one twice does no harm and a stopped run goes on
where it stopped. Each item is worked on in a sandbox; one that is refused, crashes, or takes too much time or memory
becomes a line of reasons and never stops the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from omni123_hf.data.bounded_asset import SourceUnreachableError
from omni123_hf.data.inputs.fields import clean_text
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.sandbox import Sandbox, SandboxLimits
from omni123_hf.errors import Omni123Error, RejectedError


@dataclass(frozen=True)
class Row:
    """What one item became: a row of each array, and a JSON value for each kind of lines."""

    kind: Literal["kept", "repaired"]
    arrays: dict[str, np.ndarray]
    lines: dict[str, dict[str, Any]]


class Work(Protocol):
    """What is done to the items of a run. It is sent to the workers, and so are the items, which have an `id`."""

    @property
    def config(self) -> PreparationConfig:
        """Limits and shard size."""
        ...

    @property
    def layout(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of a row of each array."""
        ...

    @property
    def lines(self) -> Sequence[str]:
        """Kinds of lines beside "rejected"."""
        ...

    def place(self, item: Any) -> tuple[str, str]:
        """Source of an item and its path there, for whoever asks why it was rejected."""
        ...

    def prepare(self, item: Any) -> Row:
        """Called in the sandbox. An item that cannot be used raises `RejectedError`."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one item: a row, or rejected with a reason and a detail, or `fatal`: no item's fault.

    path: its place in its source.
    """

    id: str
    source: str = ""
    path: str = ""
    row: Row | None = None
    reason: str = ""
    detail: str = ""
    fatal: str = ""

    @property
    def kind(self) -> str:
        """ "kept", "repaired" or "rejected"."""
        return "rejected" if self.row is None else self.row.kind


def open_sandbox(workers: int, work: Work) -> Sandbox:
    """`workers` processes, each bound to the time and memory that the configuration gives one item."""
    memory = work.config.memory_per_asset_mib * 2**20
    limits = SandboxLimits(seconds=work.config.seconds_per_asset, memory_bytes=memory)
    return Sandbox(workers, limits, preload=("omni123_hf.data.prepare_shard", type(work).__module__))


def prepare_shard(
    items: Sequence[Any],
    path: Path,
    work: Work,
    sandbox: Sandbox,
    on_outcome: Callable[[str], None] | None = None,
) -> int:
    """Prepare `items` into the shard file `path`, unless it is there; returns the number of items.

    on_outcome: called with each `Outcome.kind` as it is known.
    """
    if path.is_file():
        return len(items)
    outcomes: dict[str, Outcome] = {}
    for item, result in sandbox.map_unordered(partial(attempt, work=work), items):
        if isinstance(result, RejectedError):
            result = _outcome(item, work, reason=result.reason, detail=str(result))
        if result.fatal:
            raise Omni123Error(result.fatal)
        outcomes[item.id] = result
        if on_outcome is not None:
            on_outcome(result.kind)
    write_shard(path, [outcomes[item.id] for item in items], work)
    return len(items)


def attempt(item: Any, work: Work) -> Outcome:
    """`work.prepare` as an outcome; the sandbox turns what is wrong with the item into a `RejectedError`."""
    from omni123_hf.data.captioning.backends import BackendError

    try:
        return _outcome(item, work, row=work.prepare(item))
    except (BackendError, SourceUnreachableError) as error:
        return _outcome(item, work, fatal=str(error))


def _outcome(item: Any, work: Work, **values: Any) -> Outcome:
    return Outcome(item.id, *work.place(item), **values)


def write_shard(path: Path, outcomes: Sequence[Outcome], work: Work) -> None:
    """Write outcomes, in order, as one file."""
    kept = [outcome.row for outcome in outcomes if outcome.row is not None]
    stacked: dict[str, Any] = {}
    for name, (shape, dtype) in work.layout.items():
        stacked[name] = np.stack([row.arrays[name] for row in kept]) if kept else np.empty((0, *shape), dtype)
    lines = {name: [row.lines[name] for row in kept] for name in work.lines}
    lines["rejected"] = [
        {
            "id": outcome.id,
            "source": outcome.source,
            "path": outcome.path,
            "reason": outcome.reason,
            "detail": outcome.detail,
        }
        for outcome in outcomes
        if outcome.row is None
    ]
    for name, each in lines.items():
        stacked[name] = lines_as_bytes(each)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **stacked)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lines_as_bytes(lines: Sequence[dict[str, Any]]) -> np.ndarray:
    """JSON lines as (bytes,) uint8, an array of a shard file; `read_lines` reads them."""
    # Bytes: an array of strings pads every line to the longest. Details may name files whose names are no text.
    text = "\n".join(clean_text(json.dumps(line, ensure_ascii=False)) for line in lines)
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def read_lines(path: Path, name: str) -> list[dict[str, Any]]:
    """The JSON lines `name` of a shard file; one of an older version raises `Omni123Error`."""
    with np.load(path, allow_pickle=False) as shard:
        content = shard[name]
    if content.dtype != np.uint8:
        raise Omni123Error(
            f"{path} was written by an older version; remove its data set's folder and prepare it again"
        )
    return [json.loads(line) for line in content.tobytes().decode("utf-8").split("\n") if line]


def shard_file(folder: Path, number: int) -> Path:
    """Where shard `number` of a run lies."""
    return folder / f"{number:05d}.npz"
