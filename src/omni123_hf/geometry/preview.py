"""One picture that shows a shape from all sides, results beside each other, or an asset with its views, captions and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import trimesh
from PIL import Image, ImageDraw, ImageFont

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS, THREE_QUARTER, get_camera
from omni123_hf.geometry.rasterizer import render
from omni123_hf.geometry.rendered_view import RenderedView


COLUMNS = 3
ROWS = 2
INK = (60, 60, 60)
FAINT = (120, 120, 120)
# Of `gallery`: the line above a cell, in pixels, and the place of a mesh that could not be made.
NAME_LINE = 16
MISSING = (238, 238, 238)
# Of `asset_sheet`, in pixels.
FONT_SIZE = 14
LINE = 20
MARGIN = 16
LABEL_WIDTH = 64
CELL_GAP = 4
MAX_COLUMNS = 8
MIN_TEXT_WIDTH = 720
MAX_LINES = 12


def contact_sheet(mesh: trimesh.Trimesh, image: Image.Image | None = None, size: int = 256) -> Image.Image:
    """The six canonical views of a normalised mesh, named, in two rows of three cells of `size` pixels.

    With `image` (the picture that the shape was made from or with) a square of two rows' height stands at the left.
    """
    left = ROWS * size if image is not None else 0
    sheet = Image.new("RGB", (left + COLUMNS * size, ROWS * size), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    if image is not None:
        sheet.paste(_fit(image, left), (0, 0))
        draw.text((4, 3), "image", fill=INK)
    for number, name in enumerate(CANONICAL_VIEWS):
        x, y = left + number % COLUMNS * size, number // COLUMNS * size
        sheet.paste(Image.fromarray(render(mesh, get_camera(name), size).color), (x, y))
        draw.text((x + 4, y + 3), name, fill=INK)
    return sheet


def gallery(
    items: Mapping[str, Image.Image | trimesh.Trimesh | None],
    size: int = 140,
    columns: int = 4,
    view: str = THREE_QUARTER,
) -> Image.Image:
    """Pictures and normalised meshes beside each other, each under its name, in cells of `size` pixels.

    Meshes are drawn from `view`; None (a failed surface) is a grey cell. No items and no columns raise `Omni123Error`.
    """
    if not items or columns < 1:
        raise Omni123Error("a gallery needs at least one item and one column")
    font = ImageFont.load_default(NAME_LINE - 5)
    columns = min(columns, len(items))
    height = size + NAME_LINE
    sheet = Image.new("RGB", (columns * size, -(-len(items) // columns) * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, (name, item) in enumerate(items.items()):
        x, y = number % columns * size, number // columns * height
        if isinstance(item, trimesh.Trimesh):
            cell = Image.fromarray(render(item, get_camera(view), size).color)
        elif item is None:
            cell = Image.new("RGB", (size, size), MISSING)
        else:
            cell = _fit(item, size)
        draw.text((x + 3, y + 1), _shortened(name, font, size - 6), fill=INK, font=font)
        sheet.paste(cell, (x, y + NAME_LINE))
    return sheet


def asset_sheet(
    views: Sequence[RenderedView],
    captions: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
    size: int = 160,
    row_names: Sequence[str] = ("colour", "normal", "depth"),
    compared: Sequence[RenderedView] = (),
) -> Image.Image:
    """Views in rows of colour, normals and depth, and below them facts and captions: a `picture_sheet`.

    row_names: what stands beside the rows. compared: for each view, the same from another origin, whose normals and depth are
    two further rows. Normals show x, y, z as red, green, blue; depth runs from light (near) to dark (far) within each view.
    No views raise `Omni123Error`.
    """
    pictures = [list(_pictures(view).values()) for view in views]
    for each, other in zip(pictures, compared, strict=bool(compared)):
        each += list(_pictures(other).values())[1:]
    rows = {name: [each[row] for each in pictures] for row, name in enumerate(row_names)}
    return picture_sheet([view.camera.name for view in views], rows, captions, facts, size)


def picture_sheet(
    names: Sequence[str],
    rows: Mapping[str, Sequence[np.ndarray]],
    captions: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
    size: int = 160,
) -> Image.Image:
    """Pictures in rows under the names of their columns, and below them facts and captions.

    rows: name of each row to its pictures (H,W,3) uint8 of any size, shown at `size` pixels, up to eight beside each other.
    captions: texts by level. facts: short values by name. Long texts are wrapped, and cut after a dozen lines with an
    ellipsis. No pictures raise `Omni123Error`.
    """
    if not names:
        raise Omni123Error("an asset sheet needs at least one view")
    font = ImageFont.load_default(FONT_SIZE)
    blocks = -(-len(names) // MAX_COLUMNS)
    columns = -(-len(names) // blocks)
    step = size + CELL_GAP
    width = max(LABEL_WIDTH + columns * step, MIN_TEXT_WIDTH) + 2 * MARGIN
    text_width = width - 2 * MARGIN - 2 * LABEL_WIDTH
    lines = [(name, line) for name, value in facts.items() for line in _labelled(str(value), font, text_width)]
    for level, texts in captions.items():
        lines += [(level, line) for text in texts for line in _labelled(f"- {text}", font, text_width)]

    block = LINE + len(rows) * step
    sheet = Image.new("RGB", (width, 2 * MARGIN + blocks * block + LINE * (len(lines) + 1)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, column in enumerate(names):
        x, y = MARGIN + LABEL_WIDTH + number % columns * step, MARGIN + number // columns * block
        draw.text((x, y), _shortened(column, font, size), fill=INK, font=font)
        for row, (name, pictures) in enumerate(rows.items()):
            top = y + LINE + row * step
            if number % columns == 0:
                draw.text((MARGIN, top + size // 2 - LINE // 2 * len(name.splitlines())), name, fill=FAINT, font=font)
            sheet.paste(Image.fromarray(pictures[number]).resize((size, size), Image.Resampling.BOX), (x, top))
            draw.rectangle((x - 1, top - 1, x + size, top + size), outline=(225, 225, 225))
    y = MARGIN + blocks * block + LINE // 2
    previous = ""
    for name, line in lines:
        if name != previous:
            draw.text((MARGIN, y), _shortened(name, font, 2 * LABEL_WIDTH - 8), fill=FAINT, font=font)
        draw.text((MARGIN + 2 * LABEL_WIDTH, y), line, fill=INK, font=font)
        previous = name
        y += LINE
    return sheet


def _pictures(view: RenderedView) -> dict[str, np.ndarray]:
    """(H,W,3) uint8 pictures of a view on white."""
    outside = ~np.isfinite(view.depth)
    normal = np.rint((view.normal + 1.0) * 127.5).astype(np.uint8)
    normal[outside] = 255
    depth = np.full(view.normal.shape, 255, dtype=np.uint8)
    seen = view.depth[~outside]
    if len(seen):
        nearness = (seen.max() - seen) / max(float(np.ptp(seen)), 1e-6)
        depth[~outside] = np.rint(40.0 + 185.0 * nearness)[:, None].astype(np.uint8)
    return {"colour": view.on(), "normal": normal, "depth": depth}


def _labelled(text: str, font: Any, width: int) -> list[str]:
    """The lines of `text`, at most `MAX_LINES`."""
    lines = _wrapped(text, font, width)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], _shortened(lines[MAX_LINES - 1] + " \u2026", font, width)]
    return lines


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels, broken between words, and within a word that is wider than a line."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            fits = _fitting(word, font, width)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines or [""]


def _fitting(word: str, font: Any, width: int) -> int:
    """How many leading characters of `word` fit into `width` pixels, at least one."""
    count = 1
    while count < len(word) and font.getlength(word[: count + 1]) <= width:
        count += 1
    return count


def _shortened(text: str, font: Any, width: int) -> str:
    """`text`, cut with an ellipsis when it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(text, font, width - int(font.getlength("\u2026")) - 1)].rstrip(" \u2026") + "\u2026"


def _fit(image: Image.Image, side: int) -> Image.Image:
    """`image` on white, scaled to fit a square of `side` pixels."""
    rgba = image.convert("RGBA")
    scale = side / max(rgba.size)
    rgba = rgba.resize(
        (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(rgba, ((side - rgba.width) // 2, (side - rgba.height) // 2))
    return square.convert("RGB")
