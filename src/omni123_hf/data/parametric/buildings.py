"""Buildings and bridges, drawn as plump models; the entrance looks towards +z."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, ROOFS, WALLS
from omni123_hf.data.parametric.primitives import (
    around,
    ball,
    both,
    box,
    cyl,
    outline,
    plate,
    prism,
    rod,
    spread,
    taper,
)


def gable(w: float, d: float, h: float, y: float, z: float = 0.0) -> Any:
    """Ridge roof along z over a `w` x `d` plan."""
    return prism([(-w / 2, y), (w / 2, y), (w / 2, y + 0.13), (0, y + h), (-w / 2, y + 0.13)], d, z)


def merlons(w: float, y: float, side: float = 0.17, per_side: int = 3) -> list[Any]:
    """Teeth on the edge of a square tower top."""
    edge = w / 2 - side / 2
    row = spread(per_side, 2 * edge)
    places = {(round(x, 4), round(s * edge, 4)) for x in row for s in (-1, 1)}
    places |= {(round(s * edge, 4), round(x, 4)) for x in row for s in (-1, 1)}
    return [box(side, 0.2, side, x, y - 0.03, z) for x, z in sorted(places)]


@category(
    "house",
    "a building where a family lives",
    [
        choice("roof", "gabled pyramid flat", "roof"),
        count("floors", (1, 2), "floors"),
        count("windows", (2, 4), "windows on each floor"),
        flag("chimney", p=0.5),
        choice("porch", "porch steps none", "{} at the door"),
        flag("garage", p=0.35),
        size("width", 1.2, 2.0, "narrow", "wide"),
        size("roof_height", 0.4, 0.95, "low", "high", "roof"),
        color(WALLS),
        color(ROOFS, "roof"),
        color(BRIGHT + ("brown",), "door"),
    ],
    ("home",),
)
def house(a: Any) -> list[PartSpec]:
    w, d, h = a.width, 1.2, 0.75 * a.floors
    parts: list[PartSpec] = [("walls", box(w, h, d), a.color)]
    rise = a.roof_height
    if a.roof == "gabled":
        roof = gable(w + 0.24, d + 0.24, rise, h - 0.03)
    elif a.roof == "pyramid":
        roof = taper(w + 0.24, d + 0.24, w * 0.3, 0.1, rise, 0, h - 0.03)
    else:
        roof = box(w + 0.18, 0.1 + rise * 0.3, d + 0.18, 0, h - 0.03)
    parts.append(("roof", roof, a.roof_color))
    parts.append(("door", box(0.3, 0.52, 0.14, 0, 0, d / 2), a.door_color))
    side = w / 2 - 0.3 if w > 1.3 else w / 2 - 0.22
    columns = [side] if a.windows == 2 else [side * 0.55 + 0.12, side + 0.08]
    size_w = 0.26 if a.windows == 2 else 0.2
    glass = [
        box(size_w, 0.3, 0.14, s * x, 0.28 + 0.75 * f, d / 2)
        for f in range(a.floors)
        for x in columns
        for s in (-1, 1)
    ]
    parts.append(("front windows", glass, "blue" if a.color != "blue" else "white"))
    if a.chimney:
        parts.append(("chimney", box(0.22, rise + 0.42, 0.22, w * 0.28, h - 0.05, -0.2), "brown"))
    if a.porch == "porch":
        porch = [
            box(0.85, 0.1, 0.5, 0, 0.56, d / 2 + 0.23),
            *both(box(0.1, 0.6, 0.1, 0.35, 0, d / 2 + 0.4)),
            box(0.85, 0.08, 0.5, 0, 0, d / 2 + 0.23),
        ]
        parts.append(("porch", porch, "wooden"))
    elif a.porch == "steps":
        parts.append(
            ("steps", [box(0.6, 0.18, 0.25, 0, 0, d / 2 + 0.1), box(0.6, 0.09, 0.5, 0, 0, d / 2 + 0.2)], "gray")
        )
    if a.garage:
        parts += [
            (
                "garage",
                [box(0.75, 0.6, 0.95, w / 2 + 0.33, 0, -0.05), box(0.87, 0.1, 1.07, w / 2 + 0.33, 0.58, -0.05)],
                a.color,
            )
        ]
        parts.append(
            ("garage door", box(0.52, 0.42, 0.14, w / 2 + 0.35, 0, 0.41), "white" if a.color != "white" else "gray")
        )
    return parts


@category(
    "tower",
    "a high and slim building that watches over the land",
    [
        choice("shape", "round square hexagonal"),
        choice("top", "pointed domed battlement", "top"),
        size("height", 1.5, 2.8, "low", "high"),
        size("width", 0.55, 0.85, "slim", "thick"),
        flag("balcony", p=0.45),
        count("windows", (1, 2, 3), "windows"),
        choice("wall", "straight tapered", "walls"),
        flag("base", "wide base", 0.4),
        color(WALLS),
        color(ROOFS, "top"),
    ],
)
def tower(a: Any) -> list[PartSpec]:
    w, h = a.width, a.height
    grow = 1.35 if a.wall == "tapered" else 1.0
    parts: list[PartSpec] = [("walls", plate(outline(a.shape, w * grow, w * grow, 20), h, 0, 1 / grow), a.color)]
    head = plate(outline(a.shape, w + 0.24, w + 0.24, 20), 0.3, h - 0.12)
    parts.append(("head", head, a.color))
    top = h + 0.17
    r = w / 2 + 0.16
    if a.top == "pointed":
        cap = plate(outline(a.shape, 2 * r, 2 * r, 20), 0.85, top - 0.02, 0.06)
    elif a.top == "domed":
        cap = [ball(r * 0.94, 0, top, 0, n=20) ^ box(4, 2, 4, 0, top - 0.02), cyl(0.08, 0.3, 0, top + r * 0.85, n=8)]
    elif a.shape == "square":
        cap = merlons(w + 0.24, top)
    else:
        cap = around(box(0.18, 0.22, 0.18, 0, top - 0.03, w * 0.43 + 0.02), 6, 30)
    parts.append(("top", cap, a.top_color))
    span = w * 0.5 * (0.5 + 0.5 * grow)
    parts.append(("door", box(0.24, 0.42, w * 0.5 * grow + 0.05, 0, 0, w * 0.25 * grow + 0.03), "brown"))
    levels = [0.52, 0.74, 0.34][: a.windows]
    glass = [box(0.19, 0.26, span + 0.05 - w * 0.12 * (grow - 1) * t * 2, 0, h * t, (span + 0.05) / 2) for t in levels]
    parts.append(("windows", glass, "black"))
    if a.balcony:
        parts.append(
            ("balcony", plate(outline(a.shape, w * 1.2 + 0.36, w * 1.2 + 0.36, 20), 0.14, h * 0.64), a.top_color)
        )
    if a.base:
        parts.append(("wide base", plate(outline(a.shape, w * grow + 0.4, w * grow + 0.4, 20), 0.2), "gray"))
    return parts


@category(
    "castle",
    "a strong old fortress with walls and towers",
    [
        choice("tower_shape", "round square", "corner towers"),
        choice("tower_roof", "pointed flat", "tower roofs"),
        count("towers", (2, 4), "corner towers"),
        size("tower_height", 0.95, 1.7, "low", "high", "corner towers"),
        choice("keep", "square round none", "central keep"),
        size("width", 1.5, 2.3, "small", "wide"),
        size("wall", 0.45, 0.8, "low", "high", "walls"),
        flag("gatehouse", p=0.45),
        color(("gray", "beige", "white", "brown")),
        color(ROOFS, "tower roofs"),
    ],
)
def castle(a: Any) -> list[PartSpec]:
    w, d, h = a.width, 1.5, a.wall
    wall = box(w, h, d) - box(w - 0.3, h, d - 0.3, 0, 0.12)
    teeth = [box(0.16, 0.16, 0.16, x, h - 0.02, d / 2 - 0.075) for x in spread(5, w - 0.75)]
    parts: list[PartSpec] = [("walls", [wall, *teeth], a.color)]
    th, r = a.tower_height, 0.24
    places = [(s * w / 2, z) for z in ((d / 2, -d / 2) if a.towers == 4 else (d / 2,)) for s in (-1, 1)]
    towers, roofs = [], []
    for x, z in places:
        towers.append(cyl(r, th, x, 0, z, n=16) if a.tower_shape == "round" else box(2 * r, th, 2 * r, x, 0, z))
        if a.tower_roof == "pointed":
            roofs.append(
                cyl(r + 0.1, 0.55, x, th - 0.02, z, top=0.03, n=16)
                if a.tower_shape == "round"
                else taper(0.64, 0.64, 0.06, 0.06, 0.55, x, th - 0.02, z)
            )
        else:
            roofs.append(
                cyl(r + 0.09, 0.16, x, th - 0.02, z, n=16)
                if a.tower_shape == "round"
                else box(0.64, 0.16, 0.64, x, th - 0.02, z)
            )
    parts += [("corner towers", towers, a.color), ("tower roofs", roofs, a.tower_roofs_color)]
    parts.append(("gate", box(0.34, h * 0.7, 0.3, 0, 0, d / 2 - 0.04), "brown"))
    if a.gatehouse:
        parts[-1] = ("gate", box(0.34, h * 0.7, 0.3, 0, 0, d / 2 + 0.08), "brown")
        house_h = h + 0.25
        parts.append(
            (
                "gatehouse",
                [box(0.62, house_h, 0.36, 0, 0, d / 2), *both(box(0.16, 0.16, 0.3, 0.22, house_h - 0.02, d / 2))],
                a.color,
            )
        )
    if a.keep != "none":
        kh = th + 0.25
        if a.keep == "square":
            keep = [
                box(0.6, kh, 0.6, 0, 0.02, -0.15),
                *[m.translate((0, 0, -0.15)) for m in merlons(0.66, kh + 0.02, 0.16)],
            ]
        else:
            keep = [cyl(0.32, kh, 0, 0.02, -0.15, n=18), cyl(0.4, 0.2, 0, kh, -0.15, n=18)]
        parts.append(("central keep", keep, a.color))
    return parts


@category(
    "church",
    "a house of prayer with a bell tower",
    [
        choice("tower", "front side", "{} tower"),
        choice("spire", "pointed flat domed", "spire"),
        size("tower_height", 1.2, 2.1, "low", "high", "bell tower"),
        size("length", 1.4, 2.3, "short", "long"),
        count("windows", (2, 3, 4), "windows on each side"),
        flag("cross", "cross on top", 0.5),
        flag("apse", "round apse", 0.45),
        size("roof_height", 0.4, 0.8, "low", "steep", "roof"),
        color(WALLS),
        color(ROOFS, "roof"),
    ],
)
def church(a: Any) -> list[PartSpec]:
    w, h, length = 0.95, 0.75, a.length
    parts: list[PartSpec] = [
        ("nave", box(w, h, length), a.color),
        ("roof", gable(w + 0.2, length + 0.1, a.roof_height, h - 0.03), a.roof_color),
    ]
    tw, th = 0.52, a.tower_height
    x, z = (0.0, length / 2 + 0.12) if a.tower == "front" else (w / 2 + 0.18, length / 2 - 0.4)
    parts.append(("bell tower", box(tw, th, tw, x, 0, z), a.color))
    if a.spire == "pointed":
        spire, tip = taper(tw + 0.14, tw + 0.14, 0.05, 0.05, 0.75, x, th - 0.02, z), th + 0.66
    elif a.spire == "flat":
        spire, tip = box(tw + 0.14, 0.14, tw + 0.14, x, th - 0.02, z), th + 0.1
    else:
        spire, tip = ball(0.36, x, th - 0.02, z, (1, 1.2, 1), 18) ^ box(9, 9, 9, x, th - 0.03, z), th + 0.38
    parts.append(("spire", spire, a.roof_color))
    step = (length - 0.3) / a.windows
    glass = [
        box(w + 0.12, 0.36, min(0.26, step * 0.6), 0, 0.22, wz) for wz in spread(a.windows, step * (a.windows - 1))
    ]
    parts.append(("windows", glass, "blue"))
    parts.append(("door", box(0.27, 0.45, 0.16, 0, 0, length / 2 + (0.36 if a.tower == "front" else 0.0)), "brown"))
    if a.cross:
        parts.append(
            ("cross on top", [box(0.1, 0.42, 0.1, x, tip - 0.08, z), box(0.32, 0.1, 0.1, x, tip + 0.14, z)], "golden")
        )
    if a.apse:
        parts.append(
            (
                "round apse",
                [
                    cyl(0.38, h * 0.8, 0, 0, -length / 2, n=18),
                    cyl(0.42, 0.3, 0, h * 0.8 - 0.02, -length / 2, top=0.05, n=18),
                ],
                a.color,
            )
        )
    return parts


@category(
    "windmill",
    "a mill whose sails turn in the wind",
    [
        choice("shape", "round square octagonal"),
        choice("cap", "pointed domed", "cap"),
        count("blades", (3, 4, 6), "sails"),
        size("blade_length", 0.75, 1.15, "short", "long", "sails"),
        size("height", 1.4, 2.1, "low", "tall"),
        flag("balcony", p=0.45),
        size("blade_width", 0.18, 0.34, "narrow", "wide", "sails"),
        flag("shed", "side shed", 0.3),
        color(WALLS),
        color(ROOFS, "cap"),
        color(("white", "wooden", "red", "blue"), "sails"),
    ],
)
def windmill(a: Any) -> list[PartSpec]:
    h = a.height
    parts: list[PartSpec] = [("body", plate(outline(a.shape, 1.0, 1.0, 20), h, 0, 0.62), a.color)]
    if a.cap == "pointed":
        cap = plate(outline(a.shape, 0.8, 0.8, 20), 0.5, h - 0.02, 0.08)
    else:
        cap = ball(0.4, 0, h - 0.02, 0, n=18) ^ box(4, 4, 4, 0, h - 0.03)
    parts.append(("cap", cap, a.cap_color))
    hub_y, z = h - 0.1, 0.62
    blade = box(a.blade_width, a.blade_length, 0.11, 0, 0, 0)
    arms = [blade.rotate((0, 0, 360 * i / a.blades + 20)).translate((0, hub_y, z)) for i in range(a.blades)]
    parts.append(("sails", arms, a.sails_color))
    parts.append(("axle", rod((0, hub_y, 0), (0, hub_y, z + 0.12), 0.12, n=12), "brown"))
    parts.append(("door", box(0.26, 0.44, 0.2, 0, 0, 0.42), "brown"))
    if a.balcony:
        parts.append(("balcony", plate(outline(a.shape, 1.2, 1.2, 20), 0.12, h * 0.36), "wooden"))
    if a.shed:
        parts.append(
            (
                "side shed",
                [box(0.6, 0.5, 0.6, 0.6, 0, -0.05), prism([(0.25, 0.48), (0.95, 0.48), (0.6, 0.78)], 0.7, -0.05)],
                a.color,
            )
        )
    return parts


@category(
    "bridge",
    "a road that crosses a river",
    [
        choice("kind", "arched flat", "openings"),
        count("spans", (1, 2, 3, 4), "openings"),
        size("length", 1.8, 2.8, "short", "long"),
        size("height", 0.5, 0.95, "low", "high"),
        size("width", 0.45, 0.85, "narrow", "wide"),
        flag("railings", p=0.5),
        count("towers", (0, 2), "towers", (0.6, 0.4)),
        flag("lamps", "lamp posts", 0.35),
        color(("gray", "brown", "beige", "red", "wooden")),
        color(("red", "blue", "gray", "green", "white"), "towers"),
    ],
)
def bridge(a: Any) -> list[PartSpec]:
    length, h, d = a.length, a.height, a.width
    step = (length - 0.16) / a.spans
    body = box(length, h, d)
    holes = []
    for x in spread(a.spans, step * (a.spans - 1)):
        r, clear = step / 2 - 0.08, h - 0.15
        if a.kind == "arched":
            curve = [(x + r * math.cos(t), clear * math.sin(t)) for t in [math.pi * i / 12 for i in range(13)]]
            holes.append(prism([(x - r, -0.1), (x + r, -0.1), *curve], d + 1))
        else:
            holes.append(box(2 * r, clear + 0.1, d + 1, x, -0.1))
    for hole in holes:
        body = body - hole
    parts: list[PartSpec] = [("deck", body, a.color)]
    if a.railings:
        parts.append(
            ("railings", [box(length, 0.2, 0.12, 0, h - 0.02, s * (d / 2 - 0.06)) for s in (-1, 1)], a.towers_color)
        )
    if a.towers:
        frame = [box(0.17, h + 0.75, 0.17, length * 0.27, 0, s * (d / 2 + 0.02)) for s in (-1, 1)]
        frame.append(box(0.17, 0.15, d + 0.2, length * 0.27, h + 0.6))
        parts.append(("towers", [piece for solid in frame for piece in both(solid)], a.towers_color))
    if a.lamps:
        posts, lights = [], []
        for x in spread(2, length - 0.24):
            posts.append(cyl(0.065, 0.45, x, h - 0.02, d / 2 - 0.09, n=8))
            lights.append(ball(0.12, x, h + 0.45, d / 2 - 0.09, n=10))
        parts += [("lamp posts", posts, "black"), ("lights", lights, "yellow")]
    return parts
