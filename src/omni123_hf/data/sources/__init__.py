"""Readers of real meshes with words and a licence: Sweet Home 3D furniture and the LDraw part library."""

from .base import SourceAsset
from .fetch import fetch
from .registry import SOURCES, iter_assets


__all__ = ["SOURCES", "SourceAsset", "fetch", "iter_assets"]
