"""How large one asset may be, and the running total while it is read."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...errors import Omni123Error, RejectedError


@dataclass(frozen=True)
class LoadLimits:
    """Upper bounds of one asset; an asset beyond any of them is refused before the memory for it is asked for.

    max_file_bytes: any single file, packed or unpacked. max_total_bytes: all files together, and every texture once
    decoded (4 bytes a pixel). max_vertices, max_faces: of the whole asset, with polygons cut into triangles and
    instances counted. max_texture_pixels: one texture. max_nodes, max_depth: scene graph, nested files.
    max_archive_members: files of a zip archive. max_compression_ratio: unpacked to packed size of one member.
    max_line_bytes: one line of a text format. max_json_values: values of a glTF's JSON.
    """

    max_file_bytes: int = 256 * 2**20
    max_total_bytes: int = 2**30
    max_vertices: int = 2_000_000
    max_faces: int = 2_000_000
    max_texture_pixels: int = 64 * 2**20
    max_nodes: int = 100_000
    max_depth: int = 256
    max_archive_members: int = 10_000
    max_compression_ratio: int = 200
    max_line_bytes: int = 2**20
    max_json_values: int = 4_000_000

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 1:
                raise Omni123Error(f"{item.name} must be at least 1, got {getattr(self, item.name)}")


class LoadBudget:
    """What one asset has used of its `max_total_bytes`."""

    def __init__(self, limits: LoadLimits) -> None:
        self.limits = limits
        self.used_bytes = 0

    def spend_file(self, size: int, what: str) -> None:
        """Account for a file of `size` bytes; raises RejectedError when it, or the sum so far, is too large."""
        if size > self.limits.max_file_bytes:
            raise RejectedError(
                "file_too_large", f"{what} has {size} bytes, more than {self.limits.max_file_bytes}; simplify it"
            )
        self._spend(size, what)

    def spend_texture(self, width: int, height: int, what: str) -> None:
        """Account for a texture to be decoded; raises RejectedError when it, or the sum so far, is too large."""
        if width * height > self.limits.max_texture_pixels:
            limit = self.limits.max_texture_pixels
            raise RejectedError(
                "texture_too_large", f"{what} is {width} x {height}, more than {limit} pixels; scale it down"
            )
        self._spend(4 * width * height, what)

    def _spend(self, size: int, what: str) -> None:
        self.used_bytes += size
        if self.used_bytes > self.limits.max_total_bytes:
            limit = self.limits.max_total_bytes
            raise RejectedError(
                "asset_too_large", f"with {what} the asset needs more than {limit} bytes; use fewer or smaller files"
            )
