"""PLY, ascii and binary of both byte orders: vertices, faces of any size, colours of vertices or faces."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...errors import RejectedError
from .files import ModelFile
from .limits import LoadLimits
from .polygons import split_faces
from .surface import Surface, check_counts, plain_colors
from .text import iterate_lines, number_rows


_TYPES = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h", "ushort": "H", "uint16": "H",
    "int": "i", "int32": "i", "uint": "I", "uint32": "I", "float": "f", "float32": "f", "double": "d", "float64": "d",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 2**20
_MAX_PROPERTIES = 512
_FACE_LISTS = ("vertex_indices", "vertex_index")


@dataclass
class _Element:
    """A kind of row: `properties` are (name, type code, type code of the count or "" when it is no list)."""

    name: str
    count: int
    properties: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def has_list(self) -> bool:
        return any(length for _, _, length in self.properties)

    @property
    def least_bytes(self) -> int:
        """Bytes of a binary row whose lists are all empty."""
        return sum(struct.calcsize(f"={length or code}") for _, code, length in self.properties)


@dataclass
class _Rows:
    """What was read of an element: columns (count,) by name, and of its index list the lengths and items in a row."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    items: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def read_ply(model: ModelFile) -> Surface:
    """The surface of a PLY file. Colours of faces come before colours of vertices; textures are not read."""
    limits = model.budget.limits
    order, elements, body = _read_header(model.data)
    for element in elements:
        _check_promise(element, len(model.data) - body, order, limits)
    rows: dict[str, _Rows] = {}
    lines = iterate_lines(model.data[body:], limits.max_line_bytes) if order is None else iter(())
    position = body
    for element in elements:
        if order is None:
            rows[element.name] = _ascii_rows(lines, element, limits)
        else:
            rows[element.name], position = _binary_rows(model.data, position, element, order, limits)
    return _to_surface(rows, limits, model.name)


def _read_header(data: bytes) -> tuple[str | None, list[_Element], int]:
    """Byte order (None: ascii), elements and the offset of the body."""
    found = re.search(rb"(?:^|[\r\n])end_header[ \t]*(\r\n|\n|\r)", data[:_MAX_HEADER_BYTES])
    if not data.startswith(b"ply") or found is None:
        raise RejectedError("broken_file", "this is not a PLY file, or its header has no end")
    order: str | None = ""
    elements: list[_Element] = []
    for line in data[: found.start()].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if len(words) >= 2 and words[0] == "format":
            if words[1] != "ascii" and words[1] not in _ORDERS:
                raise RejectedError("broken_file", f"unknown PLY format {words[1][:40]!r}")
            order = _ORDERS.get(words[1])
        elif len(words) == 3 and words[0] == "element" and words[2].isascii() and words[2].isdigit():
            elements.append(_Element(words[1], int(words[2])))
        elif words[:1] == ["property"] and elements:
            kinds = words[2:4] if words[1:2] == ["list"] else words[1:2]
            if len(words) != len(kinds) + (3 if len(kinds) == 2 else 2) or any(kind not in _TYPES for kind in kinds):
                raise RejectedError("broken_file", f"broken PLY property {line.strip()[:80]!r}")
            length = _TYPES[kinds[0]] if len(kinds) == 2 else ""
            if length in ("f", "d"):
                raise RejectedError("broken_file", f"the PLY list {line.strip()[:80]!r} is counted by a fraction")
            elements[-1].properties.append((words[-1], _TYPES[kinds[-1]], length))
        elif words and words[0] not in ("comment", "obj_info"):
            raise RejectedError("broken_file", f"broken PLY header line {line.strip()[:80]!r}")
    if order == "":
        raise RejectedError("broken_file", "the PLY header names no format")
    return order, elements, found.end()


def _check_promise(element: _Element, available: int, order: str | None, limits: LoadLimits) -> None:
    """Refuse a header that promises more rows than the file can hold, before anything is allocated for them."""
    if not 0 < len(element.properties) <= _MAX_PROPERTIES:
        raise RejectedError("broken_file", f"the PLY element {element.name[:40]!r} has no or too many properties")
    names = [name for name, _, _ in element.properties]
    if len(set(names)) != len(names):
        raise RejectedError("broken_file", f"the PLY element {element.name[:40]!r} names a property twice")
    # In text every number takes a digit and a separator, but for the last of the file.
    least = element.least_bytes if order is not None else 2 * len(element.properties)
    if element.count * least > available + 1:
        raise RejectedError(
            "truncated",
            f"the header promises {element.count} rows of {element.name[:40]!r}; the file cannot hold them",
        )
    vertices, faces = (0, element.count) if element.has_list else (element.count, 0)
    check_counts(vertices, faces, limits, f"the PLY header's {element.name[:40]!r}")


def _ascii_rows(lines: Iterator[str], element: _Element, limits: LoadLimits) -> _Rows:
    if not element.has_list:
        table = number_rows(lines, element.count, len(element.properties), element.name[:40])
        return _Rows(
            {name: _declared(table[:, column], code) for column, (name, code, _) in enumerate(element.properties)}
        )
    rows = _RowCollector(element, limits)
    for _ in range(element.count):
        line = next(lines, None)
        if line is None:
            raise RejectedError("truncated", f"the file ends before its {element.count} rows of {element.name[:40]!r}")
        words = line.split()
        place = 0
        for name, _, length in element.properties:
            if place >= len(words):
                raise RejectedError("broken_file", f"a PLY row of {element.name[:40]!r} is too short")
            count = int(words[place]) if length else 1
            place += 1 if length else 0
            if not 0 <= count <= len(words) - place:
                raise RejectedError("broken_file", f"a PLY list of {element.name[:40]!r} is longer than its row")
            if rows.wants(name):
                rows.add(name, [float(word) for word in words[place : place + count]])
            place += count
    return rows.finish()


def _binary_rows(data: bytes, start: int, element: _Element, order: str, limits: LoadLimits) -> tuple[_Rows, int]:
    if not element.has_list:
        kind = np.dtype([(name, order + code) for name, code, _ in element.properties])
        table = _structured(data, start, kind, element)
        return _Rows({name: table[name] for name in kind.names or ()}), start + table.nbytes
    uniform = _uniform_rows(data, start, element, order)
    if uniform is not None:
        return uniform
    rows = _RowCollector(element, limits)
    readers = [
        (rows.wants(name), name, order + code, struct.calcsize(f"={code}"), order + length if length else "")
        for name, code, length in element.properties
    ]
    position = start
    for _ in range(element.count):
        for wanted, name, code, size, length in readers:
            count = 1
            if length:
                if position + struct.calcsize(length) > len(data):
                    raise RejectedError("truncated", f"the file ends inside the rows of {element.name[:40]!r}")
                count = struct.unpack_from(length, data, position)[0]
                position += struct.calcsize(length)
            if count < 0 or position + count * size > len(data):
                raise RejectedError("truncated", f"the file ends inside the rows of {element.name[:40]!r}")
            if wanted:
                rows.add(name, struct.unpack_from(f"{code[0]}{count}{code[1]}", data, position))
            position += count * size
    return rows.finish(), position


def _structured(data: bytes, start: int, kind: np.dtype, element: _Element) -> np.ndarray:
    if start + element.count * kind.itemsize > len(data):
        raise RejectedError("truncated", f"the file ends inside the rows of {element.name[:40]!r}")
    return np.frombuffer(data, dtype=kind, count=element.count, offset=start)


def _uniform_rows(data: bytes, start: int, element: _Element, order: str) -> tuple[_Rows, int] | None:
    """Rows whose one list has the same length everywhere, as of a triangle mesh, in one step; None when they do not."""
    lists = [(name, code, length) for name, code, length in element.properties if length]
    if len(lists) != 1 or element.count == 0:
        return None
    before = sum(
        struct.calcsize(f"={code}") for name, code, _ in element.properties[: element.properties.index(lists[0])]
    )
    length_code = order + lists[0][2]
    if start + before + struct.calcsize(length_code) > len(data):
        return None
    count = struct.unpack_from(length_code, data, start + before)[0]
    if not 0 < count <= 64:
        return None
    parts: list[tuple] = []
    for name, code, length in element.properties:
        parts += [("#", order + length), (name, order + code, (count,))] if length else [(name, order + code)]
    kind = np.dtype(parts)
    if start + element.count * kind.itemsize > len(data):
        return None
    table = np.frombuffer(data, dtype=kind, count=element.count, offset=start)
    if (table["#"] != count).any():
        return None
    columns = {name: table[name] for name, _, length in element.properties if not length}
    rows = _Rows(columns)
    if lists[0][0] in _FACE_LISTS:
        rows.lengths = np.full(element.count, count, dtype=np.int64)
        rows.items = table[lists[0][0]].astype(np.int64).reshape(-1)
    return rows, start + table.nbytes


class _RowCollector:
    """Collects the columns and the index list of an element read row by row."""

    def __init__(self, element: _Element, limits: LoadLimits) -> None:
        self.limits = limits
        self.index_list = next((name for name, _, length in element.properties if length and name in _FACE_LISTS), "")
        self.columns: dict[str, list[float]] = {name: [] for name, _, length in element.properties if not length}
        self.codes = {name: code for name, code, _ in element.properties}
        self.lengths: list[int] = []
        self.items: list[float] = []

    def wants(self, name: str) -> bool:
        return name == self.index_list or name in self.columns

    def add(self, name: str, values: list[float] | tuple) -> None:
        if name != self.index_list:
            self.columns[name].append(values[0])
            return
        self.lengths.append(len(values))
        self.items.extend(values)
        if len(self.items) > 4 * self.limits.max_faces:
            raise RejectedError("too_many_faces", f"more than {self.limits.max_faces} faces; simplify the model")

    def finish(self) -> _Rows:
        items = np.array(self.items, dtype=np.float64)
        if not np.isfinite(items).all():
            raise RejectedError("bad_index", "a face names a vertex by a number that is not finite")
        columns = {
            name: _declared(np.array(values, dtype=np.float64), self.codes[name])
            for name, values in self.columns.items()
        }
        return _Rows(columns, np.array(self.lengths, dtype=np.int64), items.astype(np.int64))


def _declared(values: np.ndarray, code: str) -> np.ndarray:
    """Numbers as whole ones where the header says so: a colour of bytes must not pass for one of fractions."""
    return values if code in ("f", "d") else values.astype(np.int64)


def _to_surface(rows: dict[str, _Rows], limits: LoadLimits, label: str) -> Surface:
    vertex, face = rows.get("vertex", _Rows()), rows.get("face", _Rows())
    if not all(axis in vertex.columns for axis in "xyz"):
        raise RejectedError("broken_file", f"{label}: the vertices have no x, y and z")
    vertices = np.stack([vertex.columns[axis].astype(np.float64) for axis in "xyz"], axis=1)
    if len(face.items) and (face.items.min() < 0 or face.items.max() >= len(vertices)):
        raise RejectedError(
            "bad_index", f"{label}: a face names a vertex that does not exist; the file is broken, export it again"
        )
    starts = np.cumsum(face.lengths) - face.lengths
    corners, owners = split_faces(vertices, face.items, starts, np.arange(len(starts)))
    check_counts(len(vertices), len(corners), limits, label)
    faces = face.items[corners]
    by_face, by_vertex = _colors(face.columns), _colors(vertex.columns)
    if by_face is not None:
        colors = np.rint(by_face[owners]).astype(np.uint8)
    elif by_vertex is not None:
        colors = np.rint(by_vertex[faces].mean(axis=1)).astype(np.uint8)
    else:
        colors = plain_colors(len(faces))
    return Surface(vertices, faces, colors)


def _colors(columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """(N,3) float64 colours in 0..255, of bytes or of fractions; None when the element has none."""
    for names in (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")):
        if all(name in columns for name in names):
            raw = np.stack([columns[name] for name in names], axis=1)
            values = np.nan_to_num(raw.astype(np.float64))
            # Fractions by the rule; some writers store 0..255 as floats.
            fractions = raw.dtype.kind == "f" and values.max(initial=0.0) <= 1.0
            return np.clip(values * (255.0 if fractions else 1.0), 0.0, 255.0)
    return None
