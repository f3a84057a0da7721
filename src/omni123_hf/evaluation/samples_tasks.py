"""The card's samples of the further tasks: the first held-out edits and the first multi-view results, good or bad."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from omni123_hf.evaluation.edit_set import PICTURES, EditSet
from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.figures_edits import EditOutputs
from omni123_hf.evaluation.figures_views import ViewOutputs
from omni123_hf.evaluation.samples import FAINT, INK, mesh_picture
from omni123_hf.geometry.cameras import ALL_VIEWS, THREE_QUARTER


CELL, CAPTION, GAP, COLUMNS = 150, 36, 12, 2
EDIT_LABELS = ("source", "source, decoded", "edited", "target, decoded", "true target")
VIEW_SAMPLES = 4
VIEW_CELL = 120


def edit_sheet(outputs: EditOutputs, edit_set: EditSet, count: int = PICTURES) -> Image.Image:
    """Tiles, two a row: the instruction, the true source, its tokens decoded, the edit, the target's tokens decoded, the true target.

    `count` is at most the number of pairs whose pictures are kept.
    """
    count = min(count, len(edit_set.pictures))
    width, height = len(EDIT_LABELS) * CELL + GAP, CAPTION + CELL + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, -(-count // COLUMNS) * height + GAP), (255, 255, 255))
    for number in range(count):
        x, y = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        unchanged = bool((outputs.tokens["model"][number] == outputs.tokens["copy"][number]).all())
        text = f"{edit_set.pairs[number].object_id}: {edit_set.instructions[number]}" + (
            " (unchanged)" if unchanged else ""
        )
        _write(sheet, x, y, text, 110)
        pictures = (
            Image.fromarray(np.ascontiguousarray(edit_set.pictures[number, 0])),
            mesh_picture(outputs.meshes["copy"][number], CELL),
            mesh_picture(outputs.meshes["model"][number], CELL),
            mesh_picture(outputs.meshes["ceiling"][number], CELL),
            Image.fromarray(np.ascontiguousarray(edit_set.pictures[number, 1])),
        )
        for column, (label, picture) in enumerate(zip(EDIT_LABELS, pictures, strict=True)):
            _paste(sheet, picture, x + column * CELL, y + CAPTION, CELL, label)
    return sheet


def view_sheet(outputs: ViewOutputs, evaluation_set: EvaluationSet, count: int = VIEW_SAMPLES) -> Image.Image:
    """Tiles, two a row: the prompt; above the generated posed images and the true object, below the generated mesh from the same views."""
    count = min(count, len(outputs.images))
    cells = len(outputs.views) + 1
    width, height = cells * VIEW_CELL + GAP, CAPTION + 2 * VIEW_CELL + GAP
    columns = max(1, min(COLUMNS, 1600 // width))
    sheet = Image.new("RGB", (columns * width + GAP, -(-count // columns) * height + GAP), (255, 255, 255))
    true_view = ALL_VIEWS.index(THREE_QUARTER)
    for number in range(count):
        x, y = GAP + number % columns * width, GAP + number // columns * height
        _write(sheet, x, y, evaluation_set.prompts[number], max(30, (width - GAP) // 6))
        for column, (view, image) in enumerate(zip(outputs.views, outputs.images[number], strict=True)):
            left, top = x + column * VIEW_CELL, y + CAPTION
            _paste(sheet, image, left, top, VIEW_CELL, f"image, {view}")
            mesh = mesh_picture(outputs.meshes[number], VIEW_CELL, view)
            _paste(sheet, mesh, left, top + VIEW_CELL, VIEW_CELL, f"mesh, {view}")
        left = x + len(outputs.views) * VIEW_CELL
        truth = Image.fromarray(np.ascontiguousarray(evaluation_set.views[number, true_view, ..., :3]))
        _paste(sheet, truth, left, y + CAPTION, VIEW_CELL, "true object")
        _paste(
            sheet, mesh_picture(outputs.meshes[number], VIEW_CELL), left, y + CAPTION + VIEW_CELL, VIEW_CELL, "mesh"
        )
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)


def _write(sheet: Image.Image, x: int, y: int, text: str, width: int) -> None:
    lines = textwrap.wrap(text, width=width)
    if len(lines) > 2:
        lines = [lines[0], lines[1][: width - 3] + "..."]
    ImageDraw.Draw(sheet).multiline_text((x, y), "\n".join(lines), fill=INK, spacing=2)


def _paste(sheet: Image.Image, picture: Image.Image, left: int, top: int, cell: int, label: str) -> None:
    sheet.paste(picture.convert("RGB").resize((cell, cell), Image.Resampling.NEAREST), (left, top))
    ImageDraw.Draw(sheet).text((left + 3, top + cell - 12), label, fill=FAINT)
