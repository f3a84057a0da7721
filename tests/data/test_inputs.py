from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.inputs import InputOptions, read_source, register_source
from omni123_hf.data.inputs.fields import read_fields, words_of
from omni123_hf.data.inputs.ids import given_id, path_id
from omni123_hf.data.inputs.licences import normalise_licence
from omni123_hf.data.inputs.named import _REGISTERED
from omni123_hf.data.inputs.read import check_licences
from omni123_hf.errors import Omni123Error, RejectedError


BOX = trimesh.creation.box((1.0, 2.0, 3.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Meshes with a JSON sidecar, a text sidecar and no sidecar; things that are no meshes."""
    root = tmp_path / "found"
    for name in ("chairs/Old_armChair-02.glb", "chairs/stool.ply", "0123456789abcdef.stl", ".hidden.ply"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        BOX.export(root / name, file_type=Path(name).suffix[1:])
    (root / "chairs/stool.txt").write_text(
        "a stool\n\nA low round stool with three legs made of dark wood for a bar\n"
    )
    (root / "0123456789abcdef.json").write_text(
        json.dumps(
            {"caption": "a crate", "license": "by-nc", "author": "A. Maker", "tags": ["box"], "year": 1999, "up": "z"}
        )
    )
    (root / "readme.md").write_text("no mesh")
    return root


def test_a_folder_is_searched_in_depth_and_words_come_from_sidecars_or_names(folder):
    crate, chair, stool = read_source(str(folder))
    assert chair.captions == {"short": ["old arm chair"], "medium": [], "long": []}
    assert chair.attributes["caption_source"] == "file_name" and chair.category == "chairs"
    assert chair.licence == UNKNOWN_LICENCE and chair.source == "found"
    assert stool.captions["short"] == ["a stool"] and stool.captions["medium"][0].startswith("A low round")
    assert stool.attributes["caption_source"] == "sidecar"
    assert crate.licence == "CC-BY-NC-4.0" and crate.attribution == "A. Maker" and crate.category == "object"
    assert crate.attributes == {"caption_source": "sidecar", "tags": ["box"], "columns": {"year": 1999}}
    np.testing.assert_allclose(stool.load().extents, (1, 2, 3), atol=1e-5)
    np.testing.assert_allclose(crate.load().extents, (1, 3, 2), atol=1e-5)


def test_options_fill_what_files_do_not_say(folder):
    options = InputOptions(licence="cc0", attribution="everyone", up="z", limit=2)
    few = read_source(f"toys={folder}", options)
    assert len(few) == 2 and {asset.source for asset in few} == {"toys"}
    chair = next(asset for asset in few if asset.category == "chairs")
    assert chair.licence == "CC0-1.0" and chair.attribution == "everyone"
    np.testing.assert_allclose(chair.load().extents, (1, 3, 2), atol=1e-5)
    assert read_source(str(folder / "chairs/stool.ply"))[0].captions["short"] == ["a stool"]


def test_ids_are_safe_stable_and_unique(folder):
    ids = [asset.id for asset in read_source(str(folder))]
    (folder / "another.ply").write_bytes((folder / "chairs/stool.ply").read_bytes())
    assert set(ids) <= {asset.id for asset in read_source(str(folder))}
    names = [
        "a/b.obj",
        "a-b.obj",
        "a b.obj",
        "A/B.obj",
        "a/b.glb",
        "ä/b.obj",
        "日本.glb",
        "x" * 300 + ".glb",
        "\udcff.ply",
    ]
    found = [path_id("My Source", name) for name in names]
    assert len(set(found)) == len(names)
    for name in [
        *found,
        given_id("../../etc/passwd"),
        given_id("CON"),
        given_id("con.txt"),
        given_id("a."),
        given_id("é"),
    ]:
        assert len(name) < 150 and name == name.lower() and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert not name.startswith(".") and given_id(name) == name
    assert given_id("ABC") != given_id("abc") == "abc"


def test_a_manifest_in_every_format(folder, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [
        {"path": "chairs/stool.ply", "id": "s-1", "caption_medium": "A low stool", "licence": "MIT", "category": "seat", "weight": 4},
        {"path": "chairs/Old_armChair-02.glb", "id": "B/2", "caption_medium": "", "licence": "", "category": "", "weight": 7},
    ]  # fmt: skip
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = ",".join(rows[0])
    (folder / "m.csv").write_text(
        "\ufeff" + header + "\n" + "".join(",".join(map(str, r.values())) + "\n" for r in rows)
    )
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    for suffix in ("jsonl", "csv", "parquet"):
        stool, chair = read_source(str(folder / f"m.{suffix}"))
        assert stool.id == "s-1" and stool.licence == "MIT" and stool.category == "seat"
        assert stool.captions == {"short": [], "medium": ["A low stool"], "long": []}
        assert int(stool.attributes["columns"]["weight"]) == 4
        assert chair.id.startswith("b-2-") and chair.licence == UNKNOWN_LICENCE and chair.captions["short"]
        assert len(stool.load().faces) == 12


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("m.csv", "name\nchair\n", "needs a column 'path'.*row 1 has no path"),
        ("m.csv", "path\n", "no rows"),
        ("m.csv", b"path\n\xff\xfe\n", "not a readable table"),
        ("m.jsonl", "[1]\n", "must be a JSON object"),
        ("m.jsonl", b'{"path": "\xff"}\n', "not a readable table"),
        ("m.parquet", "nonsense", "not a readable table"),
        ("m.docx", "nonsense", "neither a table nor a mesh"),
    ],
)
def test_bad_manifests_are_one_clear_line(tmp_path, name, text, message):
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Omni123Error, match=message):
        read_source(str(tmp_path / name))


def test_a_row_cannot_lead_out_of_its_folder(folder, tmp_path):
    BOX.export(tmp_path / "secret.ply")
    (folder / "m.jsonl").write_text(
        '{"path": "../secret.ply"}\n' + json.dumps({"path": str(tmp_path / "secret.ply")}) + '\n{"path": "gone.ply"}\n'
    )
    reasons = []
    for asset in read_source(str(folder / "m.jsonl")):
        with pytest.raises(RejectedError) as caught:
            asset.load()
        reasons.append(caught.value.reason)
    assert reasons == ["path_outside_root", "path_outside_root", "missing_file"]


def test_a_datasets_folder_with_the_mesh_feature_bytes_or_paths(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    glb = (folder / "chairs/Old_armChair-02.glb").read_bytes()
    ply = (folder / "chairs/stool.ply").read_bytes()
    words = {"caption": ["a chair", "a stool"], "license": ["CC0", "MIT"], "uid": ["u1", "u2"], "score": [0.5, 0.25]}
    meshes = [{"bytes": glb, "path": "a.glb"}, {"bytes": ply, "path": "b.ply"}]
    features = datasets.Features({
        "mesh": datasets.Mesh(), "caption": datasets.Value("string"), "license": datasets.Value("string"),
        "uid": datasets.Value("string"), "score": datasets.Value("float64"),
    })  # fmt: skip
    datasets.Dataset.from_dict({"mesh": meshes, **words}, features=features).save_to_disk(tmp_path / "feature")
    datasets.Dataset.from_dict({"blob": [glb, ply], **words}).save_to_disk(tmp_path / "binary")
    kept = tmp_path / "paths"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"path": ["a.glb", "../b.ply"], **words})}).save_to_disk(
        kept
    )
    (kept / "a.glb").write_bytes(glb)
    for name in ("feature", "binary", "paths"):
        chair, stool = read_source(str(tmp_path / name))
        assert (chair.id, stool.licence, stool.captions["short"]) == ("u1", "MIT", ["a stool"])
        assert chair.attributes["columns"] == {"score": 0.5} and chair.source == name
        np.testing.assert_allclose(chair.load().extents, (1, 2, 3), atol=1e-5)
        if name != "paths":
            assert len(stool.load().faces) == 12
    with pytest.raises(RejectedError) as caught:
        stool.load()
    assert caught.value.reason == "path_outside_root"
    datasets.Dataset.from_dict({"number": [1]}).save_to_disk(tmp_path / "numbers")
    with pytest.raises(Omni123Error, match="no column holds meshes"):
        read_source(str(tmp_path / "numbers"))


def test_an_objaverse_style_repository(folder, tmp_path):
    root = tmp_path / "objects"
    (root / "metadata").mkdir(parents=True)
    (root / "glbs/000-000").mkdir(parents=True)
    glb = (folder / "chairs/Old_armChair-02.glb").read_bytes()
    for uid in ("aa11", "bb22"):
        (root / f"glbs/000-000/{uid}.glb").write_bytes(glb)
    entries = {
        "aa11": {
            "uid": "aa11", "name": "Victorian Chair", "license": "by-sa", "tags": [{"name": "seat", "slug": "seat"}],
            "user": {"username": "maker", "displayName": "The Maker"}, "categories": [{"name": "furniture-home"}],
            "description": "A carved chair with red velvet from about 1870, scanned by hand", "viewCount": 12,
        },
        "bb22": {"uid": "bb22", "name": "", "license": None},
        "cc33": {"uid": "cc33", "name": "no file"},
    }  # fmt: skip
    (root / "metadata/000-000.json.gz").write_bytes(gzip.compress(json.dumps(entries).encode()))
    (root / "object-paths.json.gz").write_bytes(gzip.compress(json.dumps({"aa11": "glbs/000-000/aa11.glb"}).encode()))
    chair, unnamed = read_source(str(root))
    assert chair.id == "aa11" and chair.licence == "CC-BY-SA-4.0" and chair.category == "furniture-home"
    assert chair.attribution == "Victorian Chair by The Maker" and chair.attributes["tags"] == ["seat"]
    assert chair.captions["medium"] == [entries["aa11"]["description"]] and chair.name == "Victorian Chair"
    assert chair.attributes["columns"]["viewCount"] == 12
    assert unnamed.licence == UNKNOWN_LICENCE
    np.testing.assert_allclose(unnamed.load().extents, (1, 2, 3), atol=1e-5)
    (root / "metadata/000-000.json.gz").write_bytes(b"no gzip")
    with pytest.raises(Omni123Error, match="not readable JSON"):
        read_source(str(root))


def test_named_sources_and_what_is_none():
    try:
        register_source("balls", lambda options: read_source("parametric", options)[:1])
        assert len(read_source("balls")) == 1
        with pytest.raises(Omni123Error, match="taken"):
            register_source("parametric", lambda options: [])
    finally:
        _REGISTERED.pop("balls", None)
    assert len(read_source("parametric", InputOptions(per_category=1, limit=3))) == 3
    with pytest.raises(Omni123Error, match="unknown source 'nonsense'.*parametric"):
        read_source("nonsense")


def test_paths_that_are_not_there_and_folders_without_meshes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meshes").mkdir()
    with pytest.raises(Omni123Error, match="hf://meshes/chairs"):
        read_source("meshes/chairs")
    with pytest.raises(Omni123Error, match="holds no mesh"):
        read_source("meshes")
    (tmp_path / "meshes/manifest.jsonl").write_text("")
    (tmp_path / "meshes/dataset.json").write_text("{}")
    with pytest.raises(Omni123Error, match="prepared data set already"):
        read_source("meshes")


def test_licences_are_normalised_and_missing_ones_noticed(folder):
    names = {
        "by": "CC-BY-4.0", "CC BY-SA 3.0": "CC-BY-SA-3.0", "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0", "cc0": "CC0-1.0",
        "mit": "MIT", "Free Art 1.3": "Free Art 1.3", "n/a": UNKNOWN_LICENCE, None: UNKNOWN_LICENCE, "byte": "byte",
    }  # fmt: skip
    assert {name: normalise_licence(name) for name in names} == names
    assets = read_source(str(folder))
    check_licences(assets, "found")
    with pytest.raises(Omni123Error, match="--allow-unknown-licence"):
        check_licences([asset for asset in assets if asset.licence == UNKNOWN_LICENCE], "found")


def test_fields_take_captions_in_every_form():
    for value in (
        {"short": "a", "long": ["b c"]},
        '{"short": "a", "long": ["b c"]}',
    ):
        assert read_fields({"captions": value}, "row").captions == {"short": ["a"], "medium": [], "long": ["b c"]}
    assert read_fields({"caption": "[a chair"}, "row").captions["short"] == ["[a chair"]
    assert read_fields({"caption": float("nan"), "name": "x"}, "row").has_captions is False
    assert read_fields({"x": float("inf"), "raw": b"1"}, "row").others == {"x": None}
    assert words_of("IMG_0042") == "img" and words_of("3fa85f64-5717-4562-b3fc-2c963f66afa6") == ""
