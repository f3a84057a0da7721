"""glTF 2.0 scenes as one surface: node transforms applied, base colours sampled, everything else left alone.

Morph targets and animations are ignored. A skinned mesh is shown in its bind pose, placed by the root of its skeleton.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import RejectedError
from .files import ModelFile
from .gltf_data import COMPRESSED_EXTENSIONS, GltfData, compressed, numbers
from .gltf_material import GltfMaterials
from .surface import Surface, check_counts, join_surfaces


_TRIANGLES, _STRIP, _FAN = 4, 5, 6


def read_gltf(model: ModelFile) -> Surface:
    """The surface of a `.glb` or `.gltf` file: its default scene, or all its nodes when there is none."""
    data = GltfData(model)
    transforms = _place_nodes(data)
    materials = GltfMaterials(data)
    parts: list[Surface] = []
    cache: dict[int, list[Surface]] = {}
    vertices = faces = 0
    for node, transform in transforms.items():
        entry = data.entry("nodes", node)
        if "mesh" not in entry:
            continue
        index = entry["mesh"]
        primitives = data.entry("meshes", index).get("primitives", [])
        if index not in cache:
            cache[index] = [
                part for each in primitives if (part := _read_primitive(data, materials, each)) is not None
            ]
        # A file may place one mesh a million times: count before copying.
        vertices += sum(len(part.vertices) for part in cache[index])
        faces += sum(len(part.faces) for part in cache[index])
        check_counts(vertices, faces, data.limits, model.name)
        placed = _bind_transform(data, entry["skin"], transforms) if "skin" in entry else transform
        parts += [_moved(part, placed) for part in cache[index]]
    return join_surfaces(parts)


def _place_nodes(data: GltfData) -> dict[int, np.ndarray]:
    """World transform (4,4) of every node of the scene. Raises RejectedError for a node with two parents or a cycle."""
    nodes = data.tree.get("nodes", [])
    if len(nodes) > data.limits.max_nodes:
        raise RejectedError("too_many_nodes", f"{len(nodes)} nodes, more than {data.limits.max_nodes}")
    if data.tree.get("scenes"):
        roots = data.entry("scenes", data.tree.get("scene", 0)).get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [index for index in range(len(nodes)) if index not in children]
        if nodes and not roots:
            raise RejectedError("node_cycle", "every node of the glTF is a child of another one")
    transforms: dict[int, np.ndarray] = {}
    waiting = [(root, np.eye(4), 1) for root in reversed(roots)]
    while waiting:
        index, parent, depth = waiting.pop()
        node = data.entry("nodes", index)
        if index in transforms:
            raise RejectedError("node_cycle", f"glTF node {index} is reached twice; the nodes must form a tree")
        if depth > data.limits.max_depth:
            raise RejectedError("too_deep", f"the nodes are nested deeper than {data.limits.max_depth}")
        transforms[index] = parent @ _local_transform(node)
        waiting += [(child, transforms[index], depth + 1) for child in reversed(node.get("children", []))]
    return transforms


def _local_transform(node: dict[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return numbers(node["matrix"], 16, "a node's matrix").reshape(4, 4).T
    matrix = np.eye(4)
    if "rotation" in node:
        x, y, z, w = numbers(node["rotation"], 4, "a node's rotation")
        length = x * x + y * y + z * z + w * w
        # The factor 2 / |q|^2 makes it a rotation for a quaternion that is not quite of unit length.
        s = 2.0 / length if length > 0.0 else 0.0
        matrix[:3, :3] = [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    if "scale" in node:
        matrix[:3, :3] *= numbers(node["scale"], 3, "a node's scale")
    if "translation" in node:
        matrix[:3, 3] = numbers(node["translation"], 3, "a node's translation")
    return matrix


def _bind_transform(data: GltfData, index: int, transforms: dict[int, np.ndarray]) -> np.ndarray:
    """Transform (4,4) of a skinned mesh in its bind pose, as the first joint of its skeleton places it.

    The node of a skinned mesh does not move it (glTF 2.0 §3.7.3.3), and all joints agree in the bind pose. Where the
    nodes hold another pose, the joint nearest the root is the one that moved least.
    """
    skin = data.entry("skins", index)
    joints = skin["joints"]
    if not joints:
        raise RejectedError("broken_file", "a glTF skin has no joints")
    children = {child for joint in joints for child in data.entry("nodes", joint).get("children", [])}
    position = next((place for place, joint in enumerate(joints) if joint not in children), 0)
    if joints[position] not in transforms:
        raise RejectedError("broken_file", "the joints of a glTF skin are not part of the scene")
    placed = transforms[joints[position]]
    if "inverseBindMatrices" not in skin:
        return placed
    inverse = data.accessor(skin["inverseBindMatrices"], (16,), data.limits.max_nodes)
    if len(inverse) < len(joints):
        raise RejectedError("broken_file", "a glTF skin has fewer matrices than joints")
    return placed @ inverse[position].reshape(4, 4).T.astype(np.float64)


def _moved(part: Surface, transform: np.ndarray) -> Surface:
    vertices = part.vertices @ transform[:3, :3].T + transform[:3, 3]
    # A mirror turns faces inside out.
    faces = part.faces[:, ::-1] if np.linalg.det(transform[:3, :3]) < 0.0 else part.faces
    return Surface(vertices, faces, part.colors)


def _read_primitive(data: GltfData, materials: GltfMaterials, primitive: dict[str, Any]) -> Surface | None:
    """One primitive in its mesh's frame; None for points, lines and what nobody sees."""
    mode = primitive.get("mode", _TRIANGLES)
    attributes = primitive["attributes"]
    if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in attributes:
        return None
    for name in primitive.get("extensions", {}):
        # The accessors of a packed primitive without a plain copy have no data and would read as zeros.
        if name in COMPRESSED_EXTENSIONS and "bufferView" not in data.entry("accessors", attributes["POSITION"]):
            raise compressed(name)
    limits = data.limits
    vertices = data.accessor(attributes["POSITION"], (3,), limits.max_vertices).astype(np.float64)
    if "indices" in primitive:
        corners = data.accessor(primitive["indices"], (1,), 3 * limits.max_faces)[:, 0]
        if corners.dtype.kind != "u":
            raise RejectedError("broken_file", "the indices of a glTF primitive are not unsigned whole numbers")
        corners = corners.astype(np.int64)
    else:
        corners = np.arange(len(vertices))
    if len(corners) and int(corners.max()) >= len(vertices):
        raise RejectedError("bad_index", "a face of the glTF names a vertex that does not exist")
    faces = _assembled(corners, mode)
    material = materials.get(primitive.get("material"))
    if material.is_invisible:
        return None
    uv = materials.texture_points(material, attributes, len(vertices))
    vertex_colors = None
    if "COLOR_0" in attributes:
        stored = data.accessor(attributes["COLOR_0"], (3, 4), limits.max_vertices)
        # Files that forget "normalized" mean it all the same.
        vertex_colors = stored / float(np.iinfo(stored.dtype).max) if stored.dtype.kind == "u" else stored
        if len(vertex_colors) != len(vertices):
            raise RejectedError("broken_file", "a glTF primitive has not as many colours as vertices")
    return Surface(vertices, faces, materials.face_colors(material, faces, uv, vertex_colors))


def _assembled(corners: np.ndarray, mode: int) -> np.ndarray:
    """Triangles (F,3) of a list, strip or fan of vertices; what is left over at the end is dropped."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if len(corners) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], axis=1)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    # Every second triangle of a strip runs the other way round.
    faces[1::2] = faces[1::2][:, [1, 0, 2]]
    return faces
