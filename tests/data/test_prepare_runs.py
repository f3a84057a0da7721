"""What a run takes for the same, what it leaves alone, and what it says about rejected assets."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from preparation_assets import CAPTIONS, SMALL, FakeAsset

from omni123_hf.data.asset_picture import SAMPLED, _draw_points
from omni123_hf.data.asset_work import AssetWork, asset_row
from omni123_hf.data.inputs import InputOptions, read_source
from omni123_hf.data.inputs.repository import LocalRepository, RepositoryAsset
from omni123_hf.data.prepare import _plan, prepare_dataset
from omni123_hf.data.prepare_asset import prepare_asset
from omni123_hf.data.prepare_shard import Outcome, read_lines, write_shard
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera
from omni123_hf.geometry.sampling import sample_surface


def hash_of(assets) -> str:
    return str(_plan(assets, SMALL, None)["assets_hash"])


def run(assets, out: Path) -> AssetStore:
    return prepare_dataset(assets, out, 1, SMALL, False)


def test_every_stated_field_makes_other_assets():
    asset = FakeAsset("fake/a")
    others = [
        replace(asset, **change)
        for change in (
            {"licence": "MIT"}, {"attribution": "me"}, {"category": "x"}, {"attributes": {"year": 1}},
            {"captions": CAPTIONS | {"short": ["another"]}}, {"source": "y"}, {"kind": "box"},
        )
    ]  # fmt: skip
    assert len({hash_of([each]) for each in [asset, *others]}) == 8
    assert hash_of([asset]) == hash_of([FakeAsset("fake/a")]) != hash_of([FakeAsset("\ud800")])


def test_a_changed_option_sidecar_or_file_is_noticed_and_a_moved_folder_is_not(tmp_path):
    found = tmp_path / "found"
    found.mkdir()
    trimesh.creation.box().export(found / "a.ply")

    def plan(folder=found, **options) -> str:
        return hash_of(read_source(f"x={folder}", InputOptions(**options)))

    first = plan(licence="MIT")
    assert (
        len({first, plan(licence="CC0-1.0"), plan(licence="MIT", up="z"), plan(licence="MIT", attribution="A")}) == 4
    )
    found = found.rename(tmp_path / "moved")
    assert plan(found, licence="MIT") == first
    status = (found / "a.ply").stat()
    os.utime(found / "a.ply", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert plan(found, licence="MIT") != first
    os.utime(found / "a.ply", ns=(status.st_atime_ns, status.st_mtime_ns))
    (found / "a.json").write_text('{"caption": "a box"}')
    assert plan(found, licence="MIT") != first


def test_a_repository_may_be_moved_and_its_models_may_not_change(tmp_path):
    words = dict(id="a", source="s", name="", category="c", captions=CAPTIONS, licence="MIT", attribution="")
    for name in "xy":
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.ply").write_bytes(b"ply")
        os.utime(tmp_path / name / "a.ply", ns=(1, 1))
    one, two = (
        RepositoryAsset(path="a.ply", repository=LocalRepository("s", str(tmp_path / name)), **words) for name in "xy"
    )
    before = hash_of([one])
    assert before == hash_of([two])
    (tmp_path / "x" / "a.ply").write_bytes(b"ply more")
    assert hash_of([one]) != before


def test_preparing_again_with_another_licence_is_refused_instead_of_keeping_the_old(tmp_path):
    run([FakeAsset("fake/a")], tmp_path)
    with pytest.raises(Omni123Error, match="other assets or settings"):
        run([FakeAsset("fake/a", licence="MIT")], tmp_path)


def test_a_broken_file_name_is_rejected_like_any_other(tmp_path):
    found = tmp_path / "found"
    found.mkdir()
    (found / os.fsdecode(b"x\xff.stl")).write_bytes(b"solid nonsense")
    trimesh.creation.box().export(found / "box.ply")
    (found / "b.ply").write_bytes(b"ply")
    (found / "b.json").write_text('{"captions": {"none": []}}')
    assets = read_source(str(found), InputOptions(licence="MIT"))
    assert len(run(assets, tmp_path / "set")) == 1
    lines = [json.loads(line) for line in (tmp_path / "set/rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["source"], line["path"]) for line in lines] == [("found", "b.ply"), ("found", "x\ufffd.stl")]
    assert lines[0]["reason"] == "bad_metadata" and str(tmp_path) not in json.dumps(lines)
    assert [path.name for path in (tmp_path / "set").glob(".*")] == [".lock"]


def test_lines_of_a_shard_are_bytes_and_old_ones_are_refused(tmp_path):
    prepared = prepare_asset(FakeAsset("fake/a", attributes={"note": "line\u2028 \n\x85 ü"}), SMALL)
    outcomes = [
        Outcome("fake/a", row=asset_row(prepared)),
        Outcome("b", "s", "b\udcff.ply", reason="r", detail="\ud800\n" + "x" * 10**6),
    ]
    path = tmp_path / "00000.npz"
    write_shard(path, outcomes, AssetWork(SMALL))
    assert read_lines(path, "records")[0] == prepared.record.to_dict()
    assert read_lines(path, "rejected") == [
        {"id": "b", "source": "s", "path": "b\ufffd.ply", "reason": "r", "detail": "\ufffd\n" + "x" * 10**6}
    ]
    write_shard(path, outcomes[:1] * 50 + outcomes[1:], AssetWork(SMALL))
    with np.load(path) as shard:
        # One character of each line for each of the longest would be 4 bytes × 51 × a million.
        assert shard["rejected"].dtype == np.uint8 and shard["rejected"].nbytes < 1.1e6
    write_shard(path, outcomes[:1], AssetWork(SMALL))
    assert read_lines(path, "rejected") == []
    np.savez(path, records=np.array(['{"id": "a"}']))
    with pytest.raises(Omni123Error, match="older version"):
        read_lines(path, "records")


def test_two_runs_do_not_share_a_folder(tmp_path):
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Omni123Error, match="another run"):
            run([FakeAsset("fake/a")], tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert len(run([FakeAsset("fake/a")], tmp_path)) == 1


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("mine")
    with pytest.raises(Omni123Error, match="not empty"):
        run([FakeAsset("fake/a")], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
    with pytest.raises(Omni123Error, match="is a file"):
        run([FakeAsset("fake/a")], tmp_path / "manifest.jsonl")
    (tmp_path / "plan.json").write_text("{broken")
    with pytest.raises(Omni123Error, match="plan.json is not readable"):
        run([FakeAsset("fake/a")], tmp_path)
    (tmp_path / "plan.json").write_text('{"assets": 1}')
    with pytest.raises(Omni123Error, match="begun by another version"):
        run([FakeAsset("fake/a")], tmp_path)


def test_the_most_frequent_reasons_are_said_when_nothing_is_kept(tmp_path):
    with pytest.raises(Omni123Error, match=r"every asset was rejected \(empty 2, not_finite 1\)"):
        run([FakeAsset(f"fake/{i}", kind) for i, kind in enumerate(("nan", "empty", "empty"))], tmp_path)


@pytest.mark.parametrize("points, size", [(2048, 64), (3072, 64), (320, 32), (20_000, 256)])
def test_a_closed_sphere_is_drawn_without_holes(points, size):
    from scipy.ndimage import binary_fill_holes

    sphere = trimesh.creation.icosphere(4, 0.96)
    surface = np.concatenate(sample_surface(sphere, points, np.random.default_rng(0)), axis=1)
    for name in ALL_VIEWS:
        seen = np.isfinite(_draw_points(surface, get_camera(name), size)[0])
        assert not (binary_fill_holes(seen) & ~seen).any() and seen.mean() > 0.3
    assert "sampled\nnormals" in SAMPLED
