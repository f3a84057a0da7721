"""A run over pairs: two aligned stores, the same bytes however it went, and only for the pairs that it was begun with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

import omni123_hf.data.prepare_shard as shards
from omni123_hf.data.editing.mesh_pairs import MeshPairSpec
from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.parametric_pairs import ParametricPairSpec, parametric_pairs
from omni123_hf.data.editing.posed_characters import PosePairSpec
from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG, prepare_pair
from omni123_hf.data.editing.prepare_pairs import PairWork, _fingerprint, finalise, pair_row, prepare_pairs
from omni123_hf.data.editing.readers import PairSetInfo, read_table
from omni123_hf.data.editing.shard_pairs import tokenized_pairs
from omni123_hf.data.prepare_shard import Outcome, read_lines, write_shard
from omni123_hf.errors import Omni123Error


SMALL = replace(PAIR_CONFIG, surface_points=64, queries=512, view_size=8, supersample=1, shard_size=2, resolution=64)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a finished set, without the plan (one line for all engines) and the lock."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def table_of_boxes(folder: Path) -> list[MeshPairSpec]:
    """Three pairs of boxes and one with a broken file."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(4):
        for side, height in (("low", 0.5), ("high", 1.0 + number / 10)):
            trimesh.creation.box((1.0, height, 1.0)).export(folder / f"{side}{number}.ply")
        rows.append({"source": f"low{number}.ply", "target": f"high{number}.ply", "instruction": f"make it {number}"})
    (folder / "high3.ply").write_bytes(b"ply nonsense")
    (folder / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in folder.iterdir():
        os.utime(file, ns=(1, 1))
    return read_table(folder / "boxes.jsonl", PairSetInfo("boxes", "MIT", "Ann", ("hand",))).specs


def test_pairs_become_two_aligned_stores_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    specs = parametric_pairs(5, categories=["table", "mug"])
    whole = prepare_pairs(specs, tmp_path / "whole", 1, SMALL, False)
    assert len(whole) == 5 and [pair.index for pair in whole.pairs] == list(range(5))
    assert whole.source.records[2].id == f"{specs[2].id}/source" and whole.changed(2).any()
    assert not (whole.changed(1) & ~whole.pairs[1].region.contains(whole.source.queries(1))).any()

    real, calls = shards.write_shard, []

    def stop_at_the_second(path, outcomes, work):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, outcomes, work)

    monkeypatch.setattr(shards, "write_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_pairs(specs, tmp_path / "part", 1, SMALL, False)
    with pytest.raises(Omni123Error, match="no finished editing pairs"):
        EditPairStore.open(tmp_path / "part")
    resumed = prepare_pairs(specs, tmp_path / "part", 2, SMALL, False)
    assert calls.count("00000.npz") == 1, "the finished shard was done again"
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    with pytest.raises(Omni123Error, match="other pairs or settings"):
        prepare_pairs(specs[:4], tmp_path / "part", 1, SMALL, False)
    codes = np.arange(5 * 8).reshape(5, 8)
    tokens = list(tokenized_pairs(resumed, codes, codes + 1))
    assert len(tokens) == 10 and tokens[1].id == f"{specs[0].id}/inverse" and tokens[1].source_tokens[0] == 1
    assert {tokens[0].category, tokens[8].category} <= {"table", "mug"}
    with pytest.raises(Omni123Error, match="rows of codes"):
        next(tokenized_pairs(whole, codes[:4], codes))
    summary = json.loads((tmp_path / "part" / "editing.json").read_text())
    assert summary["edit_types"] == {"add": 2, "remove": 1, "replace": 1, "resize": 1}


def test_a_changed_file_is_noticed_and_a_moved_set_is_not(tmp_path):
    specs = table_of_boxes(tmp_path / "found")
    store = prepare_pairs(specs, tmp_path / "set", 1, SMALL, False)
    assert len(store) == 3
    rejected = [json.loads(line) for line in (tmp_path / "set/rejected.jsonl").read_text().splitlines()]
    assert [(line["source"], line["path"]) for line in rejected] == [("editing", "low3.ply")]
    assert rejected[0]["reason"] == "broken_file" and str(tmp_path) not in json.dumps(rejected)
    (tmp_path / "found").rename(tmp_path / "moved")
    moved = read_table(tmp_path / "moved/boxes.jsonl", PairSetInfo("boxes", "MIT", "Ann", ("hand",))).specs
    assert len(prepare_pairs(moved, tmp_path / "set", 1, SMALL, False)) == 3
    for change in (
        {"instruction": "make it wide"}, {"licence": "CC0-1.0"}, {"target": moved[1].target}, {"split": "validation"},
        {"limits": replace(moved[0].limits, max_faces=10)},
    ):  # fmt: skip
        assert _fingerprint(replace(moved[0], **change)) != _fingerprint(moved[0])
    os.utime(tmp_path / "moved/high2.ply", ns=(1, 2))
    with pytest.raises(Omni123Error, match="sources have changed since"):
        prepare_pairs(moved, tmp_path / "set", 1, SMALL, False)
    character = PosePairSpec(str(tmp_path / "moved/high2.ply"), "box", 0, 0.0, 1.0, "MIT", "Ann")
    first = _fingerprint(character)
    os.utime(tmp_path / "moved/high2.ply", ns=(1, 3))
    assert _fingerprint(character) != first


def test_folders_of_an_older_version_and_other_things_are_left_alone(tmp_path):
    specs = parametric_pairs(1, categories=["mug"])
    old = {"pairs": 1, "pairs_hash": "0" * 64, "config": SMALL.to_dict()}
    (tmp_path / "plan.json").write_text(json.dumps(old))
    for finished in (False, True):
        if finished:
            (tmp_path / "editing.json").write_text("{}")
        with pytest.raises(Omni123Error, match="begun by another version"):
            prepare_pairs(specs, tmp_path, 1, SMALL, False)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(Omni123Error, match="not prepared here"):
        prepare_pairs(specs, tmp_path, 1, SMALL, False)
    (tmp_path / "editing.json").rename(tmp_path / "mine.json")
    with pytest.raises(Omni123Error, match="not empty"):
        prepare_pairs(specs, tmp_path, 1, SMALL, False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]
    for problem, arguments in (("unknown engine", {"engine": "spark"}), ("workers", {"workers": 0})):
        with pytest.raises(Omni123Error, match=problem):
            prepare_pairs(specs, tmp_path / "new", config=SMALL, **arguments)
    with pytest.raises(Omni123Error, match="more than once"):
        prepare_pairs(specs * 2, tmp_path / "new", 1, SMALL, False)
    assert not (tmp_path / "new").exists()


@dataclass(frozen=True)
class Renamed:
    """A pair under another name."""

    id: str
    spec: ParametricPairSpec
    files: tuple[Path, ...] = ()

    def open(self):
        opened = self.spec.open()
        opened.pair = replace(opened.pair, id=self.id)
        return opened


def test_a_pair_with_the_same_shapes_as_another_is_left_out_and_lines_are_not_padded(tmp_path):
    spec = ParametricPairSpec("table", "remove", 0)
    rows = [pair_row(prepare_pair(each, SMALL)) for each in (spec, Renamed("edit/twin", spec))]
    (tmp_path / "shards").mkdir()
    shard, detail = tmp_path / "00000.npz", "x" * 10**6
    outcomes = [Outcome(str(number), row=row) for number, row in enumerate(rows * 20)]
    write_shard(shard, [*outcomes, Outcome("long", "editing", "", reason="r", detail=detail)], PairWork(SMALL))
    with np.load(shard) as arrays:
        assert sum(array.nbytes for name, array in arrays.items() if name in ("pairs", "rejected")) < 1.2e6
    assert read_lines(shard, "rejected")[0]["detail"] == detail
    write_shard(shard, outcomes[:2], PairWork(SMALL))
    finalise(tmp_path, [shard], SMALL)
    rejected = json.loads((tmp_path / "rejected.jsonl").read_text())
    assert len(EditPairStore.open(tmp_path)) == 1
    assert (rejected["id"], rejected["reason"]) == ("edit/twin", "duplicate")


@pytest.mark.slow
def test_ray_gives_the_same_bytes(tmp_path):
    ray = pytest.importorskip("ray")
    specs = table_of_boxes(tmp_path / "found")
    prepare_pairs(specs, tmp_path / "local", 1, SMALL, False)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        prepare_pairs(specs, tmp_path / "ray", 1, SMALL, False, engine="ray")
    finally:
        ray.shutdown()
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
