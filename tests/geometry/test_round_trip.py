from __future__ import annotations

import json

import pytest
import trimesh
from solid_shapes import below, bowl, box, joined, sphere

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.extraction import EmptySurfaceError
from omni123_hf.geometry.round_trip import round_trip
from omni123_hf.geometry.signed_distance import SolidField


@pytest.mark.parametrize(
    "mesh",
    [
        sphere(),
        bowl(wall=0.1),
        trimesh.creation.torus(0.7, 0.2),
        box((1.9, 0.05, 1.2)),
        joined(box((1, 1, 1), (-0.4, 0, 0)), box((1, 1, 1), (0.1, 0.3, 0.2))),
    ],
    ids=["sphere", "bowl", "torus", "plate", "overlap"],
)
def test_solids_survive_their_labels(mesh):
    result = round_trip(mesh, 64)
    assert result.volume_iou > 0.97 and result.chamfer < 0.004
    assert json.loads(json.dumps(result.to_dict()))["faces"] > 1000


def test_what_the_grid_cannot_hold_shows_in_the_figures():
    fine, coarse = (round_trip(bowl(wall=0.1), resolution) for resolution in (128, 64))
    assert coarse.volume_iou < fine.volume_iou and coarse.chamfer > fine.chamfer
    lost = round_trip(joined(box((0.5, 0.5, 0.5), (-0.5, 0, 0)), box((0.8, 0.01, 0.8), (0.4, 0.03, 0))), 64)
    assert lost.volume_iou < 0.97


def test_thin_parts_are_counted_and_the_figures_do_not_depend_on_who_built_the_trees():
    pane = box((1.8, 0.01, 1.2))
    table = joined(pane, box((0.4, 0.8, 0.4), (0, 0.41, 0)))
    alone, shared = round_trip(table, 64), round_trip(table, 64, field=SolidField(table))
    assert alone == shared and 0.6 < alone.thin_share < 0.9
    assert round_trip(box((1.8, 0.2, 1.2)), 64).thin_share == 0.0
    with pytest.raises(EmptySurfaceError):
        round_trip(pane, 64)


def test_shells_that_overlap_count_once():
    boxes = joined(box((1, 1, 1), (-0.3, 0, 0)), box((1, 1, 1), (0.3, 0, 0)))
    assert round_trip(boxes, 64).volume_iou > 0.98


def test_an_open_mesh_is_refused():
    with pytest.raises(Omni123Error, match="make_watertight"):
        round_trip(below(sphere(), 0.8), 64)
