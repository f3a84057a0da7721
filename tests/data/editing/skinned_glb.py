"""A GLB written by hand: a cylinder of two bones along y, the upper one animated."""

import json
import struct
from pathlib import Path

import numpy as np
import trimesh


SIN45 = float(np.sqrt(0.5))
# About z by 0, 90 and 0 degrees, as (x, y, z, w).
TURNS = np.array([[0, 0, 0, 1], [0, 0, SIN45, SIN45], [0, 0, 0, 1]], np.float32)


def cylinder() -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a closed cylinder of radius 0.3 from y = 0 to y = 2, with rings in between."""
    mesh = trimesh.creation.cylinder(0.3, 2.0, sections=16)
    for _ in range(2):
        mesh = mesh.subdivide()
    turned = mesh.vertices[:, [1, 2, 0]] + (0.0, 1.0, 0.0)
    return turned, mesh.faces


def write_skinned_glb(
    path: Path,
    interpolation: str = "LINEAR",
    animated: bool = True,
    skinned: bool = True,
    target: str = "rotation",
    values: np.ndarray = TURNS,
    times: tuple[float, ...] = (0.0, 1.0, 2.0),
    joint_name: str = "mixamorig:LeftArm",
    edit=None,
) -> Path:
    """The lower bone stands at the origin, the upper one at y = 1; below y = 0.9 and above y = 1.1 weights are whole."""
    vertices, faces = cylinder()
    upper = np.clip((vertices[:, 1] - 0.9) / 0.2, 0.0, 1.0)
    weights = np.stack([1 - upper, upper, 0 * upper, 0 * upper], axis=1).astype(np.float32)
    joints = np.tile(np.array([0, 1, 0, 0], np.uint8), (len(vertices), 1))
    bind = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    bind[1, 1, 3] = -1.0
    arrays = {
        "positions": (vertices.astype(np.float32), "VEC3", 5126),
        "joints": (joints, "VEC4", 5121),
        "weights": (weights, "VEC4", 5126),
        "faces": (faces.reshape(-1, 1).astype(np.uint32), "SCALAR", 5125),
        "bind": (bind.transpose(0, 2, 1).reshape(2, 16), "MAT4", 5126),
        "times": (np.array(times, np.float32)[:, None], "SCALAR", 5126),
        "values": (np.asarray(values, np.float32), "VEC4" if target == "rotation" else "VEC3", 5126),
    }
    blob, views, accessors, index = b"", [], [], {}
    for name, (array, kind, component) in arrays.items():
        index[name] = len(views)
        data = np.ascontiguousarray(array).tobytes()
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        accessors.append({"bufferView": len(views) - 1, "count": len(array), "type": kind, "componentType": component})
        blob += data + b"\0" * (-len(data) % 4)
    attributes = {"POSITION": index["positions"]}
    if skinned:
        attributes |= {"JOINTS_0": index["joints"], "WEIGHTS_0": index["weights"]}
    body = {"mesh": 0, "translation": [5.0, 0.0, 0.0]} | ({"skin": 0} if skinned else {})
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        # The node of a skinned mesh must not move it: 5 to the right would show.
        "nodes": [body, {"name": "Hips", "children": [2]}, {"name": joint_name, "translation": [0, 1, 0]}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": index["faces"]}]}],
        "skins": [{"joints": [1, 2], "inverseBindMatrices": index["bind"]}],
        "buffers": [{"byteLength": len(blob)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    if animated:
        sampler = {"input": index["times"], "output": index["values"], "interpolation": interpolation}
        channel = {"sampler": 0, "target": {"node": 2, "path": target}}
        tree["animations"] = [{"name": "Armature|waveHello", "samplers": [sampler], "channels": [channel]}]
    if edit is not None:
        edit(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + blob
    path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
    return path
