from __future__ import annotations

import json

import numpy as np
import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import (
    ALL_VIEWS,
    CANONICAL_VIEWS,
    RANDOM_VIEW_RADIUS,
    Camera,
    get_camera,
    orbit_camera,
    random_camera,
)


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


def test_unproject_inverts_project_in_perspective():
    camera = orbit_camera("close", 130.0, -25.0, 1.2, field_of_view=60.0)
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    xy, depth = camera.project(points)
    np.testing.assert_allclose(camera.unproject(xy, depth), points, atol=1e-12)
    assert camera.project(np.zeros((1, 3)))[1] == pytest.approx(camera.distance)


def test_perspective_is_that_of_a_pinhole_camera():
    camera = orbit_camera("pinhole", 0.0, 0.0, 1.0, field_of_view=90.0)
    assert camera.distance == pytest.approx(1.0)
    # At half the distance a point appears twice as far from the middle as at the origin.
    xy, depth = camera.project(np.array([[0.4, -0.2, 0.0], [0.4, -0.2, 0.5]]))
    np.testing.assert_allclose(xy, [(0.4, -0.2), (0.8, -0.4)], atol=1e-12)
    np.testing.assert_allclose(depth, [1.0, 0.5], atol=1e-12)


def test_a_narrow_field_of_view_approaches_the_orthographic_camera():
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    flat, narrow = (orbit_camera("c", 35.0, 25.0, 1.45, fov).project(points)[0] for fov in (0.0, 0.01))
    np.testing.assert_allclose(flat, narrow, atol=1e-3)


@pytest.mark.parametrize("field_of_view", [0.0, 20.0, 50.0])
def test_random_views_just_hold_the_ball_around_a_normalised_mesh(field_of_view):
    ball = np.random.default_rng(1).normal(size=(20_000, 3))
    ball *= RANDOM_VIEW_RADIUS / np.linalg.norm(ball, axis=1, keepdims=True)
    for seed in range(3):
        xy, depth = random_camera(np.random.default_rng(seed), field_of_view).project(ball)
        assert 0.99 < np.abs(xy).max() <= 1.0 and depth.min() > 0


def test_random_views_are_seeded_and_uniform_by_area():
    rng = np.random.default_rng(0)
    directions = np.array([random_camera(rng).direction for _ in range(4000)])
    height, azimuth = directions[:, 1], np.degrees(np.arctan2(directions[:, 0], directions[:, 2]))
    low, high = np.sin(np.radians([-20.0, 60.0]))
    for values, start, stop in ((height, low, high), (azimuth, -180.0, 180.0)):
        assert start <= values.min() and values.max() <= stop
        shares = np.histogram(values, 8, (start, stop))[0] / len(values)
        np.testing.assert_allclose(shares, 0.125, atol=0.02)
    assert random_camera(np.random.default_rng(7), 30.0) == random_camera(np.random.default_rng(7), 30.0)
    assert random_camera(np.random.default_rng(7)) != random_camera(np.random.default_rng(8))


def test_cameras_survive_json():
    for camera in (get_camera("top"), random_camera(np.random.default_rng(0), 40.0)):
        assert Camera.from_dict(json.loads(json.dumps(camera.to_dict()))) == camera


@pytest.mark.parametrize(
    "change",
    [
        {"up": [0, 0, 1]},
        {"direction": [0, 0, 2]},
        {"field_of_view": 180},
        {"half_extent": 0},
        {"up": "y"},
        {"lens": 35},
    ],
)
def test_impossible_cameras_are_refused(change):
    with pytest.raises(Omni123Error, match="camera"):
        Camera.from_dict({**get_camera("front").to_dict(), **change})
