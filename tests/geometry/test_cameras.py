from __future__ import annotations

import numpy as np
import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS, get_camera, orbit_camera


# Where the +x, +y and +z tips of an object appear in each picture (x right, y up); None when seen end-on.
TIPS = {
    "front": ((1, 0), (0, 1), None),
    "back": ((-1, 0), (0, 1), None),
    "left": (None, (0, 1), (1, 0)),
    "right": (None, (0, 1), (-1, 0)),
    "top": ((1, 0), None, (0, -1)),
    "bottom": ((1, 0), None, (0, 1)),
}


@pytest.mark.parametrize("name", CANONICAL_VIEWS)
def test_axes_appear_where_the_convention_says(name):
    xy, _ = get_camera(name).project(np.eye(3) * 1.05)
    for got, want in zip(xy, TIPS[name], strict=True):
        np.testing.assert_allclose(got, (0, 0) if want is None else want, atol=1e-12)


@pytest.mark.parametrize("name", ALL_VIEWS)
def test_frames_are_right_handed_and_unproject_inverts_project(name):
    camera = get_camera(name)
    np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(camera.axes) == pytest.approx(1.0)
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    xy, depth = camera.project(points)
    np.testing.assert_allclose(camera.unproject(xy, depth), points, atol=1e-12)


def test_nearer_points_have_less_depth_and_the_box_is_in_front_of_the_camera():
    corners = np.array(np.meshgrid(*[[-1.05, 1.05]] * 3)).reshape(3, -1).T
    for name in ALL_VIEWS:
        camera = get_camera(name)
        assert camera.project(corners)[1].min() > 0
        near, far = camera.project(np.array([camera.direction, np.negative(camera.direction)]))[1]
        assert near < far


def test_three_quarter_stands_front_right_above():
    camera = get_camera("three_quarter")
    x, y, z = camera.direction
    assert np.degrees(np.arctan2(x, z)) == pytest.approx(35) and np.degrees(np.arcsin(y)) == pytest.approx(25)
    assert camera.half_extent == 1.45


def test_unknown_views_and_poles_are_refused():
    with pytest.raises(Omni123Error, match="three_quarter"):
        get_camera("side")
    with pytest.raises(Omni123Error, match="elevation"):
        orbit_camera("pole", 0, 90, 1.0)
