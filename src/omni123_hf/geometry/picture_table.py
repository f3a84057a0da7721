"""A table of pictures: a row a text, a cell a picture or the words why there is none."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omni123_hf.errors import Omni123Error


INK, FAINT, WARNING, FRAME = (60, 60, 60), (120, 120, 120), (170, 40, 30), (225, 225, 225)
FONT_SIZE, LINE, GAP, MARGIN = 13, 17, 8, 10
# Narrower tables would break texts into too many lines.
MIN_WIDTH = 480
# Of the default font at this size, a little above its mean.
CHARACTER = 7.2


@dataclass(frozen=True)
class Cell:
    """`picture (H, W, 3)` uint8, or None where `message` says why there is none. `label` stands above it."""

    label: str
    picture: np.ndarray | None = None
    message: str = ""


@dataclass(frozen=True)
class Row:
    """Cells under one text."""

    text: str
    cells: Sequence[Cell]


def picture_table(rows: Sequence[Row], size: int = 160) -> Image.Image:
    """All rows below one another; every cell is a square of `size` pixels. No rows or no cells raise `Omni123Error`."""
    if not rows or not all(row.cells for row in rows):
        raise Omni123Error("a table of pictures needs at least one row, and a cell in every row")
    columns = max(len(row.cells) for row in rows)
    width = max(2 * MARGIN + columns * (size + GAP) - GAP, MIN_WIDTH)
    texts = [wrapped(row.text, width - 2 * MARGIN) for row in rows]
    heights = [LINE * (len(lines) + 1) + size + 2 * GAP for lines in texts]
    table = Image.new("RGB", (width, 2 * MARGIN + sum(heights)), (255, 255, 255))
    draw = ImageDraw.Draw(table)
    font = ImageFont.load_default(FONT_SIZE)
    top = MARGIN
    for row, lines, height in zip(rows, texts, heights, strict=True):
        for number, line in enumerate(lines):
            draw.text((MARGIN, top + number * LINE), line, fill=INK, font=font)
        y = top + len(lines) * LINE
        for column, cell in enumerate(row.cells):
            x = MARGIN + column * (size + GAP)
            draw.text((x, y), wrapped(cell.label, size)[0], fill=FAINT, font=font)
            draw_cell(table, draw, cell, (x, y + LINE), size, font)
        top += height
    return table


def draw_cell(
    table: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, place: tuple[int, int], size: int, font: Any
) -> None:
    x, y = place
    if cell.picture is not None:
        # Small pictures are enlarged without smoothing: what looks smooth should be.
        small = cell.picture.shape[0] < size
        how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        table.paste(Image.fromarray(cell.picture).resize((size, size), how), (x, y))
    else:
        for number, line in enumerate(wrapped(cell.message, size - 12)[: (size - 12) // LINE]):
            draw.text((x + 6, y + 6 + number * LINE), line, fill=WARNING, font=font)
    draw.rectangle((x - 1, y - 1, x + size, y + size), outline=FRAME if cell.picture is not None else WARNING)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of about `width` pixels."""
    return textwrap.wrap(text, max(int(width / CHARACTER), 8)) or [""]
