"""The one definition of a view: orthographic cameras that look at the origin.

View tokens, renders, colour baking and evaluation all read these cameras, so that "left" means one thing everywhere.
Frame: right-handed, y up, +z is the front of the object. `left` is the viewer's left of the front view: its camera
stands at -x and shows the object's front at the right edge of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from omni123_hf.errors import Omni123Error


# Distance of the camera plane from the origin. It exceeds the half diagonal of the field box (1.05 * sqrt(3)), so the
# depth of everything in the box is positive.
CAMERA_DISTANCE = 2.0
CANONICAL_HALF_EXTENT = 1.05
THREE_QUARTER_HALF_EXTENT = 1.45
THREE_QUARTER_AZIMUTH = 35.0
THREE_QUARTER_ELEVATION = 25.0


@dataclass(frozen=True)
class Camera:
    """An orthographic camera.

    `direction` points from the origin to the camera, `up` is up in the picture; both are unit vectors at right angles.
    `half_extent` is half the side of the square picture, in world units.
    """

    name: str
    direction: tuple[float, float, float]
    up: tuple[float, float, float]
    half_extent: float

    @property
    def axes(self) -> np.ndarray:
        """(3,3) float64 rows `right`, `up`, `direction`: a right-handed frame whose third axis points at the viewer."""
        direction = np.asarray(self.direction, dtype=np.float64)
        up = np.asarray(self.up, dtype=np.float64)
        return np.stack([np.cross(up, direction), up, direction])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (N,3) to picture coordinates (N,2), [-1,1] inside the picture with y up, and depth (N,).

        Depth is the distance from the camera plane, `CAMERA_DISTANCE` at the origin, growing away from the viewer.
        """
        local = np.asarray(points, dtype=np.float64) @ self.axes.T
        return local[:, :2] / self.half_extent, CAMERA_DISTANCE - local[:, 2]

    def unproject(self, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Inverse of `project`: (N,2) and (N,) to world points (N,3)."""
        plane = np.asarray(xy, dtype=np.float64) * self.half_extent
        toward = CAMERA_DISTANCE - np.asarray(depth, dtype=np.float64)
        return np.concatenate([plane, toward[:, None]], axis=1) @ self.axes


def orbit_camera(name: str, azimuth: float, elevation: float, half_extent: float) -> Camera:
    """Camera at `azimuth` degrees from the front towards +x and `elevation` degrees above the horizon (below 90)."""
    if not -90.0 < elevation < 90.0:
        raise Omni123Error(f"elevation must lie strictly between -90 and 90 degrees, got {elevation}")
    a, e = math.radians(azimuth), math.radians(elevation)
    direction = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
    up = (-math.sin(a) * math.sin(e), math.cos(e), -math.cos(a) * math.sin(e))
    return Camera(name, direction, up, half_extent)


CANONICAL_VIEWS = ("front", "back", "left", "right", "top", "bottom")
THREE_QUARTER = "three_quarter"
ALL_VIEWS = CANONICAL_VIEWS + (THREE_QUARTER,)

_CAMERAS = {
    camera.name: camera
    for camera in (
        Camera("front", (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), CANONICAL_HALF_EXTENT),
        Camera("back", (0.0, 0.0, -1.0), (0.0, 1.0, 0.0), CANONICAL_HALF_EXTENT),
        Camera("left", (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), CANONICAL_HALF_EXTENT),
        Camera("right", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), CANONICAL_HALF_EXTENT),
        # Above and below keep +x at the right of the picture, as the front view does.
        Camera("top", (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), CANONICAL_HALF_EXTENT),
        Camera("bottom", (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), CANONICAL_HALF_EXTENT),
        orbit_camera(THREE_QUARTER, THREE_QUARTER_AZIMUTH, THREE_QUARTER_ELEVATION, THREE_QUARTER_HALF_EXTENT),
    )
}


def get_camera(name: str) -> Camera:
    """Camera of one of `ALL_VIEWS`; an unknown name raises `Omni123Error`."""
    if name not in _CAMERAS:
        raise Omni123Error(f"unknown view {name!r}; choose one of {', '.join(ALL_VIEWS)}")
    return _CAMERAS[name]
