"""A small Wavefront OBJ + MTL reader: positions, faces, one colour a face. No normals, lines or curves.

Files are text handed in by the caller, so the reader never opens a path that a downloaded file names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...errors import Omni123Error


DEFAULT_COLOR = (190, 190, 190)
TEXTURE_SIZE = 256
COARSE_SIZE = 32

# Four points inside a triangle: the centre and one towards each corner. Enough to average a small patch of a texture.
_SAMPLES = np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]], dtype=np.float64)
_SAMPLES /= _SAMPLES.sum(axis=1, keepdims=True)


@dataclass
class Material:
    """Diffuse colour (RGB 0..255), opacity 0..1 and the name of its texture file, if it has one."""

    color: tuple[float, float, float] = DEFAULT_COLOR
    opacity: float = 1.0
    texture: str | None = None


def parse_materials(text: str) -> dict[str, Material]:
    """Materials of an MTL file by name. Unknown statements are skipped; a broken number raises Omni123Error."""
    materials: dict[str, Material] = {}
    current = Material()
    for line in text.splitlines():
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
            raise Omni123Error(f"broken MTL line {line.strip()!r}: {error}") from error
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
    text: str, read_text: Callable[[str], str | None], read_image: Callable[[str], Image.Image | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V,3) float64, triangles (F,3) int64 and face colours (F,3) uint8 of an OBJ text.

    `read_text(name)` gives a material library, `read_image(name)` a texture; None when the file is absent, which leaves
    the material's plain colour. Faces whose material is fully transparent are left out: nobody sees them.
    """
    positions: list[str] = []
    coordinates: list[str] = []
    # Corners (vertex, texture point) of all faces in a row, and where each face begins.
    corners: list[tuple[int, int]] = []
    starts: list[int] = []
    owners: list[int] = []
    known: dict[str, tuple[int, int]] = {}
    index_of: dict[str, int] = {"": 0}
    materials: dict[str, Material] = {"": Material()}
    owner = 0
    for line in text.splitlines():
        if line.startswith("v "):
            positions.extend(line.split()[1:4])
        elif line.startswith("f "):
            starts.append(len(corners))
            owners.append(owner)
            for word in line.split()[1:]:
                corner = known.get(word)
                if corner is None:
                    corner = _parse_corner(word, len(positions) // 3, len(coordinates) // 2)
                    # A number that counts back means another vertex on the next line.
                    if "-" not in word:
                        known[word] = corner
                corners.append(corner)
        elif line.startswith("vt "):
            coordinates.extend(line.split()[1:3])
        elif line.startswith("usemtl"):
            owner = index_of.setdefault(line[6:].strip(), len(index_of))
        elif line.startswith("mtllib"):
            library = read_text(line[6:].strip())
            if library is not None:
                materials.update(parse_materials(library))
    try:
        vertices = np.array(positions, dtype=np.float64).reshape(-1, 3)
        texture_points = np.array(coordinates, dtype=np.float64).reshape(-1, 2)
    except ValueError as error:
        raise Omni123Error(f"broken OBJ vertex line: {error}") from error
    names = list(index_of)
    table = np.array(corners, dtype=np.int64).reshape(-1, 2)
    if len(table) and (table[:, 0].min() < 0 or table[:, 0].max() >= len(vertices)):
        raise Omni123Error("broken OBJ: a face names a vertex that does not exist")
    triangles, face_owner = _split_faces(vertices, table[:, 0], np.array(starts, dtype=np.int64), np.array(owners))
    faces, face_uv = table[triangles, 0], table[triangles, 1]
    colors = np.empty((len(faces), 3), dtype=np.uint8)
    visible = np.ones(len(faces), dtype=bool)
    for index, name in enumerate(names):
        rows = np.flatnonzero(face_owner == index)
        if len(rows) == 0:
            continue
        material = materials.get(name, materials[""])
        colors[rows] = np.clip(np.rint(material.color), 0, 255).astype(np.uint8)
        visible[rows] = material.opacity > 0.0
        image = read_image(material.texture) if material.texture else None
        if image is not None:
            textured = (face_uv[rows] >= 0).all(axis=1) & (face_uv[rows] < len(texture_points)).all(axis=1)
            colors[rows[textured]] = sample_texture(image, texture_points[face_uv[rows[textured]]])
    return vertices, faces[visible], colors[visible]


def _parse_corner(word: str, vertex_count: int, uv_count: int) -> tuple[int, int]:
    """Vertex and texture index (0-based, -1 where there is no texture point) of one corner, like `3/7/2`."""
    parts = word.split("/")
    try:
        vertex = int(parts[0])
        point = int(parts[1]) if len(parts) > 1 and parts[1] else 0
    except ValueError as error:
        raise Omni123Error(f"broken OBJ face corner {word!r}: {error}") from error
    # Negative numbers count back from the last one read so far.
    return (
        vertex - 1 if vertex > 0 else vertex_count + vertex,
        point - 1 if point >= 0 else uv_count + point,
    )


def _split_faces(
    vertices: np.ndarray, corner_vertex: np.ndarray, starts: np.ndarray, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (F,3) as positions in the corner list, and the owner (F,) of each, of polygons of any size."""
    counts = np.diff(np.append(starts, len(corner_vertex)))
    three, four = np.flatnonzero(counts == 3), np.flatnonzero(counts == 4)
    blocks = [starts[three, None] + np.arange(3)]
    block_owners = [owners[three]]
    if len(four):
        quads = starts[four, None] + np.arange(4)
        points = vertices[corner_vertex[quads]]
        normal = np.cross(points[:, 2] - points[:, 0], points[:, 3] - points[:, 1])
        before, after = points - np.roll(points, 1, axis=1), np.roll(points, -1, axis=1) - points
        turns = np.einsum("qck,qk->qc", np.cross(before, after), normal)
        # The diagonal must start at the corner that bends inwards, where there is one.
        shift = np.where((turns.min(axis=1) < 0) & (turns.argmin(axis=1) % 2 == 1), 1, 0)[:, None]
        first = np.take_along_axis(quads, (np.array([[0, 1, 2]]) + shift) % 4, axis=1)
        second = np.take_along_axis(quads, (np.array([[0, 2, 3]]) + shift) % 4, axis=1)
        blocks += [first, second]
        block_owners += [owners[four], owners[four]]
    larger: list[list[int]] = []
    larger_owners: list[int] = []
    for index in np.flatnonzero(counts > 4):
        start, count = int(starts[index]), int(counts[index])
        pieces = triangulate(vertices, corner_vertex[start : start + count].tolist())
        larger.extend([start + a, start + b, start + c] for a, b, c in pieces)
        larger_owners.extend([owners[index]] * len(pieces))
    blocks.append(np.array(larger, dtype=np.int64).reshape(-1, 3))
    block_owners.append(np.array(larger_owners, dtype=np.int64))
    return np.concatenate(blocks).astype(np.int64), np.concatenate(block_owners).astype(np.int64)


def triangulate(vertices: np.ndarray, face: list[int]) -> list[tuple[int, int, int]]:
    """Triangles (positions in `face`) of a planar polygon: a fan when it is convex, ear clipping otherwise."""
    count = len(face)
    points = vertices[face]
    following = np.roll(points, -1, axis=0)
    normal = np.cross(points, following).sum(axis=0)
    turns = np.cross(points - np.roll(points, 1, axis=0), following - points) @ normal
    if (turns >= 0).all():
        return [(0, index, index + 1) for index in range(1, count - 1)]
    # Project along the main axis of the normal, keeping the polygon counter-clockwise.
    axis = int(np.abs(normal).argmax())
    flat = np.delete(points, axis, axis=1)
    if (normal[axis] < 0) != (axis == 1):
        flat = flat * np.array([-1.0, 1.0])
    remaining = list(range(count))
    triangles: list[tuple[int, int, int]] = []
    while len(remaining) > 3:
        ear = next((place for place in range(len(remaining)) if _is_ear(flat, remaining, place)), 0)
        size = len(remaining)
        triangles.append((remaining[ear - 1], remaining[ear], remaining[(ear + 1) % size]))
        del remaining[ear]
    triangles.append((remaining[0], remaining[1], remaining[2]))
    return triangles


def _is_ear(flat: np.ndarray, remaining: list[int], place: int) -> bool:
    """Whether the corner at `place` bends outwards and no other corner lies in its triangle."""
    a, b, c = (flat[remaining[(place + shift) % len(remaining)]] for shift in (-1, 0, 1))
    if (b[0] - a[0]) * (c[1] - b[1]) <= (b[1] - a[1]) * (c[0] - b[0]):
        return False
    points = flat[remaining]
    inside = np.ones(len(points), dtype=bool)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        inside &= edge[0] * (points[:, 1] - start[1]) >= edge[1] * (points[:, 0] - start[0])
        # A corner at the same place (a slit to a hole has those) is no obstacle.
        inside &= (points != start).any(axis=1)
    return not inside.any()


def sample_texture(image: Image.Image, uv: np.ndarray) -> np.ndarray:
    """(F,3) uint8 colour of faces with texture points uv (F,3,2), repeating, weighted by the texture's opacity.

    A face that spans much of the texture gets the mean of a coarser picture, so that a tiled pattern gives its
    average colour and not the one texel under the centre.
    """
    fine = image.convert("RGBA")
    if max(fine.size) > TEXTURE_SIZE:
        fine = fine.resize((min(fine.width, TEXTURE_SIZE), min(fine.height, TEXTURE_SIZE)), Image.Resampling.BOX)
    coarse = fine.resize((min(fine.width, COARSE_SIZE), min(fine.height, COARSE_SIZE)), Image.Resampling.BOX)
    mean = _weighted_mean(np.asarray(fine, dtype=np.float64).reshape(1, -1, 4), np.full((1, 3), 190.0))
    uv = np.nan_to_num(uv)
    extent = (uv.max(axis=1) - uv.min(axis=1)).max(axis=1)
    colors = np.tile(mean, (len(uv), 1))
    for level, chosen in (
        (fine, extent <= 2.0 / COARSE_SIZE),
        (coarse, (extent > 2.0 / COARSE_SIZE) & (extent < 0.6)),
    ):
        texels = np.asarray(level, dtype=np.float64)
        points = np.einsum("sc,fcd->fsd", _SAMPLES, uv[chosen])
        columns = np.minimum((points[..., 0] % 1.0 * level.width).astype(np.int64), level.width - 1)
        rows = np.minimum(((1.0 - points[..., 1] % 1.0) * level.height).astype(np.int64), level.height - 1)
        colors[chosen] = _weighted_mean(texels[rows, columns], np.tile(mean, (int(chosen.sum()), 1)))
    return np.clip(np.rint(colors), 0, 255).astype(np.uint8)


def _weighted_mean(texels: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Mean colour (F,3) of texels (F,S,4) weighted by opacity; `otherwise` (F,3) where nothing is opaque."""
    weight = texels[..., 3:4]
    total = weight.sum(axis=1)
    mean = (texels[..., :3] * weight).sum(axis=1) / np.maximum(total, 1e-9)
    return np.where(total > 0.0, mean, otherwise)
