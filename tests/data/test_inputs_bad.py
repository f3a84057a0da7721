"""Words that cannot be read: one asset is rejected for them, and its source goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trimesh

from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.inputs import read_source
from omni123_hf.data.inputs.base import BadMetadataAsset
from omni123_hf.data.inputs.fields import read_fields
from omni123_hf.data.inputs.folder import MAX_SIDECAR_BYTES
from omni123_hf.data.inputs.read import check_licences
from omni123_hf.errors import Omni123Error, RejectedError


BOX = trimesh.creation.box((1.0, 2.0, 3.0))


def problem_of(asset: BadMetadataAsset) -> str:
    """What such an asset is rejected with."""
    with pytest.raises(RejectedError) as caught:
        asset.load()
    assert caught.value.reason == "bad_metadata"
    return str(caught.value)


@pytest.mark.parametrize(
    "sidecar, message",
    [
        ("{broken", "words beside a.ply are not readable"),
        ("[" * 100_000, "words beside a.ply are not readable"),
        (b"\xff", "words beside a.ply are not readable"),
        ("[1]", "must hold one JSON object"),
        ('{"up": "x"}', "up must be y or z"),
        ('{"captions": {"huge": ["a"]}}', "captions must be"),
        ('{"tags": 5}', "tags must be text or a list"),
        ('{"x": ' + "[" * 50 + "]" * 50 + "}", "more than 32 deep"),
        (json.dumps({"caption": "x" * 10_001}), "a caption has 10001 characters"),
        (json.dumps({"captions": ["x" * 9_999] * 20}), "all captions has"),
        (json.dumps({"x": "x" * 100_001}), "further columns has"),
        (json.dumps({"name": "x" * 10_001}), "name has 10001 characters"),
        (json.dumps({"x": "x" * MAX_SIDECAR_BYTES}), "more than 1000000"),
    ],
)
def test_a_bad_sidecar_is_one_rejected_asset(tmp_path, sidecar, message):
    for name in "ab":
        BOX.export(tmp_path / f"{name}.ply")
    (tmp_path / "a.json").write_bytes(sidecar if isinstance(sidecar, bytes) else sidecar.encode())
    bad, good = read_source(str(tmp_path))
    assert message in problem_of(bad) and str(tmp_path) not in problem_of(bad)
    assert bad.place == "a.ply" and len(good.load().faces) == 12


@pytest.mark.parametrize("suffix", ["json", "txt"])
def test_a_sidecar_is_not_read_through_a_link_out_of_its_folder(tmp_path, suffix):
    found = tmp_path / "found"
    found.mkdir()
    for name in ("in", "out", "gone"):
        BOX.export(found / f"{name}.ply")
    (tmp_path / f"secret.{suffix}").write_text('{"caption": "a secret"}')
    (found / f"kept.{suffix}").write_text('{"caption": "a box"}')
    (found / f"out.{suffix}").symlink_to(tmp_path / f"secret.{suffix}")
    (found / f"in.{suffix}").symlink_to(f"kept.{suffix}")
    (found / f"gone.{suffix}").symlink_to("nowhere")
    gone, inside, outside = read_source(str(found))
    assert "outside the asset's folder" in problem_of(outside) and "leads nowhere" in problem_of(gone)
    assert "a box" in json.dumps(inside.captions) and "secret" not in problem_of(outside)


def test_bad_rows_of_a_table_are_rejected_one_by_one(tmp_path):
    BOX.export(tmp_path / "a.ply")
    rows = [
        '{"path": "a.ply"}', '{"path"', "[1]", '{"path": "a.ply", "up": "x"}', '{"path": "a.ply", "captions": 5}',
        '{"path": "a.ply", "captions": [5]}', '{"id": "x"}', '{"path": ["a.ply"]}', "[" * 100_000,
        '{"path": "a.ply", "n": ' + "9" * 5000 + "}",
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    good, *bad = read_source(str(tmp_path / "m.jsonl"))
    words = ["not JSON", "must be a JSON object", "up must be", "captions must be", "not text", "no path",
             "path must be text", "not JSON", "not JSON"]  # fmt: skip
    assert len(good.load().faces) == 12 and len(bad) == len(words) and len({asset.id for asset in bad}) == len(words)
    for number, (asset, word) in enumerate(zip(bad, words, strict=True), start=2):
        assert word in problem_of(asset) and asset.place == f"m.jsonl row {number}"
    (tmp_path / "m.csv").write_text(f"path,name\na.ply,b,c\n,x\na.ply,{'x' * 200_000}\na.ply,box\n")
    *bad, good = read_source(str(tmp_path / "m.csv"))
    assert good.name == "box" and [problem_of(each).split("row ")[1][:8] for each in bad] == [
        "1 has mo", "2 has no", "3 is not"
    ]  # fmt: skip


def test_bad_rows_of_a_datasets_folder_and_entries_of_a_repository(tmp_path):
    datasets = pytest.importorskip("datasets")
    ply = BOX.export(file_type="ply")
    datasets.Dataset.from_dict({"mesh": [ply, ply], "up": ["x", "y"]}).save_to_disk(tmp_path / "rows")
    bad, good = read_source(str(tmp_path / "rows"))
    assert "up must be" in problem_of(bad) and len(good.load().faces) == 12 and bad.place == "row all/0"
    root = tmp_path / "objects"
    root.mkdir()
    for uid in ("aa", "bb", "cc"):
        BOX.export(root / f"{uid}.ply")
    entries = [{"uid": "aa", "tags": 5}, {"uid": "bb", "name": "a \ud800 box"}, {"name": "nobody"}, 5]
    (root / "metadata.json").write_text(json.dumps(entries))
    found = read_source(str(root))
    assert [type(asset) is BadMetadataAsset for asset in found].count(True) == 3
    assert [asset.name for asset in found if asset.id == "bb"] == ["a \ufffd box"]
    (root / "object-paths.json").write_text("[{}]")
    with pytest.raises(Omni123Error, match="must map ids to paths"):
        read_source(str(root))
    (root / "object-paths.json").unlink()
    (root / "metadata.json").rename(tmp_path / "secret.json")
    (root / "metadata.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(Omni123Error, match="link out of the repository"):
        read_source(str(root))


def test_lone_surrogates_are_replaced_where_words_are_read(tmp_path):
    row = json.loads(r'{"name": "\ud800", "caption": ["a \udfff"], "tags": ["\ud801"], "\ud802": {"\ud803": ["\ud804"]},'
                     r' "licence": "x\ud800", "category": "\ud800", "id": "\ud800", "author": "\ud83d\ude00"}')  # fmt: skip
    fields = read_fields(row, "row")
    json.dumps(vars(fields), ensure_ascii=False).encode()
    assert fields.captions["short"] == ["a \ufffd"] and fields.attribution == "\U0001f600"
    assert read_fields({"captions": r'["\ud800"]'}, "row").captions["short"] == ["\ufffd"]
    folder = tmp_path / os.fsdecode(b"meshes\xff")
    folder.mkdir()
    BOX.export(folder / "a.ply")
    assert read_source(str(folder))[0].source == "meshes\ufffd"


def test_assets_that_cannot_be_read_state_no_licence(tmp_path: Path):
    for name in "ab":
        BOX.export(tmp_path / f"{name}.ply")
    (tmp_path / "a.json").write_text("{")
    assets = read_source(str(tmp_path))
    assert [asset.licence == UNKNOWN_LICENCE for asset in assets] == [False, True]
    with pytest.raises(Omni123Error, match="any of its 1 assets"):
        check_licences(assets, "found")
