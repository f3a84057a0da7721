"""One picture that shows a shape from all sides."""

from __future__ import annotations

import trimesh
from PIL import Image, ImageDraw

from omni123_hf.geometry.cameras import CANONICAL_VIEWS, get_camera
from omni123_hf.geometry.rasterizer import render


COLUMNS = 3
ROWS = 2
INK = (60, 60, 60)


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
