"""The card's samples: the first objects of the evaluation set as one picture, good or bad."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image, ImageDraw

from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.figures_generation import Generation
from omni123_hf.geometry.cameras import ALL_VIEWS, THREE_QUARTER, get_camera
from omni123_hf.geometry.rasterizer import render


CELL, CAPTION, GAP, COLUMNS = 160, 58, 10, 3
LABELS = ("image", "mesh", "reference")
INK, FAINT = (30, 30, 30), (130, 130, 130)


def sample_sheet(generation: Generation, evaluation_set: EvaluationSet, count: int = 9) -> Image.Image:
    """Tiles, three a row: the prompt, the generated image, the generated mesh from its view, and the reference's render."""
    if generation.images is None:
        raise ValueError("Samples need a task that generates an image; use text-to-image-to-3d.")
    count = min(count, len(generation.images))
    width, height = 3 * CELL + GAP, CELL + CAPTION + GAP
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), (255, 255, 255))
    view = ALL_VIEWS.index(THREE_QUARTER)
    for number in range(count):
        x, y = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        _write_prompt(sheet, x, y, evaluation_set.prompts[number])
        pictures = (
            generation.images[number],
            mesh_picture(generation.meshes[number]),
            Image.fromarray(np.ascontiguousarray(evaluation_set.views[number, view, ..., :3])),
        )
        for column, (label, picture) in enumerate(zip(LABELS, pictures, strict=True)):
            left, top = x + column * CELL, y + CAPTION
            sheet.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST), (left, top))
            ImageDraw.Draw(sheet).text((left + 3, top + CELL - 12), label, fill=FAINT)
    return sheet


def save_sample_sheet(generation: Generation, evaluation_set: EvaluationSet, path: Path, count: int = 9) -> None:
    """Write the sheet as PNG; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sample_sheet(generation, evaluation_set, count).save(path, format="PNG", optimize=True)


def _write_prompt(sheet: Image.Image, x: int, y: int, prompt: str) -> None:
    lines = textwrap.wrap(prompt, width=78)
    if len(lines) > 4:
        lines = [*lines[:3], lines[3][:75] + "..."]
    ImageDraw.Draw(sheet).multiline_text((x, y), "\n".join(lines), fill=INK, spacing=2)


def mesh_picture(mesh: trimesh.Trimesh | None, size: int = CELL, view: str = THREE_QUARTER) -> Image.Image:
    """A mesh as seen from a view, (size, size); "failed" in red where there is none."""
    if mesh is not None:
        return Image.fromarray(render(mesh, get_camera(view), size).color)
    picture = Image.new("RGB", (size, size), (255, 255, 255))
    ImageDraw.Draw(picture).text((size // 2 - 18, size // 2 - 5), "failed", fill=(180, 30, 30))
    return picture
