"""Wavefront OBJ + MTL: positions, faces of any size, one colour a face. Normals, points, lines and curves are ignored.

The text and the files that it names are handed in by the caller, so the reader itself never opens a path.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...errors import RejectedError
from .files import ModelFile
from .limits import LoadLimits
from .polygons import split_faces
from .surface import DEFAULT_COLOR, Surface
from .text import iterate_lines
from .textures import KEPT_SIZE, Textures, sample_texture


# Beyond any limit on vertices, and still a number that arrays hold.
_MAX_INDEX = 2**40


@dataclass
class Material:
    """Diffuse colour (RGB 0..255), opacity 0..1 and the name of its texture file, if it has one."""

    color: tuple[float, float, float] = DEFAULT_COLOR
    opacity: float = 1.0
    texture: str | None = None


def read_wavefront(model: ModelFile) -> Surface:
    """The surface of an OBJ file. A material library or texture that is not there leaves the plain colour."""
    limits = model.budget.limits
    textures = Textures(model.files, model.budget)

    def read_library(name: str) -> list[str] | None:
        data = model.files.read_optional(name)
        return None if data is None else list(iterate_lines(data, limits.max_line_bytes, "utf-8"))

    lines = iterate_lines(model.data, limits.max_line_bytes, "utf-8")
    vertices, faces, colors = read_obj(lines, read_library, textures.get, limits)
    return Surface(vertices, faces, colors)


def parse_materials(lines: str | Iterable[str]) -> dict[str, Material]:
    """Materials of an MTL text by name. Unknown statements are skipped; a broken number raises RejectedError."""
    materials: dict[str, Material] = {}
    current = Material()
    for line in lines.splitlines() if isinstance(lines, str) else lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = words[0]
        try:
            if key == "newmtl":
                current = materials.setdefault(line.strip()[6:].strip(), Material())
            elif key == "Kd" and len(words) >= 4:
                red, green, blue = (min(max(float(word), 0.0), 1.0) * 255.0 for word in words[1:4])
                current.color = (red, green, blue)
            elif key == "d":
                current.opacity = float(words[-1])
            elif key == "Tr":
                current.opacity = 1.0 - float(words[-1])
            elif key == "map_Kd":
                current.texture = _texture_name(words[1:])
        except ValueError as error:
            raise RejectedError("broken_file", f"broken MTL line {line.strip()[:80]!r}: {error}") from error
    return materials


def _texture_name(words: list[str]) -> str | None:
    """File name after the options of a map_Kd statement (-s u v w, -o u v w, -blendu on ...). It may contain spaces."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        position += 1
        while position < len(words) and (_is_number(words[position]) or words[position] in ("on", "off")):
            position += 1
    return " ".join(words[position:]) or None


def _is_number(word: str) -> bool:
    return word.lstrip("+-").replace(".", "", 1).isdigit()


def read_obj(
    lines: str | Iterable[str],
    read_library: Callable[[str], str | Iterable[str] | None],
    read_image: Callable[[str], Image.Image | None],
    limits: LoadLimits | None = None,
    texture_size: int = KEPT_SIZE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V,3) float64, triangles (F,3) int64 and face colours (F,3) uint8 of an OBJ text.

    `read_library(name)` gives the text of a material library, `read_image(name)` a texture; None when the file is absent,
    which leaves the material's plain colour. Colours of vertices ("v x y z r g b") count where a face has no material.
    Faces whose material is fully transparent are left out: nobody sees them. `texture_size`: side textures are read at.
    """
    limits = limits or LoadLimits()
    # Compact arrays: a Python number in a list takes four times the memory of a hostile file's bytes.
    positions, vertex_colors, coordinates = array("d"), array("d"), array("d")
    # Corners (vertex, texture point) of all faces in a row, and where each face begins.
    corner_vertex, corner_point, starts, owners = array("q"), array("q"), array("q"), array("q")
    known: dict[str, tuple[int, int]] = {}
    index_of: dict[str, int] = {"": 0}
    materials: dict[str, Material] = {"": Material()}
    owner = 0
    for line in _joined(lines.splitlines() if isinstance(lines, str) else lines):
        if line.startswith("v "):
            words = line.split(maxsplit=7)
            _append_numbers(positions, words[1:4], 3, line)
            if len(words) == 7:
                _append_numbers(vertex_colors, words[4:7], 3, line)
            if len(positions) > 3 * limits.max_vertices:
                raise RejectedError(
                    "too_many_vertices", f"more than {limits.max_vertices} vertices; simplify the model"
                )
        elif line.startswith("f "):
            starts.append(len(corner_vertex))
            owners.append(owner)
            for word in line.split()[1:]:
                corner = known.get(word)
                if corner is None:
                    corner = _parse_corner(word, len(positions) // 3, len(coordinates) // 2)
                    # A number that counts back means another vertex on the next line.
                    if "-" not in word:
                        known[word] = corner
                corner_vertex.append(corner[0])
                corner_point.append(corner[1])
            if len(corner_vertex) > 4 * limits.max_faces or len(starts) > limits.max_faces:
                raise RejectedError("too_many_faces", f"more than {limits.max_faces} faces; simplify the model")
        elif line.startswith("vt "):
            _append_numbers(coordinates, line.split(maxsplit=3)[1:3], 2, line)
            if len(coordinates) > 8 * limits.max_vertices:
                raise RejectedError("too_many_vertices", f"more than {4 * limits.max_vertices} texture points")
        elif line.startswith("usemtl"):
            owner = index_of.setdefault(line[6:].strip(), len(index_of))
        elif line.startswith("mtllib"):
            library = read_library(line[6:].strip())
            if library is not None:
                materials.update(parse_materials(library))
    vertices = np.array(positions).reshape(-1, 3)
    texture_points = np.array(coordinates).reshape(-1, 2)
    table = np.stack([np.array(corner_vertex, dtype=np.int64), np.array(corner_point, dtype=np.int64)], axis=1)
    if len(table) and (table[:, 0].min() < 0 or table[:, 0].max() >= len(vertices)):
        raise RejectedError("bad_index", "broken OBJ: a face names a vertex that does not exist")
    first_corner = np.array(starts, dtype=np.int64)
    triangles, face_owner = split_faces(vertices, table[:, 0], first_corner, np.array(owners, dtype=np.int64))
    faces, face_uv = table[triangles, 0], table[triangles, 1]
    colors = np.empty((len(faces), 3), dtype=np.uint8)
    visible = np.ones(len(faces), dtype=bool)
    by_vertex = np.array(vertex_colors).reshape(-1, 3) if len(vertex_colors) == len(positions) else None
    order = np.argsort(face_owner, kind="stable")
    bounds = np.searchsorted(face_owner[order], np.arange(len(index_of) + 1))
    for index, name in enumerate(index_of):
        rows = order[bounds[index] : bounds[index + 1]]
        if len(rows) == 0:
            continue
        material = materials.get(name, materials[""])
        colors[rows] = np.clip(np.rint(material.color), 0, 255).astype(np.uint8)
        if by_vertex is not None and (name == "" or name not in materials):
            colors[rows] = np.rint(np.clip(by_vertex[faces[rows]].mean(axis=1), 0.0, 1.0) * 255.0).astype(np.uint8)
        visible[rows] = material.opacity > 0.0
        image = read_image(material.texture) if material.texture else None
        if image is not None:
            textured = (face_uv[rows] >= 0).all(axis=1) & (face_uv[rows] < len(texture_points)).all(axis=1)
            points = texture_points[face_uv[rows[textured]]]
            colors[rows[textured]] = sample_texture(image, points, texture_size)
    return vertices, faces[visible], colors[visible]


def _joined(lines: Iterable[str]) -> Iterable[str]:
    """Lines with those that a backslash continues joined to one, without the blanks before them."""
    pending = ""
    for line in lines:
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        yield (pending + line).lstrip() if pending or line[:1].isspace() else line
        pending = ""
    if pending:
        yield pending


def _append_numbers(target: array, words: list[str], count: int, line: str) -> None:
    try:
        target.extend(map(float, words))
    except ValueError as error:
        raise RejectedError("broken_file", f"broken OBJ vertex line {line.strip()[:80]!r}: {error}") from error
    if len(words) < count:
        raise RejectedError("broken_file", f"broken OBJ vertex line {line.strip()[:80]!r}: fewer than {count} numbers")


def _parse_corner(word: str, vertex_count: int, uv_count: int) -> tuple[int, int]:
    """Vertex and texture index (0-based, -1 where there is no texture point) of one corner, like `3/7/2`."""
    parts = word.split("/")
    try:
        vertex = int(parts[0])
        point = int(parts[1]) if len(parts) > 1 and parts[1] else 0
    except ValueError as error:
        raise RejectedError("broken_file", f"broken OBJ face corner {word[:40]!r}: {error}") from error
    if not 0 < abs(vertex) < _MAX_INDEX or abs(point) >= _MAX_INDEX:
        raise RejectedError("bad_index", f"broken OBJ face corner {word[:40]!r}: vertices count from 1")
    # Negative numbers count back from the last one read so far.
    return (
        vertex - 1 if vertex > 0 else vertex_count + vertex,
        point - 1 if point >= 0 else uv_count + point,
    )
