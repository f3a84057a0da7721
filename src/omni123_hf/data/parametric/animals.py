"""Animals as plump toys; they look towards +z."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, PAINT
from omni123_hf.data.parametric.primitives import (
    ball,
    both,
    box,
    cyl,
    hull,
    plate,
    rod,
    side_prism,
    turned,
)


def eyes(color_name: str, r: float, x: float, y: float, z: float) -> PartSpec:
    """A pair of eyes in a colour that stands out from `color_name`."""
    return ("eyes", both(ball(r, x, y, z, n=8)), "white" if color_name == "black" else "black")


@category(
    "fish",
    "an animal that swims in the water",
    [
        choice("tail", "forked round triangular", "tail"),
        size("length", 1.2, 2.0, "short", "long"),
        size("height", 0.55, 1.0, "slim", "fat"),
        flag("top_fin", "top fin", 0.6),
        flag("belly_fin", "belly fin", 0.4),
        choice("side_fins", "round pointed none", "side fins"),
        size("tail_size", 0.4, 0.75, "small", "big", "tail"),
        choice("mouth", "open round", "mouth"),
        color(BRIGHT + ("white", "gray", "golden")),
        color(BRIGHT, "tail"),
    ],
)
def fish(a: Any) -> list[PartSpec]:
    half, ry, rx = a.length / 2, a.height / 2, 0.26
    mid = 0.5
    body = ball(1, 0, mid, 0, (rx, ry, half), 18)
    if a.mouth == "open":
        body = body - hull(
            [(sx, mid - 0.05, half * 0.72) for sx in (-1, 1)]
            + [(sx, mid - 0.05 + dy, half + 0.1) for sx in (-1, 1) for dy in (-0.16, 0.16)]
        )
        parts: list[PartSpec] = [("body", body, a.color)]
    else:
        parts = [("body", [body, rod((0, mid, half * 0.8), (0, mid, half + 0.12), 0.15, 0.13, 12)], a.color)]
    z, s = -half, a.tail_size
    if a.tail == "round":
        tail = rod((-0.065, mid, z - s * 0.25), (0.065, mid, z - s * 0.25), s * 0.55, n=18)
    elif a.tail == "triangular":
        tail = side_prism([(z + 0.2, mid), (z - s * 0.8, mid + s * 0.6), (z - s * 0.8, mid - s * 0.6)], 0.13)
    else:
        tail = side_prism(
            [(z + 0.25, mid), (z - s * 0.9, mid + s * 0.75), (z - s * 0.35, mid), (z - s * 0.9, mid - s * 0.75)], 0.13
        )
    parts.append(("tail", tail, a.tail_color))
    if a.top_fin:
        parts.append(
            (
                "top fin",
                side_prism(
                    [(half * 0.35, mid + ry * 0.75), (-half * 0.55, mid + ry * 0.6), (-half * 0.45, mid + ry + 0.3)],
                    0.13,
                ),
                a.tail_color,
            )
        )
    if a.belly_fin:
        parts.append(
            (
                "belly fin",
                side_prism(
                    [(half * 0.2, mid - ry * 0.8), (-half * 0.25, mid - ry - 0.26), (-half * 0.45, mid - ry * 0.7)],
                    0.13,
                ),
                a.tail_color,
            )
        )
    if a.side_fins == "round":
        parts.append(("side fins", both(ball(1, rx + 0.12, mid - 0.1, 0.05, (0.22, 0.08, 0.2), 12)), a.tail_color))
    elif a.side_fins == "pointed":
        parts.append(
            (
                "side fins",
                both(plate([(rx * 0.7, 0.2), (rx * 0.7, -0.1), (rx + 0.42, -0.3)], 0.12, mid - 0.14)),
                a.tail_color,
            )
        )
    parts.append(eyes(a.color, 0.1, rx * 0.72, mid + ry * 0.3, half * 0.55))
    return parts


@category(
    "bird",
    "an animal with wings and a beak",
    [
        choice("wings", "spread folded", "wings"),
        size("beak", 0.14, 0.45, "short", "long", "beak"),
        choice("tail", "square pointed", "tail"),
        size("legs", 0.25, 0.6, "short", "long", "legs"),
        size("belly", 0.34, 0.52, "slim", "fat"),
        flag("crest", "head crest", 0.4),
        flag("branch", p=0.35),
        size("neck", 0.05, 0.4, "short", "long", "neck"),
        color(PAINT),
        color(BRIGHT, "wings"),
        color(("orange", "yellow", "red", "black"), "beak"),
    ],
)
def bird(a: Any) -> list[PartSpec]:
    r, base = a.belly, a.legs + (0.1 if a.branch else 0.0)
    mid = base + r * 0.85
    head_y, head_z, hr = mid + r * 0.6 + a.neck + 0.14, r * 0.9, 0.26
    body = [
        ball(1, 0, mid, 0, (r, r * 0.92, r * 1.35), 16),
        rod((0, mid, r * 0.5), (0, head_y, head_z), 0.2, 0.17, 12),
    ]
    parts: list[PartSpec] = [("body", body, a.color), ("head", ball(hr, 0, head_y, head_z, n=14), a.color)]
    parts.append(
        (
            "beak",
            rod((0, head_y, head_z + 0.14), (0, head_y - 0.04, head_z + 0.24 + a.beak), 0.12, 0.02, 10),
            a.beak_color,
        )
    )
    if a.wings == "spread":
        wing = (
            plate([(r * 0.5, r * 0.55), (r + 0.75, 0.1), (r + 0.7, -0.3), (r * 0.5, -r * 0.75)], 0.12, 0)
            .rotate((0, 0, 14))
            .translate((0, mid, 0))
        )
    else:
        wing = ball(1, r * 0.92, mid + 0.04, -0.1, (0.11, r * 0.55, r * 1.1), 12)
    parts.append(("wings", both(wing), a.wings_color))
    back = -r * 1.1
    if a.tail == "square":
        tail = box(0.32, 0.12, 0.6, 0, -0.06, -0.2)
    else:
        tail = plate([(-0.2, 0.15), (0, -0.55), (0.2, 0.15)], 0.12, -0.06)
    parts.append(("tail", tail.rotate((14, 0, 0)).translate((0, mid + 0.02, back)), a.wings_color))
    legs = [rod((0.15, base - a.legs + 0.04, 0.05), (0.15, mid - r * 0.5, 0.05), 0.06, n=8)]
    if not a.branch:
        legs.append(box(0.18, 0.08, 0.32, 0.15, 0, 0.12))
    parts.append(("legs", [piece for solid in legs for piece in both(solid)], a.beak_color))
    if a.branch:
        parts.append(("branch", rod((-0.75, 0.08, 0.05), (0.75, 0.14, 0.05), 0.1, n=10), "brown"))
    if a.crest:
        parts.append(
            (
                "head crest",
                side_prism(
                    [
                        (head_z + 0.1, head_y + 0.18),
                        (head_z - 0.22, head_y + 0.1),
                        (head_z - 0.2, head_y + 0.46),
                        (head_z - 0.02, head_y + 0.3),
                    ],
                    0.13,
                ),
                a.wings_color,
            )
        )
    parts.append(eyes(a.color, 0.07, hr * 0.8, head_y + 0.08, head_z + hr * 0.5))
    return parts


@category(
    "dog",
    "an animal that likes to play with people",
    [
        choice("ears", "pointed hanging", "ears"),
        size("legs", 0.25, 0.65, "short", "long", "legs"),
        size("body", 0.7, 1.3, "short", "long", "body"),
        size("snout", 0.15, 0.42, "short", "long", "snout"),
        choice("tail", "raised hanging", "tail"),
        flag("collar", p=0.5),
        size("belly", 0.2, 0.34, "slim", "fat"),
        flag("hat", "party hat", 0.25),
        color(("brown", "black", "white", "gray", "beige", "orange")),
        color(BRIGHT, "collar"),
        color(("brown", "black", "white", "gray", "beige"), "ears"),
    ],
)
def dog(a: Any) -> list[PartSpec]:
    r, half, y = a.belly, a.body / 2, a.legs
    mid = y + r * 0.8
    body = [rod((0, mid, -half), (0, mid, half), r, n=14), ball(r, 0, mid, half, n=14), ball(r, 0, mid, -half, n=14)]
    head_y, head_z = mid + r + 0.2, half + 0.24
    head = [ball(0.28, 0, head_y, head_z, n=14), rod((0, mid, half - 0.05), (0, head_y, head_z), r * 0.75, 0.16, 12)]
    head.append(rod((0, head_y - 0.06, head_z + 0.1), (0, head_y - 0.09, head_z + 0.22 + a.snout), 0.16, 0.12, 12))
    parts: list[PartSpec] = [("body", body, a.color), ("head", head, a.color)]
    legs = [rod((s * r * 0.6, 0, z), (s * r * 0.6, mid, z), 0.095, n=10) for s in (-1, 1) for z in (-half, half)]
    parts.append(("legs", legs, a.color))
    parts.append(
        (
            "nose",
            ball(0.09, 0, head_y - 0.05, head_z + 0.24 + a.snout, n=8),
            "black" if a.color != "black" else "white",
        )
    )
    if a.ears == "pointed":
        ear = hull(
            [
                (0.06, head_y + 0.18, head_z),
                (0.26, head_y + 0.14, head_z + 0.06),
                (0.26, head_y + 0.14, head_z - 0.1),
                (0.2, head_y + 0.5, head_z - 0.04),
            ]
        )
    else:
        ear = box(0.12, 0.42, 0.22, 0.28, head_y - 0.22, head_z - 0.04)
    parts.append(("ears", both(ear), a.ears_color))
    tip = (0.0, mid + 0.5, -half - r - 0.22) if a.tail == "raised" else (0.0, mid - 0.2, -half - r - 0.32)
    parts.append(("tail", rod((0, mid + 0.06, -half - r * 0.6), tip, 0.09, 0.055, 10), a.color))
    if a.collar:
        middle, way = (0.0, (mid + head_y) / 2 + 0.02, half + 0.12), (0.0, head_y - mid, 0.29)
        q, p = (tuple(m + s * 0.2 * d for m, d in zip(middle, way, strict=True)) for s in (1, -1))
        parts.append(
            ("collar", rod((p[0], p[1], p[2]), (q[0], q[1], q[2]), max(0.26, r * 0.85), n=16), a.collar_color)
        )
    if a.hat:
        parts.append(("party hat", cyl(0.2, 0.46, 0, head_y + 0.2, head_z, top=0.03, n=14), "red"))
    parts.append(eyes(a.color, 0.065, 0.13, head_y + 0.1, head_z + 0.23))
    return parts


@category(
    "turtle",
    "a slow animal with a hard shell",
    [
        choice("shell", "round pointed flat", "shell"),
        size("neck", 0.15, 0.5, "short", "long", "neck"),
        size("legs", 0.15, 0.36, "short", "long", "legs"),
        size("width", 0.75, 1.15, "narrow", "wide"),
        flag("tail", p=0.6),
        count("bumps", (0, 4, 6), "bumps on the shell"),
        flag("rim", "shell rim", 0.5),
        color(("green", "yellow", "brown", "gray", "blue")),
        color(("brown", "green", "red", "purple", "orange", "blue"), "shell"),
    ],
)
def turtle(a: Any) -> list[PartSpec]:
    w, y = a.width / 2, a.legs
    long = 0.62
    high = {"round": 0.5, "flat": 0.3, "pointed": 0.62}[a.shell]
    if a.shell == "pointed":
        shell = turned([(1, 0), (0.9, 0.14), (0.08, high)], 14).scale((w, 1, long)).translate((0, y, 0))
    else:
        shell = ball(1, 0, y, 0, (w, high, long), 18) ^ box(4, 4, 4, 0, y)
    belly = cyl(0.94, 0.16, n=18).scale((w, 1, long)).translate((0, y - 0.1, 0))
    parts: list[PartSpec] = [("belly", belly, a.color), ("shell", shell, a.shell_color)]
    legs = [rod((s * w * 0.62, y, z * 0.5), (s * w * 0.85, 0, z * 0.66), 0.13, n=10) for s in (-1, 1) for z in (-1, 1)]
    parts.append(("legs", legs, a.color))
    tip = (0.0, y + 0.1 + a.neck * 0.5, long + a.neck * 0.8)
    parts.append(("head", [rod((0, y, long * 0.6), tip, 0.12, n=12), ball(0.2, *tip, (1, 0.95, 1.25), 14)], a.color))
    if a.tail:
        parts.append(("tail", rod((0, y, -long * 0.8), (0, y - 0.08, -long - 0.3), 0.11, 0.03, 10), a.color))
    if a.bumps:
        lift = y + (0.14 + (high - 0.14) * 0.46 if a.shell == "pointed" else high * 0.82)
        turns = [2 * math.pi * (i + 0.5) / a.bumps for i in range(a.bumps)]
        bumps = [ball(0.13, w * 0.53 * math.cos(t), lift, long * 0.53 * math.sin(t), n=8) for t in turns]
        parts.append(("bumps", bumps, a.color))
    if a.rim:
        rim = (cyl(1.1, 0.11, n=20) - cyl(0.8, 1, 0, -0.4, n=20)).scale((w, 1, long)).translate((0, y - 0.03, 0))
        parts.append(("shell rim", rim, a.shell_color))
    parts.append(eyes(a.color, 0.06, 0.14, tip[1] + 0.08, tip[2] + 0.14))
    return parts
