"""OFF, ascii: OFF, COFF, NOFF, STOFF and their combinations, polygons of any size, colours of vertices or faces."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator

import numpy as np

from ...errors import RejectedError
from .files import ModelFile
from .polygons import split_faces
from .surface import DEFAULT_COLOR, Surface, check_counts, plain_colors
from .text import iterate_lines, number_rows


_KEYWORD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF")


def read_off(model: ModelFile) -> Surface:
    """The surface of an OFF file. Colour maps (one number a face) are not read."""
    limits = model.budget.limits
    lines = _content(iterate_lines(model.data, limits.max_line_bytes))
    first = next(lines, "")
    keyword = _KEYWORD.match(first)
    if keyword is None:
        raise RejectedError("broken_file", f"{model.name}: this is not an OFF file")
    if keyword[4] or keyword[5] or "BINARY" in first:
        raise RejectedError("unsupported_format", f"{model.name}: {first[:40]!r} is no ascii OFF in three dimensions")
    # The counts stand on their own line, behind the word, or (in ModelNet) glued to it.
    counts = (first[keyword.end() :] or next(lines, "")).split()
    if len(counts) < 2 or not all(word.isascii() and word.isdigit() for word in counts[:2]):
        raise RejectedError("broken_file", f"{model.name}: the OFF header does not give the counts")
    vertex_count, face_count = int(counts[0]), int(counts[1])
    if 6 * vertex_count + 2 * face_count > len(model.data):
        raise RejectedError(
            "truncated",
            f"{model.name}: the header promises {vertex_count} vertices and {face_count} faces; the file cannot hold them",
        )
    check_counts(vertex_count, face_count, limits, model.name)
    # Normals come before colours, colours before texture points.
    skipped = 6 if keyword[3] else 3
    table = number_rows(lines, vertex_count, skipped + (3 if keyword[2] else 0), "vertices")
    vertices = table[:, :3].copy()
    by_vertex = table[:, skipped : skipped + 3] if keyword[2] else None

    corner_vertex, starts = array("q"), array("q")
    face_colors = plain_colors(face_count)
    colored = False
    for face in range(face_count):
        line = next(lines, None)
        if line is None:
            raise RejectedError("truncated", f"{model.name}: the file ends before its {face_count} faces")
        words = line.split()
        count = int(words[0])
        if not 0 <= count <= len(words) - 1:
            raise RejectedError("broken_file", f"{model.name}: broken OFF face {line[:80]!r}")
        starts.append(len(corner_vertex))
        corner_vertex.extend(map(int, words[1 : count + 1]))
        check_counts(0, len(corner_vertex) // 4, limits, model.name)
        if len(words) - count - 1 >= 3:
            face_colors[face] = _scaled(np.array([words[count + 1 : count + 4]], dtype=np.float64), words[count + 1 :])
            colored = True
    index = np.array(corner_vertex, dtype=np.int64)
    if len(index) and (index.min() < 0 or index.max() >= vertex_count):
        raise RejectedError(
            "bad_index",
            f"{model.name}: a face names a vertex that does not exist; the file is broken, export it again",
        )
    corners, owners = split_faces(vertices, index, np.array(starts, dtype=np.int64), np.arange(face_count))
    faces = index[corners]
    colors = face_colors[owners]
    if by_vertex is not None and not colored:
        fractions = by_vertex.max(initial=0.0) <= 1.0
        mean = by_vertex[faces].mean(axis=1) * (255.0 if fractions else 1.0)
        colors = np.rint(np.clip(np.nan_to_num(mean, nan=float(DEFAULT_COLOR[0])), 0.0, 255.0)).astype(np.uint8)
    return Surface(vertices, faces, colors)


def _content(lines: Iterator[str]) -> Iterator[str]:
    """Lines without comments, empty ones left out."""
    for line in lines:
        text = line.partition("#")[0].strip()
        if text:
            yield text


def _scaled(color: np.ndarray, words: list[str]) -> np.ndarray:
    """A face's colour in 0..255: written as fractions when there is a decimal point."""
    factor = 255.0 if any("." in word for word in words[:3]) else 1.0
    return np.rint(np.clip(np.nan_to_num(color * factor), 0.0, 255.0)).astype(np.uint8)
