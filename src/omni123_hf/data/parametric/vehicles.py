"""Things that drive, fly or float. The nose points to +z; proportions are those of plump toys."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, PAINT
from omni123_hf.data.parametric.primitives import (
    around,
    ball,
    both,
    box,
    cyl,
    hull,
    plate,
    prism,
    rod,
    side_prism,
    spread,
    turned,
)


def axles(zs: list[float], r: float, x: float, width: float = 0.2) -> list[Any]:
    """Wheels of radius `r` in mirrored pairs at each z, centred at |x|."""
    return [piece for z in zs for piece in both(rod((x - width / 2, r, z), (x + width / 2, r, z), r, n=16))]


@category(
    "car",
    "a road vehicle for a few people",
    [
        choice("type", "sedan hatchback pickup convertible"),
        size("length", 2.0, 3.0, "short", "long"),
        size("roof", 0.32, 0.6, "low", "tall", "roof"),
        size("wheels", 0.22, 0.38, "small", "big", "wheels"),
        flag("roof_rack", "roof box", 0.3),
        flag("spoiler", "rear spoiler", 0.35),
        flag("bumpers", p=0.4),
        flag("lights", "round headlights", 0.5),
        color(PAINT),
        color(("black", "gray", "white"), "wheels"),
    ],
)
def car(a: Any) -> list[PartSpec]:
    w, half, r = 1.15, a.length / 2, a.wheels
    y0, deck = r * 0.7, r * 0.7 + 0.42
    body = side_prism([(-half, y0), (half, y0), (half, deck - 0.12), (half * 0.9, deck), (-half, deck)], w)
    back = {"sedan": -0.62, "hatchback": -0.96, "pickup": -0.1, "convertible": -0.5}[a.type]
    high = deck + a.roof
    parts: list[PartSpec] = [
        ("body", body, a.color),
        ("wheels", axles([-half * 0.6, half * 0.6], r, w / 2 - 0.02, 0.24), a.wheels_color),
    ]
    if a.type == "convertible":
        shield = side_prism(
            [(half * 0.3, deck - 0.05), (half * 0.42, deck - 0.05), (half * 0.28, high), (half * 0.16, high)], w - 0.12
        )
        seats = [box(0.38, a.roof * 0.7, 0.14, x, deck - 0.02, half * z) for x in (-0.26, 0.26) for z in (-0.1, -0.5)]
        parts += [("windshield", shield, "blue" if a.color != "blue" else "white"), ("seats", seats, "brown")]
    else:
        roof_back = back * half + (0.05 if a.type == "hatchback" else 0.22)
        cabin = side_prism(
            [(back * half, deck - 0.05), (half * 0.5, deck - 0.05), (half * 0.22, high), (roof_back, high)], w - 0.1
        )
        glass = side_prism(
            [
                (back * half + 0.12, deck + 0.02),
                (half * 0.43, deck + 0.02),
                (half * 0.2, high - 0.08),
                (roof_back + 0.05, high - 0.08),
            ],
            w - 0.02,
        )
        parts += [("cabin", cabin, a.color), ("windows", glass, "white" if a.color in ("black", "gray") else "black")]
    if a.type == "pickup":
        bed = [box(0.1, 0.28, half * 0.9, s * (w / 2 - 0.05), deck - 0.02, -half * 0.55) for s in (-1, 1)]
        parts.append(("bed", [*bed, box(w, 0.28, 0.1, 0, deck - 0.02, -half + 0.05)], a.color))
    if a.roof_rack:
        z = half * 0.05 if a.type != "convertible" else half * 0.05
        y = high if a.type != "convertible" else deck
        parts.append(("roof box", box(w * 0.6, 0.2, half * 0.5, 0, y - 0.02, z), "brown"))
    if a.spoiler:
        wing = [
            box(w, 0.1, 0.26, 0, deck + 0.32, -half + 0.12),
            *both(box(0.1, 0.36, 0.14, w * 0.36, deck - 0.02, -half + 0.12)),
        ]
        parts.append(("rear spoiler", wing, a.color))
    if a.bumpers:
        parts.append(("bumpers", [box(w + 0.14, 0.16, 0.22, 0, y0 + 0.04, s * half) for s in (-1, 1)], "metal"))
    if a.lights:
        parts.append(("round headlights", both(ball(0.13, w * 0.32, deck - 0.18, half - 0.02, n=12)), "yellow"))
    return parts


@category(
    "truck",
    "a heavy road vehicle that carries goods",
    [
        choice("cargo", "box tank flatbed dump", "{} load"),
        count("axles", (2, 3, 4), "axles"),
        choice("cab", "flat long", "cab"),
        size("length", 2.4, 3.6, "short", "long"),
        size("height", 0.8, 1.3, "low", "tall"),
        flag("stack", "exhaust pipes", 0.4),
        flag("bumper", "front bumper", 0.5),
        flag("horn", "roof lamps", 0.4),
        color(PAINT),
        color(PAINT + ("metal", "wooden"), "{} load", "cargo_color"),
    ],
    ("lorry",),
)
def truck(a: Any) -> list[PartSpec]:
    w, half, r, high = 1.1, a.length / 2, 0.3, a.height
    y = 0.36
    nose = 0.45 if a.cab == "long" else 0.0
    cab_z = half - nose - 0.4
    frame = box(w * 0.7, 0.2, a.length - 0.1, 0, y - 0.06)
    cab_h = high * 0.8 + 0.2
    cab = [
        side_prism(
            [
                (cab_z - 0.4, y),
                (cab_z + 0.4, y),
                (cab_z + 0.4, y + cab_h * 0.55),
                (cab_z + 0.28, y + cab_h),
                (cab_z - 0.4, y + cab_h),
            ],
            w,
        )
    ]
    if nose:
        cab.append(box(w * 0.8, cab_h * 0.5, nose + 0.1, 0, y, half - nose / 2 - 0.05))
    zs = [half - 0.45, *[-half + 0.4 + 0.66 * i for i in range(a.axles - 1)]]
    windows = box(w - 0.24, cab_h * 0.3, 0.2, 0, y + cab_h * 0.58, cab_z + 0.29)
    parts: list[PartSpec] = [
        ("frame", frame, "gray"),
        ("cab", cab, a.color),
        ("window", windows, "white" if a.color in ("black", "gray") else "black"),
        ("wheels", axles(zs, r, w / 2 - 0.06, 0.26), "black"),
    ]
    front = cab_z - 0.5
    length, mid = front + half, (front - half) / 2
    top = y + 0.1
    if a.cargo == "box":
        cargo = [box(w, high, length, 0, top, mid)]
    elif a.cargo == "tank":
        cargo = [
            rod((0, top + high * 0.42, -half), (0, top + high * 0.42, front), min(high * 0.45, 0.55), n=18),
            cyl(0.16, 0.16, 0, top + high * 0.42 + min(high * 0.45, 0.55) - 0.05, mid, n=12),
        ]
    elif a.cargo == "flatbed":
        cargo = [box(w, 0.14, length, 0, top, mid), box(w, high * 0.55, 0.12, 0, top, front - 0.06)]
    else:
        outer = side_prism(
            [
                (-half, top + 0.3),
                (-half + 0.3, top),
                (front, top),
                (front, top + high * 0.7),
                (-half, top + high * 0.7),
            ],
            w,
        )
        inner = side_prism(
            [
                (-half + 0.14, top + 0.4),
                (-half + 0.4, top + 0.14),
                (front - 0.12, top + 0.14),
                (front - 0.12, top + 3),
                (-half + 0.14, top + 3),
            ],
            w - 0.24,
        )
        cargo = [outer - inner]
    cargo.append(box(w * 0.4, 0.2, length * 0.7, 0, top - 0.1, mid))
    parts.append(("cargo", cargo, a.cargo_color))
    if a.stack:
        parts.append(("exhaust pipes", both(cyl(0.08, cab_h + 0.35, w / 2 + 0.02, y, cab_z - 0.36, n=10)), "metal"))
    if a.bumper:
        parts.append(("front bumper", box(w + 0.12, 0.24, 0.2, 0, y - 0.14, half + 0.02), "metal"))
    if a.horn:
        parts.append(
            ("roof lamps", [ball(0.13, x, y + cab_h + 0.03, cab_z + 0.05, n=10) for x in (-0.32, 0, 0.32)], "yellow")
        )
    return parts


@category(
    "bus",
    "a long road vehicle for many passengers",
    [
        count("decks", (1, 2), "decks"),
        count("windows", (3, 4, 5), "windows in a row"),
        size("length", 2.6, 3.8, "short", "long"),
        choice("front", "flat slanted round", "front"),
        count("axles", (2, 3), "axles"),
        flag("roof_box", "roof box", 0.35),
        flag("mirrors", p=0.4),
        flag("bumper", "front bumper", 0.4),
        color(PAINT),
        color(PAINT, "roof"),
    ],
)
def bus(a: Any) -> list[PartSpec]:
    w, half, r, y, deck = 1.0, a.length / 2, 0.26, 0.22, 0.78
    h = y + deck * a.decks + 0.12
    if a.front == "flat":
        side = [(-half, y), (half, y), (half, h), (-half, h)]
    elif a.front == "slanted":
        side = [(-half, y), (half, y), (half, y + 0.35), (half - 0.34, h), (-half, h)]
    else:
        side = [
            (-half, y),
            (half - 0.2, y),
            (half, y + 0.2),
            (half, h - 0.35),
            (half - 0.15, h - 0.1),
            (half - 0.35, h),
            (-half, h),
        ]
    parts: list[PartSpec] = [("body", side_prism(side, w), a.color)]
    parts.append(("roof", box(w - 0.14, 0.14, a.length - 0.75, 0, h - 0.03, -0.15), a.roof_color))
    zs = [half - 0.6, -half + 0.5] + ([-half + 1.06] if a.axles == 3 else [])
    parts.append(("wheels", axles(zs, r, w / 2 - 0.05, 0.24), "black"))
    step = (a.length - 0.7) / a.windows
    glass = []
    for level in range(a.decks):
        glass += [
            box(w + 0.1, 0.34, step - 0.16, 0, y + 0.36 + deck * level, z - 0.15)
            for z in spread(a.windows, step * (a.windows - 1))
        ]
        glass.append(
            box(w - 0.2, 0.36, 0.5, 0, y + 0.36 + deck * level, half - (0.21 if a.front != "slanted" else 0.31))
        )
    parts.append(("side windows", glass, "white" if a.color in ("black", "gray") else "black"))
    if a.roof_box:
        parts.append(("roof box", box(w * 0.6, 0.26, a.length * 0.25, 0, h + 0.08, -half * 0.3), a.roof_color))
    if a.mirrors:
        parts.append(("mirrors", both(box(0.3, 0.34, 0.12, w / 2 + 0.08, y + 0.4, half - 0.42)), "black"))
    if a.bumper:
        parts.append(("front bumper", box(w + 0.1, 0.18, 0.24, 0, y - 0.04, half), "metal"))
    return parts


@category(
    "airplane",
    "a flying vehicle with wings",
    [
        choice("wing_shape", "straight swept triangular", "wings"),
        size("span", 2.2, 3.4, "short", "wide", "wings"),
        count("engines", (0, 2, 4), "engines"),
        choice("tail", "low raised", "tail wings"),
        size("length", 2.2, 3.4, "short", "long"),
        choice("nose", "pointed round", "nose"),
        flag("propeller", p=0.4),
        flag("gear", "landing gear", 0.45),
        choice("mount", "high low", "wings"),
        color(PAINT),
        color(PAINT, "wings"),
    ],
    ("plane",),
)
def airplane(a: Any) -> list[PartSpec]:
    half, r, y = a.length / 2, 0.25, 0.75
    nose: list[tuple[float, float]]
    nose = [(0.0, 1.0)] if a.nose == "pointed" else [(r * 0.8, 0.72), (r * 0.45, 0.93), (0.0, 1.0)]
    start = 0.55 if a.nose == "pointed" else 0.45
    curve: list[tuple[float, float]] = [
        (0.09, -half),
        (r, -half * 0.35),
        (r, half * start),
        *[(x, half * t) for x, t in nose],
    ]
    fuselage = turned(curve, 16).rotate((90, 0, 0)).translate((0, y, 0))
    t, reach = 0.13, a.span / 2
    level = y + (0.12 if a.mount == "high" else -0.22)
    front, chord = 0.32, 0.62
    sweep, tip = {"straight": (0.0, 0.52), "swept": (0.75, 0.36), "triangular": (0.55, 0.18)}[a.wing_shape]
    root = 1.05 if a.wing_shape == "triangular" else chord
    wing = plate(
        [(-0.05, front), (reach, front - sweep), (reach, front - sweep - tip), (-0.05, front - root)], t, level
    )
    tail_z, tail_y = -half + 0.12, y + (0.55 if a.tail == "raised" else 0.02)
    fin = side_prism([(-half - 0.02, y), (-half + 0.6, y), (-half + 0.24, y + 0.68), (-half - 0.08, y + 0.68)], 0.13)
    stab = plate(
        [(-0.6, tail_z - 0.12), (0.6, tail_z - 0.12), (0.6, tail_z + 0.12), (0, tail_z + 0.3), (-0.6, tail_z + 0.12)],
        0.12,
        tail_y - 0.06,
    )
    window = ball(0.2, 0, y + 0.15, half * 0.42, (0.9, 0.9, 1.5), 12)
    parts: list[PartSpec] = [
        ("fuselage", fuselage, a.color),
        ("wings", both(wing), a.wings_color),
        ("tail", [fin, stab], a.wings_color),
        ("cockpit", window, "black" if a.color != "black" else "white"),
    ]
    if a.engines:
        places = [0.42, 0.72][: a.engines // 2]
        engines = []
        for p in places:
            z, ey = front - sweep * p - 0.12, level - 0.08
            engines += both(rod((reach * p, ey, z - 0.32), (reach * p, ey, z + 0.32), 0.14, 0.17, 12))
        parts.append(("engines", engines, "metal"))
    if a.propeller:
        blade = box(0.95, 0.14, 0.12, 0, -0.07).translate((0, y, half))
        parts.append(("propeller", [blade, rod((0, y, half - 0.3), (0, y, half + 0.14), 0.12, 0.07, 12)], "gray"))
    if a.gear:
        legs = [
            rod((x, y - 0.1, z), (x, 0.3, z), 0.07, n=8) for x, z in ((-0.14, 0.05), (0.14, 0.05), (0, half * 0.5))
        ]
        wheels = [
            rod((x - 0.08, 0.25, z), (x + 0.08, 0.25, z), 0.17, n=12)
            for x, z in ((-0.2, 0.05), (0.2, 0.05), (0, half * 0.5))
        ]
        parts += [("landing gear", legs + wheels, "black")]
    return parts


@category(
    "helicopter",
    "a flying vehicle with a spinning rotor",
    [
        count("blades", (2, 3, 4), "rotor blades"),
        choice("landing", "skids wheels", "{}"),
        size("tail_length", 0.9, 1.6, "short", "long", "tail"),
        size("cabin_width", 0.75, 1.15, "narrow", "wide", "cabin"),
        choice("tail_fin", "square round", "tail fin"),
        size("mast", 0.16, 0.42, "short", "tall", "mast"),
        flag("floats", "side tanks", 0.35),
        color(PAINT),
        color(("gray", "black", "white", "red"), "rotor blades"),
    ],
)
def helicopter(a: Any) -> list[PartSpec]:
    y, r = 0.75, 0.46
    cabin = ball(1, 0, y, 0.2, (a.cabin_width / 2, r, 0.72), 16)
    glass = ball(1, 0, y + 0.08, 0.36, (a.cabin_width / 2 * 0.9, r * 0.85, 0.66), 14)
    end = -0.3 - a.tail_length
    boom = rod((0, y + 0.12, -0.2), (0, y + 0.2, end), 0.18, 0.1, 12)
    fin = (
        box(0.13, 0.52, 0.3, 0, y + 0.08, end)
        if a.tail_fin == "square"
        else rod((-0.07, y + 0.24, end), (0.07, y + 0.24, end), 0.3, n=16)
    )
    top = y + r + a.mast
    blade = box(0.2, 0.14, 1.3, 0, top - 0.14, 0.62)
    parts: list[PartSpec] = [
        ("cabin", cabin, a.color),
        ("glass", glass, "black" if a.color != "black" else "white"),
        ("tail", [boom, fin, box(0.5, 0.1, 0.2, 0, y + 0.12, end + 0.32)], a.color),
        ("mast", cyl(0.11, r + a.mast - 0.1, 0, y + 0.1, n=12), "gray"),
        ("rotor blades", [*around(blade, a.blades, 25), cyl(0.17, 0.18, 0, top - 0.14, n=12)], a.rotor_blades_color),
    ]
    if a.landing == "skids":
        skid = [rod((0.42, 0.08, -0.5), (0.42, 0.08, 0.85), 0.075, n=8)]
        skid += [rod((0.42, 0.08, z), (0.1, y - 0.2, z), 0.07, n=8) for z in (-0.15, 0.5)]
        parts.append(("skids", [piece for solid in skid for piece in both(solid)], "gray"))
    else:
        wheels = both(rod((0.24, 0.2, -0.1), (0.44, 0.2, -0.1), 0.2, n=14)) + [
            rod((-0.08, 0.2, 0.62), (0.08, 0.2, 0.62), 0.2, n=14)
        ]
        struts = both(rod((0.3, 0.2, -0.1), (0.14, y - 0.15, 0.0), 0.08, n=8)) + [
            rod((0, 0.2, 0.62), (0, y - 0.1, 0.5), 0.08, n=8)
        ]
        parts.append(("wheels", wheels + struts, "black"))
    if a.floats:
        tank = rod((a.cabin_width / 2 + 0.12, y - 0.1, -0.2), (a.cabin_width / 2 + 0.12, y - 0.1, 0.55), 0.15, n=12)
        arm = box(0.4, 0.1, 0.2, a.cabin_width / 2 - 0.05, y - 0.15, 0.18)
        parts.append(("side tanks", [piece for solid in (tank, arm) for piece in both(solid)], "metal"))
    return parts


@category(
    "sailboat",
    "a boat that is moved by the wind",
    [
        count("sails", (1, 2), "sails"),
        choice("sail_shape", "triangular square", "sails"),
        size("hull_length", 1.6, 2.6, "short", "long", "hull"),
        size("hull_width", 0.6, 1.0, "narrow", "wide", "hull"),
        size("mast", 1.2, 2.2, "short", "tall", "mast"),
        flag("cabin", p=0.45),
        flag("keel", p=0.45),
        flag("flag", "flag on top", 0.4),
        color(PAINT + ("wooden",)),
        color(("white", "red", "yellow", "orange", "blue"), "sails"),
    ],
    ("boat",),
)
def sailboat(a: Any) -> list[PartSpec]:
    half, w, h = a.hull_length / 2, a.hull_width / 2, 0.42
    top = [
        (-w * 0.8, h, -half),
        (w * 0.8, h, -half),
        (w, h, 0),
        (-w, h, 0),
        (w * 0.6, h, half * 0.65),
        (-w * 0.6, h, half * 0.65),
        (0, h + 0.1, half),
    ]
    low: list[tuple[float, float, float]] = [
        (-w * 0.5, 0, -half * 0.85),
        (w * 0.5, 0, -half * 0.85),
        (w * 0.5, 0, 0),
        (-w * 0.5, 0, 0),
        (0, 0, half * 0.7),
    ]
    tip = h + a.mast
    mast_z = 0.12
    parts: list[PartSpec] = [
        ("hull", hull(top + low), a.color),
        (
            "deck",
            plate(
                [(-w * 0.7, -half * 0.9), (w * 0.7, -half * 0.9), (w * 0.85, 0), (0, half * 0.75), (-w * 0.85, 0)],
                0.1,
                h - 0.03,
            ),
            "wooden" if a.color != "wooden" else "white",
        ),
        ("mast", cyl(0.07, a.mast + 0.1, 0, h - 0.05, mast_z, n=10), "brown"),
    ]
    foot = h + 0.22
    t = 0.12
    if a.sail_shape == "triangular":
        sails = [side_prism([(mast_z - half * 0.95, foot), (mast_z + 0.02, foot), (mast_z + 0.02, tip - 0.04)], t)]
        if a.sails == 2:
            sails.append(side_prism([(mast_z - 0.02, foot), (half * 0.92, foot), (mast_z - 0.02, tip - 0.25)], t))
            sails.append(rod((0, h, half * 0.85), (0, foot + 0.05, half * 0.8), 0.06, n=8))
    else:
        tall = (a.mast - 0.34) / a.sails
        sails = [
            hull(
                [
                    (sx * s * 0.62, foot + i * tall + y, mast_z + 0.06 + sz * t / 2)
                    for sx in (-1, 1)
                    for y, s in ((0, 1), (tall - 0.1, 0.8))
                    for sz in (-1, 1)
                ]
            )
            for i in range(a.sails)
        ]
    parts.append(("sails", sails, a.sails_color))
    if a.cabin:
        parts.append(
            ("cabin", box(w, 0.3, half * 0.5, 0, h - 0.02, -half * 0.5), "white" if a.color != "white" else "red")
        )
    if a.keel:
        parts.append(
            (
                "keel",
                side_prism([(-half * 0.5, 0.1), (half * 0.3, 0.1), (half * 0.1, -0.35), (-half * 0.35, -0.35)], 0.12),
                a.color,
            )
        )
    if a.flag:
        parts.append(
            (
                "flag on top",
                [box(0.1, 0.24, 0.42, 0, tip - 0.02, mast_z - 0.2), cyl(0.06, 0.3, 0, tip - 0.05, mast_z, n=8)],
                "red" if a.sails_color != "red" else "yellow",
            )
        )
    return parts


@category(
    "locomotive",
    "a railway engine that pulls a train",
    [
        count("axles", (2, 3, 4), "axles"),
        size("chimney", 0.3, 0.7, "short", "tall", "chimney"),
        choice("chimney_shape", "straight flared", "chimney"),
        size("boiler", 1.1, 1.9, "short", "long", "boiler"),
        count("domes", (0, 1, 2), "domes"),
        choice("roof", "flat arched", "roof"),
        flag("plow", "front plow", 0.5),
        flag("lamp", "front lamp", 0.4),
        color(PAINT),
        color(BRIGHT + ("black",), "wheels"),
    ],
    ("train engine",),
)
def locomotive(a: Any) -> list[PartSpec]:
    w, length = 0.95, a.boiler + 0.9
    half, r, y = length / 2, 0.26, 0.3
    mid, br = y + 0.62, 0.42
    front, back = half, half - a.boiler
    zs = spread(a.axles, length - 0.7)
    cab_h = 1.25
    cab = box(w, cab_h, 0.82, 0, y, -half + 0.42)
    if a.roof == "flat":
        roof = box(w + 0.2, 0.13, 1.05, 0, y + cab_h - 0.02, -half + 0.42)
    else:
        curve = [
            ((w / 2 + 0.1) * math.cos(t), y + cab_h - 0.02 + 0.32 * math.sin(t))
            for t in [math.pi * i / 10 for i in range(11)]
        ]
        roof = prism(curve, 1.05, -half + 0.42)
    window = box(w + 0.1, 0.36, 0.4, 0, y + 0.72, -half + 0.42)
    top = mid + br
    stack = cyl(
        0.13, a.chimney + 0.1, 0, top - 0.1, front - 0.28, top=0.24 if a.chimney_shape == "flared" else None, n=14
    )
    parts: list[PartSpec] = [
        ("frame", box(w * 0.8, 0.2, length, 0, y - 0.04), "black"),
        (
            "boiler",
            [
                rod((0, mid, back - 0.1), (0, mid, front - 0.05), br, n=18),
                box(0.5, 0.5, a.boiler - 0.1, 0, y, (front + back) / 2),
            ],
            a.color,
        ),
        ("cab", cab, a.color),
        ("roof", roof, "black" if a.color != "black" else "red"),
        ("windows", window, "white" if a.color != "white" else "black"),
        ("chimney", stack, "black" if a.color != "black" else "metal"),
        ("wheels", axles(zs, r, w / 2 - 0.06, 0.18), a.wheels_color),
    ]
    if a.domes:
        parts.append(
            ("domes", [ball(0.2, 0, top, front - 0.62 - 0.46 * i, (1, 1.15, 1), 12) for i in range(a.domes)], "golden")
        )
    if a.plow:
        parts.append(
            (
                "front plow",
                hull(
                    [(sx * 0.5, 0.04, front - 0.05) for sx in (-1, 1)]
                    + [(sx * 0.45, y + 0.16, front - 0.05) for sx in (-1, 1)]
                    + [(0, 0.04, front + 0.42), (0, 0.14, front + 0.4)]
                ),
                "red",
            )
        )
    if a.lamp:
        parts.append(
            ("front lamp", rod((0, mid + 0.1, front - 0.1), (0, mid + 0.1, front + 0.13), 0.17, n=14), "yellow")
        )
    return parts


@category(
    "rocket",
    "a space vehicle that flies straight up",
    [
        choice("nose", "pointed round", "nose"),
        count("fins", (3, 4), "fins"),
        choice("fin_shape", "triangular swept", "fins"),
        count("boosters", (0, 2, 4), "boosters", (0.5, 0.25, 0.25)),
        count("windows", (0, 1, 2), "round windows"),
        size("height", 1.8, 3.0, "short", "tall"),
        choice("body", "straight bulging", "body"),
        flag("band", "raised band", 0.4),
        flag("antenna", p=0.3),
        color(PAINT + ("metal",)),
        color(BRIGHT, "fins"),
    ],
)
def rocket(a: Any) -> list[PartSpec]:
    r, h, y = 0.34, a.height, 0.3
    body_h = h - 0.7
    if a.body == "straight":
        curve = [(r, y), (r, y + body_h)]
    else:
        curve = [(r * 0.75, y), (r * 1.15, y + body_h * 0.3), (r * 1.25, y + body_h * 0.55), (r, y + body_h)]
    cone = (
        [(r, y + body_h - 0.01), (0.0, y + h)]
        if a.nose == "pointed"
        else [
            (r, y + body_h - 0.01),
            (r * 0.9, y + body_h + 0.22),
            (r * 0.6, y + body_h + 0.42),
            (0, y + body_h + 0.5),
        ]
    )
    tip = y + h if a.nose == "pointed" else y + body_h + 0.5
    if a.fin_shape == "triangular":
        outline = [(0.2, y), (0.85, y), (0.2, y + 0.85)]
    else:
        outline = [(0.2, y + 0.12), (0.72, -0.0), (0.84, 0.0), (0.76, y + 0.45), (0.2, y + 0.95)]
    parts: list[PartSpec] = [
        ("body", turned(curve, 20), a.color),
        ("nose", turned(cone, 20), a.fins_color),
        ("fins", around(prism(outline, 0.13), a.fins, 45), a.fins_color),
        ("nozzle", cyl(0.28, 0.36, 0, 0.05, top=0.16), "gray"),
    ]
    if a.boosters:
        booster = [
            cyl(0.15, body_h * 0.55, 0.42, y - 0.12, n=12),
            cyl(0.15, 0.28, 0.42, y - 0.13 + body_h * 0.55, top=0, n=12),
        ]
        parts.append(
            (
                "boosters",
                [piece for solid in booster for piece in around(solid, a.boosters)],
                "white" if a.color != "white" else "gray",
            )
        )
    if a.windows:
        reach = 0.0 if a.body == "straight" else 0.06
        glass = [
            rod((0, y + body_h * t, 0.1), (0, y + body_h * t, r + 0.07 + reach), 0.16, n=14)
            for t in (0.76, 0.5)[: a.windows]
        ]
        parts.append(("round windows", glass, "blue" if a.color != "blue" else "white"))
    if a.band:
        wide = r if a.body == "straight" else r * 1.17
        parts.append(("raised band", cyl(wide + 0.07, 0.16, 0, y + body_h * 0.28, n=20), a.fins_color))
    if a.antenna:
        parts.append(("antenna", [cyl(0.07, 0.5, 0, tip - 0.2, n=8), ball(0.12, 0, tip + 0.32, 0, n=10)], "metal"))
    return parts
