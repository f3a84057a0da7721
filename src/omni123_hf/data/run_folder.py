"""The folder that a run of preparation fills: the same plan goes on there, any other is refused, one run at a time.

A plan is what was begun: the assets as they are stated, the files behind them by size and time, and the settings.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omni123_hf.data.assets import Asset, DescribedAsset, asset_place
from omni123_hf.data.run_lock import LOCK
from omni123_hf.data.store import write_text
from omni123_hf.errors import Omni123Error


PLAN = "plan.json"

_PROTOCOL_FIELDS = {"id", "source", "category", "captions", "licence", "attribution", "attributes"}
_PLACE_FIELDS = {"path", "root"}


def plan_of(assets: Sequence[Asset | DescribedAsset], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder is begun with; equal plans may share it. No assets, and ids given twice, raise `Omni123Error`."""
    if not assets:
        raise Omni123Error("there are no assets to prepare")
    ids = [asset.id for asset in assets]
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise Omni123Error(f"asset ids must be unique, but {twice!r} is given more than once")
    digest = hashlib.sha256()
    for asset in assets:
        digest.update(fingerprint(asset).encode() + b"\n")
    plan = {"assets": len(ids), "assets_hash": digest.hexdigest(), **settings}
    # As it will be read back.
    return dict(json.loads(json.dumps(plan)))


def fingerprint(asset: Asset | DescribedAsset) -> str:
    """Everything that is stated about an asset, and size and time of its file, as one line.

    Folders of this machine do not count, so that a source may be moved with its times kept.
    """
    place, file = asset_place(asset)
    names = {each.name for each in fields(asset)} if is_dataclass(asset) else _PROTOCOL_FIELDS
    stated = {name: getattr(asset, name) for name in names - _PLACE_FIELDS}
    stamp = None
    if file is not None:
        try:
            status = file.stat()
            stamp = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            pass  # it is rejected later; what matters here is that it was not there
    kind = type(asset).__qualname__
    return json.dumps([kind, place, stamp, sorted(stated.items())], sort_keys=True, default=repr)


def is_finished(out: Path, plan: Mapping[str, Any], summary: str) -> bool:
    """Whether `plan` is done in `out`, which the file `summary` tells.

    A folder that this plan did not begin raises `Omni123Error`.
    """
    if out.exists() and not out.is_dir():
        raise Omni123Error(f"{out} is a file; choose a folder")
    if (out / PLAN).is_file():
        try:
            begun = json.loads((out / PLAN).read_text(encoding="utf-8"))
        except ValueError as error:
            raise Omni123Error(f"{out / PLAN} is not readable ({error}); choose another folder") from error
        if begun != plan:
            raise Omni123Error(
                f"{out} was begun with other assets or settings, or its sources have changed since; "
                "choose another folder or remove it"
            )
        return (out / summary).is_file()
    if (out / summary).is_file():
        raise Omni123Error(f"{out} holds a data set that was not prepared here (a merged one?); choose another folder")
    # What a run that was killed before its plan was there may leave.
    if out.is_dir() and any(not entry.name.startswith((LOCK, f".{PLAN}.")) for entry in out.iterdir()):
        raise Omni123Error(f"{out} is not empty and holds no run of this command; choose another folder")
    return False


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, put in place whole."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
