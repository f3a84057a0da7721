"""A small domain that no shipped checkpoint has seen: gears, stars, block letters, spirals and stairs, as closed solids with captions."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import trimesh
from shapely import affinity
from shapely.geometry import Point, Polygon, box
from shapely.ops import unary_union


WORDS = {
    2: "two",
    3: "three",
    4: "four",
    5: "five",
    6: "six",
    7: "seven",
    8: "eight",
    9: "nine",
    10: "ten",
    12: "twelve",
}
COLORS = {
    "red": (200, 40, 40),
    "blue": (50, 80, 190),
    "green": (50, 150, 70),
    "yellow": (230, 200, 50),
    "grey": (140, 140, 140),
}


def solid(outline, thickness):
    mesh = trimesh.creation.extrude_polygon(outline, thickness)
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    return mesh


def gear(rng):
    teeth = int(rng.choice([6, 8, 10, 12]))
    thickness = float(rng.choice([0.3, 0.7]))
    hole = str(rng.choice(["round", "square"]))
    body = Point(0, 0).buffer(0.78, 32)
    tooth = box(-0.11 * 8 / teeth - 0.04, 0.6, 0.11 * 8 / teeth + 0.04, 1.0)
    shape = unary_union([body] + [affinity.rotate(tooth, 360 * k / teeth, origin=(0, 0)) for k in range(teeth)])
    shape = shape.difference(Point(0, 0).buffer(0.3, 16) if hole == "round" else box(-0.28, -0.28, 0.28, 0.28))
    size = "thick" if thickness > 0.5 else "thin"
    return (
        solid(shape, thickness),
        "gear",
        f"{size} gear",
        f"a {size} gear with {WORDS[teeth]} teeth and a {hole} hole",
    )


def star(rng):
    points = int(rng.choice([4, 5, 6, 8]))
    inner = float(rng.choice([0.4, 0.65]))
    thickness = float(rng.choice([0.3, 0.6]))
    angle = np.arange(2 * points) * np.pi / points + np.pi / 2
    radius = np.where(np.arange(2 * points) % 2, inner, 1.0)
    outline = Polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))
    kind = "sharp" if inner < 0.5 else "blunt"
    size = "thick" if thickness > 0.5 else "thin"
    return solid(outline, thickness), "star", f"{kind} star", f"a {size} star with {WORDS[points]} {kind} points"


LETTERS = {
    "E": [(-0.6, -1, -0.2, 1), (-0.6, 0.62, 0.6, 1), (-0.6, -0.19, 0.5, 0.19), (-0.6, -1, 0.6, -0.62)],
    "F": [(-0.6, -1, -0.2, 1), (-0.6, 0.62, 0.6, 1), (-0.6, -0.1, 0.45, 0.28)],
    "H": [(-0.7, -1, -0.3, 1), (0.3, -1, 0.7, 1), (-0.7, -0.2, 0.7, 0.2)],
    "L": [(-0.6, -1, -0.2, 1), (-0.6, -1, 0.6, -0.6)],
    "T": [(-0.2, -1, 0.2, 1), (-0.75, 0.6, 0.75, 1)],
    "U": [(-0.7, -1, -0.3, 1), (0.3, -1, 0.7, 1), (-0.7, -1, 0.7, -0.6)],
    "I": [(-0.2, -1, 0.2, 1), (-0.6, 0.65, 0.6, 1), (-0.6, -1, 0.6, -0.65)],
    "C": [(-0.6, -1, -0.2, 1), (-0.6, 0.62, 0.6, 1), (-0.6, -1, 0.6, -0.62)],
}


def letter(rng):
    name = str(rng.choice(list(LETTERS)))
    thickness = float(rng.choice([0.35, 0.7]))
    wide = float(rng.choice([1.0, 1.35]))
    shape = affinity.scale(unary_union([box(*part) for part in LETTERS[name]]), wide, 1, origin=(0, 0))
    size, width = ("deep" if thickness > 0.5 else "flat"), ("wide" if wide > 1.1 else "narrow")
    return solid(shape, thickness), "letter", f"letter {name}", f"a {size} {width} block letter {name}"


def spiral(rng):
    turns = float(rng.choice([1.5, 2.0, 2.5]))
    thickness = float(rng.choice([0.35, 0.8]))
    turn = str(rng.choice(["left", "right"]))
    t = np.linspace(0, 1, 160)
    angle, radius = 2 * np.pi * turns * t, 0.12 + 0.8 * t
    angle = angle if turn == "left" else -angle
    line = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    from shapely.geometry import LineString

    shape = LineString(line).buffer(0.115, cap_style="flat")
    size = "tall" if thickness > 0.5 else "flat"
    words = {1.5: "one and a half turns", 2.0: "two turns", 2.5: "two and a half turns"}[turns]
    return solid(shape, thickness), "spiral", f"{size} spiral", f"a {size} spiral band that turns {turn} with {words}"


def stairs(rng):
    steps = int(rng.choice([3, 4, 5, 6]))
    width = float(rng.choice([0.5, 1.0, 1.5]))
    full = bool(rng.integers(2))
    xs = np.linspace(-1, 1, steps + 1)
    parts = [
        box(
            xs[k],
            -1 if full else max(-1, -1 + 2 * k / steps - 0.25),
            xs[k + 1] + (0 if full else 0.1),
            -1 + 2 * (k + 1) / steps,
        )
        for k in range(steps)
    ]
    shape = unary_union(parts).intersection(box(-1, -1, 1, 1))
    size = {0.5: "narrow", 1.0: "medium", 1.5: "wide"}[width]
    kind = "solid" if full else "open"
    return solid(shape, width), "stairs", f"{size} stairs", f"{size} {kind} stairs with {WORDS[steps]} steps"


KINDS = (gear, star, letter, spiral, stairs)


def write_domain(folder: Path, count: int = 50, seed: int = 0) -> None:
    """Writes `count` different meshes as GLB with captions beside them, kinds taking turns; the folder appears whole."""
    staging = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    seen: set[str] = set()
    for number in itertools.count():
        if len(seen) == count:
            break
        rng = np.random.default_rng((seed, number))
        mesh, category, short, medium = KINDS[len(seen) % len(KINDS)](rng)
        if medium in seen:
            continue
        color = str(rng.choice(list(COLORS)))
        mesh.visual.face_colors = (*COLORS[color], 255)
        path = staging / f"{category}_{len(seen):03d}.glb"
        mesh.export(path)
        seen.add(medium)
        colored = f"a {color} {medium[2:]}" if medium.startswith("a ") else f"{color} {medium}"
        words = {"category": category, "captions": {"short": [short], "medium": [colored]}}
        path.with_suffix(".json").write_text(json.dumps(words))
    staging.rename(folder)
