"""Readers with words and a licence: meshes of Sweet Home 3D and LDraw, pictures of Fluent Emoji."""

from .base import SourceAsset
from .fetch import fetch
from .registry import IMAGE_SOURCES, SOURCES, iter_assets, iter_images


__all__ = ["IMAGE_SOURCES", "SOURCES", "SourceAsset", "fetch", "iter_assets", "iter_images"]
