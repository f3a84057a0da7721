"""Light for renders: an ambient part and a few directional lamps, fixed or sampled.

The paper renders under environments drawn from a pool of 2,000 HDRI set-ups (§3.3). A set-up here is far simpler: one
ambient level and one to three lamps with intensities and tints. It multiplies stored colours as they are (sRGB values).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omni123_hf.geometry.cameras import Camera


Vector = tuple[float, float, float]
Frame = Literal["camera", "world"]
WHITE: Vector = (1.0, 1.0, 1.0)
# Sampled set-ups light a surface that faces every lamp with this share of its colour, so no set-up burns or drowns it.
BRIGHTNESS = (0.95, 1.15)
AMBIENT_SHARE = (0.3, 0.5)
TINT_STRENGTH = 0.12


@dataclass(frozen=True)
class DirectionalLight:
    """A lamp at infinity. `direction` is a unit vector towards the lamp; `tint` scales red, green and blue."""

    direction: Vector
    intensity: float
    tint: Vector = WHITE


@dataclass(frozen=True)
class Lighting:
    """Ambient light and lamps.

    frame: "camera" (directions are right, up, towards the viewer: the lamps move with the camera) or "world" (they
    stand still around the object).
    """

    lights: tuple[DirectionalLight, ...]
    ambient: float
    ambient_tint: Vector = WHITE
    frame: Frame = "camera"

    def factors(self, normals: np.ndarray, camera: Camera) -> np.ndarray:
        """What the colour of a surface is multiplied by: unit world normals (N,3) to (N,3) float64, one a channel."""
        total = np.tile(self.ambient * np.asarray(self.ambient_tint), (len(normals), 1))
        for light in self.lights:
            direction = np.asarray(light.direction)
            toward = direction @ camera.axes if self.frame == "camera" else direction
            lit = np.clip(normals @ toward, 0.0, None)
            total += lit[:, None] * (light.intensity * np.asarray(light.tint))
        return total


def unit(x: float, y: float, z: float) -> Vector:
    """(x, y, z) scaled to length one."""
    x, y, z = (np.array([x, y, z]) / np.linalg.norm([x, y, z])).tolist()
    return x, y, z


# A lamp over the viewer's left shoulder. Prepared data sets and evaluations were rendered under it: never change it.
DEFAULT_LIGHTING = Lighting((DirectionalLight(unit(-0.35, 0.55, 0.76), 0.6),), ambient=0.45)


def random_lighting(rng: np.random.Generator, frame: Frame = "camera") -> Lighting:
    """One to three lamps, equally likely, the first the strongest.

    Elevations are uniform in 0..70 degrees. Azimuths are uniform: within 75 degrees of the viewer in the camera frame
    (the visible side is always lit), all around in the world frame (a view against the light shows ambient light only).
    """
    count = int(rng.integers(1, 4))
    brightness = rng.uniform(*BRIGHTNESS)
    ambient = brightness * rng.uniform(*AMBIENT_SHARE)
    weights = np.concatenate([[1.0], rng.uniform(0.2, 0.6, count - 1)])
    reach = 75.0 if frame == "camera" else 180.0
    lights = []
    for intensity in (brightness - ambient) * weights / weights.sum():
        azimuth, elevation = math.radians(rng.uniform(-reach, reach)), math.radians(rng.uniform(0.0, 70.0))
        level = math.cos(elevation)
        direction = unit(math.sin(azimuth) * level, math.sin(elevation), math.cos(azimuth) * level)
        lights.append(DirectionalLight(direction, float(intensity), _tint(rng, TINT_STRENGTH)))
    return Lighting(tuple(lights), float(ambient), _tint(rng, TINT_STRENGTH / 2), frame)


def _tint(rng: np.random.Generator, strength: float) -> Vector:
    """A white between cool (bluish) and warm (reddish)."""
    warmth = strength * float(rng.uniform(-1.0, 1.0))
    return 1.0 + warmth, 1.0, 1.0 - warmth
