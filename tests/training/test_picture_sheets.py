"""Pictures of validation samples: what is in them, and when a run writes them."""

import numpy as np
import pytest
from PIL import Image

from omni123_hf.training.pictures import GAP, TITLE, picture_grid, surface_cell, write_picture


def test_a_grid_holds_its_cells_unblurred():
    rng = np.random.default_rng(0)
    cells = [[rng.integers(0, 255, (16, 16, 3)).astype(np.uint8) for _ in range(2)] for _ in range(3)]
    sheet = np.asarray(picture_grid(cells, ["input", "reconstruction"]))
    step = 128 + GAP
    assert sheet.shape == (3 * step + GAP + TITLE, 2 * step + GAP, 3)
    for row in range(3):
        for column in range(2):
            top, left = TITLE + GAP + row * step, GAP + column * step
            shown = sheet[top : top + 128, left : left + 128]
            assert np.array_equal(shown[4::8, 4::8], cells[row][column])


def test_a_picture_appears_whole_and_replaces_that_of_its_step(tmp_path):
    for value in (10, 200):
        sheet = Image.new("RGB", (8, 8), (value,) * 3)
        path = write_picture(sheet, tmp_path, 500)
    assert path == tmp_path / "samples" / "step_000500.png"
    assert [child.name for child in path.parent.iterdir()] == ["step_000500.png"]
    with Image.open(path) as image:
        assert image.getpixel((0, 0)) == (200, 200, 200)


def test_a_surface_is_drawn_where_it_is_and_its_absence_is_said():
    ball = surface_cell(lambda x: 0.6 - np.linalg.norm(x, axis=-1), 24, 64)
    small = surface_cell(lambda x: 0.3 - np.linalg.norm(x, axis=-1), 24, 64)
    inked = [(cell.min(-1) < 250).sum() for cell in (ball, small)]
    # The area of a disc: (0.6 / 1.45)² pi / 4 of the picture.
    assert inked[0] == pytest.approx(64**2 * (0.6 / 1.45) ** 2 * np.pi / 4, rel=0.1)
    assert inked[1] < 0.4 * inked[0]
    empty = surface_cell(lambda x: -np.ones(len(x)), 24, 64)
    assert 0 < (empty.min(-1) < 250).sum() < 200
    failed = surface_cell(lambda x: np.full(len(x), np.nan), 24, 64)
    assert not np.array_equal(empty, failed)
