"""Things that hold something: cups, pots, bottles. Lengths are roughly decimetres; walls are thick on purpose."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, CERAMIC, METALS, PAINT
from omni123_hf.data.parametric.primitives import (
    Point2,
    arc,
    around,
    ball,
    both,
    box,
    cyl,
    hollow,
    lathe,
    outline,
    plate,
    prism,
    rod,
    turned,
)


def silhouette(kind: str, r: float, h: float, y: float = 0.0) -> list[Point2]:
    """Outer curve (radius, height) of a vessel body with widest radius `r`."""
    curves: dict[str, list[Point2]] = {
        "straight": [(1, 0), (1, 1)],
        "tapered": [(0.68, 0), (1, 1)],
        "rounded": [(0.6, 0), (0.88, 0.16), (1, 0.42), (0.96, 0.7), (0.84, 1)],
        "flared": [(0.6, 0), (0.52, 0.3), (0.6, 0.6), (0.78, 0.84), (1, 1)],
        "hourglass": [(1, 0), (0.72, 0.26), (0.56, 0.5), (0.72, 0.76), (1, 1)],
        "bulbous": [(0.5, 0), (0.88, 0.16), (1, 0.36), (0.86, 0.58), (0.5, 0.76), (0.4, 0.88), (0.52, 1)],
    }
    return [(r * x, y + h * t) for x, t in curves[kind]]


@category(
    "mug",
    "a cup for hot drinks such as tea or coffee",
    [
        choice("body", "straight tapered rounded"),
        choice("handle", "round square none", "handle", (0.5, 0.4, 0.1)),
        size("height", 0.75, 1.5, "short", "tall"),
        size("width", 0.75, 1.15, "narrow", "wide"),
        flag("saucer", p=0.35),
        flag("band", "painted band", 0.4),
        flag("foot", "raised foot", 0.35),
        color(CERAMIC),
        color(BRIGHT, "painted band"),
    ],
    ("cup",),
)
def mug(a: Any) -> list[PartSpec]:
    r, h = a.width / 2, a.height
    y = (0.08 if a.saucer else 0.0) + (0.1 if a.foot else 0.0)
    body = hollow(silhouette(a.body, r, h, y), 0.085, floor=0.12)
    parts: list[PartSpec] = [("body", body, a.color)]
    if a.handle != "none":
        rise = 0.3 * h if h < 1.1 else 0.33
        if a.handle == "round":
            handle = arc(rise, 0.07, -90, 90, (r * 0.88, y + h * 0.52, 0), 20)
        else:
            x0, x1, m = r * 0.84, r + 0.34, y + h * 0.52
            frame = [(x0, m - rise), (x1, m - rise), (x1, m + rise), (x0, m + rise)]
            inner = [
                (x0 - 1, m - rise + 0.13),
                (x1 - 0.13, m - rise + 0.13),
                (x1 - 0.13, m + rise - 0.13),
                (x0 - 1, m + rise - 0.13),
            ]
            handle = prism(frame, 0.16) - prism(inner, 1)
        inside = turned([(x - 0.05, t) for x, t in silhouette(a.body, r, h, y)])
        parts.append(("handle", handle - inside, a.color))
    if a.saucer:
        parts.append(
            (
                "saucer",
                lathe([(0, 0), (r * 1.05, 0), (r * 1.6, 0.12), (r * 1.6, 0.2), (r * 0.9, 0.1), (0, 0.1)]),
                a.color,
            )
        )
    if a.foot:
        parts.append(("raised foot", cyl(r * 0.62, 0.14, 0, y - 0.12), a.color))
    if a.band:
        tall = silhouette(a.body, r, h, y)
        outer = turned([(x + 0.04, t) for x, t in tall]) - turned([(x - 0.03, t) for x, t in tall])
        parts.append(("painted band", outer ^ box(4, 0.2 * h, 4, y=y + h * 0.62), a.painted_band_color))
    return parts


@category(
    "bottle",
    "a closed container with a narrow neck for liquids",
    [
        choice("shape", "round square"),
        choice("shoulder", "sloped rounded", "shoulders"),
        size("height", 1.6, 2.6, "short", "tall"),
        size("width", 0.6, 1.0, "slim", "wide"),
        size("neck", 0.25, 0.75, "short", "long", "neck"),
        choice("top", "cap cork none", "{} on top", (0.4, 0.35, 0.25)),
        flag("label", "paper label", 0.5),
        flag("handle", "side handle", 0.25),
        color(PAINT),
        color(("white", "beige", "yellow", "orange"), "paper label"),
    ],
)
def bottle(a: Any) -> list[PartSpec]:
    r, neck_r = a.width / 2, 0.15
    shoulder = 0.45
    body_h = a.height - a.neck - shoulder
    if a.shape == "round":
        base = cyl(r, body_h, n=24)
    else:
        base = box(2 * r, body_h, 2 * r)
    steps = 5
    if a.shoulder == "sloped":
        curve = [(r, 0.0), (neck_r, shoulder)]
    else:
        curve = [
            (neck_r + (r - neck_r) * math.cos(t), shoulder * math.sin(t))
            for t in (i * math.pi / 2 / steps for i in range(steps + 1))
        ]
    if a.shape == "round":
        top = turned([(x, body_h - 0.01 + t) for x, t in curve])
    else:
        pieces = []
        for (r0, y0), (r1, y1) in zip(curve, curve[1:], strict=False):
            pieces.append(plate(outline("square", 2 * r0, 2 * r0), y1 - y0 + 0.002, body_h - 0.002 + y0, r1 / r0))
        top = pieces[0] if len(pieces) == 1 else pieces[0] + pieces[1] + pieces[2] + pieces[3] + pieces[4]
    tip = body_h + shoulder + a.neck
    parts: list[PartSpec] = [
        (
            "body",
            [base, top, cyl(neck_r, a.neck + 0.1, 0, tip - a.neck - 0.1), cyl(neck_r + 0.05, 0.12, 0, tip - 0.18)],
            a.color,
        )
    ]
    if a.top == "cap":
        parts.append(("cap", cyl(neck_r + 0.1, 0.24, 0, tip - 0.08), "metal"))
    elif a.top == "cork":
        parts.append(("cork", cyl(neck_r - 0.03, 0.26, 0, tip - 0.02, top=neck_r + 0.03), "wooden"))
    if a.label:
        label = (
            cyl(r + 0.05, body_h * 0.5, 0, body_h * 0.25, n=24)
            if a.shape == "round"
            else box(2 * r + 0.09, body_h * 0.5, 2 * r + 0.09, 0, body_h * 0.25)
        )
        parts.append(("paper label", label, a.paper_label_color))
    if a.handle:
        parts.append(("side handle", arc(0.3, 0.07, -90, 90, (r * 0.85, body_h * 0.66, 0), 20), a.color))
    return parts


@category(
    "vase",
    "a decorative vessel for flowers",
    [
        choice("shape", "bulbous hourglass flared tapered rounded"),
        size("height", 1.1, 2.2, "short", "tall"),
        size("width", 0.75, 1.15, "slim", "wide"),
        count("handles", (0, 1, 2), weights=(0.5, 0.2, 0.3)),
        flag("foot", "wide foot", 0.4),
        flag("flowers", p=0.4),
        flag("ring", "raised ring", 0.4),
        color(CERAMIC),
        color(BRIGHT, "flowers"),
    ],
)
def vase(a: Any) -> list[PartSpec]:
    r, h, y = a.width / 2, a.height, 0.12 if a.foot else 0.0
    curve = silhouette(a.shape, r, h, y)
    parts: list[PartSpec] = [("body", hollow(curve, 0.13, floor=0.2), a.color)]
    inside = turned([(max(x - 0.08, 0.03), t) for x, t in curve])
    at = r * {"bulbous": 0.55, "hourglass": 0.6, "flared": 0.66, "tapered": 0.86, "rounded": 0.93}[a.shape]
    if a.handles:
        handle = arc(0.26, 0.07, -100, 100, (at, y + h * 0.72, 0), 20) - inside
        parts.append(("handles", both(handle) if a.handles == 2 else handle, a.color))
    if a.foot:
        parts.append(("wide foot", cyl(r * 0.95, 0.16, n=24), a.color))
    if a.flowers:
        stems, heads = [], []
        for i in range(3):
            t = 2 * math.pi * i / 3 + 0.4
            tip = (0.34 * math.cos(t), y + h + 0.42 + 0.12 * i, 0.34 * math.sin(t))
            stems.append(rod((0.02 * math.cos(t), y + 0.1, 0.02 * math.sin(t)), tip, 0.06, n=8))
            heads.append(ball(0.2, *tip, n=10))
        parts += [("stems", stems, "green"), ("flowers", heads, a.flowers_color)]
    if a.ring:
        wide = {"bulbous": 1.0, "hourglass": 0.72, "flared": 0.54, "tapered": 0.8, "rounded": 0.99}[a.shape]
        level = {"bulbous": 0.36, "hourglass": 0.26, "flared": 0.4}.get(a.shape, 0.38)
        ring = lathe(
            [
                (r * wide - 0.06, y + h * level - 0.07),
                (r * wide + 0.08, y + h * level - 0.07),
                (r * wide + 0.08, y + h * level + 0.07),
                (r * wide - 0.06, y + h * level + 0.07),
            ]
        )
        parts.append(("raised ring", ring, a.color))
    return parts


@category(
    "bowl",
    "an open round dish for soup or fruit",
    [
        choice("wall", "rounded straight flared", "walls"),
        size("depth", 0.4, 0.95, "shallow", "deep"),
        choice("foot", "ring legs none", "{} under it"),
        count("handles", (0, 2), weights=(0.65, 0.35)),
        flag("rim", "thick rim", 0.45),
        count("fruits", (0, 1, 3), "fruits", (0.55, 0.2, 0.25)),
        color(CERAMIC + ("wooden",)),
        color(("red", "orange", "yellow", "green"), "fruits"),
    ],
)
def bowl(a: Any) -> list[PartSpec]:
    h, y = a.depth, 0.14 if a.foot != "none" else 0.0
    curves: dict[str, list[Point2]] = {
        "rounded": [(0.45, 0), (0.72, 0.14), (0.9, 0.42), (0.98, 0.75), (1, 1)],
        "straight": [(0.82, 0), (0.9, 0.08), (0.92, 1)],
        "flared": [(0.42, 0), (0.52, 0.3), (0.72, 0.7), (1.02, 1)],
    }
    curve = [(x, y + t * h) for x, t in curves[a.wall]]
    parts: list[PartSpec] = [("body", hollow(curve, 0.12, 28), a.color)]
    if a.foot == "ring":
        parts.append(("foot", cyl(0.5, 0.18), a.color))
    elif a.foot == "legs":
        parts.append(("foot", around(ball(0.15, 0.36, 0.13, 0, n=10), 3, 90), a.color))
    edge = curve[-1][0]
    if a.handles:
        handle = arc(0.2, 0.07, 0, 180).rotate((90, 0, -90)).translate((edge - 0.06, y + h * 0.86, 0))
        inside = turned([(max(x - 0.07, 0.03), t) for x, t in curve])
        parts.append(("handles", both(handle - inside), a.color))
    if a.rim:
        parts.append(
            (
                "thick rim",
                lathe(
                    [
                        (edge - 0.1, y + h - 0.09),
                        (edge + 0.1, y + h - 0.09),
                        (edge + 0.1, y + h + 0.06),
                        (edge - 0.1, y + h + 0.06),
                    ],
                    28,
                ),
                a.color,
            )
        )
    if a.fruits:
        places = [(0.0, 0.0)] if a.fruits == 1 else [(0.0, 0.27), (0.24, -0.14), (-0.24, -0.14)]
        parts.append(("fruits", [ball(0.29, x, y + 0.36, z, n=14) for x, z in places], a.fruits_color))
    return parts


@category(
    "teapot",
    "a pot with a spout that pours tea",
    [
        choice("body", "round tall flat"),
        choice("spout", "curved straight", "spout"),
        choice("handle", "side top", "{} handle"),
        choice("knob", "round pointed", "knob on the lid"),
        count("feet", (0, 3, 4), weights=(0.5, 0.25, 0.25)),
        size("width", 0.9, 1.25, "slim", "wide"),
        flag("band", "raised band", 0.35),
        color(CERAMIC + ("metal",)),
        color(CERAMIC, "lid"),
    ],
)
def teapot(a: Any) -> list[PartSpec]:
    r = a.width / 2
    ry = {"round": 0.5, "tall": 0.68, "flat": 0.38}[a.body]
    y = 0.12 if a.feet else 0.0
    mid = y + ry
    body = ball(1.0, 0, mid, 0, (r, ry * 1.04, r), 20) ^ box(4, 2 * ry * 0.98, 4, 0, y + 0.01)
    if a.spout == "straight":
        spout = [rod((r * 0.7, mid - ry * 0.25, 0), (r + 0.42, mid + ry * 0.66, 0), 0.15, 0.085, 14)]
    else:
        bend = (r + 0.2, mid + 0.02, 0)
        spout = [
            rod((r * 0.7, mid - ry * 0.3, 0), bend, 0.15, 0.11, 14),
            ball(0.112, *bend, n=14),
            rod(bend, (r + 0.36, mid + ry * 0.85, 0), 0.11, 0.08, 14),
        ]
    parts: list[PartSpec] = [("body", body, a.color), ("spout", spout, a.color)]
    if a.handle == "side":
        parts.append(("handle", arc(min(0.32, ry * 0.66), 0.07, 90, 270, (-r * 0.76, mid + 0.02, 0), 20), a.color))
    else:
        parts.append(("handle", arc(r * 0.8, 0.065, 0, 180, (0, mid + ry * 0.5, 0), 24), a.color))
    top = mid + ry * 0.86
    knob = ball(0.11, 0, top + 0.2, 0, n=12) if a.knob == "round" else cyl(0.12, 0.3, 0, top + 0.1, top=0.02, n=12)
    parts.append(("lid", [cyl(r * 0.55, 0.16, 0, top - 0.03, top=r * 0.34), knob], a.lid_color))
    if a.feet:
        feet = around(ball(0.14, r * 0.42, y, 0, n=10), a.feet, 45)
        parts.append(("feet", feet, a.color))
    if a.band:
        parts.append(("raised band", cyl(r + 0.04, 0.12, 0, mid - 0.06, n=24), a.lid_color))
    return parts


@category(
    "wine glass",
    "a glass on a stem for drinking wine",
    [
        choice("shape", "rounded flared straight"),
        size("stem", 0.4, 1.0, "short", "long", "stem"),
        size("cup_height", 0.6, 1.1, "low", "tall", "cup"),
        size("width", 0.7, 1.05, "narrow", "wide"),
        choice("base", "round square", "base"),
        flag("knot", "ball on the stem", 0.4),
        flag("filled", "drink inside", 0.4),
        color(("white", "blue", "green", "pink", "golden", "metal", "purple")),
        color(("red", "yellow", "orange", "purple"), "drink inside"),
    ],
    ("goblet",),
)
def wine_glass(a: Any) -> list[PartSpec]:
    r, y = a.width / 2, 0.1 + a.stem
    base = cyl(0.36, 0.12, top=0.32) if a.base == "round" else box(0.62, 0.12, 0.62)
    curves: dict[str, list[Point2]] = {
        "rounded": [(0.3, 0), (0.8, 0.18), (1, 0.45), (0.95, 0.75), (0.84, 1)],
        "flared": [(0.22, 0), (0.45, 0.35), (0.7, 0.7), (1, 1)],
        "straight": [(0.5, 0), (0.92, 0.06), (0.95, 1)],
    }
    curve = [(r * x, y + a.cup_height * t) for x, t in curves[a.shape]]
    parts: list[PartSpec] = [
        ("base", base, a.color),
        ("stem", cyl(0.075, a.stem + 0.1, 0, 0.05, n=14), a.color),
        ("cup", hollow(curve, 0.11, floor=0.16), a.color),
    ]
    if a.knot:
        parts.append(("ball on the stem", ball(0.15, 0, 0.1 + a.stem * 0.5, 0, n=14), a.color))
    if a.filled:
        parts.append(
            (
                "drink inside",
                turned([(x - 0.03, t) for x, t in curve]) ^ box(4, a.cup_height * 0.62, 4, 0, y + 0.08),
                a.drink_inside_color,
            )
        )
    return parts


@category(
    "bucket",
    "an open pail for carrying water or sand",
    [
        choice("shape", "round square"),
        choice("handle", "raised lowered none", "handle", (0.5, 0.25, 0.25)),
        choice("wall", "straight tapered", "walls"),
        size("height", 0.7, 1.35, "low", "tall"),
        count("bands", (0, 1, 2), "bands"),
        flag("rim", "thick rim", 0.5),
        flag("filled", "sand inside", 0.3),
        color(PAINT + ("metal", "wooden")),
        color(METALS, "bands"),
    ],
    ("pail",),
)
def bucket(a: Any) -> list[PartSpec]:
    r, h = 0.55, a.height
    low = r * (0.72 if a.wall == "tapered" else 1.0)

    def shell(grow: float, y0: float, y1: float) -> Any:
        r0, r1 = low + (r - low) * y0 / h + grow, low + (r - low) * y1 / h + grow
        if a.shape == "round":
            return cyl(r0, y1 - y0, 0, y0, top=r1, n=24)
        return plate(outline("square", 1.8 * r0, 1.8 * r0), y1 - y0, y0, r1 / r0)

    parts: list[PartSpec] = [("body", shell(0, 0, h) - shell(-0.09, 0.1, h + 0.1), a.color)]
    if a.handle != "none":
        reach = r - 0.03 if a.shape == "round" else r * 0.9 - 0.03
        handle = arc(reach, 0.055, 0, 180, n=24)
        tilt = 0 if a.handle == "raised" else 78
        parts.append(("handle", handle.rotate((tilt, 0, 0)).translate((0, h - 0.07, 0)), a.bands_color))
    levels = {0: (), 1: (0.45,), 2: (0.2, 0.65)}[a.bands]
    if levels:
        parts.append(
            (
                "bands",
                [shell(0.05, h * t, h * t + 0.11) - shell(-0.05, h * t - 0.01, h * t + 0.13) for t in levels],
                a.bands_color,
            )
        )
    if a.rim:
        parts.append(("thick rim", shell(0.07, h - 0.11, h) - shell(-0.06, h - 0.2, h + 0.1), a.color))
    if a.filled:
        parts.append(("sand inside", shell(-0.06, 0.05, h * 0.8), "beige"))
    return parts


@category(
    "trophy",
    "a prize cup for the winner of a contest",
    [
        choice("base", "round square", "base"),
        count("steps", (1, 2, 3), "steps"),
        choice("cup", "rounded flared straight", "cup"),
        count("handles", (0, 2), weights=(0.35, 0.65)),
        choice("top", "ball star none", "{} on top"),
        size("stem", 0.2, 0.6, "short", "long", "stem"),
        size("cup_height", 0.6, 1.05, "low", "tall", "cup"),
        color(("golden", "metal", "red", "blue")),
        color(("black", "wooden", "brown", "white"), "base"),
    ],
)
def trophy(a: Any) -> list[PartSpec]:
    y, base = 0.0, []
    for i in range(a.steps):
        side = 0.95 - 0.17 * i
        base.append(box(side, 0.16, side, y=y) if a.base == "square" else cyl(side / 2, 0.16, 0, y))
        y += 0.15
    parts: list[PartSpec] = [
        ("base", base, a.base_color),
        ("stem", cyl(0.22, a.stem + 0.05, 0, y - 0.02, top=0.1), a.color),
    ]
    y += a.stem
    h = a.cup_height
    curves: dict[str, list[Point2]] = {
        "rounded": [(0.2, 0), (0.42, 0.15), (0.52, 0.5), (0.48, 1)],
        "flared": [(0.16, 0), (0.3, 0.3), (0.42, 0.7), (0.6, 1)],
        "straight": [(0.3, 0), (0.46, 0.1), (0.48, 1)],
    }
    curve = [(x, y + t * h) for x, t in curves[a.cup]]
    closed = a.top != "none"
    cup = turned(curve) if closed else hollow(curve, 0.09, floor=0.15)
    parts.append(("cup", cup, a.color))
    if a.handles:
        parts.append(
            (
                "handles",
                both(
                    arc(h * 0.28, 0.06, -90, 90, (0.42, y + h * 0.62, 0), 20)
                    - turned([(x - 0.05, t) for x, t in curve])
                ),
                a.color,
            )
        )
    top = y + h
    if a.top == "ball":
        parts.append(
            ("ball on top", [cyl(0.36, 0.12, 0, top - 0.02, top=0.14), ball(0.22, 0, top + 0.26, 0)], a.color)
        )
    elif a.top == "star":
        star = [
            (
                (0.34 if i % 2 == 0 else 0.15) * math.sin(i * math.pi / 5),
                top + 0.3 + (0.34 if i % 2 == 0 else 0.15) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ]
        parts.append(("star on top", [cyl(0.36, 0.12, 0, top - 0.02, top=0.14), prism(star[::-1], 0.14)], a.color))
    return parts
