"""Tables of pictures: what is shown stands where it should, and what is missing says why."""

import numpy as np
import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.picture_table import MIN_WIDTH, Cell, Row, picture_table


def test_pictures_stand_in_rows_and_small_ones_are_enlarged_without_smoothing():
    red, blue = np.zeros((8, 8, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    table = np.asarray(picture_table([Row("a chair", [Cell("image", red), Cell("shape", blue)])], size=32))
    assert table.shape[1] == MIN_WIDTH
    reds, blues = (np.argwhere((table == color).all(-1)) for color in ((255, 0, 0), (0, 0, 255)))
    assert len(reds) == len(blues) == 32 * 32
    assert (reds[:, 0] == blues[:, 0]).all() and blues[:, 1].min() > reds[:, 1].max()


def test_a_cell_without_picture_differs_by_its_message():
    one, other = (np.asarray(picture_table([Row("x", [Cell("shape", None, text)])], 96)) for text in ("empty", "full"))
    assert one.shape == other.shape and not np.array_equal(one, other)
    assert (one != 255).any()


def test_long_texts_are_wrapped_and_rows_need_cells():
    short, long = (picture_table([Row("word " * count, [Cell("a", None, "b")])], 32) for count in (1, 80))
    assert long.width == short.width and long.height > short.height
    for rows in ([], [Row("x", [])]):
        with pytest.raises(Omni123Error, match="at least one row"):
            picture_table(rows)
