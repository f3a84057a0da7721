"""Tables and storage furniture. Lengths are roughly metres."""

from __future__ import annotations

from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, FURNITURE, METALS
from omni123_hf.data.parametric.primitives import (
    ball,
    box,
    cyl,
    leg,
    outline,
    plate,
    prism,
    spots,
    spread,
)


@category(
    "table",
    "a flat surface raised on legs for meals and games",
    [
        choice("shape", "round square rectangular oval hexagonal"),
        count("legs", (1, 3, 4, 6), weights=(0.18, 0.12, 0.55, 0.15)),
        choice("leg_shape", "round square tapered", "legs"),
        size("height", 0.4, 1.0, "low", "tall"),
        size("thickness", 0.06, 0.16, "thin", "thick", "top"),
        size("width", 0.9, 1.35, "narrow", "wide"),
        flag("shelf", "lower shelf", 0.3),
        color(FURNITURE),
        color(FURNITURE + METALS[:1], "legs"),
    ],
)
def table(a: Any) -> list[PartSpec]:
    stretch = 0.62 if a.shape in ("rectangular", "oval") else 1.0
    w, d = a.width, a.width * stretch
    under = a.height - a.thickness
    inset = 0.82 if a.shape in ("square", "rectangular") else 0.56
    places = spots(a.legs, w * inset, d * inset)
    girth = 0.085 if a.legs > 1 else 0.16
    legs = [leg(a.leg_shape, x, z, under + 0.02, girth) for x, z in places]
    if a.legs == 1:
        legs.append(plate(outline("square" if a.leg_shape == "square" else "round", w * 0.5, d * 0.5), 0.07))
    parts: list[PartSpec] = [
        ("top", plate(outline(a.shape, w, d), a.thickness, under), a.color),
        ("legs", legs, a.legs_color),
    ]
    if a.shelf:
        kind = "rectangular" if a.shape in ("square", "rectangular") else "oval"
        reach = 0.6 if a.legs == 1 else inset + 0.12 if kind == "rectangular" else inset * 1.5
        parts.append(("lower shelf", plate(outline(kind, w * reach, d * reach), 0.065, under * 0.32), a.color))
    return parts


@category(
    "desk",
    "a work table with storage where someone can write",
    [
        choice("side", "left right double", "{} drawer stack"),
        count("drawers", (1, 2, 3)),
        choice("leg_shape", "round square tapered", "legs"),
        size("width", 1.1, 1.7, "narrow", "wide"),
        size("height", 0.65, 0.95, "low", "tall"),
        size("thickness", 0.07, 0.14, "thin", "thick", "top"),
        flag("back_panel", "back panel", 0.4),
        flag("hutch", "raised shelf", 0.35),
        color(FURNITURE),
        color(FURNITURE, "drawers"),
    ],
)
def desk(a: Any) -> list[PartSpec]:
    w, d, under = a.width, 0.68, a.height - a.thickness
    sides = {"left": (-1,), "right": (1,), "double": (-1, 1)}[a.side]
    body, fronts, knobs, legs = [box(w, a.thickness, d, y=under)], [], [], []
    for s in (-1, 1):
        if s not in sides:
            legs += [leg(a.leg_shape, s * (w / 2 - 0.07), z, under + 0.02, 0.09) for z in (-0.27, 0.27)]
            continue
        x = s * (w / 2 - 0.2)
        body.append(box(0.36, under - 0.1, d - 0.1, x, 0.12))
        legs += [leg(a.leg_shape, x + dx, z, 0.14, 0.09) for dx in (-0.12, 0.12) for z in (-0.22, 0.22)]
        step = (under - 0.14) / a.drawers
        for i in range(a.drawers):
            fronts.append(box(0.31, step - 0.05, 0.08, x, 0.14 + i * step + 0.025, d / 2 - 0.05))
            knobs.append(ball(0.04, x, 0.14 + (i + 0.5) * step, d / 2, n=8))
    parts: list[PartSpec] = [("body", body, a.color), ("legs", legs, a.color), ("drawers", fronts, a.drawers_color)]
    parts.append(("knobs", knobs, "metal"))
    if a.back_panel:
        parts.append(("back panel", box(w - 0.1, under * 0.6, 0.07, y=under * 0.42, z=-d / 2 + 0.1), a.color))
    if a.hutch:
        posts = [box(0.08, 0.32, 0.24, s * (w / 2 - 0.06), a.height - 0.01, -d / 2 + 0.13) for s in (-1, 1)]
        parts.append(("raised shelf", [*posts, box(w, 0.08, 0.26, y=a.height + 0.3, z=-d / 2 + 0.13)], a.color))
    return parts


@category(
    "bookshelf",
    "an open rack with boards that holds books",
    [
        count("shelves", (2, 3, 4, 5)),
        count("columns", (1, 2)),
        size("height", 1.1, 2.0, "low", "tall"),
        size("width", 0.6, 1.2, "narrow", "wide"),
        flag("back_panel", "back panel", 0.6),
        flag("feet", p=0.4),
        flag("books", p=0.5),
        flag("crown", p=0.3),
        color(FURNITURE),
        color(BRIGHT, "books"),
    ],
    ("bookcase",),
)
def bookshelf(a: Any) -> list[PartSpec]:
    w, h, d, t = a.width, a.height, 0.38, 0.085
    base = 0.14 if a.feet else 0.0
    boards = [box(w, t, d, y=base + (h - base - t) * i / a.shelves) for i in range(a.shelves + 1)]
    walls = [box(t, h - base, d, x, base) for x in spread(a.columns + 1, w - t)]
    parts: list[PartSpec] = [("frame", boards + walls, a.color)]
    if a.back_panel:
        parts.append(("back panel", box(w, h - base, 0.075, y=base, z=-d / 2 + 0.037), a.color))
    if a.feet:
        parts.append(
            ("feet", [cyl(0.06, base + 0.02, x, 0, z, n=10) for x, z in spots(4, w - 0.14, d - 0.14)], a.color)
        )
    if a.books:
        gap, bay = (h - base - t) / a.shelves, (w - t) / a.columns
        books = []
        for i in range(a.shelves):
            for c in range(a.columns):
                x = -w / 2 + t / 2 + bay * (c + 0.5)
                side = 1 if (i + c) % 2 else -1
                books.append(
                    box(bay * 0.55, (gap - t) * 0.7 + 0.01, d * 0.7, x + side * bay * 0.2, base + i * gap + t - 0.01)
                )
        parts.append(("books", books, a.books_color))
    if a.crown:
        parts.append(("crown", box(w + 0.16, 0.1, d + 0.12, y=h - 0.02), a.color))
    return parts


@category(
    "cabinet",
    "a closed storage box with doors",
    [
        count("doors", (1, 2, 3)),
        choice("handles", "round long", "handles"),
        flag("legs", p=0.5),
        flag("drawer", "top drawer", 0.45),
        flag("overhang", "overhanging top", 0.5),
        size("height", 0.7, 1.7, "low", "tall"),
        size("width", 0.6, 1.3, "narrow", "wide"),
        color(FURNITURE),
        color(FURNITURE, "doors"),
    ],
    ("cupboard",),
)
def cabinet(a: Any) -> list[PartSpec]:
    w, h, d = a.width, a.height, 0.5
    base = 0.2 if a.legs else 0.0
    body_h = h - base
    drawer_h = 0.2 if a.drawer else 0.0
    step = (w - 0.06) / a.doors
    doors, knobs = [], []
    for i, x in enumerate(spread(a.doors, step * (a.doors - 1))):
        door_h = body_h - 0.1 - drawer_h
        doors.append(box(step - 0.06, door_h, 0.08, x, base + 0.05, d / 2 + 0.02))
        hx, hy = x + (step / 2 - 0.12) * (-1 if i % 2 else 1), base + 0.05 + door_h * 0.55
        if a.handles == "round":
            knobs.append(ball(0.05, hx, hy, d / 2 + 0.08, n=10))
        else:
            knobs.append(box(0.07, door_h * 0.4, 0.1, hx, hy - door_h * 0.2, d / 2 + 0.08))
    parts: list[PartSpec] = [("body", box(w, body_h, d, y=base), a.color), ("doors", doors, a.doors_color)]
    parts.append(("handles", knobs, "metal"))
    if a.legs:
        parts.append(
            ("legs", [leg("tapered", x, z, base + 0.02, 0.1) for x, z in spots(4, w - 0.14, d - 0.14)], a.color)
        )
    if a.drawer:
        front = box(w - 0.1, drawer_h - 0.03, 0.08, y=h - drawer_h - 0.02, z=d / 2 + 0.02)
        parts.append(
            ("top drawer", [front, ball(0.05, 0, h - drawer_h / 2 - 0.03, d / 2 + 0.08, n=10)], a.doors_color)
        )
    if a.overhang:
        parts.append(("overhanging top", box(w + 0.18, 0.09, d + 0.22, y=h - 0.02), a.color))
    return parts


@category(
    "bed",
    "a soft place to sleep at night",
    [
        choice("headboard", "low high curved none", "headboard"),
        count("pillows", (1, 2)),
        size("width", 0.9, 1.7, "narrow", "wide"),
        size("height", 0.3, 0.6, "low", "high"),
        flag("footboard", p=0.4),
        flag("posts", "corner posts", 0.3),
        flag("blanket", "folded blanket", 0.5),
        color(FURNITURE),
        color(("white", "beige", "blue", "pink", "gray"), "mattress"),
        color(BRIGHT, "folded blanket"),
    ],
)
def bed(a: Any) -> list[PartSpec]:
    w, length, h = a.width, 2.0, a.height
    back, front = -length / 2, length / 2
    frame = [
        box(w, 0.16, length, y=h - 0.16),
        *(leg("square", x, z, h - 0.1, 0.12) for x, z in spots(4, w - 0.14, length - 0.14)),
    ]
    parts: list[PartSpec] = [
        ("frame", frame, a.color),
        ("mattress", box(w - 0.1, 0.22, length - 0.1, y=h - 0.02), a.mattress_color),
    ]
    pillows = [
        ball(0.5, x, h + 0.24, back + 0.3, (0.9 * (w - 0.2) / a.pillows, 0.22, 0.42))
        for x in spread(a.pillows, (w - 0.1) * 0.5)
    ]
    parts.append(("pillows", pillows, "white" if a.mattress_color != "white" else "beige"))
    if a.headboard == "curved":
        curve = [
            (-w / 2, h - 0.1),
            (w / 2, h - 0.1),
            (w / 2, h + 0.4),
            (w * 0.3, h + 0.62),
            (0, h + 0.7),
            (-w * 0.3, h + 0.62),
            (-w / 2, h + 0.4),
        ]
        parts.append(("headboard", prism(curve, 0.12, back), a.color))
    elif a.headboard != "none":
        parts.append(("headboard", box(w, 0.45 if a.headboard == "low" else 0.9, 0.12, y=h - 0.1, z=back), a.color))
    if a.footboard:
        parts.append(("footboard", box(w, 0.46, 0.12, y=h - 0.14, z=front), a.color))
    if a.posts:
        posts = [box(0.12, 1.3, 0.12, x, 0, z) for x, z in spots(4, w, length)]
        parts.append(
            ("corner posts", [*posts, *(ball(0.11, x, 1.34, z, n=8) for x, z in spots(4, w, length))], a.color)
        )
    if a.blanket:
        parts.append(
            ("folded blanket", box(w + 0.04, 0.3, length * 0.38, y=h - 0.06, z=length * 0.25), a.folded_blanket_color)
        )
    return parts
