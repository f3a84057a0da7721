"""Pictures of validation samples: rows of cells under column titles, written whole to `samples/step_000500.png`."""

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import Omni123Error
from ..geometry.cameras import THREE_QUARTER, get_camera
from ..geometry.export import write_atomic
from ..geometry.extraction import EmptySurfaceError, extract_surface
from ..geometry.rasterizer import render


logger = logging.getLogger(__name__)
MIN_CELL = 128
GAP = 4
TITLE = 16
INK = (60, 60, 60)


def picture_grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> Image.Image:
    """Rows of equally large cells `(S, S, 3)` uint8 under one title a column; small cells are magnified, unblurred."""
    size = len(rows[0][0])
    scale = max(1, -(-MIN_CELL // size))
    step = size * scale + GAP
    sheet = Image.new("RGB", (len(titles) * step + GAP, len(rows) * step + GAP + TITLE), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((GAP + column * step, 2), title, fill=INK)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            picture = Image.fromarray(cell).resize((size * scale,) * 2, Image.Resampling.NEAREST)
            x, y = GAP + column * step, TITLE + GAP + number * step
            sheet.paste(picture, (x, y))
            draw.rectangle((x - 1, y - 1, x + size * scale, y + size * scale), outline=(225, 225, 225))
    return sheet


def write_picture(sheet: Image.Image, folder: Path, step: int) -> Path:
    """Writes `folder/samples/step_<step>.png`, whole or not at all; a picture of that step is replaced."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    path = folder / "samples" / f"step_{step:06d}.png"
    write_atomic(path, buffer.getvalue())
    return path


def surface_cell(field: Callable[[np.ndarray], np.ndarray], resolution: int, size: int) -> np.ndarray:
    """`(size, size, 3)` uint8: the level 0 of a field, seen from the three-quarter camera.

    `field` and `resolution` are those of `geometry.extraction.extract_surface`. A cell without a surface says so in a word:
    early in training that is no reason to stop.
    """
    try:
        mesh = extract_surface(field, resolution)
    except EmptySurfaceError:
        return word_cell("empty", size)
    except Omni123Error as error:
        logger.warning("a validation picture has no surface: %s", error)
        return word_cell("failed", size)
    return render(mesh, get_camera(THREE_QUARTER), size).color


def word_cell(word: str, size: int) -> np.ndarray:
    """A white cell `(size, size, 3)` with a word."""
    cell = Image.new("RGB", (size, size), (255, 255, 255))
    ImageDraw.Draw(cell).text((2, size // 2 - 6), word, fill=INK)
    return np.asarray(cell)
