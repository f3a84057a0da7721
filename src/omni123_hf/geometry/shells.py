"""Closed shells of a triangle mesh: pieces, their volumes, doubled faces and a consistent orientation."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from omni123_hf.geometry.mesh_queries import import_igl


def is_closed(faces: np.ndarray) -> bool:
    """Every directed edge of faces (F,3) occurs once and so does its reverse: closed, manifold, consistently wound."""
    if not len(faces):
        return False
    start, stop = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    count = int(faces.max()) + 1
    forward, backward = np.sort(start * count + stop), np.sort(stop * count + start)
    return bool(np.array_equal(forward, backward) and (forward[1:] != forward[:-1]).all())


def separated(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Vertices and faces of the same closed surface with its own vertices wherever it touches itself, or None.

    A solid that touches itself along an edge has four faces there (or more, always as many in one direction as in the
    other). Each pair of faces with material between them gets the edge for itself, so every edge has two faces again. None
    when a directed edge lacks its reverse, or when both ends of such an edge belong to one fan of faces.
    """
    start, stop = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    forward = start == low
    _, group, size = np.unique(low * (int(faces.max()) + 1) + high, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    if (2 * np.bincount(group, forward, len(size)) != size).any():
        return None
    angle = np.zeros(len(start))
    crowded = np.flatnonzero(size[group] > 2)
    if len(crowded):
        opposite = vertices[np.roll(faces, -2, axis=1).reshape(-1)[crowded]]
        angle[crowded] = _angle_about(vertices[low[crowded]], vertices[high[crowded]], opposite)
    # Half edges of an edge in the order of their angle: in counter-clockwise sense a backward one enters the material
    # and a forward one leaves it, so neighbours in this order face each other through it.
    order = np.lexsort((forward, angle, group))
    begin = np.cumsum(size) - size
    for edge in np.flatnonzero(size > 2):
        run = slice(begin[edge], begin[edge] + size[edge])
        order[run] = _matched(order[run], forward)
    one, other = order[0::2], order[1::2]
    corner = np.arange(len(start)).reshape(faces.shape)
    following = np.roll(corner, -1, axis=1).reshape(-1)
    ends = (np.concatenate([one, following[one]]), np.concatenate([following[other], other]))
    graph = coo_matrix((np.ones(len(ends[0]), dtype=bool), ends), shape=(len(start),) * 2)
    label = connected_components(graph, directed=False)[1]
    split = label.reshape(faces.shape).astype(faces.dtype)
    if not is_closed(split):
        return None
    _, first = np.unique(label, return_index=True)
    return vertices[start[first]], split


def _angle_about(low: np.ndarray, high: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Angle (N,) of points (N,3) about the axes from `low` to `high` (N,3), counter-clockwise seen from `high`.

    It is measured from a direction that depends on the axis alone.
    """
    axis = high - low
    axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-300)
    across = np.cross(axis, np.eye(3)[np.abs(axis).argmin(axis=1)])
    return np.arctan2(
        np.einsum("ij,ij->i", np.cross(axis, across), points - low), np.einsum("ij,ij->i", across, points - low)
    )


def _matched(run: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Half edges of one edge, sorted by angle, reordered to pairs: each backward one with the forward one that closes it."""
    depth = np.cumsum(np.where(forward[run], -1, 1))
    # Begin where everything opened is closed, so that the pairs are those of a string of brackets.
    waiting: list[int] = []
    pairs: list[int] = []
    for half_edge in np.roll(run, -(int(depth.argmin()) + 1)).tolist():
        if forward[half_edge]:
            pairs += [waiting.pop(), half_edge]
        else:
            waiting.append(half_edge)
    return np.array(pairs)


def shell_labels(faces: np.ndarray) -> np.ndarray:
    """Piece 0..n-1 of each face (F,): faces that share an edge are of one piece."""
    start, stop = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    edge = np.minimum(start, stop) * (int(faces.max()) + 1) + np.maximum(start, stop)
    order = np.argsort(edge, kind="stable")
    same = np.flatnonzero(edge[order[1:]] == edge[order[:-1]])
    one, other = order[same] // 3, order[same + 1] // 3
    graph = coo_matrix((np.ones(len(one), dtype=bool), (one, other)), shape=(len(faces),) * 2)
    return connected_components(graph, directed=False)[1]


def shell_volumes(vertices: np.ndarray, faces: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Signed volume (n,) of each piece about its own centre, so that an open piece facing out is positive too."""
    count = int(label.max()) + 1
    middle = vertices[faces].mean(axis=1)
    faces_of = np.bincount(label, minlength=count)
    centre = np.stack([np.bincount(label, middle[:, axis], count) / faces_of for axis in range(3)], axis=1)
    a, b, c = (vertices[faces[:, corner]] - centre[label] for corner in range(3))
    return np.bincount(label, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0, count)


def shell_boxes(vertices: np.ndarray, faces: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Bounding boxes (n,2,3), low and high corner, of each piece."""
    order = np.argsort(label, kind="stable")
    begin = np.concatenate([[0], np.cumsum(np.bincount(label))[:-1]])
    corners = vertices[faces[order]]
    low = np.minimum.reduceat(corners.min(axis=1), begin)
    high = np.maximum.reduceat(corners.max(axis=1), begin)
    return np.stack([low, high], axis=1)


def without_doubles(faces: np.ndarray) -> np.ndarray:
    """Faces (F,3) with each triple of vertices used once.

    Doubles that face opposite ways are walls between two touching solids when the mesh is closed without both of them,
    and the two sides of one sheet otherwise: then one stays.
    """
    key = np.sort(faces, axis=1)
    # A face and its mirror image differ in the parity of the permutation that sorts them.
    parity = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(faces, parity, axis=1)
    mirrored = turned[:, 1] > turned[:, 2]
    _, first, group = np.unique(key, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(faces):
        return faces
    group = group.reshape(-1)
    both_ways = np.bincount(group, mirrored, len(first)) % np.bincount(group, minlength=len(first)) > 0
    open_walls = faces[np.sort(first[~both_ways])]
    return open_walls if is_closed(open_walls) else faces[np.sort(first)]


def oriented(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces (F,3) turned so that neighbours agree and every piece faces away from its own centre."""
    turned, patch = import_igl().bfs_orient(np.ascontiguousarray(faces, dtype=np.int64))
    turned, patch = np.asarray(turned, dtype=np.int64), np.asarray(patch).reshape(-1)
    inward = shell_volumes(vertices, turned, patch) < 0.0
    return outward(turned, patch, inward)


def outward(faces: np.ndarray, label: np.ndarray, inward: np.ndarray) -> np.ndarray:
    """Faces with the pieces marked in `inward` (n,) turned over."""
    return np.where(inward[label][:, None], faces[:, ::-1], faces)
