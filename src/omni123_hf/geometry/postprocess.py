"""What may be done to an extracted mesh before it is handed out: floaters, smoothing, a face budget, a real size.

Everything keeps a closed mesh closed. The order is that of `finish_mesh`; each step is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import fast_simplification
import numpy as np
import trimesh
from manifold3d import Manifold, Mesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from trimesh.smoothing import filter_taubin

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.health import mesh_health


MIN_FACES = 4
# Taubin's pass-band filter: shrinks by lambda, grows by mu, so that the volume stays.
TAUBIN_LAMBDA, TAUBIN_MU = 0.5, 0.53
AGGRESSIONS = (3, 5, 7, 9, 11)
# Least and greatest distance, as shares of the longest side, and how many steps lie between.
SOLID_TOLERANCES = (1e-3, 1e-2, 20)


@dataclass(frozen=True)
class FinishSettings:
    """floater_share: pieces whose surface is below this share of the whole are removed; 0 keeps all. smoothing: Taubin
    iterations. target_faces: most faces. longest_side: of the result, in the unit of choice; None keeps 1.92.
    """

    floater_share: float = 0.0
    smoothing: int = 0
    target_faces: int | None = None
    longest_side: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.floater_share < 1:
            raise Omni123Error(f"the floater share must lie in [0, 1); got {self.floater_share}")
        if isinstance(self.smoothing, bool) or not isinstance(self.smoothing, int) or not 0 <= self.smoothing <= 1000:
            raise Omni123Error(f"smoothing must be 0 to 1000 iterations; got {self.smoothing!r}")
        faces = self.target_faces
        if faces is not None and (isinstance(faces, bool) or not isinstance(faces, int) or faces < MIN_FACES):
            raise Omni123Error(f"target_faces must be a whole number of at least {MIN_FACES}; got {faces!r}")
        if self.longest_side is not None and not 0 < self.longest_side < float("inf"):
            raise Omni123Error(f"the longest side must be a positive number; got {self.longest_side}")

    @property
    def changes_nothing(self) -> bool:
        return self == FinishSettings()


def with_target_faces(settings: FinishSettings | None, target_faces: int | None) -> FinishSettings | None:
    """Settings with a face budget that was given apart. Raises `Omni123Error` where they have another one already."""
    if target_faces is None:
        return settings
    settings = settings or FinishSettings()
    if settings.target_faces not in (None, target_faces):
        raise Omni123Error(
            f"target_faces is {target_faces}, and finish says {settings.target_faces}; give one of them"
        )
    return replace(settings, target_faces=target_faces)


def finish_mesh(mesh: trimesh.Trimesh, settings: FinishSettings) -> trimesh.Trimesh:
    """Floaters out, then smoothing, then the face budget, then the size. Colours are lost where faces change: bake later."""
    if settings.floater_share:
        mesh = remove_floaters(mesh, settings.floater_share)
    if settings.smoothing:
        mesh = smooth(mesh, settings.smoothing)
    if settings.target_faces is not None:
        mesh = decimate(mesh, settings.target_faces)
    if settings.longest_side is not None:
        mesh = resize(mesh, settings.longest_side)
    return mesh


def remove_floaters(mesh: trimesh.Trimesh, min_share: float) -> trimesh.Trimesh:
    """Without the pieces (connected through vertices) whose area is below `min_share` of the whole; the largest stays always."""
    faces = np.asarray(mesh.faces)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, piece = connected_components(graph, directed=False)
    area = np.bincount(piece[faces[:, 0]], weights=mesh.area_faces, minlength=piece.max() + 1)
    kept = area >= min_share * area.sum()
    kept[area.argmax()] = True
    if kept[np.unique(piece[faces[:, 0]])].all():
        return mesh
    result = trimesh.Trimesh(mesh.vertices, faces[kept[piece[faces[:, 0]]]], process=False)
    result.remove_unreferenced_vertices()
    return result


def smooth(mesh: trimesh.Trimesh, iterations: int) -> trimesh.Trimesh:
    """Taubin smoothing: evens out the steps of extraction and keeps the volume; thin parts may still cross themselves."""
    result = trimesh.Trimesh(mesh.vertices.copy(), mesh.faces.copy(), process=False)
    return filter_taubin(result, lamb=TAUBIN_LAMBDA, nu=TAUBIN_MU, iterations=iterations)


def decimate(mesh: trimesh.Trimesh, target_faces: int) -> trimesh.Trimesh:
    """At most `target_faces` faces, by quadric error (Garland and Heckbert 1997); a closed mesh stays closed.

    Raises `Omni123Error` for a mesh that is not closed, and for a budget in which its pieces and holes do not fit.
    """
    if len(mesh.faces) <= target_faces:
        return mesh
    before = mesh_health(mesh)
    if not (before.watertight and before.winding_consistent):
        raise Omni123Error("the mesh is not closed and cannot be decimated; make it watertight first")
    whole = (before.components, before.genus)
    for vertices, faces in beginnings(mesh):
        result = collapse(vertices, faces, target_faces)
        if 0 < len(result.faces) <= target_faces and is_closed(result, whole):
            return result
    raise Omni123Error(
        f"the mesh cannot be brought to {target_faces} faces and stay whole: it has {before.components} piece(s) and "
        f"{before.genus} handle(s); give a larger target"
    )


def beginnings(mesh: trimesh.Trimesh) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vertices float64 and faces int32 to collapse edges of: the mesh's own, then of ever coarser versions of it.

    Quadric error alone pinches thin handles. manifold3d collapses edges within a distance, and only where the surface stays whole;
    what it leaves there is passed over afterwards.
    """
    yield np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int32)
    solid = Manifold(Mesh(np.asarray(mesh.vertices, dtype=np.float32), np.asarray(mesh.faces, dtype=np.uint32)))
    for tolerance in float(mesh.extents.max()) * np.geomspace(*SOLID_TOLERANCES):
        part = solid.simplify(tolerance).to_mesh()
        yield part.vert_properties[:, :3].astype(np.float64), part.tri_verts.astype(np.int32)


def collapse(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> trimesh.Trimesh:
    """Edges of least quadric error collapsed until the budget is met. Gentle first: only what that leaves over is taken more boldly."""
    for aggression in AGGRESSIONS:
        if len(faces) > target_faces:
            vertices, faces = fast_simplification.simplify(vertices, faces, target_count=target_faces, agg=aggression)
    return trimesh.Trimesh(vertices, faces, process=False)


def is_closed(mesh: trimesh.Trimesh, whole: tuple[int, int | None]) -> bool:
    """Whether a mesh is closed, wound consistently, and has these numbers of pieces and handles."""
    health = mesh_health(mesh)
    return health.watertight and health.winding_consistent and (health.components, health.genus) == whole


def resize(mesh: trimesh.Trimesh, longest_side: float) -> trimesh.Trimesh:
    """Scaled so that the longest side of its box is `longest_side`, standing on y = 0 and centred in x and z."""
    result = mesh.copy()
    low, high = result.bounds
    scale = longest_side / float((high - low).max())
    result.apply_translation([-(low[0] + high[0]) / 2, -low[1], -(low[2] + high[2]) / 2])
    result.apply_scale(scale)
    return result
