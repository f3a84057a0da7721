"""The one definition of a view: cameras that look at the origin, orthographic unless they have a field of view.

View tokens, renders, colour baking and evaluation all read these cameras, so that "left" means one thing everywhere.
Frame: right-handed, y up, +z is the front of the object. `left` is the viewer's left of the front view: its camera
stands at -x and shows the object's front at the right edge of the picture.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from omni123_hf.errors import Omni123Error


# Distance of the camera plane from the origin. It exceeds the half diagonal of the field box (1.05 * sqrt(3)), so the
# depth of everything in the box is positive.
CAMERA_DISTANCE = 2.0
CANONICAL_HALF_EXTENT = 1.05
THREE_QUARTER_HALF_EXTENT = 1.45
THREE_QUARTER_AZIMUTH = 35.0
THREE_QUARTER_ELEVATION = 25.0
# Radius of the ball that holds every normalised mesh (half side 0.96): a random view of any of them is never cut off.
RANDOM_VIEW_RADIUS = 0.96 * math.sqrt(3.0)
RANDOM_ELEVATIONS = (-20.0, 60.0)


@dataclass(frozen=True)
class Camera:
    """A camera.

    `direction` points from the origin to the camera, `up` is up in the picture; both are unit vectors at right angles.
    `half_extent` is half the side of the square picture, in world units, measured at the origin. `field_of_view` is the
    angle between opposite sides of the picture in degrees; 0 is an orthographic camera.
    """

    name: str
    direction: tuple[float, float, float]
    up: tuple[float, float, float]
    half_extent: float
    field_of_view: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.field_of_view < 180.0 or not self.half_extent > 0.0:
            raise Omni123Error(
                f"camera {self.name!r} needs a half extent above 0 and a field of view from 0 (orthographic) to below "
                f"180 degrees, got {self.half_extent} and {self.field_of_view}"
            )

    @property
    def axes(self) -> np.ndarray:
        """(3,3) float64 rows `right`, `up`, `direction`: a right-handed frame whose third axis points at the viewer."""
        direction = np.asarray(self.direction, dtype=np.float64)
        up = np.asarray(self.up, dtype=np.float64)
        return np.stack([np.cross(up, direction), up, direction])

    @property
    def distance(self) -> float:
        """From the origin to the camera plane; in perspective, to the eye."""
        if not self.field_of_view:
            return CAMERA_DISTANCE
        return self.half_extent / math.tan(math.radians(self.field_of_view) / 2.0)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (N,3) to picture coordinates (N,2), [-1,1] inside the picture with y up, and depth (N,).

        Depth is the distance from the camera plane, `distance` at the origin, growing away from the viewer; in
        perspective too it is measured along the axis, not along the ray, and points must have a depth above 0.
        """
        local = np.asarray(points, dtype=np.float64) @ self.axes.T
        depth = self.distance - local[:, 2]
        if not self.field_of_view:
            return local[:, :2] / self.half_extent, depth
        return local[:, :2] * (self.distance / self.half_extent) / depth[:, None], depth

    def unproject(self, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Inverse of `project`: (N,2) and (N,) to world points (N,3)."""
        depth = np.asarray(depth, dtype=np.float64)
        plane = np.asarray(xy, dtype=np.float64) * self.half_extent
        if self.field_of_view:
            plane = plane * depth[:, None] / self.distance
        return np.concatenate([plane, (self.distance - depth)[:, None]], axis=1) @ self.axes

    def toward_viewer(self, points: np.ndarray) -> np.ndarray:
        """(N,3) vectors from `points` (N,3) towards the viewer, of any length."""
        direction = np.asarray(self.direction, dtype=np.float64)
        if not self.field_of_view:
            return np.broadcast_to(direction, points.shape)
        return self.distance * direction - points

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Camera:
        """The camera that `to_dict` wrote; missing, unknown or impossible values raise `Omni123Error`."""
        try:
            direction, up = (tuple(float(x) for x in values[key]) for key in ("direction", "up"))
            camera = cls(**{**values, "direction": direction, "up": up})
        except (KeyError, TypeError, ValueError) as error:
            raise Omni123Error(f"not a camera: {error}") from error
        if np.abs(camera.axes @ camera.axes.T - np.eye(3)).max() > 1e-6:
            raise Omni123Error(f"camera {camera.name!r}: direction and up must be unit vectors at right angles")
        return camera


def orbit_camera(
    name: str, azimuth: float, elevation: float, half_extent: float, field_of_view: float = 0.0
) -> Camera:
    """Camera at `azimuth` degrees from the front towards +x and `elevation` degrees above the horizon (below 90)."""
    if not -90.0 < elevation < 90.0:
        raise Omni123Error(f"elevation must lie strictly between -90 and 90 degrees, got {elevation}")
    a, e = math.radians(azimuth), math.radians(elevation)
    direction = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
    up = (-math.sin(a) * math.sin(e), math.cos(e), -math.cos(a) * math.sin(e))
    return Camera(name, direction, up, half_extent, field_of_view)


def random_camera(
    rng: np.random.Generator,
    field_of_view: float = 0.0,
    elevations: tuple[float, float] = RANDOM_ELEVATIONS,
    name: str = "random",
) -> Camera:
    """A camera whose direction is uniform by area on a band of the sphere around the object.

    Azimuth is uniform all around; the sine of the elevation is uniform between the sines of `elevations` (degrees). The
    picture just holds the ball around a normalised mesh (radius 0.96 * sqrt(3)), in perspective too.
    """
    low, high = (math.sin(math.radians(elevation)) for elevation in elevations)
    azimuth = float(rng.uniform(-180.0, 180.0))
    elevation = math.degrees(math.asin(rng.uniform(low, high)))
    half_extent = RANDOM_VIEW_RADIUS / math.cos(math.radians(field_of_view) / 2.0)
    return orbit_camera(name, azimuth, elevation, half_extent, field_of_view)


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
