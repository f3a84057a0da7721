"""Things to sit on. Lengths are roughly metres; the sitter looks towards +z."""

from __future__ import annotations

from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, FURNITURE, METALS, PAINT
from omni123_hf.data.parametric.primitives import (
    around,
    ball,
    both,
    box,
    cyl,
    leg,
    outline,
    plate,
    prism,
    rod,
    spots,
    spread,
)


@category(
    "chair",
    "a seat with a backrest for one person",
    [
        choice("seat", "round square", "seat"),
        choice("back", "solid slatted curved", "backrest"),
        size("back_height", 0.3, 0.75, "low", "tall", "backrest"),
        flag("armrests", p=0.4),
        count("legs", (3, 4), weights=(0.2, 0.8)),
        choice("leg_shape", "round square tapered", "legs"),
        size("leg_length", 0.3, 0.6, "short", "long", "legs"),
        flag("cushion", "seat cushion", 0.35),
        color(FURNITURE),
        color(BRIGHT, "seat cushion"),
    ],
)
def chair(a: Any) -> list[PartSpec]:
    w, t, h = 0.56, 0.09, a.leg_length
    inset = w - 0.12 if a.seat == "square" else w * 0.62
    legs = [leg(a.leg_shape, x, z, h + 0.02, 0.075) for x, z in spots(a.legs, inset, inset)]
    top, bh, z = h + t, a.back_height, -w / 2 + 0.04
    if a.back == "solid":
        back = [box(w - 0.04, bh + 0.02, 0.075, y=top - 0.02, z=z)]
    elif a.back == "slatted":
        back = [box(0.08, bh, 0.075, x, top - 0.02, z) for x in spread(3, w - 0.12)]
        back.append(box(w - 0.04, 0.1, 0.08, y=top + bh - 0.1, z=z))
    else:
        curve = [(-w / 2 + 0.04, top - 0.02), (w / 2 - 0.04, top - 0.02), (w / 2 - 0.04, top + bh * 0.6)]
        curve += [
            (w * 0.3, top + bh * 0.88),
            (0, top + bh),
            (-w * 0.3, top + bh * 0.88),
            (-w / 2 + 0.04, top + bh * 0.6),
        ]
        back = [prism(curve, 0.075, z)]
    parts: list[PartSpec] = [
        ("legs", legs, a.color),
        ("seat", plate(outline(a.seat, w, w), t, h), a.color),
        ("backrest", back, a.color),
    ]
    if a.seat == "round":  # a round seat is narrow at the back: a block carries the backrest
        parts.append(("back rail", box(w - 0.04, t, 0.2, y=h, z=z + 0.06), a.color))
    if a.armrests:
        arm = [
            box(0.075, 0.07, w - 0.02, w / 2 - 0.01, top + 0.2, 0.0),
            box(0.075, 0.24, 0.075, w / 2 - 0.01, top - 0.02, w / 2 - 0.06),
        ]
        arm += [box(0.075, 0.27, 0.075, w / 2 - 0.03, top - 0.02, z)]
        if a.seat == "round":
            arm.append(box(0.14, 0.07, 0.075, w / 2 - 0.045, h + 0.02, w / 2 - 0.06).translate((0, 0, 0)))
            arm.append(box(0.12, 0.08, w - 0.06, w / 2 - 0.035, h + 0.005, 0.0))
        parts.append(("armrests", [piece for solid in arm for piece in both(solid)], a.color))
    if a.cushion:
        parts.append(
            ("seat cushion", plate(outline(a.seat, w * 0.8, w * 0.8), 0.09, top - 0.02, 0.9), a.seat_cushion_color)
        )
    return parts


@category(
    "stool",
    "a small seat with no backrest",
    [
        choice("shape", "round square"),
        count("legs", (3, 4, 5), weights=(0.3, 0.5, 0.2)),
        choice("leg_shape", "round square tapered", "legs"),
        choice("stance", "straight splayed", "legs"),
        size("height", 0.3, 0.85, "low", "tall"),
        size("thickness", 0.05, 0.14, "thin", "thick", "seat"),
        flag("ring", "foot ring", 0.4),
        flag("cushion", "round cushion", 0.3),
        color(FURNITURE),
        color(FURNITURE + METALS[:1], "legs"),
        color(BRIGHT, "round cushion"),
    ],
)
def stool(a: Any) -> list[PartSpec]:
    w, under = 0.44, a.height - a.thickness
    reach = w * (0.66 if a.shape == "round" or a.legs == 5 else 0.74)
    out = 1.45 if a.stance == "splayed" else 1.0
    places = spots(a.legs, reach, reach)
    legs = [leg(a.leg_shape, x, z, under + 0.02, 0.07, foot=(x * out, z * out)) for x, z in places]
    parts: list[PartSpec] = [
        ("seat", plate(outline(a.shape, w, w), a.thickness, under), a.color),
        ("legs", legs, a.legs_color),
    ]
    if a.ring:
        y = under * 0.35
        grow = 1 + (out - 1) * (1 - 0.35)
        low = [(x * grow, y, z * grow) for x, z in places]
        if a.legs == 4:
            low = [low[0], low[1], low[3], low[2]]
        parts.append(
            ("foot ring", [rod(p, q, 0.03, n=8) for p, q in zip(low, low[1:] + low[:1], strict=True)], a.legs_color)
        )
    if a.cushion:
        parts.append(("round cushion", cyl(w * 0.42, 0.08, 0, a.height - 0.01, 0, w * 0.36), a.round_cushion_color))
    return parts


@category(
    "bench",
    "a long seat for several people in a park",
    [
        choice("seat", "solid slatted", "seat"),
        choice("supports", "legs panels", "{}"),
        size("length", 1.0, 1.9, "short", "long"),
        size("height", 0.35, 0.6, "low", "tall"),
        flag("back", "backrest", 0.5),
        flag("armrests", p=0.4),
        flag("middle_support", "middle support", 0.35),
        color(FURNITURE),
        color(METALS + ("gray",), "base"),
    ],
)
def bench(a: Any) -> list[PartSpec]:
    w, h, d, t = a.length, a.height, 0.5, 0.1
    if a.seat == "solid":
        seat = [box(w, t, d, y=h - t)]
    else:
        seat = [box(w, t, 0.12, y=h - t, z=z) for z in spread(3, d - 0.12)]
        seat += [box(0.1, t * 0.8, d, x, h - t) for x in spread(2, w - 0.3)]
    base = []
    for x in spread(3 if a.middle_support else 2, w - 0.3):
        if a.supports == "panels":
            base.append(box(0.11, h - t + 0.02, d - 0.06, x))
        else:
            base += [leg("square", x, z, h - t + 0.02, 0.1) for z in (-d / 2 + 0.08, d / 2 - 0.08)]
            base.append(box(0.1, 0.09, d, x, h - t - 0.07))
    parts: list[PartSpec] = [("seat", seat, a.color), ("base", base, a.base_color)]
    if a.back:
        posts = [box(0.1, 0.52, 0.09, x, h - t, -d / 2 + 0.05) for x in spread(2, w - 0.3)]
        rows = [
            box(w, 0.14, 0.09, y=h + y, z=-d / 2 + 0.05)
            for y in ((0.1, 0.3) if a.seat == "slatted" else (0.06, 0.2, 0.3))
        ]
        parts.append(("backrest", posts + rows, a.color))
    if a.armrests:
        arm = [box(0.1, 0.26, 0.1, w / 2 - 0.05, h - t, z) for z in (-d / 2 + 0.06, d / 2 - 0.06)]
        arm.append(box(0.1, 0.09, d, w / 2 - 0.05, h + 0.13))
        parts.append(("armrests", [piece for solid in arm for piece in both(solid)], a.base_color))
    return parts


@category(
    "sofa",
    "a wide padded seat for a living room",
    [
        count("seats", (1, 2, 3)),
        choice("arms", "square round", "armrests"),
        size("back_height", 0.3, 0.65, "low", "tall", "backrest"),
        size("depth", 0.75, 1.1, "narrow", "deep"),
        flag("feet", p=0.5),
        count("pillows", (0, 1, 2), weights=(0.4, 0.3, 0.3)),
        flag("chaise", "footrest", 0.25),
        color(PAINT + ("beige",)),
        color(BRIGHT, "pillows"),
    ],
    ("couch",),
)
def sofa(a: Any) -> list[PartSpec]:
    seat_w, d = 0.62, a.depth
    w = seat_w * a.seats
    base = 0.14 if a.feet else 0.0
    top = base + 0.42
    body = [box(w + 0.4, 0.28, d, y=base), box(w + 0.4, 0.42 + a.back_height, 0.22, y=base, z=-d / 2 + 0.11)]
    cushions = [box(seat_w - 0.04, 0.18, d - 0.2, x, top - 0.18, 0.11) for x in spread(a.seats, w - seat_w)]
    x = w / 2 + 0.1
    if a.arms == "square":
        arms = both(box(0.2, 0.66, d, x, base))
    else:
        arms = both(box(0.18, 0.56, d, x, base)) + both(
            cyl(0.15, d, n=16).rotate((90, 0, 0)).translate((x, base + 0.58, -d / 2))
        )
    parts: list[PartSpec] = [("body", body, a.color), ("seats", cushions, a.color), ("armrests", arms, a.color)]
    if a.feet:
        parts.append(
            ("feet", [cyl(0.06, base + 0.02, fx, 0, fz, n=10) for fx, fz in spots(4, w + 0.24, d - 0.16)], "wooden")
        )
    if a.pillows:
        pillow = box(0.36, 0.34, 0.14).rotate((-18, 0, 0))
        px = spread(2, max(w - 0.4, 0.24))[: a.pillows]
        parts.append(("pillows", [pillow.translate((x0, top - 0.05, -d / 2 + 0.3)) for x0 in px], a.pillows_color))
    if a.chaise:
        parts.append(("footrest", box(seat_w, 0.4, 0.5, w / 2 - seat_w / 2, base, d / 2 + 0.23), a.color))
    return parts


@category(
    "office chair",
    "a swivel seat on a star shaped base",
    [
        choice("back", "solid round", "backrest"),
        size("back_height", 0.35, 0.75, "low", "tall", "backrest"),
        size("column", 0.18, 0.4, "short", "long", "column"),
        count("spokes", (3, 4, 5), "feet"),
        flag("wheels", p=0.6),
        flag("armrests", p=0.5),
        flag("headrest", p=0.35),
        color(PAINT),
        color(METALS, "base"),
    ],
)
def office_chair(a: Any) -> list[PartSpec]:
    low = 0.1 if a.wheels else 0.0
    seat_y = low + 0.08 + a.column
    spoke = box(0.09, 0.09, 0.36, 0, low, 0.17)
    base = [*around(spoke, a.spokes), cyl(0.06, a.column + 0.12, 0, low, n=12), cyl(0.1, 0.12, 0, low, n=12)]
    parts: list[PartSpec] = [("base", base, a.base_color)]
    if a.wheels:
        parts.append(("wheels", around(ball(0.075, 0, 0.065, 0.32, n=10), a.spokes), "black"))
    parts.append(("seat", plate(outline("octagonal", 0.6, 0.58), 0.12, seat_y), a.color))
    top, z, bh = seat_y + 0.12, -0.27, a.back_height
    back = [box(0.12, 0.24, 0.08, y=seat_y, z=z)]
    if a.back == "solid":
        back.append(box(0.5, bh, 0.09, y=top + 0.06, z=z))
    else:
        back.append(ball(0.5, 0, top + 0.04 + bh / 2, z, (0.54, bh, 0.12)))
    parts.append(("backrest", back, a.color))
    if a.headrest:
        y = top + bh
        parts.append(
            ("headrest", [box(0.09, 0.2, 0.08, y=y - 0.06, z=z), box(0.3, 0.15, 0.1, y=y + 0.1, z=z)], a.color)
        )
    if a.armrests:
        arm = [
            box(0.07, 0.26, 0.08, 0.31, top - 0.1, -0.02),
            box(0.08, 0.07, 0.32, 0.31, top + 0.14, 0.02),
            box(0.12, 0.07, 0.08, 0.27, top - 0.1, -0.02),
        ]
        parts.append(("armrests", [piece for solid in arm for piece in both(solid)], a.base_color))
    return parts
