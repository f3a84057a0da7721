"""From found pictures to an image store: each decoded in a sandbox, checked, squared; a bad one is a line with a reason.

A run is cut into shards, files that appear whole, so a stopped run goes on where it stopped, as that of `prepare.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omni123_hf.data.assets import DescribedAsset, asset_place
from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.engines import one_thread_each
from omni123_hf.data.image_store import MAX_SIZE, SUMMARY, ImageStore, write_image_store
from omni123_hf.data.pictures import fit_square
from omni123_hf.data.prepare_shard import lines_as_bytes, read_lines, shard_file
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.run_folder import PLAN, RunKind, asset_fingerprint, is_finished, make_plan, write_lines
from omni123_hf.data.run_lock import only_run
from omni123_hf.data.sandbox import Sandbox, SandboxLimits
from omni123_hf.data.splits import split_of
from omni123_hf.data.store import write_json
from omni123_hf.errors import Omni123Error, RejectedError


# Pictures of a shard: no more than this many, and no more than this many bytes of them in memory.
SHARD_SIZE = 256
SHARD_BYTES = 64 * 2**20
# The largest picture that `PictureLimits` allows, decoded, as RGBA and premultiplied: 12 bytes a pixel.
LIMITS = SandboxLimits(seconds=60.0, memory_bytes=2 * 2**30)
SHOWN_REASONS = 5
PICTURES = RunKind("picture", "pictures", SUMMARY)


class PictureAsset(DescribedAsset, Protocol):
    """A picture with words and a licence, small enough to send to a worker; `data.inputs.pictures.FilePicture` is one."""

    def load(self) -> Image.Image:
        """The picture as RGBA; raises `RejectedError` when it cannot be used."""
        ...


def prepare_images(
    assets: Iterable[PictureAsset],
    out: str | Path,
    size: int = 64,
    seed: int = 0,
    workers: int = 1,
    allow_unknown_licence: bool = False,
    show_progress: bool = True,
) -> ImageStore:
    """Bring pictures to `size`² on white and write them as the store `out`; returns it open. seed: of the splits.

    Calling it again with the same pictures and settings goes on where a stopped run ended. Pictures that cannot be used
    are listed with a reason in `rejected.jsonl`. Bad settings, ids given twice, other pictures or settings in a folder
    already begun, and a run that keeps no picture raise `Omni123Error`.
    """
    if not 1 <= size <= MAX_SIZE:
        raise Omni123Error(f"size must be from 1 to {MAX_SIZE}, got {size}")
    if workers < 1:
        raise Omni123Error(f"workers must be at least 1, got {workers}")
    out, listed = Path(out).absolute(), list(assets)
    settings = {"size": size, "seed": seed, "allow_unknown_licence": allow_unknown_licence}
    plan = make_plan(PICTURES, listed, asset_fingerprint, {"settings": settings})
    if is_finished(out, plan, PICTURES):
        return ImageStore.open(out)
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        # Another run may have begun or ended since.
        if is_finished(out, plan, PICTURES):
            return ImageStore.open(out)
        write_json(out / PLAN, plan)
        shards = out / "shards"
        shards.mkdir(exist_ok=True)
        for leftover in shards.glob(".*"):
            leftover.unlink()
        step = max(1, min(SHARD_SIZE, SHARD_BYTES // (4 * size**2)))
        chunks = [listed[start : start + step] for start in range(0, len(listed), step)]
        files = [shard_file(shards, number) for number in range(len(chunks))]
        waiting = [(file, chunk) for file, chunk in zip(files, chunks, strict=True) if not file.is_file()]
        if waiting:
            prepare = partial(prepare_picture, size=size, seed=seed, allow_unknown_licence=allow_unknown_licence)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with (
                one_thread_each(),
                Sandbox(workers, LIMITS, preload=("omni123_hf.data.prepare_images",)) as sandbox,
                Progress(*columns, disable=not show_progress or get_console().is_jupyter) as progress,
            ):
                missing = sum(len(chunk) for _, chunk in waiting)
                task = progress.add_task("preparing pictures", total=len(listed), completed=len(listed) - missing)
                for file, chunk in waiting:
                    outcomes = {}
                    for asset, outcome in sandbox.map_unordered(prepare, chunk):
                        outcomes[asset.id] = outcome
                        progress.advance(task)
                    _write_shard(file, [(asset, outcomes[asset.id]) for asset in chunk], size)
        return _finalise(out, files, settings)


def prepare_picture(
    asset: PictureAsset, size: int, seed: int, allow_unknown_licence: bool
) -> tuple[AssetRecord, np.ndarray]:
    """One picture as its record, without a row, and its pixels (size,size,4) uint8.

    Depends on the asset and the settings only. Raises `RejectedError`: "unknown_licence", "no_caption", and the reasons of
    `pictures.decode_picture` and `fit_square`.
    """
    if asset.licence == UNKNOWN_LICENCE and not allow_unknown_licence:
        raise RejectedError("unknown_licence", "its licence is not stated; state it, or allow unknown licences")
    pixels = fit_square(asset.load(), size)
    if not any(asset.captions.values()):
        raise RejectedError("no_caption", "nothing says what it shows; give it a caption beside it or in its row")
    digest = hashlib.sha256(pixels.tobytes())
    digest.update(json.dumps(asset.captions, sort_keys=True, ensure_ascii=False).encode())
    record = AssetRecord(
        id=asset.id,
        source=asset.source,
        licence=asset.licence,
        attribution=asset.attribution,
        category=asset.category,
        captions={level: list(texts) for level, texts in asset.captions.items()},
        split=split_of(asset.id, seed),
        attributes=dict(asset.attributes),
        content_hash=digest.hexdigest(),
    )
    return record, pixels


def _write_shard(
    path: Path, outcomes: Sequence[tuple[PictureAsset, tuple[AssetRecord, np.ndarray] | RejectedError]], size: int
) -> None:
    kept = [outcome for _, outcome in outcomes if not isinstance(outcome, RejectedError)]
    rejected = [
        {
            "id": asset.id,
            "source": asset.source,
            "path": asset_place(asset)[0],
            "reason": error.reason,
            "detail": str(error),
        }
        for asset, error in outcomes
        if isinstance(error, RejectedError)
    ]
    pixels = np.stack([each for _, each in kept]) if kept else np.empty((0, size, size, 4), np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            records = lines_as_bytes([record.to_dict() for record, _ in kept])
            np.savez(file, allow_pickle=False, images=pixels, records=records, rejected=lines_as_bytes(rejected))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _finalise(out: Path, files: Sequence[Path], settings: dict[str, Any]) -> ImageStore:
    """Join the shards, then remove them."""
    rejected = [line for file in files for line in read_lines(file, "rejected")]
    records = [AssetRecord.from_dict(line) for file in files for line in read_lines(file, "records")]
    write_lines(out / "rejected.jsonl", rejected)
    reasons = Counter(line["reason"] for line in rejected)
    if not records:
        most = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(SHOWN_REASONS))
        raise Omni123Error(f"every picture was rejected ({most}); the details are in {out / 'rejected.jsonl'}")

    def blocks() -> Iterator[np.ndarray]:
        for file in files:
            with np.load(file, allow_pickle=False) as shard:
                yield shard["images"]

    outcome = {
        "kept": len(records),
        "rejected": len(rejected),
        "rejected_by_reason": dict(reasons.most_common()),
    }
    store = write_image_store(out, records, blocks(), settings["size"], {**settings, "outcome": outcome})
    shutil.rmtree(out / "shards")
    return store
