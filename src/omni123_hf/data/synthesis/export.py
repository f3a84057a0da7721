"""Finished items as a folder of meshes with words beside them, which `omni123 data prepare` reads as any other source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from omni123_hf.data.captioning.cache import write_json_atomic
from omni123_hf.data.synthesis.assets import SynthesizedAsset


def write_source(assets: Sequence[SynthesizedAsset], folder: str | Path) -> None:
    """Makes `folder` hold exactly `assets`: a PLY and a JSON each (the columns of `data.inputs.fields`, and the lineage
    under "synthesis"). It is written beside its place; readers see the old folder or the new one.

    Meshes keep the time at which they were made, so that an unchanged asset is the same to a data set begun before.
    """
    folder = Path(folder)
    fresh, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for asset in assets:
        name = asset.id.replace("/", "-")
        # The item's file may be replaced later, but is never written into, so that both may share it.
        _link_or_copy(Path(asset.path), fresh / f"{name}.ply")
        words = {
            "id": name,
            "category": asset.category,
            "licence": asset.licence,
            "attribution": asset.attribution,
            "captions": asset.captions,
            "synthesis": asset.attributes,
        }
        write_json_atomic(fresh / f"{name}.json", words)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # file systems without links
        shutil.copy2(source, target)
