from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageFont

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera
from omni123_hf.geometry.preview import (
    FONT_SIZE,
    LINE,
    MAX_LINES,
    MISSING,
    NAME_LINE,
    _labelled,
    _wrapped,
    asset_sheet,
    gallery,
)
from omni123_hf.geometry.rendering import SoftwareRenderer


def views(count: int):
    box = trimesh.creation.box((1, 1.5, 0.5))
    cameras = [get_camera(ALL_VIEWS[number % len(ALL_VIEWS)]) for number in range(count)]
    return SoftwareRenderer(supersample=1).render_views(box, cameras, 24)


def test_every_view_stands_in_three_rows():
    sheet = np.asarray(asset_sheet(views(3), {"short": ["a box"]}, {"id": "x"}, size=48))
    # The middle of each cell: grey light, a blue-green-red normal, a grey depth; none of it white.
    for column in range(3):
        colour, normal, depth = (
            sheet[16 + LINE + row * 52 + 24, 16 + 64 + column * 52 + 24].astype(int) for row in range(3)
        )
        assert np.ptp(colour) == 0 and np.ptp(depth) == 0 and np.ptp(normal) > 50 and max(depth) < 255 > max(colour)


def test_views_of_another_origin_stand_below():
    box = views(3)
    ball = SoftwareRenderer(supersample=1).render_views(
        trimesh.creation.icosphere(2), [view.camera for view in box], 24
    )
    sheet = np.asarray(asset_sheet(box, {}, {}, size=48, row_names="abcde", compared=ball))
    plain = np.asarray(asset_sheet(box, {}, {}, size=48))
    assert len(sheet) == len(plain) + 2 * 52
    rows = [sheet[16 + LINE + row * 52 : 16 + LINE + row * 52 + 48, 80:128] for row in range(5)]
    assert all(
        (rows[row] == plain[16 + LINE + row * 52 : 16 + LINE + row * 52 + 48, 80:128]).all() for row in range(3)
    )
    assert (rows[3] != rows[1]).any() and (rows[4] != rows[2]).any()


def test_many_views_and_long_captions_make_the_sheet_taller_and_nothing_is_cut():
    one = asset_sheet(views(8), {"long": ["short"]}, {})
    two = asset_sheet(views(9), {"long": ["short"]}, {})
    tall = asset_sheet(views(8), {"long": ["word " * 200]}, {})
    assert two.height > one.height + 3 * 160 and two.width < one.width
    assert tall.width == one.width and tall.height > one.height + 3 * LINE
    margin = np.asarray(tall)[:, -8:]
    assert (margin == 255).all()


def test_text_is_wrapped_between_words_and_inside_huge_ones():
    font = ImageFont.load_default(FONT_SIZE)
    text = "a caption of several words " * 5 + "w" * 200 + " end"
    lines = _wrapped(text, font, 200)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert _wrapped("", font, 200) == [""]
    cut = _labelled("word " * 2000, font, 200)
    assert len(cut) == MAX_LINES and cut[-1].endswith("\u2026") and font.getlength(cut[-1]) <= 200


def test_a_sheet_needs_a_view():
    with pytest.raises(Omni123Error, match="view"):
        asset_sheet([], {}, {})


def test_a_gallery_shows_pictures_meshes_and_gaps_in_order():
    items = {
        "red": Image.new("RGB", (8, 8), (255, 0, 0)),
        "box": trimesh.creation.box((1, 1, 1)),
        "failed": None,
    }
    sheet = np.asarray(gallery(items, size=40, columns=2))
    assert sheet.shape == (2 * (40 + NAME_LINE), 80, 3)
    middle = NAME_LINE + 20
    assert tuple(sheet[middle, 20]) == (255, 0, 0)
    assert tuple(sheet[middle, 60]) not in ((255, 255, 255), MISSING)
    assert tuple(sheet[40 + NAME_LINE + middle, 20]) == MISSING
    # Names stand above the cells, and a missing fourth cell stays white.
    assert (sheet[:NAME_LINE, :40] < 200).any() and (sheet[40 + NAME_LINE :, 40:] == 255).all()
    with pytest.raises(Omni123Error, match="at least one"):
        gallery({})
