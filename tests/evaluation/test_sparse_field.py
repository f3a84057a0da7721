import numpy as np
import pytest

from omni123_hf.evaluation.sparse_field import COARSE, SparseField, active_cells
from omni123_hf.geometry.extraction import EmptySurfaceError, extract_surface


def torus(points: np.ndarray) -> np.ndarray:
    ring = np.hypot(points[:, 0], points[:, 2]) - 0.6
    return (60 * (0.12 - np.hypot(ring, points[:, 1]))).astype(np.float32)


def plate(points: np.ndarray) -> np.ndarray:  # 0.07 thick: about one coarse cell
    return (60 * (0.035 - np.abs(points[:, 1] - 0.02)) - 200 * (np.abs(points).max(axis=1) > 0.9)).astype(np.float32)


@pytest.mark.parametrize("field", [torus, plate])
def test_the_mesh_equals_that_of_the_dense_field(field):
    dense = extract_surface(field, resolution=64)
    sparse_field = SparseField(field)
    sparse = extract_surface(sparse_field, resolution=64)
    assert sparse.is_watertight
    assert len(sparse.faces) == len(dense.faces)
    assert np.allclose(sparse.vertices, dense.vertices)
    assert sparse_field.evaluated < 0.6 * 64**3


def test_an_empty_field_stays_empty_and_is_asked_only_coarsely():
    field = SparseField(lambda points: np.full(len(points), -9.0, np.float32))
    with pytest.raises(EmptySurfaceError):
        extract_surface(field, resolution=32)
    assert field.evaluated == COARSE**3


def test_active_cells_hold_the_crossing_and_its_neighbours():
    corners = np.full((6, 6, 6), -9.0, np.float32)
    corners[3, 3, 3] = 9.0
    active = active_cells(corners)
    assert active.sum() == 4**3 and active[1:5, 1:5, 1:5].all()
    corners[3, 3, 3] = -1.0
    assert active_cells(corners).sum() == 2**3
