"""Linear blend skinning of glTF 2.0 in NumPy: a node hierarchy, its animations, and skinned vertices at a time.

Only what poses need is read: triangles with positions, joints and weights. Colours and morph targets are left alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from omni123_hf.errors import RejectedError
from omni123_hf.geometry.loading import LoadBudget, LoadLimits
from omni123_hf.geometry.loading.files import FolderFiles, ModelFile, read_confined
from omni123_hf.geometry.loading.gltf_data import GltfData, numbers


PATHS = {"translation": 3, "rotation": 4, "scale": 3}
INTERPOLATIONS = ("STEP", "LINEAR", "CUBICSPLINE")
# Above this cosine two quaternions are so near that the arc's sine would divide by nothing.
NEARLY_EQUAL = 0.9995


@dataclass
class Channel:
    """One animated property of a node: key times (K,) in seconds and values (K,width), for CUBICSPLINE (K,3,width)
    with in-tangent, value and out-tangent."""

    node: int
    path: str
    interpolation: str
    times: np.ndarray
    values: np.ndarray

    def at(self, time: float) -> np.ndarray:
        """Value (width,) at `time`; before the first and after the last key it stays."""
        spline = self.interpolation == "CUBICSPLINE"
        keys = self.values[:, 1] if spline else self.values
        if time <= self.times[0] or time >= self.times[-1]:
            value = keys[0] if time <= self.times[0] else keys[-1]
            return _unit(value) if self.path == "rotation" else value
        left = int(np.searchsorted(self.times, time, side="right")) - 1
        length = float(self.times[left + 1] - self.times[left])
        place = (time - float(self.times[left])) / length
        if self.interpolation == "STEP":
            value = keys[left]
        elif spline:
            value = _hermite(keys[left], self.values[left, 2], keys[left + 1], self.values[left + 1, 0], place, length)
        elif self.path == "rotation":
            value = _slerp(keys[left], keys[left + 1], place)
        else:
            value = (1.0 - place) * keys[left] + place * keys[left + 1]
        return _unit(value) if self.path == "rotation" else value


@dataclass
class Animation:
    """A named clip; `duration` is its last key in seconds."""

    name: str
    channels: list[Channel]
    duration: float


@dataclass
class SkinnedPart:
    """Triangles bound to a skin: vertices (V,3), faces (F,3), joints (V,S) into `skin_joints`, weights (V,S) that sum to
    1, and for each joint its node and its inverse bind matrix (J,4,4)."""

    vertices: np.ndarray
    faces: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    skin_joints: list[int]
    inverse_bind: np.ndarray

    def posed(self, world: dict[int, np.ndarray]) -> np.ndarray:
        """Vertices (V,3) for the world transforms of the nodes. The mesh's own node does not count (glTF §3.7.3.3)."""
        matrices = np.stack([world[node] for node in self.skin_joints]) @ self.inverse_bind
        blended = np.einsum("vs,vsij->vij", self.weights, matrices[self.joints])
        return np.einsum("vij,vj->vi", blended[:, :3, :3], self.vertices) + blended[:, :3, 3]


class SkinnedCharacter:
    """A glTF or GLB with a skin and animations. `animations`: its clips that move something."""

    def __init__(self, data: GltfData) -> None:
        self.data = data
        self.nodes: list[dict[str, Any]] = [data.entry("nodes", i) for i in range(len(data.tree.get("nodes", [])))]
        if len(self.nodes) > data.limits.max_nodes:
            raise RejectedError("too_many_nodes", f"{len(self.nodes)} nodes, more than {data.limits.max_nodes}")
        self.order = self._hierarchy()
        self.parts = self._parts()
        if not self.parts:
            raise RejectedError("no_skin", "no mesh of the file is bound to a skin, so it has no poses")
        clips = [self._animation(index) for index in range(len(data.tree.get("animations", [])))]
        self.animations = [clip for clip in clips if clip.channels and clip.duration > 0.0]
        if not self.animations:
            raise RejectedError("no_animation", "the file has no animation that moves a node, so it has one pose only")

    def pose(self, animation: Animation, time: float) -> trimesh.Trimesh:
        """The whole character at `time` seconds of a clip, in the file's frame."""
        world = self._world(animation, time)
        points, faces, start = [], [], 0
        for part in self.parts:
            points.append(part.posed(world))
            faces.append(part.faces + start)
            start += len(part.vertices)
        vertices = np.concatenate(points)
        if not np.isfinite(vertices).all():
            raise RejectedError("not_finite", f"the pose at {time:.3f} s has vertices that are not finite")
        return trimesh.Trimesh(vertices, np.concatenate(faces), process=False)

    def joint_positions(self, animation: Animation, time: float) -> dict[int, np.ndarray]:
        """Origin (3,) of every joint at `time`, by node."""
        world = self._world(animation, time)
        return {node: world[node][:3, 3] for part in self.parts for node in part.skin_joints}

    def _world(self, animation: Animation, time: float) -> dict[int, np.ndarray]:
        moved: dict[int, dict[str, np.ndarray]] = {}
        for channel in animation.channels:
            moved.setdefault(channel.node, {})[channel.path] = channel.at(time)
        world: dict[int, np.ndarray] = {}
        for node, parent in self.order:
            local = _local(self.nodes[node], moved.get(node, {}))
            world[node] = local if parent is None else world[parent] @ local
        return world

    def _hierarchy(self) -> list[tuple[int, int | None]]:
        """Nodes with their parents, parents first. Raises RejectedError for two parents or a cycle."""
        parents: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            for child in node.get("children", []):
                self.data.entry("nodes", child)
                if child in parents:
                    raise RejectedError("node_cycle", f"glTF node {child} has two parents; the nodes must form a tree")
                parents[child] = index
        order: list[tuple[int, int | None]] = [(i, None) for i in range(len(self.nodes)) if i not in parents]
        for index, _ in order:  # grows while it is read
            order += [(child, index) for child in self.nodes[index].get("children", [])]
        if len(order) != len(self.nodes):
            raise RejectedError("node_cycle", "some nodes of the glTF are their own ancestors")
        return order

    def _parts(self) -> list[SkinnedPart]:
        parts = []
        for node in self.nodes:
            if "mesh" not in node or "skin" not in node:
                continue
            joints, inverse_bind = self._skin(node["skin"])
            for primitive in self.data.entry("meshes", node["mesh"]).get("primitives", []):
                if primitive.get("mode", 4) == 4 and {"POSITION", "JOINTS_0", "WEIGHTS_0"} <= set(
                    primitive["attributes"]
                ):
                    parts.append(self._part(primitive, joints, inverse_bind))
        return parts

    def _skin(self, index: int) -> tuple[list[int], np.ndarray]:
        skin = self.data.entry("skins", index)
        joints = list(skin["joints"])
        for joint in joints:
            self.data.entry("nodes", joint)
        if not joints:
            raise RejectedError("broken_file", "a glTF skin has no joints")
        if "inverseBindMatrices" not in skin:
            return joints, np.tile(np.eye(4), (len(joints), 1, 1))
        matrices = self.data.accessor(skin["inverseBindMatrices"], (16,), self.data.limits.max_nodes)
        if len(matrices) < len(joints):
            raise RejectedError("broken_file", "a glTF skin has fewer matrices than joints")
        # Matrices are stored column by column.
        return joints, matrices[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)

    def _part(self, primitive: dict[str, Any], skin_joints: list[int], inverse_bind: np.ndarray) -> SkinnedPart:
        data, attributes = self.data, primitive["attributes"]
        most = data.limits.max_vertices
        vertices = data.accessor(attributes["POSITION"], (3,), most).astype(np.float64)
        joints, weights, number = [], [], 0
        while f"JOINTS_{number}" in attributes:
            joints.append(data.accessor(attributes[f"JOINTS_{number}"], (4,), most).astype(np.int64))
            weights.append(data.accessor(attributes[f"WEIGHTS_{number}"], (4,), most).astype(np.float64))
            number += 1
        all_joints, all_weights = np.concatenate(joints, axis=1), np.concatenate(weights, axis=1)
        if len(all_joints) != len(vertices) or all_weights.shape != all_joints.shape:
            raise RejectedError("broken_file", "joints, weights and positions of a glTF mesh differ in number")
        if all_joints.min(initial=0) < 0 or all_joints.max(initial=0) >= len(skin_joints):
            raise RejectedError("bad_index", "a vertex is bound to a joint that the skin does not have")
        total = all_weights.sum(axis=1, keepdims=True)
        if not np.isfinite(all_weights).all() or (total <= 0.0).any():
            raise RejectedError("broken_file", "a vertex of the skinned mesh has no weight")
        if "indices" in primitive:
            corners = data.accessor(primitive["indices"], (1,), 3 * data.limits.max_faces)[:, 0].astype(np.int64)
        else:
            corners = np.arange(len(vertices))
        if len(corners) % 3 or not len(corners) or corners.max() >= len(vertices):
            raise RejectedError("bad_index", "the faces of a skinned mesh name vertices that do not exist")
        return SkinnedPart(
            vertices, corners.reshape(-1, 3), all_joints, all_weights / total, skin_joints, inverse_bind
        )

    def _animation(self, index: int) -> Animation:
        entry = self.data.entry("animations", index)
        channels = []
        for channel in entry.get("channels", []):
            target = channel.get("target", {})
            # Weights of morph targets, and channels of extensions that name no node, do not move the skeleton.
            if target.get("path") in PATHS and "node" in target:
                self.data.entry("nodes", target["node"])
                channels.append(self._channel(entry["samplers"][channel["sampler"]], target["node"], target["path"]))
        duration = max((float(channel.times[-1]) for channel in channels), default=0.0)
        return Animation(str(entry.get("name") or f"animation {index + 1}"), channels, duration)

    def _channel(self, sampler: dict[str, Any], node: int, path: str) -> Channel:
        interpolation = sampler.get("interpolation", "LINEAR")
        if interpolation not in INTERPOLATIONS:
            raise RejectedError("broken_file", f"unknown interpolation {str(interpolation)[:40]!r} of an animation")
        most = self.data.limits.max_vertices
        times = self.data.accessor(sampler["input"], (1,), most)[:, 0].astype(np.float64)
        values = self.data.accessor(sampler["output"], (PATHS[path],), most).astype(np.float64)
        expected = len(times) * (3 if interpolation == "CUBICSPLINE" else 1)
        if not len(times) or len(values) != expected or (np.diff(times) <= 0).any() or not np.isfinite(times).all():
            raise RejectedError(
                "broken_file", "the keys of an animation are not in order or differ in number from its values"
            )
        if interpolation == "CUBICSPLINE":
            values = values.reshape(len(times), 3, -1)
        return Channel(node, path, interpolation, times, values)


def load_character(path: str | Path, limits: LoadLimits | None = None) -> SkinnedCharacter:
    """Read the skin and animations of a `.glb` or `.gltf` file; no file outside its folder is opened.

    Raises RejectedError: "no_skin" or "no_animation" for a file without poses, and the reasons of
    `docs/data_formats.md` for one that is broken or too large.
    """
    limits, path = limits or LoadLimits(), Path(path)
    folder = Path(os.path.realpath(path.parent))
    content = read_confined(path, Path(os.path.realpath(path)).parent, limits.max_file_bytes)
    if content is None:
        raise RejectedError("missing_file", f"{path} does not exist")
    budget = LoadBudget(limits)
    budget.spend_file(len(content), path.name)
    model = ModelFile(path.name, content, FolderFiles(folder, folder, budget), budget, folder, folder)
    try:
        return SkinnedCharacter(GltfData(model))
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        detail = f"{type(error).__name__}: {str(error)[:160]}"
        raise RejectedError("broken_file", f"{path.name} is broken ({detail}); export it again") from error


def _local(node: dict[str, Any], moved: dict[str, np.ndarray]) -> np.ndarray:
    """Transform (4,4) of a node with the animated properties in place of its own."""
    if "matrix" in node and not moved:
        return numbers(node["matrix"], 16, "a node's matrix").reshape(4, 4).T
    own = {
        path: numbers(node[path], width, f"a node's {path}") for path, width in PATHS.items() if path in node
    } | moved
    matrix = np.eye(4)
    if "rotation" in own:
        matrix[:3, :3] = _rotation(own["rotation"])
    if "scale" in own:
        matrix[:3, :3] *= own["scale"]
    if "translation" in own:
        matrix[:3, 3] = own["translation"]
    return matrix


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    x, y, z, w = _unit(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _unit(quaternion: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(quaternion))
    return quaternion / length if length > 0.0 else np.array([0.0, 0.0, 0.0, 1.0])


def _slerp(start: np.ndarray, stop: np.ndarray, place: float) -> np.ndarray:
    """Along the shorter arc, as glTF demands."""
    start, stop = _unit(start), _unit(stop)
    cosine = float(start @ stop)
    if cosine < 0.0:
        stop, cosine = -stop, -cosine
    if cosine > NEARLY_EQUAL:
        return (1.0 - place) * start + place * stop
    angle = np.arccos(cosine)
    return (np.sin((1.0 - place) * angle) * start + np.sin(place * angle) * stop) / np.sin(angle)


def _hermite(
    start: np.ndarray, out_tangent: np.ndarray, stop: np.ndarray, in_tangent: np.ndarray, place: float, length: float
) -> np.ndarray:
    """Cubic spline between two keys; the tangents are per second (glTF 2.0, appendix C)."""
    square, cube = place**2, place**3
    return (
        (2 * cube - 3 * square + 1) * start
        + length * (cube - 2 * square + place) * out_tangent
        + (-2 * cube + 3 * square) * stop
        + length * (cube - square) * in_tangent
    )
