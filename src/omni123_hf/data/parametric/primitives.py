"""Solids in the project frame (y up, +z front) as `manifold3d.Manifold`; lengths are in the object's own units.

manifold3d builds cylinders and extrusions along z; everything here is turned to y up once, so that the category modules
can be read as floor plans: `x` to the right, `z` towards the viewer, `y` the height of the *bottom* unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from manifold3d import CrossSection, FillRule, Manifold, OpType

from omni123_hf.errors import Omni123Error


Point2 = tuple[float, float]
Point3 = tuple[float, float, float]


def union(solids: Iterable[Manifold]) -> Manifold:
    """Union of any number of solids."""
    return Manifold.batch_boolean(list(solids), OpType.Add)


def box(w: float, h: float, d: float, x: float = 0, y: float = 0, z: float = 0) -> Manifold:
    """Box of width `w` (x), height `h` (y) and depth `d` (z), standing on height `y`, centred at `x, z`."""
    return Manifold.cube((w, h, d), True).translate((x, y + h / 2, z))


def cyl(
    r: float, h: float, x: float = 0, y: float = 0, z: float = 0, top: float | None = None, n: int = 20
) -> Manifold:
    """Upright cylinder (a frustum when `top` is another radius, a cone when it is 0) standing on height `y`."""
    return Manifold.cylinder(h, r, r if top is None else top, n).rotate((-90, 0, 0)).translate((x, y, z))


def rod(p: Point3, q: Point3, r: float, r2: float | None = None, n: int = 12) -> Manifold:
    """Cylinder or frustum between two points (radius `r` at p, `r2` at q)."""
    delta = np.asarray(q, float) - np.asarray(p, float)
    length = float(np.linalg.norm(delta))
    if length < 1e-9:
        raise Omni123Error("rod needs two different end points")
    polar = math.degrees(math.acos(max(-1.0, min(1.0, delta[2] / length))))
    azimuth = math.degrees(math.atan2(delta[1], delta[0]))
    return Manifold.cylinder(length, r, r if r2 is None else r2, n).rotate((0, polar, azimuth)).translate(p)


def ball(r: float, x: float = 0, y: float = 0, z: float = 0, scale: Point3 = (1, 1, 1), n: int = 16) -> Manifold:
    """Sphere or, with `scale`, ellipsoid; here `y` is the height of the centre."""
    return Manifold.sphere(r, n).scale(scale).translate((x, y, z))


def lathe(profile: Sequence[Point2], n: int = 24) -> Manifold:
    """Solid of revolution about the y axis of a closed outline of (radius, height) points."""
    return Manifold.revolve(CrossSection([list(profile)], FillRule.NonZero), n).rotate((-90, 0, 0))


def turned(profile: Sequence[Point2], n: int = 24) -> Manifold:
    """`lathe` of an open outer curve (radius, height), closed along the axis."""
    return lathe([(0.0, profile[0][1]), *profile, (0.0, profile[-1][1])], n)


def hollow(profile: Sequence[Point2], wall: float, n: int = 24, floor: float | None = None) -> Manifold:
    """`turned` curve (bottom to top) with the inside removed, open at the top; `floor` is the bottom's thickness."""
    bottom = profile[0][1] + (wall if floor is None else floor)
    inner: list[Point2] = []
    for (r0, y0), (r1, y1) in zip(profile, profile[1:], strict=False):
        if y1 <= bottom:
            continue
        if y0 < bottom:
            r0, y0 = r0 + (r1 - r0) * (bottom - y0) / (y1 - y0), bottom
        if not inner:
            inner.append((max(r0 - wall, 0.2 * wall), y0))
        inner.append((max(r1 - wall, 0.2 * wall), y1))
    inner.append((inner[-1][0], inner[-1][1] + 1.0))
    return turned(profile, n) - turned(inner, n)


def prism(polygon: Sequence[Point2], depth: float, z: float = 0) -> Manifold:
    """Polygon in the (x, y) plane extruded to `depth` along z, centred at `z`."""
    return Manifold.extrude(CrossSection([list(polygon)], FillRule.NonZero), depth).translate((0, 0, z - depth / 2))


def side_prism(polygon: Sequence[Point2], width: float, x: float = 0) -> Manifold:
    """Polygon in the (z, y) plane (a side view, front to the right) extruded to `width` along x, centred at `x`."""
    solid = Manifold.extrude(CrossSection([list(polygon)], FillRule.NonZero), width).rotate((0, -90, 0))
    return solid.translate((x + width / 2, 0, 0))


def plate(polygon: Sequence[Point2], h: float, y: float = 0, scale_top: float = 1.0) -> Manifold:
    """Polygon in the (x, z) plane raised to height `h` from `y`; the top can be scaled about the origin."""
    section = CrossSection([[(px, -pz) for px, pz in polygon]], FillRule.NonZero)
    return Manifold.extrude(section, h, scale_top=(scale_top, scale_top)).rotate((-90, 0, 0)).translate((0, y, 0))


def taper(w: float, d: float, w2: float, d2: float, h: float, x: float = 0, y: float = 0, z: float = 0) -> Manifold:
    """Frustum with a rectangular base `w` x `d` and a rectangular top `w2` x `d2`."""
    points = [(x + sx * w / 2, y, z + sz * d / 2) for sx in (-1, 1) for sz in (-1, 1)]
    points += [(x + sx * w2 / 2, y + h, z + sz * d2 / 2) for sx in (-1, 1) for sz in (-1, 1)]
    return hull(points)


def hull(points: Sequence[Point3]) -> Manifold:
    """Convex hull of points."""
    return Manifold.hull_points(np.asarray(points, np.float64))


def arc(
    radius: float, r: float, start: float, stop: float, at: Point3 = (0, 0, 0), n: int = 24, thickness: int = 10
) -> Manifold:
    """Piece of a torus in the (x, y) plane from angle `start` to `stop` (degrees, 0 = +x), tube radius `r`."""
    tube = CrossSection.circle(r, thickness).translate((radius, 0))
    return Manifold.revolve(tube, n, stop - start).rotate((0, 0, start)).translate(at)


def outline(kind: str, w: float, d: float, n: int = 24) -> list[Point2]:
    """Counter-clockwise outline of a named shape that fits `w` x `d`."""
    if kind in ("square", "rectangular"):
        return [(-w / 2, -d / 2), (w / 2, -d / 2), (w / 2, d / 2), (-w / 2, d / 2)]
    sides = {"round": n, "oval": n, "hexagonal": 6, "triangular": 3, "octagonal": 8}
    if kind not in sides:
        raise Omni123Error(f"unknown outline {kind!r}; use one of: square, rectangular, {', '.join(sides)}")
    count = sides[kind]
    angles = [2 * math.pi * i / count + math.pi / 2 for i in range(count)]
    return [(w / 2 * math.cos(t), d / 2 * math.sin(t)) for t in angles]


def leg(shape: str, x: float, z: float, h: float, size: float, y: float = 0, foot: Point2 | None = None) -> Manifold:
    """Furniture leg from height `y` to `y + h` at (x, z); round, square or tapered; `foot` moves its lower end."""
    fx, fz = foot if foot is not None else (x, z)
    if shape == "square":
        r = size / 2
        low = [(fx + sx * r, y, fz + sz * r) for sx in (-1, 1) for sz in (-1, 1)]
        return hull(low + [(x + sx * r, y + h, z + sz * r) for sx in (-1, 1) for sz in (-1, 1)])
    low_r = size * (0.35 if shape == "tapered" else 0.5)
    high_r = size * (0.7 if shape == "tapered" else 0.5)
    ring = [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 12, endpoint=False)]
    low = [(fx + low_r * c, y, fz + low_r * s) for c, s in ring]
    return hull(low + [(x + high_r * c, y + h, z + high_r * s) for c, s in ring])


def spots(count: int, w: float, d: float) -> list[Point2]:
    """(x, z) places of `count` legs under a `w` x `d` rectangle: three = two at the back and one in front."""
    if count == 1:
        return [(0.0, 0.0)]
    if count == 3:
        return [(-w / 2, -d / 2), (w / 2, -d / 2), (0.0, d / 2)]
    if count in (4, 6):
        corners = [(sx * w / 2, sz * d / 2) for sx in (-1, 1) for sz in (-1, 1)]
        return corners + ([(0.0, -d / 2), (0.0, d / 2)] if count == 6 else [])
    return [
        (w / 2 * math.sin(2 * math.pi * i / count), d / 2 * math.cos(2 * math.pi * i / count)) for i in range(count)
    ]


def around(solid: Manifold, count: int, phase: float = 0.0) -> list[Manifold]:
    """`count` copies turned about the y axis; `phase` in degrees."""
    return [solid.rotate((0, phase + 360 * i / count, 0)) for i in range(count)]


def both(solid: Manifold) -> list[Manifold]:
    """The solid and its mirror image in x."""
    return [solid, solid.mirror((1, 0, 0))]


def spread(count: int, span: float) -> list[float]:
    """`count` evenly spaced coordinates from -span/2 to span/2 (just 0 for one)."""
    if count == 1:
        return [0.0]
    return [span * (i / (count - 1) - 0.5) for i in range(count)]
