"""The folder that a run of preparation fills: the same plan goes on there, any other is refused, one run at a time.

A plan is what was begun: the items as they are stated, the files behind them by size and time, and the settings. Assets, editing
pairs and pictures are all prepared in such folders.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from omni123_hf.data.assets import Asset, DescribedAsset, asset_place
from omni123_hf.data.run_lock import LOCK
from omni123_hf.data.store import write_text
from omni123_hf.errors import Omni123Error


_PROTOCOL_FIELDS = {"id", "source", "category", "captions", "licence", "attribution", "attributes"}
_PLACE_FIELDS = {"path", "root"}

# Of plans and shard files. A folder begun with another one is refused.
RUN_FORMAT = 2
PLAN = "plan.json"


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
    settings: Mapping[str, Any],
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
        **settings,
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


def asset_fingerprint(asset: Asset | DescribedAsset) -> str:
    """Everything that is stated about an asset or a picture, and size and time of its file, as one line."""
    place, file = asset_place(asset)
    names = {each.name for each in fields(asset)} if is_dataclass(asset) else _PROTOCOL_FIELDS
    stated = {name: getattr(asset, name) for name in names - _PLACE_FIELDS}
    return fingerprint_line(type(asset).__qualname__, place, () if file is None else (file,), stated)


def is_finished(out: Path, plan: Mapping[str, Any], kind: RunKind) -> bool:
    """Whether `plan` is done in `out`; a folder that this plan did not begin raises `Omni123Error`."""
    if out.exists() and not out.is_dir():
        raise Omni123Error(f"{out} is a file; choose a folder")
    if (out / PLAN).is_file():
        try:
            begun = json.loads((out / PLAN).read_text(encoding="utf-8"))
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
    if out.is_dir() and any(not entry.name.startswith((LOCK, f".{PLAN}.")) for entry in out.iterdir()):
        raise Omni123Error(f"{out} is not empty and holds no run of this command; choose another folder")
    return False


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, at once."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
