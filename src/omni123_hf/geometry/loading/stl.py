"""STL, binary and ascii: bare triangles. The format has no colours (only private extensions) and no stated axes."""

from __future__ import annotations

import struct
from array import array

import numpy as np

from ...errors import RejectedError
from .files import ModelFile
from .surface import Surface, check_counts, plain_colors
from .text import iterate_lines


_HEADER_BYTES = 84
_TRIANGLE = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(model: ModelFile) -> Surface:
    """The surface of an STL file. The order of the corners says what is outside; stored normals are not read."""
    data = model.data
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= _HEADER_BYTES else 0
    expected = _HEADER_BYTES + count * _TRIANGLE.itemsize
    # Binary files may begin with "solid" too; what tells is the length.
    if len(data) >= _HEADER_BYTES and len(data) == expected:
        return _binary(model, count)
    if data[:512].lstrip().lower().startswith(b"solid"):
        return _ascii(model)
    if len(data) < _HEADER_BYTES or len(data) < expected:
        raise RejectedError("truncated", f"{model.name}: {len(data)} bytes, but {count} triangles take {expected}")
    return _binary(model, count)


def _binary(model: ModelFile, count: int) -> Surface:
    check_counts(3 * count, count, model.budget.limits, model.name)
    triangles = np.frombuffer(model.data, dtype=_TRIANGLE, count=count, offset=_HEADER_BYTES)["corners"]
    return _surface(triangles.reshape(-1, 3).astype(np.float64))


def _ascii(model: ModelFile) -> Surface:
    limits = model.budget.limits
    numbers = array("d")
    in_facet = 0
    for line in iterate_lines(model.data, limits.max_line_bytes):
        words = line.split(maxsplit=5)
        keyword = words[0].lower() if words else ""
        if keyword == "vertex":
            if len(words) < 4:
                raise RejectedError("broken_file", f"{model.name}: broken STL line {line.strip()[:80]!r}")
            numbers.extend(map(float, words[1:4]))
            in_facet += 1
            check_counts(0, len(numbers) // 9, limits, model.name)
        elif keyword == "endfacet":
            if in_facet != 3:
                raise RejectedError("broken_file", f"{model.name}: an STL facet has {in_facet} vertices, not 3")
            in_facet = 0
    if in_facet:
        raise RejectedError("truncated", f"{model.name}: the file ends inside a facet")
    return _surface(np.array(numbers).reshape(-1, 3))


def _surface(corners: np.ndarray) -> Surface:
    faces = np.arange(len(corners), dtype=np.int64).reshape(-1, 3)
    return Surface(corners, faces, plain_colors(len(faces)))
