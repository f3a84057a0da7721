"""Locality of an edit on solids whose change is known."""

import numpy as np
import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.edit_locality import edit_locality


def grid(size: int = 33) -> np.ndarray:
    """(R, R, R, 3) points over ±1."""
    axis = np.linspace(-1, 1, size)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def cuboid(low, high) -> np.ndarray:
    points = grid()
    return ((points >= np.array(low) - 1e-9) & (points <= np.array(high) + 1e-9)).all(axis=-1)


BODY = cuboid((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
KNOB = cuboid((-0.125, 0.5625, -0.125), (0.125, 0.75, 0.125))


def test_nothing_changed():
    report = edit_locality(BODY, BODY, bound=1.0)
    assert report.is_unchanged and report.changed_volume_share == 0 and report.regions == ()
    assert report.chamfer_outside == 0


def test_an_added_part_is_one_region_and_the_rest_stands_still():
    report = edit_locality(BODY, BODY | KNOB, bound=1.0)
    share = KNOB.sum() / (BODY | KNOB).sum()
    assert report.added_share == report.changed_volume_share == pytest.approx(share)
    assert report.removed_share == 0 and len(report.regions) == 1
    assert report.regions[0] == pytest.approx((-0.1875, 0.5, -0.1875, 0.1875, 0.8125, 0.1875))
    assert report.chamfer_outside == 0
    back = edit_locality(BODY | KNOB, BODY, bound=1.0)
    assert back.removed_share == report.added_share and back.regions == report.regions


def test_drift_of_the_rest_is_measured_outside_the_region():
    moved = cuboid((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5625)) | KNOB
    # The drifting face is too thin to be the edit when regions must be a fifth of the object.
    report = edit_locality(BODY, moved, bound=1.0, min_region_share=0.2)
    assert report.regions == () and 0 < report.chamfer_outside < 0.0625


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(Omni123Error, match="one size"):
        edit_locality(BODY, BODY[:5])
    with pytest.raises(Omni123Error, match="empty"):
        edit_locality(BODY & False, BODY & False)
    gone = edit_locality(BODY, BODY & False)
    assert gone.removed_share == 1 and gone.chamfer_outside is None
