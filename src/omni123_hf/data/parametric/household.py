"""Lamps, fans and other things of the house."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, FURNITURE, METALS, PAINT
from omni123_hf.data.parametric.primitives import (
    arc,
    around,
    ball,
    both,
    box,
    cyl,
    hollow,
    outline,
    plate,
    rod,
    spread,
    turned,
)


SHADES = ("white", "beige", "red", "orange", "yellow", "green", "blue", "pink")


def shade(kind: str, r: float, h: float, y: float) -> Any:
    """Lamp shade of radius `r` standing on height `y`."""
    if kind == "cone-shaped":
        return cyl(r, h, 0, y, top=r * 0.5)
    if kind == "straight":
        return cyl(r * 0.85, h, 0, y)
    if kind == "square":
        return plate(outline("square", 1.7 * r, 1.7 * r), h, y, 0.7)
    return ball(1, 0, y + h / 2, 0, (r, h * 0.52, r), 16)


@category(
    "floor lamp",
    "a standing light for a dark corner",
    [
        choice("shade", "cone-shaped straight ball-shaped square", "shade"),
        choice("base", "round square tripod", "{} base"),
        size("height", 1.3, 2.0, "low", "tall"),
        size("shade_width", 0.24, 0.42, "narrow", "wide", "shade"),
        size("shade_height", 0.26, 0.5, "low", "tall", "shade"),
        choice("pole", "straight bent", "pole"),
        flag("tray", "small tray", 0.35),
        flag("knob", "ball on the pole", 0.35),
        color(SHADES, "shade"),
        color(METALS + ("wooden",), "pole"),
    ],
)
def floor_lamp(a: Any) -> list[PartSpec]:
    top = a.height - a.shade_height
    if a.base == "round":
        base: Any = cyl(0.28, 0.09)
    elif a.base == "square":
        base = box(0.5, 0.09, 0.5)
    else:
        base = around(rod((0, 0.45, 0), (0.34, 0.03, 0), 0.05, n=8), 3, 30)
    out = 0.42 if a.pole == "bent" else 0.0
    if out:
        pole = [
            cyl(0.05, top - 0.2, n=12),
            ball(0.055, 0, top - 0.2, 0, n=10),
            rod((0, top - 0.2, 0), (out, top + 0.05, 0), 0.05, n=12),
        ]
    else:
        pole = [cyl(0.05, top + 0.1, n=12)]
    parts: list[PartSpec] = [("base", base, a.pole_color), ("pole", pole, a.pole_color)]
    parts.append(("shade", shade(a.shade, a.shade_width, a.shade_height, top).translate((out, 0, 0)), a.shade_color))
    if a.tray:
        parts.append(
            ("small tray", cyl(0.25, 0.08, 0, a.height * 0.42), "wooden" if a.pole_color != "wooden" else "white")
        )
    if a.knob:
        parts.append(("ball on the pole", ball(0.11, 0, a.height * 0.6, 0, n=12), a.pole_color))
    return parts


@category(
    "table lamp",
    "a small light for a desk",
    [
        choice("shade", "cone-shaped straight ball-shaped square", "shade"),
        choice("body", "round cylindrical square hourglass", "body"),
        size("body_height", 0.4, 0.85, "low", "tall", "body"),
        size("shade_width", 0.3, 0.5, "narrow", "wide", "shade"),
        size("shade_height", 0.3, 0.55, "low", "tall", "shade"),
        flag("plate", "base plate", 0.5),
        flag("tip", "ball on top", 0.4),
        color(SHADES, "shade"),
        color(PAINT + ("wooden", "golden"), "body"),
    ],
)
def table_lamp(a: Any) -> list[PartSpec]:
    y, h = (0.08 if a.plate else 0.0), a.body_height
    if a.body == "round":
        body: Any = [ball(1, 0, y + h * 0.45, 0, (0.27, h * 0.46, 0.27), 16), cyl(0.16, 0.1, 0, y)]
    elif a.body == "cylindrical":
        body = cyl(0.16, h, 0, y)
    elif a.body == "square":
        body = box(0.32, h, 0.32, 0, y)
    else:
        body = turned([(0.24, y), (0.1, y + h * 0.5), (0.2, y + h)], 20)
    parts: list[PartSpec] = [("body", body, a.body_color), ("neck", cyl(0.07, 0.3, 0, y + h - 0.14, n=10), "metal")]
    low = y + h + 0.08
    parts.append(("shade", shade(a.shade, a.shade_width, a.shade_height, low), a.shade_color))
    if a.plate:
        parts.append(("base plate", cyl(0.33, 0.1), a.body_color))
    if a.tip:
        parts.append(
            (
                "ball on top",
                [
                    cyl(0.05, 0.12, 0, low + a.shade_height - 0.05, n=8),
                    ball(0.09, 0, low + a.shade_height + 0.1, 0, n=10),
                ],
                "golden",
            )
        )
    return parts


@category(
    "fan",
    "a device that blows cool air",
    [
        count("blades", (3, 4, 5), "blades"),
        choice("base", "round square", "base"),
        size("stand", 0.25, 1.0, "short", "tall", "stand"),
        size("blade_length", 0.35, 0.55, "short", "long", "blades"),
        flag("ring", "outer ring", 0.55),
        choice("blade_shape", "round square", "blades"),
        flag("buttons", p=0.35),
        flag("motor", "big motor", 0.4),
        color(PAINT),
        color(BRIGHT + ("gray", "white"), "blades"),
    ],
)
def fan(a: Any) -> list[PartSpec]:
    mid = 0.1 + a.stand + a.blade_length + 0.1
    z = 0.22
    base = cyl(0.34, 0.12) if a.base == "round" else box(0.62, 0.12, 0.5)
    parts: list[PartSpec] = [("base", base, a.color), ("stand", cyl(0.07, mid, n=12), a.color)]
    r = 0.24 if a.motor else 0.14
    parts.append(("motor", rod((0, mid, -0.2 if a.motor else -0.1), (0, mid, z + 0.08), r, r * 0.7, 14), a.color))
    if a.blade_shape == "round":
        blade = ball(1, 0, a.blade_length * 0.55, 0, (0.17, a.blade_length * 0.48, 0.055), 12)
    else:
        blade = box(0.26, a.blade_length, 0.1)
    parts.append(
        (
            "blades",
            [blade.rotate((0, 0, 360 * i / a.blades)).translate((0, mid, z)) for i in range(a.blades)],
            a.blades_color,
        )
    )
    if a.ring:
        hoop = arc(a.blade_length + 0.06, 0.06, 0, 360, (0, mid, z), 28, 8)
        parts.append(("outer ring", hoop, a.color))
    if a.buttons:
        parts.append(
            (
                "buttons",
                [box(0.11, 0.1, 0.12, x, 0.09, 0.2) for x in (-0.15, 0.15)],
                "black" if a.color != "black" else "red",
            )
        )
    return parts


@category(
    "umbrella",
    "a cover against the rain",
    [
        count("panels", (6, 8, 10), "panels"),
        choice("handle", "hooked straight ball", "{} handle"),
        size("width", 1.0, 1.6, "narrow", "wide"),
        size("depth", 0.3, 0.6, "flat", "deep", "canopy"),
        size("shaft", 0.9, 1.4, "short", "long", "shaft"),
        flag("tip", "pointed tip", 0.5),
        choice("edge", "plain tasselled", "edge"),
        color(PAINT, "canopy"),
        color(("wooden", "black", "white", "brown"), "{} handle", "handle_color"),
    ],
)
def umbrella(a: Any) -> list[PartSpec]:
    r, h = a.width / 2, a.depth
    y = a.shaft
    t = 0.15
    outer = [(r, y), (r * 0.82, y + h * 0.45), (r * 0.45, y + h * 0.85), (0.05, y + h)]
    inner = [
        (r - t * 0.7, y - 0.01),
        (r * 0.82 - t, y + h * 0.45 - t * 0.3),
        (r * 0.42, y + h * 0.85 - t),
        (0.03, y + h - t * 1.2),
    ]
    canopy = turned(outer, a.panels) - turned(inner, a.panels)
    parts: list[PartSpec] = [("canopy", canopy, a.canopy_color), ("shaft", cyl(0.06, y + h - 0.03, n=10), "metal")]
    if a.handle == "hooked":
        parts.append(
            (
                "handle",
                [arc(0.17, 0.065, 180, 360, (0.17, 0.03, 0), 20), cyl(0.07, 0.22, 0, 0.0, n=10)],
                a.handle_color,
            )
        )
    elif a.handle == "straight":
        parts.append(("handle", cyl(0.1, 0.36, 0, -0.1, n=12), a.handle_color))
    else:
        parts.append(("handle", ball(0.15, 0, 0, 0, n=12), a.handle_color))
    if a.tip:
        parts.append(("pointed tip", cyl(0.08, 0.3, 0, y + h - 0.08, top=0.02, n=10), "metal"))
    if a.edge == "tasselled":
        tassel = ball(0.075, r - 0.04, y + 0.01, 0, n=8)
        parts.append(("tassels", around(tassel, a.panels), a.handle_color))
    return parts


@category(
    "ladder",
    "a climbing aid with steps",
    [
        choice("type", "straight folding"),
        count("rungs", (3, 4, 5, 6), "rungs"),
        size("width", 0.4, 0.75, "narrow", "wide"),
        size("height", 1.1, 1.8, "low", "tall"),
        choice("rail", "round square", "rails"),
        flag("feet", "rubber feet", 0.4),
        flag("platform", "top platform", 0.4),
        color(FURNITURE + ("metal",)),
        color(METALS + ("wooden", "red"), "rungs"),
    ],
)
def ladder(a: Any) -> list[PartSpec]:
    w, h = a.width, a.height
    lean = 0.38 if a.type == "folding" else 0.0

    def rail(x: float, z: float) -> Any:
        if a.rail == "round":
            return rod((x, 0, z), (x, h, 0), 0.055, n=10)
        return plate(outline("square", 0.1, 0.1), h).warp_batch(
            lambda v: v + [x, 0, 0] + (1 - v[:, 1:2] / h) * [0, 0, z]
        )

    zs = (lean, -lean) if lean else (0.0,)
    rails = [rail(s * w / 2, z) for s in (-1, 1) for z in zs]
    steps = []
    for i in range(a.rungs):
        y = h * (i + 0.7) / (a.rungs + 0.6)
        steps.append(box(w, 0.075, 0.13, 0, y, lean * (1 - y / h)))
    parts: list[PartSpec] = [("rails", rails, a.color), ("rungs", steps, a.rungs_color)]
    if lean:
        parts.append(("rear bars", [box(w, 0.075, 0.08, 0, h * t, -lean * (1 - t)) for t in (0.25, 0.98)], a.color))
    if a.feet:
        parts.append(
            ("rubber feet", [cyl(0.1, 0.12, s * w / 2, -0.04, z, n=10) for s in (-1, 1) for z in zs], "black")
        )
    if a.platform:
        parts.append(("top platform", box(w + 0.18, 0.09, 0.36, 0, h - 0.04), a.rungs_color))
    return parts


@category(
    "barrel",
    "a big round container for wine or oil",
    [
        choice("side", "bulging straight", "sides"),
        count("hoops", (2, 3, 4), "hoops"),
        size("height", 0.9, 1.5, "low", "tall"),
        size("width", 0.7, 1.0, "slim", "wide"),
        choice("top", "closed open", "top"),
        flag("tap", p=0.4),
        flag("stand", "square stand", 0.35),
        flag("handles", p=0.25),
        color(("wooden", "brown", "red", "blue", "green", "gray")),
        color(METALS, "hoops"),
    ],
    ("cask",),
)
def barrel(a: Any) -> list[PartSpec]:
    y, r, h = (0.16 if a.stand else 0.0), a.width / 2, a.height
    low = 0.78 if a.side == "bulging" else 1.0

    def radius(t: float) -> float:
        return r * (low + (1 - low) * math.sin(math.pi * t))

    curve = [(radius(t), y + h * t) for t in (0, 0.15, 0.35, 0.5, 0.65, 0.85, 1)]
    parts: list[PartSpec] = [("body", turned(curve, 20) if a.top == "closed" else hollow(curve, 0.1, 20), a.color)]
    hoops = []
    for t in spread(a.hoops, 0.7):
        q = radius(t + 0.5)
        level = y + h * (t + 0.5)
        hoops.append(cyl(q + 0.05, 0.11, 0, level - 0.055, n=20) - cyl(q - 0.06, 0.3, 0, level - 0.15, n=20))
    parts.append(("hoops", hoops, a.hoops_color))
    if a.tap:
        z = radius(0.2)
        parts.append(
            (
                "tap",
                [
                    rod((0, y + h * 0.22, z - 0.12), (0, y + h * 0.22, z + 0.24), 0.07, n=10),
                    box(0.1, 0.2, 0.1, 0, y + h * 0.22 - 0.16, z + 0.2),
                ],
                "golden",
            )
        )
    if a.stand:
        parts.append(
            ("square stand", box(2 * r * 1.02, 0.2, 2 * r * 1.02), "wooden" if a.color != "wooden" else "brown")
        )
    if a.handles:
        parts.append(
            (
                "handles",
                both(
                    arc(0.17, 0.06, -90, 90, (radius(0.68) - 0.04, y + h * 0.68, 0), 16)
                    - turned([(max(q - 0.05, 0.05), v) for q, v in curve], 20)
                ),
                a.hoops_color,
            )
        )
    return parts
