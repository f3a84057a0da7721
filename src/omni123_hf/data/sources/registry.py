"""The real-mesh sources by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import Omni123Error
from . import ldraw, sweethome3d
from .base import SourceAsset


SOURCES: dict[str, Callable[[Path], Iterator[SourceAsset]]] = {
    "sweethome3d": sweethome3d.iter_assets,
    "ldraw": ldraw.iter_assets,
}


def iter_assets(name: str, root: Path) -> Iterator[SourceAsset]:
    """Assets of the source `name` under the folder `root` (what `fetch` wrote, or an unpacked Debian package)."""
    if name not in SOURCES:
        raise Omni123Error(f"unknown source {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name](root)
