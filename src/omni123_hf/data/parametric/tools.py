"""Tools, instruments and things to wear; long tools stand upright so that their front is seen."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, METALS, PAINT
from omni123_hf.data.parametric.primitives import (
    arc,
    ball,
    both,
    box,
    cyl,
    lathe,
    outline,
    plate,
    prism,
    rod,
)


HANDLES = ("wooden", "red", "blue", "yellow", "black", "green", "orange")


def disc(r: float, depth: float, x: float, y: float, z: float = 0.0, n: int = 20) -> Any:
    """Disc facing +z."""
    return rod((x, y, z - depth / 2), (x, y, z + depth / 2), r, n=n)


@category(
    "hammer",
    "a tool for driving nails",
    [
        choice("head", "square round", "head"),
        choice("back", "claw wedge flat", "{} on the back"),
        size("handle_length", 0.9, 1.6, "short", "long", "handle"),
        size("head_size", 0.2, 0.36, "small", "big", "head"),
        choice("handle", "round square", "handle"),
        flag("grip", "thick grip", 0.5),
        flag("knob", "end knob", 0.35),
        color(METALS + ("red",), "head"),
        color(HANDLES, "handle"),
        color(("black", "red", "blue"), "thick grip"),
    ],
)
def hammer(a: Any) -> list[PartSpec]:
    h, s = a.handle_length, a.head_size
    handle = cyl(0.075, h, n=14) if a.handle == "round" else box(0.14, h, 0.12)
    y = h - s * 0.5
    if a.head == "square":
        head = [box(0.4 + s, s, s, 0.1, y)]
    else:
        head = [
            rod((-0.2, y + s / 2, 0), (0.3 + s / 2, y + s / 2, 0), s / 2, n=16),
            rod((0.22, y + s / 2, 0), (0.36 + s / 2, y + s / 2, 0), s * 0.62, n=16),
        ]
    x = -0.1 - s / 2
    if a.back == "claw":
        claw = prism(
            [
                (x + 0.1, y),
                (x + 0.1, y + s),
                (x - 0.2, y + s * 0.85),
                (x - 0.5, y + s * 0.1),
                (x - 0.44, y - 0.06),
                (x - 0.18, y + s * 0.2),
            ],
            s * 0.95,
        )
        head.append(claw - prism([(x - 0.1, y - 1), (x - 0.1, y + 2), (x - 1, y + 2), (x - 1, y - 1)], s * 0.34))
    elif a.back == "wedge":
        head.append(
            prism([(x + 0.1, y), (x + 0.1, y + s), (x - 0.38, y + s * 0.4), (x - 0.38, y + s * 0.2)], s * 0.95)
        )
    else:
        head.append(box(0.16, s * 1.2, s * 1.2, x, y - s * 0.1))
    parts: list[PartSpec] = [("handle", handle, a.handle_color), ("head", head, a.head_color)]
    if a.grip:
        parts.append(("thick grip", cyl(0.12, h * 0.4, 0, 0.06, n=14), a.thick_grip_color))
    if a.knob:
        parts.append(("end knob", ball(0.15, 0, 0.04, 0, n=12), a.handle_color))
    return parts


@category(
    "spoon",
    "a tool for eating or serving soup",
    [
        choice("bowl", "round oval square", "bowl"),
        size("handle_length", 0.8, 1.5, "short", "long", "handle"),
        size("bowl_size", 0.42, 0.68, "small", "big", "bowl"),
        choice("end", "ring ball plain", "{} end"),
        size("thickness", 0.1, 0.17, "thin", "thick", "handle"),
        choice("handle", "straight widening", "handle"),
        flag("collar", p=0.35),
        color(("metal", "wooden", "golden", "white", "black")),
        color(HANDLES + METALS, "handle"),
    ],
)
def spoon(a: Any) -> list[PartSpec]:
    w = a.bowl_size
    h = w * (1.35 if a.bowl == "oval" else 1.0)
    if a.bowl == "square":
        body = box(w * 0.9, h * 0.9, 0.26, 0, h * 0.05) - box(
            w * 0.9 - 0.2, h * 0.9 - 0.2, 1, 0, h * 0.05 + 0.1, 0.39 + 0.13
        )
        body = body - box(w * 0.9 - 0.2, h * 0.9 - 0.2, 0.3, 0, h * 0.05 + 0.1, 0.13)
    else:
        outer = ball(1, 0, h / 2, 0.1, (w / 2, h / 2, 0.3), 20)
        body = (outer - ball(1, 0, h / 2, 0.13, (w / 2 - 0.09, h / 2 - 0.09, 0.2), 20)) ^ box(4, 4, 1, 0, -1, -0.4)
    t = a.thickness
    top = h - 0.06 + a.handle_length
    wide = 1.9 if a.handle == "widening" else 1.0
    stick = prism([(-t / 2, h - 0.06), (t / 2, h - 0.06), (t / 2 * wide, top), (-t / 2 * wide, top)], 0.11, -0.02)
    parts: list[PartSpec] = [("bowl", body, a.color), ("handle", stick, a.handle_color)]
    if a.end == "ring":
        parts.append(("ring end", arc(0.14, 0.06, 0, 360, (0, top + 0.1, -0.02), 18, 8), a.handle_color))
    elif a.end == "ball":
        parts.append(("ball end", ball(0.15, 0, top + 0.04, -0.02, n=12), a.handle_color))
    if a.collar:
        parts.append(("collar", box(t + 0.14, 0.16, 0.24, 0, h + 0.0, -0.02), a.color))
    return parts


@category(
    "screwdriver",
    "a tool for turning screws",
    [
        choice("handle", "round hexagonal square", "handle"),
        choice("tip", "flat pointed", "tip"),
        size("shaft", 0.5, 1.2, "short", "long", "shaft"),
        size("handle_width", 0.26, 0.42, "slim", "thick", "handle"),
        size("handle_length", 0.5, 0.85, "short", "long", "handle"),
        flag("collar", p=0.4),
        flag("cap", "round end cap", 0.4),
        color(HANDLES, "handle"),
        color(METALS, "shaft"),
    ],
)
def screwdriver(a: Any) -> list[PartSpec]:
    w, s = a.handle_width, a.shaft
    y = 0.16 + s
    shaft = [cyl(0.07, s + 0.1, 0, 0.14, n=12)]
    shaft.append(
        prism([(-0.09, 0), (0.09, 0), (0.06, 0.22), (-0.06, 0.22)], 0.1)
        if a.tip == "flat"
        else cyl(0.02, 0.2, top=0.07, n=12)
    )
    grip = plate(outline(a.handle, w, w, 16), a.handle_length, y)
    neck = cyl(w * 0.3, 0.2, 0, y - 0.1, top=w * 0.44, n=14)
    parts: list[PartSpec] = [("shaft", shaft, a.shaft_color), ("handle", [grip, neck], a.handle_color)]
    if a.collar:
        parts.append(("collar", cyl(w * 0.62, 0.1, 0, y - 0.02, n=16), a.shaft_color))
    if a.cap:
        parts.append(
            (
                "round end cap",
                ball(w * 0.5, 0, y + a.handle_length, 0, n=14),
                "black" if a.handle_color != "black" else "red",
            )
        )
    return parts


@category(
    "dumbbell",
    "a weight for training the arms",
    [
        choice("plates", "round hexagonal square", "plates"),
        count("number", (1, 2, 3), "plates on each side"),
        size("bar", 0.5, 1.0, "short", "long", "bar"),
        size("plate_size", 0.5, 0.9, "small", "big", "plates"),
        size("plate_width", 0.13, 0.24, "thin", "thick", "plates"),
        flag("grip", "thick grip", 0.45),
        flag("caps", "end caps", 0.45),
        color(PAINT, "plates"),
        color(METALS, "bar"),
    ],
)
def dumbbell(a: Any) -> list[PartSpec]:
    y, t = a.plate_size / 2, a.plate_width
    half = a.bar / 2
    plates, x = [], half + t / 2
    for i in range(a.number):
        side = a.plate_size * (1 - 0.18 * i)
        plate_ = plate(outline(a.plates, side, side, 20), t).rotate((0, 0, 90)).translate((x + t / 2, y, 0))
        plates += both(plate_)
        x += t * 0.98
    end = x - t / 2 + 0.1
    parts: list[PartSpec] = [
        ("bar", rod((-end, y, 0), (end, y, 0), 0.085, n=12), a.bar_color),
        ("plates", plates, a.plates_color),
    ]
    if a.grip:
        parts.append(
            (
                "thick grip",
                rod((-half * 0.6, y, 0), (half * 0.6, y, 0), 0.13, n=12),
                "black" if a.plates_color != "black" else "red",
            )
        )
    if a.caps:
        parts.append(("end caps", both(ball(0.15, end, y, 0, n=12)), a.bar_color))
    return parts


@category(
    "ring",
    "a piece of jewelry for a finger",
    [
        choice("gem", "round square pointed none", "{} gem", (0.3, 0.3, 0.25, 0.15)),
        size("gem_size", 0.22, 0.42, "small", "big", "gem setting"),
        size("band_width", 0.12, 0.36, "narrow", "wide", "band"),
        size("band_thickness", 0.1, 0.18, "thin", "thick", "band"),
        choice("band", "rounded flat", "band"),
        count("side_gems", (0, 2, 4), "side gems"),
        flag("second_band", "second band", 0.25),
        color(("golden", "metal", "black")),
        color(BRIGHT + ("white",), "{} gem", "gem_color"),
        color(BRIGHT + ("white",), "side gems"),
    ],
)
def ring(a: Any) -> list[PartSpec]:
    r, t, w = 0.6, a.band_thickness, a.band_width

    def band(z: float) -> Any:
        if a.band == "flat":
            body = disc(r + t / 2, w, 0, 0, z, 28) - disc(r - t / 2, 2, 0, 0, z, 28)
            return body
        return arc(r, t / 2 + 0.01, 0, 360, (0, 0, 0), 28, 10).scale((1, 1, w / t)).translate((0, 0, z))

    parts: list[PartSpec] = [("band", band(0), a.color)]
    top, g = r + t / 2, a.gem_size
    parts.append(("gem setting", cyl(g * 0.55, 0.17, 0, top - 0.1, top=g * 0.75, n=16), a.color))
    if a.gem == "round":
        parts.append(("gem", ball(g * 0.8, 0, top + g * 0.6, 0, n=14), a.gem_color))
    elif a.gem == "square":
        parts.append(("gem", box(g * 1.4, g * 1.1, g * 1.4, 0, top), a.gem_color))
    elif a.gem == "pointed":
        parts.append(
            (
                "gem",
                [cyl(g * 0.5, g * 0.5, 0, top, top=g, n=8), cyl(g, g * 0.8, 0, top + g * 0.49, top=0.02, n=8)],
                a.gem_color,
            )
        )
    if a.side_gems:
        angles = [42, -42, 72, -72][: a.side_gems]
        stones = [
            ball(0.13, (r + t / 2) * math.sin(math.radians(q)), (r + t / 2) * math.cos(math.radians(q)), 0, n=10)
            for q in angles
        ]
        parts.append(("side gems", stones, a.side_gems_color))
    if a.second_band:
        joint = box(0.2, 0.14, w + 0.3, 0, -r - 0.07, -w / 2 - 0.05)
        parts.append(("second band", [band(-w - 0.13), joint], a.color))
    return parts


@category(
    "hat",
    "clothing for the head",
    [
        choice("crown", "round flat pointed", "crown"),
        size("brim", 0.1, 0.42, "narrow", "wide", "brim"),
        size("height", 0.4, 0.95, "low", "tall"),
        choice("edge", "flat raised", "brim"),
        flag("band", "hat band", 0.55),
        choice("ornament", "feather star pompom none", "{} on it"),
        flag("dent", "dent in the crown", 0.3),
        color(PAINT + ("beige",)),
        color(BRIGHT + ("black",), "hat band"),
    ],
)
def hat(a: Any) -> list[PartSpec]:
    r, h, t = 0.48, a.height, 0.09
    edge = r + a.brim
    if a.edge == "flat":
        brim = cyl(edge, t, n=28)
    else:
        brim = lathe([(0, 0), (edge * 0.85, 0), (edge, 0.2), (edge - 0.06, 0.27), (edge * 0.85 - 0.05, t), (0, t)], 28)
    if a.crown == "round":
        crown = ball(1, 0, t * 0.5, 0, (r, h, r), 22) ^ box(4, 4, 4, 0, t * 0.5)
    elif a.crown == "flat":
        crown = cyl(r, h, 0, t * 0.5, top=r * 0.9, n=24)
    else:
        crown = cyl(r, h * 1.35, 0, t * 0.5, top=0.05, n=24)
    top = t * 0.5 + h * (1.35 if a.crown == "pointed" else 1.0)
    if a.dent:
        crown = crown - ball(1, 0, top + 0.02, 0, (0.13, 0.22, 0.6), 14)
    parts: list[PartSpec] = [("brim", brim, a.color), ("crown", crown, a.color)]
    shrink = {"round": 0.02, "flat": 0.0, "pointed": 0.1}[a.crown]
    if a.band:
        parts.append(("hat band", cyl(r + 0.05, 0.16, 0, t * 0.6, top=r + 0.05 - shrink, n=24), a.hat_band_color))
    if a.ornament == "feather":
        feather = (
            prism([(-0.07, 0), (0.07, 0), (0.14, 0.4), (0, 0.72), (-0.12, 0.4)], 0.11)
            .rotate((0, 0, -12))
            .translate((r * 0.72, t, r * 0.55))
        )
        parts.append(("feather", feather, "white" if a.color != "white" else "red"))
    elif a.ornament == "star":
        star = [
            (
                (0.19 if i % 2 == 0 else 0.09) * math.sin(i * math.pi / 5),
                0.24 + (0.19 if i % 2 == 0 else 0.09) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ]
        parts.append(("star", prism(star[::-1], 0.3, r * 0.85), "golden"))
    elif a.ornament == "pompom":
        parts.append(
            (
                "pompom",
                ball(0.16, 0, top - (0.16 if a.dent else 0.0), 0, n=12),
                "white" if a.color != "white" else "red",
            )
        )
    return parts


@category(
    "guitar",
    "a string instrument that is played by hand",
    [
        choice("body", "curved square pointed"),
        size("neck", 0.8, 1.3, "short", "long", "neck"),
        size("depth", 0.16, 0.34, "thin", "thick"),
        flag("hole", "round sound hole", 0.6),
        count("pegs", (2, 4, 6), "pegs"),
        choice("headstock", "square pointed", "headstock"),
        flag("guard", "pick guard", 0.4),
        size("width", 0.75, 1.05, "narrow", "wide"),
        color(PAINT + ("wooden",)),
        color(("brown", "black", "wooden", "white"), "neck"),
    ],
)
def guitar(a: Any) -> list[PartSpec]:
    d, w = a.depth, a.width
    if a.body == "curved":
        body = [
            disc(w / 2, d, 0, w / 2, 0, 24),
            disc(w * 0.38, d, 0, w * 1.08, 0, 24),
            box(w * 0.56, w * 0.6, d, 0, w * 0.5),
        ]
        top = w * 1.42
    elif a.body == "square":
        body = [box(w * 0.95, 1.2, d)]
        top = 1.2
    else:
        body = [prism([(-w / 2, 0), (0, 0.24), (w / 2, 0), (w * 0.3, 1.15), (0, 1.0), (-w * 0.3, 1.15)], d)]
        top = 1.02
    solid = body[0]
    for piece in body[1:]:
        solid = solid + piece
    hole_y = top * 0.6
    if a.hole:
        solid = solid - disc(0.15, 0.24, 0, hole_y, d / 2, 16)
    parts: list[PartSpec] = [("body", solid, a.color)]
    neck_low, neck_top = top * 0.72, top + a.neck - 0.1
    z = d / 2 + 0.02
    parts.append(("neck", box(0.15, neck_top - neck_low, 0.13, 0, neck_low, z), a.neck_color))
    if a.headstock == "square":
        head = box(0.26, 0.36, 0.12, 0, neck_top - 0.03, z)
    else:
        head = prism(
            [
                (-0.11, neck_top - 0.03),
                (0.11, neck_top - 0.03),
                (0.17, neck_top + 0.2),
                (0, neck_top + 0.42),
                (-0.17, neck_top + 0.2),
            ],
            0.12,
            z,
        )
    rows = a.pegs // 2
    pegs = [
        rod((-0.24, neck_top + 0.06 + 0.1 * i, z), (0.24, neck_top + 0.06 + 0.1 * i, z), 0.06, n=8)
        for i in range(rows)
    ]
    parts += [
        ("headstock", head, a.neck_color),
        ("pegs", pegs, "metal"),
        ("bridge", box(0.32, 0.1, 0.12, 0, top * 0.22, z), "black"),
    ]
    if a.hole:  # a dark floor makes the hole visible in renders
        parts.append(
            ("sound hole", disc(0.15, 0.1, 0, hole_y, d / 2 - 0.1, 16), "black" if a.color != "black" else "white")
        )
    if a.guard:
        parts.append(
            (
                "pick guard",
                box(0.17, 0.36, 0.1, w * 0.22, hole_y - 0.36, d / 2),
                "white" if a.color != "white" else "black",
            )
        )
    return parts


@category(
    "key",
    "a small tool that opens a lock",
    [
        choice("bow", "round square triangular", "bow"),
        count("teeth", (1, 2, 3, 4), "teeth"),
        size("shaft", 0.8, 1.4, "short", "long", "shaft"),
        size("bow_size", 0.5, 0.85, "small", "big", "bow"),
        size("thickness", 0.12, 0.22, "thin", "thick"),
        choice("hole", "round square none", "hole in the bow"),
        flag("collar", p=0.45),
        choice("profile", "round square", "shaft"),
        color(("golden", "metal", "black", "red", "blue", "brown")),
        color(("golden", "metal", "black", "red", "blue", "green"), "bow"),
    ],
)
def key(a: Any) -> list[PartSpec]:
    t, s, h = a.thickness, a.bow_size, a.shaft
    shaft = cyl(0.085, h + 0.12, n=12) if a.profile == "round" else box(0.16, h + 0.12, t)
    mid = h + s / 2
    if a.bow == "round":
        bow = disc(s / 2, t, 0, mid, 0, 22)
    elif a.bow == "square":
        bow = box(s, s, t, 0, h)
    else:
        bow = prism([(-0.1, h), (0.1, h), (s * 0.62, h + s), (-s * 0.62, h + s)], t)
        mid = h + s * 0.64
    if a.hole == "round":
        bow = bow - disc(s * 0.22, 1, 0, mid, 0, 16)
    elif a.hole == "square":
        bow = bow - box(s * 0.38, s * 0.38, 1, 0, mid - s * 0.19)
    teeth = [box(0.3 if i % 2 == 0 else 0.24, 0.11, max(t * 0.8, 0.11), 0.15, 0.04 + 0.17 * i) for i in range(a.teeth)]
    parts: list[PartSpec] = [("shaft", shaft, a.color), ("bow", bow, a.bow_color), ("teeth", teeth, a.color)]
    if a.collar:
        parts.append(("collar", cyl(0.16, 0.12, 0, h - 0.16, n=14), a.bow_color))
    return parts
