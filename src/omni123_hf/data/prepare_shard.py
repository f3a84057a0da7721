"""A shard: about a hundred assets in one file that appears whole.

Whether a shard is done is whether its file is there, so preparing one twice does no harm and a stopped run goes on
where it stopped. Each asset is worked on in a sandbox; one that is refused, crashes, or takes too much time or memory
becomes a line of reasons and never stops the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.assets import Asset, asset_place
from omni123_hf.data.bounded_asset import SourceUnreachableError
from omni123_hf.data.inputs.fields import clean_text
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_asset import Captioner, PreparedAsset, is_repaired, prepare_asset
from omni123_hf.data.sandbox import Sandbox, SandboxLimits
from omni123_hf.errors import Omni123Error, RejectedError


@dataclass(frozen=True)
class Outcome:
    """What became of one asset: prepared, or rejected with a reason and a detail, or `fatal`: no asset's fault.

    path: its place in its source.
    """

    id: str
    source: str = ""
    path: str = ""
    prepared: PreparedAsset | None = None
    reason: str = ""
    detail: str = ""
    fatal: str = ""

    @property
    def kind(self) -> str:
        """ "kept", "repaired" or "rejected"."""
        if self.prepared is None:
            return "rejected"
        return "repaired" if is_repaired(self.prepared.record) else "kept"


def open_sandbox(workers: int, config: PreparationConfig) -> Sandbox:
    """`workers` processes, each bound to the time and memory that the configuration gives one asset."""
    memory = config.memory_per_asset_mib * 2**20
    limits = SandboxLimits(seconds=config.seconds_per_asset, memory_bytes=memory)
    return Sandbox(workers, limits, preload=("omni123_hf.data.prepare_shard",))


def prepare_shard(
    assets: Sequence[Asset],
    path: Path,
    config: PreparationConfig,
    sandbox: Sandbox,
    captioner: Captioner | None = None,
    on_outcome: Callable[[str], None] | None = None,
) -> int:
    """Prepare `assets` into the shard file `path`, unless it is there; returns the number of assets.

    on_outcome: called with each `Outcome.kind` as it is known.
    """
    if path.is_file():
        return len(assets)
    outcomes: dict[str, Outcome] = {}
    for asset, result in sandbox.map_unordered(partial(attempt, config=config, captioner=captioner), assets):
        if isinstance(result, RejectedError):
            result = _outcome(asset, reason=result.reason, detail=str(result))
        if result.fatal:
            raise Omni123Error(result.fatal)
        outcomes[asset.id] = result
        if on_outcome is not None:
            on_outcome(result.kind)
    write_shard(path, [outcomes[asset.id] for asset in assets], config)
    return len(assets)


def attempt(asset: Asset, config: PreparationConfig, captioner: Captioner | None = None) -> Outcome:
    """`prepare_asset` as an outcome; the sandbox turns what is wrong with the asset into a `RejectedError`."""
    from omni123_hf.data.captioning.backends import BackendError

    try:
        return _outcome(asset, prepared=prepare_asset(asset, config, captioner=captioner))
    except (BackendError, SourceUnreachableError) as error:
        return _outcome(asset, fatal=str(error))


def _outcome(asset: Asset, **values: Any) -> Outcome:
    return Outcome(asset.id, asset.source, asset_place(asset)[0], **values)


def write_shard(path: Path, outcomes: Sequence[Outcome], config: PreparationConfig) -> None:
    """Write outcomes, in order, as one file."""
    kept = [outcome.prepared for outcome in outcomes if outcome.prepared is not None]
    stacked: dict[str, Any] = {}
    for name in config.sizes.names:
        shape, dtype = config.sizes.array(name)
        stacked[name] = np.stack([row.arrays[name] for row in kept]) if kept else np.empty((0, *shape), dtype)
    lines = {
        "records": [row.record.to_dict() for row in kept],
        "rejected": [
            {
                "id": outcome.id,
                "source": outcome.source,
                "path": outcome.path,
                "reason": outcome.reason,
                "detail": outcome.detail,
            }
            for outcome in outcomes
            if outcome.prepared is None
        ],
        "seconds": [{"id": row.record.id, **row.seconds} for row in kept],
    }
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
    """The JSON lines "records", "rejected" or "seconds" of a shard file; one of an older version raises `Omni123Error`."""
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
