"""Shapes of known volume and known defects, for the tests of solids, labels and filters."""

from __future__ import annotations

import numpy as np
import trimesh


def mesh_of(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, faces, process=False)


def sphere(radius: float = 0.96, subdivisions: int = 4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions, radius)


def box(extents: tuple[float, float, float], at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    made = trimesh.creation.box(extents)
    made.apply_translation(at)
    return made


def joined(*meshes: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate(list(meshes))


def reversed_faces(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    return mesh_of(mesh.vertices, mesh.faces[:, ::-1])


def below(mesh: trimesh.Trimesh, height: float) -> trimesh.Trimesh:
    """The faces whose centre lies below `height`: cuts a hole into the top."""
    return mesh_of(mesh.vertices, mesh.faces[mesh.triangles_center[:, 1] < height])


def bowl(radius: float = 0.96, wall: float = 0.1) -> trimesh.Trimesh:
    """A closed hemispherical bowl, open above (+z), with a wall of `wall`."""
    turn = np.linspace(0.0, np.pi / 2, 40)
    outer = radius * np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    return trimesh.creation.revolve(np.concatenate([outer, outer[::-1] * (1.0 - wall / radius)]), sections=96)


def wound_tube(degrees: float, radius: float = 0.7, thickness: float = 0.2, steps: int = 90) -> trimesh.Trimesh:
    """A closed tube around the y axis through `degrees`; beyond 360 it runs through itself."""
    around = np.linspace(0.0, 2 * np.pi, 33)[:-1]
    turn = np.radians(np.linspace(0.0, degrees, steps))
    reach = radius + thickness * np.cos(around)
    rings = np.stack(
        [
            np.cos(turn)[:, None] * reach,
            np.broadcast_to(thickness * np.sin(around), (steps, 32)),
            np.sin(turn)[:, None] * reach,
        ],
        axis=2,
    )
    ends = radius * np.stack([np.cos(turn[[0, -1]]), [0.0, 0.0], np.sin(turn[[0, -1]])], axis=1)
    vertices = np.concatenate([rings.reshape(-1, 3), ends])
    k, nxt, faces = np.arange(32), (np.arange(32) + 1) % 32, []
    for ring in range(steps - 1):
        a, b, c, d = ring * 32 + k, ring * 32 + nxt, (ring + 1) * 32 + k, (ring + 1) * 32 + nxt
        faces += [np.stack([a, b, c], axis=1), np.stack([b, d, c], axis=1)]
    first, last = len(vertices) - 2, len(vertices) - 1
    faces += [np.stack([nxt, k, np.full(32, first)], axis=1)]
    faces += [np.stack([(steps - 1) * 32 + k, (steps - 1) * 32 + nxt, np.full(32, last)], axis=1)]
    tube = mesh_of(vertices, np.concatenate(faces))
    if tube.volume < 0:
        tube.invert()
    return tube
