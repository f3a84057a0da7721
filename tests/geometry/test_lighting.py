from __future__ import annotations

import numpy as np
import pytest

from omni123_hf.geometry.cameras import get_camera
from omni123_hf.geometry.lighting import DEFAULT_LIGHTING, DirectionalLight, Lighting, random_lighting


NORMALS = np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0], [0, 0, -1]], np.float32)


def test_ambient_light_and_lamps_add_up_by_channel():
    lamps = (DirectionalLight((0, 0, 1), 0.5, (1, 0.5, 0)), DirectionalLight((0, -1, 0), 0.25))
    lighting = Lighting(lamps, 0.2, (1, 1, 2), frame="world")
    factors = lighting.factors(NORMALS, get_camera("back"))
    np.testing.assert_allclose(factors, [[0.7, 0.45, 0.4], [0.2, 0.2, 0.4], [0.45, 0.45, 0.65], [0.2, 0.2, 0.4]])


def test_lamps_of_the_camera_frame_move_with_it():
    head_lamp = Lighting((DirectionalLight((0, 0, 1), 1.0),), 0.0)
    assert head_lamp.factors(NORMALS, get_camera("front"))[:, 0].tolist() == [1, 0, 0, 0]
    assert head_lamp.factors(NORMALS, get_camera("right"))[:, 0].tolist() == [0, 1, 0, 0]
    assert head_lamp.factors(NORMALS, get_camera("bottom"))[:, 0].tolist() == [0, 0, 1, 0]


def test_the_default_light_is_over_the_left_shoulder():
    left, right, up, down = np.array([[-1, 0, 1], [1, 0, 1], [0, 1, 1], [0, -1, 1]]) / np.sqrt(2)
    levels = DEFAULT_LIGHTING.factors(np.stack([left, right, up, down]), get_camera("front"))[:, 0]
    assert levels[0] > levels[1] and levels[2] > levels[3] and levels.min() > 0.45
    best = np.array([DEFAULT_LIGHTING.lights[0].direction])
    assert DEFAULT_LIGHTING.factors(best, get_camera("front"))[0, 0] == pytest.approx(1.05)


def test_sampled_lights_are_seeded_bounded_and_varied():
    drawn = [random_lighting(np.random.default_rng(seed)) for seed in range(200)]
    assert drawn[3] == random_lighting(np.random.default_rng(3)) and drawn[3] != drawn[4]
    assert {len(lighting.lights) for lighting in drawn} == {1, 2, 3}
    for lighting in drawn:
        strengths = [light.intensity for light in lighting.lights]
        assert 0.95 <= lighting.ambient + sum(strengths) <= 1.15 and strengths[0] == max(strengths)
        assert 0.28 <= lighting.ambient <= 0.58
        for light in lighting.lights:
            assert np.linalg.norm(light.direction) == pytest.approx(1.0)
            assert light.direction[1] >= 0 and light.direction[2] > 0
            assert 0.88 <= min(light.tint) and max(light.tint) <= 1.12


def test_world_lights_come_from_all_around():
    directions = [random_lighting(np.random.default_rng(seed), "world").lights[0].direction for seed in range(100)]
    assert min(d[2] for d in directions) < -0.5 and max(d[2] for d in directions) > 0.5
