"""Both sides of a pair sampled alike where nothing changed."""

import numpy as np
import pytest

from omni123_hf.data.editing.coupled_surface import couple_surface
from omni123_hf.data.editing.regions import EditRegion, make_box


REGION = EditRegion((make_box("lid", (-1, 0.5, -1), (1, 1, 1)),), True)


def surface(count: int, inside: float, seed: int) -> np.ndarray:
    """Points of which a share lies in the region; normals tell the sample they come from."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.9, 0.4, (count, 3))
    points[: int(inside * count), 1] = 0.75
    rng.shuffle(points)
    return np.concatenate([points, np.full((count, 3), seed)], axis=1).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), [(0.1, 0.5), (0.5, 0.1)])
def test_points_outside_are_shared_and_their_number_stays(before, after):
    given, wanted = surface(200, before, 1), surface(200, after, 2)
    coupled = couple_surface(given, wanted, REGION)
    inside = REGION.contains(wanted[:, :3])
    assert np.array_equal(REGION.contains(coupled[:, :3]), inside), "as many points in the region as drawn"
    assert np.array_equal(coupled[inside], wanted[inside])
    shared = min(int(200 * (1 - before)), int((~inside).sum()))
    assert (coupled[~inside, 3] == 1).sum() == shared
    pool = {tuple(point) for point in given.tolist()}
    taken = [tuple(point) for point in coupled.tolist() if point[3] == 1]
    assert len(set(taken)) == shared and set(taken) <= pool


def test_a_measured_region_couples_nothing():
    given, wanted = surface(50, 0.1, 1), surface(50, 0.3, 2)
    assert np.array_equal(couple_surface(given, wanted, EditRegion(REGION.boxes, False)), wanted)
