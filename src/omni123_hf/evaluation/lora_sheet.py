"""Before and after as one picture: held-out prompts of the new domain, the true object, what the base and the adapter make of it."""

import textwrap
from collections.abc import Sequence

import numpy as np
import trimesh
from PIL import Image, ImageDraw

from omni123_hf.evaluation.lora_figures import Outputs, Reference
from omni123_hf.geometry.cameras import THREE_QUARTER, get_camera
from omni123_hf.geometry.rasterizer import render


CELL, GAP, CAPTION, COLUMNS = 150, 8, 34, 2
LABELS = ("true object", "base", "with adapter")
INK, FAINT, RED = (30, 30, 30), (120, 120, 120), (180, 30, 30)


def before_after(
    wanted: Sequence[Reference], truth: Outputs, before: Outputs, after: Outputs, count: int = 8
) -> Image.Image:
    """The first `count` objects, two a row. The true object is its stored view, or its tokens decoded where there is none."""
    count = min(count, len(wanted))
    width, height = 3 * CELL + 2 * GAP, CELL + CAPTION + GAP
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number in range(count):
        x, y = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        draw.multiline_text((x, y), "\n".join(textwrap.wrap(wanted[number].prompt, 74)[:2]), fill=INK, spacing=2)
        picture = wanted[number].picture
        true_view = (
            picture_of(truth.meshes[number]) if picture is None else Image.fromarray(np.ascontiguousarray(picture))
        )
        views = (true_view, picture_of(before.meshes[number]), picture_of(after.meshes[number]))
        scores = ("", f"{before.chamfer[number]:.3f}", f"{after.chamfer[number]:.3f}")
        for column, (label, view, chamfer) in enumerate(zip(LABELS, views, scores, strict=True)):
            left, top = x + column * CELL, y + CAPTION
            sheet.paste(view.convert("RGB").resize((CELL, CELL), Image.Resampling.BILINEAR), (left, top))
            draw.text((left + 3, top + CELL - 12), f"{label} {chamfer}".strip(), fill=FAINT)
    return sheet


def picture_of(mesh: trimesh.Trimesh | None) -> Image.Image:
    if mesh is not None:
        return Image.fromarray(render(mesh, get_camera(THREE_QUARTER), CELL).color)
    picture = Image.new("RGB", (CELL, CELL), (255, 255, 255))
    ImageDraw.Draw(picture).text((CELL // 2 - 18, CELL // 2 - 5), "failed", fill=RED)
    return picture
