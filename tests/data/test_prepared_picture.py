"""`stats` and `view` of pictures, editing pairs and token pairs: the numbers, and that a region is drawn where it is."""

import json

import numpy as np
import pytest
from tiny_prepared import write_tiny_edits, write_tiny_pictures, write_tiny_token_pairs
from tiny_store import write_tiny_store

from omni123_hf.data.editing.pair_picture import REGION_INK, SIZE, _pixels, picture_of_pair
from omni123_hf.data.prepared_picture import picture_of_image, picture_of_record
from omni123_hf.data.statistics import prepared_statistics, statistics_text
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera
from omni123_hf.geometry.preview import CELL_GAP, LABEL_WIDTH, LINE, MARGIN


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    """Pairs with one box, read only."""
    return write_tiny_edits(tmp_path_factory.mktemp("edits"))


def cell(sheet, row: int, column: int, size: int = SIZE) -> np.ndarray:
    """The pixels of one picture of a sheet."""
    x, y = MARGIN + LABEL_WIDTH + column * (size + CELL_GAP), MARGIN + LINE + row * (size + CELL_GAP)
    return np.asarray(sheet)[y : y + size, x : x + size].astype(int)


def test_a_pair_shows_both_sides_its_region_and_what_changes(edits):
    sheet = picture_of_pair(edits, "edit/box/1")
    # The lid's box as seen from the front: x and y of its corners, at half extent 1.05.
    low, high = (round((value / 1.05 + 1) * SIZE / 2) for value in (-0.5, 0.5))
    bottom, top = (round((1 - value / 1.05) * SIZE / 2) for value in (0.25, 0.75))
    for row in range(3):
        red = (cell(sheet, row, 0) == REGION_INK).all(-1)
        ys, xs = np.nonzero(red)
        assert np.abs(np.array([xs.min(), xs.max(), ys.min(), ys.max()]) - [low, high, top, bottom]).max() <= 1
    source, target = cell(sheet, 0, 6), cell(sheet, 1, 6)
    assert (source != target).any(), "two sides, each from its own store"
    wanted = np.kron(edits.target.views(1)[6, ..., :3], np.ones((10, 10, 1)))
    assert ((target == wanted).all(-1) | (target == REGION_INK).all(-1)).mean() > 0.999
    changes = cell(sheet, 2, 0)
    coloured = (changes != 255).any(-1) & (changes != REGION_INK).any(-1)
    assert coloured.any()
    places = np.array(_pixels(edits.source.queries(1)[edits.changed(1)], get_camera(ALL_VIEWS[0])))
    near = np.zeros((SIZE, SIZE), dtype=bool)
    for x, y in places:
        near[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    assert (coloured <= near).all(), "nothing but changed points is drawn"


def test_a_picture_is_shown_as_it_is_stored(tmp_path):
    store = write_tiny_pictures(tmp_path / "pictures")
    sheet = picture_of_image(store, "photo/3")
    wanted = np.kron(store.images(3), np.ones((20, 20, 1)))
    assert np.array_equal(cell(sheet, 0, 0, 320), wanted[..., :3])
    assert np.array_equal(cell(sheet, 0, 1, 320)[..., 0], 255 - wanted[..., 3])


def test_what_cannot_be_drawn_is_named(edits, tmp_path):
    pictures = write_tiny_pictures(tmp_path / "pictures")
    tokens = write_tiny_token_pairs(tmp_path / "tokens", "f" * 64)
    assets = write_tiny_store(tmp_path / "assets", 1)
    for store, message in (
        (edits, "no pair 'x'; the ids stand in its pairs.jsonl"),
        (pictures, "no picture 'x'; the ids stand in its manifest.jsonl"),
        (assets, "no asset 'x'"),
        (tokens, "holds token pairs: codes only"),
    ):
        with pytest.raises(Omni123Error, match=message):
            picture_of_record(store, "x")
    assert picture_of_record(assets, "box/0").width > 700


def test_statistics_of_pictures(tmp_path):
    store = write_tiny_pictures(tmp_path / "pictures")
    (store.folder / "rejected.jsonl").write_text('{"reason": "animated"}\n{"reason": "animated"}\n')
    values = prepared_statistics(store.folder)
    assert (values["pictures"], values["size"], values["split"]) == (8, 16, {"train": 6, "validation": 2})
    assert values["outcome"] == {"kept": 8, "rejected": 2, "rejected_by_reason": {"animated": 2}}
    assert values["captions"] == {"short": {"texts": 8, "mean_words": 2.0}}
    text = statistics_text(store.folder, json.loads(json.dumps(values)))
    assert "8 pictures of 16 x 16" in text and "kept 8, rejected 2" in text and "captions: 8, 2.0 words" in text


def test_statistics_of_pairs(edits, tmp_path):
    values = prepared_statistics(edits.folder)
    assert values["pairs"] == 6 and values["direction"] == {"forward": 6, "inverse": 4}
    assert values["region"] == {"exact": 6} and values["edit_type"] == {"add": 6} and values["category"] == {"box": 6}
    assert values["quality"]["changed_share"]["median"] == 0.25 and values["instructions"]["short"]["texts"] == 6
    assert "by generator:\n  by hand" in statistics_text(edits.folder, values)
    barred = {"generator_chain": ("Hunyuan3D-2-mini",), "licence_warning": "made with Hunyuan3D-2-mini: barred"}
    tokens = write_tiny_token_pairs(tmp_path / "tokens", "f" * 64, **barred)
    values = prepared_statistics(tokens.folder)
    assert values["region"] == {"none": 4} and values["quality"] == {}
    text = statistics_text(tokens.folder, values)
    assert "4 pairs" in text and "warning: made with Hunyuan3D-2-mini: barred" in text
