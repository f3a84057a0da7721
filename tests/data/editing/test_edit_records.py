"""The schema of a pair: round trip, refusals, inverse, and regions measured on grids."""

import json
from dataclasses import replace

import numpy as np
import pytest

from omni123_hf.data.editing import EditPair, EditRegion, EditSide, RegionBox, read_pairs, write_pairs
from omni123_hf.data.editing.lineage import check_lineage
from omni123_hf.data.editing.regions import grid_points, make_box, region_from_grids
from omni123_hf.data.editing.shard_pairs import edit_tokens
from omni123_hf.errors import Omni123Error


REGION = EditRegion(
    (RegionBox("lid", (-0.5, 0.0, -0.5), (0.5, 0.25, 0.5)), RegionBox("knob", (0, 0.2, 0), (0.1, 0.4, 0.1))), True
)


def make_pair(**changes) -> EditPair:
    values = {
        "id": "edit/a",
        "object_id": "pot",
        "source": EditSide("pot/1", "mesh", {"path": "a.glb"}),
        "target": EditSide("pot/2", "mesh", {"path": "b.glb"}),
        "instructions": {"short": ["add a lid"], "long": ["Take the pot and add a lid."]},
        "inverse_instructions": {"short": ["remove the lid"], "long": []},
        "edit_type": "add",
        "generator_chain": ("by hand",),
        "licence": "CC0-1.0",
        "attribution": "nobody",
        "split": "train",
        "region": REGION,
        "changed_share": 0.25,
    }
    return EditPair(**{**values, **changes})


def test_pairs_round_trip_as_json_lines(tmp_path):
    pairs = [make_pair(), make_pair(id="edit/ö", region=None, changed_share=None, edit_type="unknown")]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"edit_type": "paint"}, "unknown edit_type"),
        ({"split": "test"}, "unknown split"),
        ({"licence": " "}, "needs a licence"),
        ({"object_id": ""}, "needs a object_id"),
        ({"generator_chain": ()}, "generator_chain"),
        ({"instructions": {"short": [], "long": []}}, "at least one instruction"),
        ({"instructions": {"short": ["x"]}}, "levels"),
        ({"instructions": {"short": ["x", ""], "long": []}}, "no empty text"),
        ({"changed_share": 0.0}, "changed_share"),
        ({"changed_share": float("nan")}, "changed_share"),
        ({"tokenizer_hash": "abc"}, "tokenizer_hash"),
        ({"target": EditSide("x", "tokens", {})}, "cannot be edited"),
        ({"source": EditSide("", "mesh", {})}, "needs an id"),
    ],
)
def test_bad_pairs_are_refused(changes, problem):
    with pytest.raises(Omni123Error, match=problem):
        make_pair(**changes)


def test_bad_lines_are_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    good = json.dumps(make_pair().to_dict())
    missing = {k: v for k, v in make_pair().to_dict().items() if k != "source"}
    swapped = make_pair().to_dict()
    swapped["region"]["boxes"][0]["low"] = [2, 2, 2]
    bad = ["{", "[]", json.dumps({**json.loads(good), "extra": 1}), json.dumps(missing), json.dumps(swapped), good]
    for line in bad:
        path.write_text(good + "\n" + line + "\n")
        with pytest.raises(Omni123Error, match="line 2"):
            read_pairs(path)


def test_the_inverse_of_the_inverse_is_the_pair():
    pair = make_pair()
    back = pair.inverse()
    assert back.edit_type == "remove" and back.texts == ["remove the lid"] and back.source == pair.target
    assert back.region == pair.region and back.split == pair.split and back.inverse() == pair
    assert replace(pair, edit_type="resize").inverse().edit_type == "resize"
    with pytest.raises(Omni123Error, match="no inverse"):
        make_pair(inverse_instructions={"short": [], "long": []}).inverse()


def test_regions_hold_points_and_tell_their_bounds():
    points = np.array([[0, 0.1, 0], [0.05, 0.39, 0.05], [0.3, 0.39, 0.3], [0, -0.01, 0]])
    assert REGION.contains(points).tolist() == [True, True, False, False]
    assert REGION.bounds == ((-0.5, 0.0, -0.5), (0.5, 0.4, 0.5))
    assert EditRegion((), True).contains(points).tolist() == [False] * 4
    with pytest.raises(Omni123Error, match="low <= high"):
        make_box("x", (1, 0, 0), (0, 1, 1))
    assert make_box("x", (-9, 0, 0), (9, 1, 1)).low == (-1.05, 0.0, 0.0)


def test_a_measured_region_covers_all_differences():
    source = np.zeros((32, 32, 32), dtype=bool)
    source[8:24, 8:24, 8:24] = True
    target = source.copy()
    target[24:28, 10:12, 10:12] = True
    target[8:10, 22:24, 8:12] = False
    region = region_from_grids(source, target, 1.05)
    assert len(region.boxes) == 2 and not region.exact
    inside = region.contains(grid_points(32, 1.05)).reshape(source.shape)
    assert inside[source != target].all() and inside.mean() < 0.02
    assert not region_from_grids(source, source, 1.05).boxes
    many = source.copy()
    many[2::8, 2::8, 2::8] ^= True
    assert len(region_from_grids(source, many, 1.05).boxes) == 1


def test_pairs_become_records_of_token_shards():
    codes = np.arange(8)
    tokens = edit_tokens(make_pair(), codes, codes + 1, "pot")
    assert tokens.region_parts == ("knob", "lid") and len(tokens.region_boxes) == 2
    assert tokens.region_boxes[0] == (-0.5, 0.0, -0.5, 0.5, 0.25, 0.5)
    assert tokens.instructions == ("add a lid", "Take the pot and add a lid.") and tokens.chain == ("by hand",)
    assert tokens.record(0).edit["edit_type"] == "add"
    assert edit_tokens(make_pair(region=None), codes, codes).region_boxes == ()


def test_restricted_lineage_needs_a_decision():
    chain = ("FLUX.2-klein", "Hunyuan3D-2-mini")
    with pytest.raises(Omni123Error, match="forbid"):
        check_lineage(chain, False, "a set")
    assert "Hunyuan3D-2-mini" in str(check_lineage(chain, True, "a set"))
    assert check_lineage(("TRELLIS",), False, "a set") is None
