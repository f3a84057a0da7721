"""Plants and animals; animals look towards +z."""

from __future__ import annotations

import math
from typing import Any

from omni123_hf.data.parametric.base import PartSpec, category, choice, color, count, flag, size
from omni123_hf.data.parametric.palette import BRIGHT, CERAMIC
from omni123_hf.data.parametric.primitives import (
    around,
    ball,
    both,
    box,
    cyl,
    outline,
    plate,
    rod,
    turned,
)


@category(
    "tree",
    "a large plant with a trunk and leaves",
    [
        choice("crown", "round cone-shaped cloud-shaped flat", "crown"),
        size("trunk", 0.5, 1.2, "short", "tall", "trunk"),
        size("thickness", 0.1, 0.2, "thin", "thick", "trunk"),
        size("crown_size", 0.5, 0.85, "small", "big", "crown"),
        count("layers", (1, 2, 3), "layers of leaves"),
        flag("fruits", p=0.35),
        flag("roots", p=0.4),
        color(("green", "yellow", "orange", "red", "pink")),
        color(("brown", "wooden", "gray"), "trunk"),
        color(("red", "orange", "purple", "yellow"), "fruits"),
    ],
)
def tree(a: Any) -> list[PartSpec]:
    h, r = a.trunk, a.crown_size
    parts: list[PartSpec] = []
    crown, top = [], h
    for i in range(a.layers):
        s = r * (1 - 0.22 * i)
        if a.crown == "round":
            crown.append(ball(s, 0, top + s * 0.6, 0, n=14))
            top += s * 1.0
        elif a.crown == "cone-shaped":
            crown.append(cyl(s, s * 1.4, 0, top - 0.05, n=14, top=0.03))
            top += s * 0.72
        elif a.crown == "cloud-shaped":
            crown += around(ball(s * 0.52, s * 0.5, top + s * 0.4, 0, n=10), 4, 20 + 45 * i) + [
                ball(s * 0.62, 0, top + s * 0.65, 0, n=12)
            ]
            top += s * 0.8
        else:
            crown.append(ball(1, 0, top + 0.16, 0, (s, 0.2, s), 14))
            top += 0.36
    trunk = [cyl(a.thickness, h + 0.25, n=12, top=a.thickness * 0.75)]
    if a.layers > 1:
        trunk.append(cyl(a.thickness * 0.75, top - h, 0, h, n=10))
    parts += [("trunk", trunk, a.trunk_color), ("crown", crown, a.color)]
    if a.fruits:
        if a.crown == "cone-shaped":
            fruits = around(ball(0.13, r * 0.72, h + 0.24, 0, n=8), 4, 35)
        elif a.crown == "flat":
            fruits = around(ball(0.13, r * 0.72, h + 0.06, 0, n=8), 4, 35)
        elif a.crown == "round":
            fruits = around(ball(0.13, r * 0.9, h + r * 0.75, 0, n=8), 4, 35)
        else:
            fruits = around(ball(0.13, r * 0.9, h + r * 0.5, 0, n=8), 4, 35)
        parts.append(("fruits", fruits, a.fruits_color))
    if a.roots:
        parts.append(
            ("roots", around(rod((0, 0.24, 0), (a.thickness + 0.24, 0.04, 0), 0.1, 0.06, 8), 4, 45), a.trunk_color)
        )
    return parts


@category(
    "palm tree",
    "a tropical plant with big leaves at the top",
    [
        count("leaves", (4, 5, 6), "leaves"),
        size("height", 1.1, 2.0, "short", "tall"),
        size("leaf_length", 0.6, 1.0, "short", "long", "leaves"),
        choice("trunk", "straight bent", "trunk"),
        count("coconuts", (0, 2, 3), "coconuts"),
        flag("island", "sand hill", 0.4),
        size("thickness", 0.09, 0.16, "thin", "thick", "trunk"),
        color(("green", "yellow", "orange"), "leaves"),
        color(("brown", "wooden", "gray"), "trunk"),
    ],
)
def palm_tree(a: Any) -> list[PartSpec]:
    h, r = a.height, a.thickness
    knee = (0.0, h * 0.5, 0.0)
    top = (0.36 if a.trunk == "bent" else 0.0, h, 0.0)
    trunk = [
        rod((0, 0, 0), knee, r * 1.2, r, 12),
        ball(r, *knee, n=10),
        rod(knee, top, r, r * 0.85, 12),
        ball(r * 1.3, *top, n=10),
    ]
    long = a.leaf_length
    shape = [(0.0, -0.1), (long * 0.5, -0.19), (long * 0.6, -0.17), (long * 0.6, 0.17), (long * 0.5, 0.19), (0.0, 0.1)]
    inner = plate(shape, 0.11, 0.0).rotate((0, 0, 20))
    bend = (long * 0.57 * math.cos(math.radians(20)), long * 0.57 * math.sin(math.radians(20)))
    outer = (
        plate([(0.0, -0.18), (long * 0.5, 0.0), (0.0, 0.18)], 0.11)
        .rotate((0, 0, -32))
        .translate((bend[0] - 0.03, bend[1], 0))
    )
    leaf = inner + outer
    parts: list[PartSpec] = [("trunk", trunk, a.trunk_color)]
    parts.append(("leaves", [p.translate((top[0], h, 0)) for p in around(leaf, a.leaves, 15)], a.leaves_color))
    if a.coconuts:
        parts.append(
            (
                "coconuts",
                [p.translate((top[0], h - 0.14, 0)) for p in around(ball(0.14, 0.17, 0, 0, n=10), a.coconuts, 40)],
                "brown" if a.trunk_color != "brown" else "wooden",
            )
        )
    if a.island:
        parts.append(("sand hill", ball(1, 0, 0, 0, (0.65, 0.3, 0.65), 16) ^ box(4, 4, 4, 0, -0.02), "beige"))
    return parts


@category(
    "cactus",
    "a desert plant that stores water",
    [
        choice("body", "column round", ""),
        count("arms", (0, 1, 2, 3), "arms"),
        size("height", 0.9, 1.7, "short", "tall"),
        size("thickness", 0.2, 0.32, "slim", "thick"),
        choice("flower", "flower none", "{} on top"),
        choice("pot", "round square none", "pot"),
        size("arm_length", 0.25, 0.55, "short", "long", "arms"),
        color(("green", "yellow", "gray")),
        color(CERAMIC + ("brown",), "pot"),
        color(("pink", "red", "yellow", "white"), "{} on top", "flower_color"),
    ],
)
def cactus(a: Any) -> list[PartSpec]:
    r, y = a.thickness, 0.0
    parts: list[PartSpec] = []
    if a.pot != "none":
        y = 0.36
        pot = cyl(0.34, 0.42, top=0.44, n=20) if a.pot == "round" else taper_pot()
        parts.append(("pot", pot, a.pot_color))
    if a.body == "column":
        h = a.height
        body = [cyl(r, h - r + 0.1, 0, y - 0.1, n=14), ball(r, 0, y + h - r, 0, n=14)]
        side, low = r, y + h * 0.38
    else:
        h = a.height * 0.8
        body = [ball(1, 0, y + h * 0.45, 0, (r * 1.9, h * 0.55, r * 1.9), 14)]
        side, low = r * 1.75, y + h * 0.4
    parts.insert(0, ("body", body, a.color))
    if a.arms:
        t, reach = 0.13, side + 0.24
        arm = [
            rod((0, low, 0), (reach, low, 0), t, n=10),
            ball(t, reach, low, 0, n=10),
            rod((reach, low, 0), (reach, low + a.arm_length, 0), t, n=10),
            ball(t, reach, low + a.arm_length, 0, n=10),
        ]
        arms = []
        for i, phase in enumerate((0, 180, 90)[: a.arms]):
            arms += [piece.rotate((0, -phase, 0)).translate((0, 0.16 * h * i, 0)) for piece in arm]
        parts.append(("arms", arms, a.color))
    if a.flower != "none":
        top = y + h
        parts.append(
            (
                "flower",
                [ball(0.15, 0, top + 0.06, 0, n=10), *around(ball(0.12, 0.16, top + 0.04, 0, n=8), 5)],
                a.flower_color,
            )
        )
    return parts


def taper_pot() -> Any:
    """Square flower pot, wider at the top."""
    return plate(outline("square", 0.62, 0.62), 0.42, 0, 1.25)


@category(
    "mushroom",
    "a fungus with a cap on a stem",
    [
        choice("cap", "domed flat pointed", "cap"),
        count("number", (1, 2, 3), "stems"),
        size("stem", 0.4, 0.95, "short", "tall", "stems"),
        size("thickness", 0.12, 0.22, "thin", "thick", "stems"),
        size("cap_width", 0.45, 0.75, "small", "wide", "cap"),
        count("spots", (0, 4, 6), "spots"),
        flag("skirt", "ring on the stem", 0.35),
        flag("mound", "grass mound", 0.35),
        color(("red", "brown", "orange", "purple", "yellow", "white"), "cap"),
        color(("white", "beige", "wooden"), "stems", "stem_color"),
    ],
)
def mushroom(a: Any) -> list[PartSpec]:
    stems, caps, dots = [], [], []
    places = [(0.0, 0.0, 1.0), (a.cap_width * 0.95, 0.12, 0.55), (-a.cap_width * 0.9, 0.2, 0.45)][: a.number]
    for x, z, s in places:
        h, r, w = a.stem * s, a.thickness * s, a.cap_width * s
        stems.append(cyl(r * 1.25, h + 0.08, x, 0, z, top=r, n=14))
        if a.cap == "domed":
            caps.append(ball(1, x, h, z, (w, w * 0.85, w), 18) ^ box(9, 9, 9, x, h - 0.02, z))
        elif a.cap == "flat":
            caps.append(
                turned([(w * 0.9, h - 0.02), (w, h + 0.08), (w * 0.85, h + 0.17), (w * 0.3, h + 0.22)], 20).translate(
                    (x, 0, z)
                )
            )
        else:
            caps.append(cyl(w, w * 1.35, x, h - 0.02, z, top=0.03, n=20))
    h, w = a.stem, a.cap_width
    if a.spots:
        at = {
            "domed": (0.72 * w, h + 0.85 * w * 0.66),
            "flat": (0.62 * w, h + 0.18),
            "pointed": (0.6 * w, h + 0.52 * w),
        }[a.cap]
        dots = around(ball(0.1, at[0], at[1], 0, n=8), a.spots, 20)
    base = "wide" if a.number > 1 else ""
    parts: list[PartSpec] = [("stem", stems, a.stem_color), ("cap", caps, a.cap_color)]
    if dots:
        parts.append(("spots", dots, "white" if a.cap_color != "white" else "red"))
    if a.skirt:
        parts.append(
            (
                "ring on the stem",
                cyl(a.thickness + 0.16, 0.11, 0, h * 0.58, top=a.thickness + 0.03, n=16),
                a.stem_color,
            )
        )
    if a.mound or base:
        r = w * 1.3 if base else w * 0.8
        rise = 0.24 if a.mound else 0.18
        parts.append(
            (
                "grass mound" if a.mound else "soil",
                cyl(r, rise, 0, -0.04, 0.06, top=r * 0.8, n=20),
                "green" if a.mound else "brown",
            )
        )
    return parts


@category(
    "potted plant",
    "a plant that decorates a room",
    [
        choice("pot", "round square rounded", "pot"),
        count("leaves", (4, 6, 8), "leaves"),
        choice("leaf_shape", "pointed round", "leaves"),
        size("leaf_length", 0.5, 0.95, "short", "long", "leaves"),
        size("pot_height", 0.35, 0.7, "low", "tall", "pot"),
        flag("saucer", p=0.4),
        choice("flower", "flower ball none", "{} in the middle"),
        color(CERAMIC + ("wooden", "brown"), "pot"),
        color(("red", "pink", "yellow", "white", "purple"), "{} in the middle", "flower_color"),
    ],
    ("house plant",),
)
def potted_plant(a: Any) -> list[PartSpec]:
    y, h = (0.1 if a.saucer else 0.0), a.pot_height
    if a.pot == "round":
        pot = cyl(0.3, h, 0, y, top=0.42, n=20)
    elif a.pot == "square":
        pot = plate(outline("square", 0.6, 0.6), h, y, 1.2)
    else:
        pot = turned([(0.26, y), (0.44, y + h * 0.3), (0.46, y + h * 0.6), (0.36, y + h)], 20)
    top = y + h
    parts: list[PartSpec] = [
        ("pot", pot, a.pot_color),
        ("soil", cyl(0.3, 0.14, 0, top - 0.06, n=14), "brown" if a.pot_color != "brown" else "black"),
    ]
    n, long = a.leaves, a.leaf_length
    if a.leaf_shape == "pointed":
        outline_ = [(0.0, -0.08), (long * 0.45, -0.17), (long, 0.0), (long * 0.45, 0.17), (0.0, 0.08)]
        leaf = plate(outline_, 0.1, -0.05)
    else:
        leaf = rod((0, 0, 0), (long * 0.6, 0, 0), 0.055, n=8) + ball(1, long * 0.75, 0, 0, (0.24, 0.08, 0.22), 12)
    leaves = [
        leaf.rotate((0, 0, 62 if i % 2 else 30)).rotate((0, 360 * i / n, 0)).translate((0, top + 0.02, 0))
        for i in range(n)
    ]
    parts.append(("leaves", leaves, "green"))
    if a.saucer:
        parts.append(("saucer", cyl(0.44, 0.15, top=0.52, n=20), a.pot_color))
    if a.flower != "none":
        stem = cyl(0.055, long * 0.95, 0, top, n=8)
        up = top + long * 0.95
        head = [ball(0.17, 0, up + 0.05, 0, n=12)]
        if a.flower == "flower":
            head += around(ball(0.15, 0.2, up, 0, n=8), 5)
        parts += [("stem", stem, "green"), ("flower", head, a.flower_color)]
    return parts


@category(
    "snowman",
    "a winter figure made of snow balls",
    [
        count("balls", (2, 3), "snow balls"),
        choice("hat", "tall round pointed none", "hat"),
        flag("arms", "stick arms", 0.6),
        count("buttons", (0, 2, 3), "buttons"),
        flag("scarf", p=0.5),
        flag("broom", p=0.3),
        size("belly", 0.45, 0.65, "slim", "fat"),
        size("nose", 0.18, 0.38, "short", "long", "nose"),
        color(BRIGHT + ("black",), "hat"),
        color(BRIGHT, "scarf"),
    ],
)
def snowman(a: Any) -> list[PartSpec]:
    radii = [a.belly, 0.4, 0.3] if a.balls == 3 else [a.belly, 0.34]
    y, heights = 0.0, []
    for i, r in enumerate(radii):
        y += r * 0.85 + (radii[i - 1] * 0.72 if i else 0.0)
        heights.append(y)
    body = [ball(r, 0, h, 0, n=16) for r, h in zip(radii, heights, strict=True)]
    r, hy = radii[-1], heights[-1]
    parts: list[PartSpec] = [
        ("snow balls", body, "white"),
        ("nose", rod((0, hy, r * 0.7), (0, hy - 0.02, r + a.nose), 0.09, 0.015, 10), "orange"),
    ]
    parts.append(("eyes", both(ball(0.07, 0.12, hy + 0.1, r * 0.86, n=8)), "black"))
    top = hy + r * 0.8
    if a.hat == "tall":
        parts.append(("hat", [cyl(r * 1.15, 0.1, 0, top, n=16), cyl(r * 0.75, 0.42, 0, top, n=16)], a.hat_color))
    elif a.hat == "round":
        parts.append(("hat", ball(r * 1.08, 0, top - 0.12, 0, n=16) ^ box(4, 4, 4, 0, top - 0.12), a.hat_color))
    elif a.hat == "pointed":
        parts.append(
            ("hat", [cyl(r * 0.95, 0.6, 0, top - 0.04, top=0.04, n=16), ball(0.1, 0, top + 0.55, 0, n=8)], a.hat_color)
        )
    chest_r, chest = (radii[1], heights[1]) if a.balls == 3 else (radii[0] * 0.9, heights[0] + 0.12)
    if a.arms:
        parts.append(
            (
                "stick arms",
                both(rod((chest_r * 0.7, chest, 0), (chest_r + 0.42, chest + 0.28, 0.05), 0.065, 0.05, 8)),
                "brown",
            )
        )
    if a.buttons:
        n = [(radii[0], heights[0], t) for t in (10, 38)] + [(radii[0], heights[0], -18)]
        spots_ = [
            ball(0.075, 0, h + q * math.sin(math.radians(t)), q * math.cos(math.radians(t)), n=8)
            for q, h, t in n[: a.buttons]
        ]
        parts.append(("buttons", spots_, "black"))
    if a.scarf:
        neck = hy - r * 0.78
        parts.append(
            (
                "scarf",
                [cyl(r * 0.92, 0.16, 0, neck - 0.04, n=16), box(0.15, 0.42, 0.13, 0.16, neck - 0.36, r * 0.92)],
                a.scarf_color,
            )
        )
    if a.broom:
        x = -radii[0] - 0.02
        broom = [cyl(0.06, 1.15, x, 0.0, 0.1, n=8), cyl(0.07, 0.36, x, 1.05, 0.1, top=0.17, n=10)]
        parts.append(("broom", broom, "wooden"))
    return parts
