"""The sources by name: real meshes, and pictures without a mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import Omni123Error
from . import fluent_emoji, ldraw, sweethome3d
from .base import SourceAsset
from .fluent_emoji import ImageAsset


SOURCES: dict[str, Callable[[Path], Iterator[SourceAsset]]] = {
    "sweethome3d": sweethome3d.iter_assets,
    "ldraw": ldraw.iter_assets,
}

IMAGE_SOURCES: dict[str, Callable[[Path], Iterator[ImageAsset]]] = {fluent_emoji.NAME: fluent_emoji.iter_images}


def iter_assets(name: str, root: Path) -> Iterator[SourceAsset]:
    """Assets of the source `name` under the folder `root` (what `fetch` wrote, or an unpacked Debian package)."""
    if name not in SOURCES:
        raise Omni123Error(f"unknown source {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name](root)


def iter_images(name: str, root: Path) -> Iterator[ImageAsset]:
    """Pictures of the source `name` under the folder `root` (what `fetch` wrote)."""
    if name not in IMAGE_SOURCES:
        raise Omni123Error(f"unknown source of pictures {name!r}; known: {', '.join(IMAGE_SOURCES)}")
    return IMAGE_SOURCES[name](root)
