"""Polygons of any size cut into triangles: quadrilaterals in bulk, larger ones by a fan or ear by ear."""

from __future__ import annotations

import numpy as np

from ...errors import RejectedError


# Ears are sought one by one, so a spiral of ten thousand corners would take hours: about 10 s a file are allowed.
MAX_EAR_TESTS = 400_000


class EarTests:
    """Counts the ear tests of one file."""

    def __init__(self, allowed: int = MAX_EAR_TESTS) -> None:
        self.left = allowed

    def spend(self) -> None:
        """Count one; raises RejectedError when none is left."""
        self.left -= 1
        if self.left < 0:
            raise RejectedError(
                "polygon_too_complex", "the concave polygons are too large to cut; triangulate the model"
            )


def split_faces(
    vertices: np.ndarray, corner_vertex: np.ndarray, starts: np.ndarray, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (F,3) as positions in the corner list, and the owner (F,) of each, of polygons of any size.

    corner_vertex: (C,) vertex of each corner, all faces in a row. starts: (P,) where each polygon begins. owners: (P,).
    Polygons with fewer than three corners are dropped. The order is triangles, quadrilaterals, larger ones.
    """
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
    tests = EarTests()
    for index in np.flatnonzero(counts > 4):
        start, count = int(starts[index]), int(counts[index])
        pieces = triangulate(vertices, corner_vertex[start : start + count].tolist(), tests)
        larger.extend([start + a, start + b, start + c] for a, b, c in pieces)
        larger_owners.extend([owners[index]] * len(pieces))
    blocks.append(np.array(larger, dtype=np.int64).reshape(-1, 3))
    block_owners.append(np.array(larger_owners, dtype=np.int64))
    return np.concatenate(blocks).astype(np.int64), np.concatenate(block_owners).astype(np.int64)


def triangulate(vertices: np.ndarray, face: list[int], tests: EarTests | None = None) -> list[tuple[int, int, int]]:
    """Triangles (positions in `face`) of a planar polygon: a fan when it is convex, ear clipping otherwise.

    tests: what ear clipping may cost, shared by the polygons of a file; RejectedError when it is used up.
    """
    tests = tests or EarTests()
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
        ear = next((place for place in range(len(remaining)) if _is_ear(flat, remaining, place, tests)), 0)
        size = len(remaining)
        triangles.append((remaining[ear - 1], remaining[ear], remaining[(ear + 1) % size]))
        del remaining[ear]
    triangles.append((remaining[0], remaining[1], remaining[2]))
    return triangles


def _is_ear(flat: np.ndarray, remaining: list[int], place: int, tests: EarTests) -> bool:
    """Whether the corner at `place` bends outwards and no other corner lies in its triangle."""
    tests.spend()
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
