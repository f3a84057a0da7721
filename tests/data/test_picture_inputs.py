"""Pictures of a user's own: folders and tables, what tells them from meshes, and a store that outlives every bad one."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trimesh
from picture_samples import encoded, halves, png

import omni123_hf.data.prepare_images as module
from omni123_hf.data.image_store import ImageStore
from omni123_hf.data.inputs import InputOptions, kind_of_source, read_pictures
from omni123_hf.data.prepare_images import prepare_images
from omni123_hf.errors import Omni123Error, RejectedError


@pytest.fixture
def folder(tmp_path):
    """Pictures as one finds them; `secret.png` lies outside."""
    found = tmp_path / "found"
    (found / "Wild animals").mkdir(parents=True)
    files = {
        "a.png": halves(), "Wild animals/b.JPG": halves(), "c.webp": halves(), "nameless.png": halves(),
        "free.png": halves(), "../secret.png": halves(),
    }  # fmt: skip
    for name, image in files.items():
        fmt = {"png": "PNG", "JPG": "JPEG", "webp": "WEBP"}[name.rsplit(".")[-1]]
        (found / name).write_bytes(encoded(image, fmt))
    (found / "a.txt").write_text("a red and a blue half\n\ntwo colours\n")
    words = {"caption": "a bear", "licence": "by", "author": "Ann", "up": "z", "iso": 100, "id": "Bear 1"}
    (found / "Wild animals/b.json").write_text(json.dumps(words))
    (found / "c.json").write_text("{broken")
    (found / "free.json").write_text('{"caption": "x", "licence": "unknown"}')
    (found / "huge.png").write_bytes(png(20_000, 20_000))
    (found / "huge.txt").write_text("too large")
    (found / "link.png").symlink_to("../secret.png")
    (found / "link.txt").write_text("a secret")
    (found / "notes.md").write_text("no picture")
    return found


def test_a_folder_becomes_rows_and_reasons(folder, tmp_path):
    pictures = read_pictures(str(folder), InputOptions(licence="MIT", attribution="Bob"))
    store = prepare_images(pictures, tmp_path / "store", size=16, show_progress=False)
    bear, first, free = store.records
    assert (bear.id, bear.licence, bear.attribution, bear.category) == (
        "bear-1-" + bear.id[-8:], "CC-BY-4.0", "Ann", "wild animals"
    )  # fmt: skip
    assert bear.captions["short"] == ["a bear"] and bear.attributes["columns"] == {"iso": 100, "up": "z"}
    assert (first.licence, first.attribution) == ("MIT", "Bob") and first.source == "found"
    assert first.captions["short"] == ["a red and a blue half", "two colours"] and free.licence == "MIT"
    assert np.abs(store.images(1)[8, 1, :3].astype(int) - [200, 30, 30]).max() < 2
    lines = {
        line["path"]: line for line in map(json.loads, (store.folder / "rejected.jsonl").read_text().splitlines())
    }
    assert {path: line["reason"] for path, line in lines.items()} == {
        "c.webp": "bad_metadata", "huge.png": "too_many_pixels", "link.png": "path_outside_root",
        "nameless.png": "no_caption",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(lines)
    assert store.summary["settings"]["outcome"]["kept"] == 3 and sum(store.summary["splits"].values()) == 3
    assert not list(store.folder.glob("*.npz")) and not (store.folder / "shards").exists()


def test_licences_are_required(folder, tmp_path):
    pictures = read_pictures(str(folder))
    store = prepare_images(pictures, tmp_path / "strict", size=8, show_progress=False)
    assert [record.licence for record in store.records] == ["CC-BY-4.0"]
    assert store.summary["settings"]["outcome"]["rejected_by_reason"]["unknown_licence"] == 5
    store = prepare_images(pictures, tmp_path / "lax", size=8, allow_unknown_licence=True, show_progress=False)
    assert {record.licence for record in store.records} == {"CC-BY-4.0", "unknown"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["image", "path", "file_name"])
def test_a_table_of_pictures(folder, suffix, column):
    rows = [
        {column: "a.png", "caption": "two halves", "license": "CC0"},
        {column: "../secret.png", "caption": "a secret", "license": "CC0"},
        {column: str(folder / "../secret.png"), "caption": "a secret", "license": "CC0"},
        {column: "gone.png", "caption": "gone", "license": "CC0"},
        {column: "", "caption": "nothing", "license": "CC0"},
    ]
    path = folder / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "csv":
        path.write_text("\n".join(",".join(row) for row in [rows[0].keys(), *(row.values() for row in rows)]))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    assert kind_of_source(f"mine={path}") == "pictures"
    good, *bad = read_pictures(f"mine={path}")
    assert (good.source, good.licence, good.captions["short"]) == ("mine", "CC0-1.0", ["two halves"])
    assert good.load().size == (32, 16)
    reasons = []
    for asset in bad:
        with pytest.raises(RejectedError) as caught:
            asset.load()
        reasons.append(caught.value.reason)
    assert reasons == ["path_outside_root", "path_outside_root", "missing_file", "bad_metadata"]


def test_a_metadata_table_describes_its_folder(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "two halves"}\n')
    (only,) = read_pictures(str(folder))
    assert only.captions["short"] == ["two halves"] and only.place == "a.png"


def test_meshes_and_pictures_are_told_apart(folder, tmp_path):
    assert kind_of_source("fluent-emoji") == kind_of_source(str(folder)) == kind_of_source(str(folder / "a.png"))
    assert kind_of_source("fluent-emoji") == "pictures"
    for text in ("parametric", "ldraw", "owner/name", "nonsense", str(tmp_path / "none.csv")):
        assert kind_of_source(text) == "meshes"
    table = folder / "t.csv"
    for text, kind in (
        ("path\nx.glb\n", "meshes"),
        ("path,image\nx.glb,preview.png\n", "meshes"),
        ("image,caption\nx.png,a\n", "pictures"),
        ("path\nx.png\nx.glb\n", "meshes"),
        ("number\n1\n", "meshes"),
    ):
        table.write_text(text)
        assert kind_of_source(str(table)) == kind, text
    trimesh.creation.box().export(folder / "box.ply")
    assert kind_of_source(str(folder)) == "meshes", "pictures lie beside meshes as textures"
    assert len(read_pictures(str(folder))) == 7, "but they are there when they are asked for"


@pytest.mark.parametrize(
    "text, message",
    [
        ("nonsense", "unknown source of pictures 'nonsense'; give fluent-emoji, a folder"),
        ("parametric", "a source of meshes; run 'omni123 data prepare parametric'"),
        ("{found}/notes.md", "neither a table nor a picture"),
        ("{found}/empty", "holds no picture"),
        ("{found}/t.csv", "names a picture; the table needs a column 'image' or 'path'"),
        ("{found}/e.csv", "has no rows"),
        ("{found}/bad.parquet", "not a readable table"),
    ],
)
def test_what_is_no_source_of_pictures(folder, text, message):
    (folder / "empty").mkdir()
    (folder / "t.csv").write_text("caption\na\n")
    (folder / "e.csv").write_text("image\n")
    (folder / "bad.parquet").write_text("x")
    with pytest.raises(Omni123Error, match=message):
        read_pictures(text.format(found=folder))


RUN = """
import os, signal, sys
import omni123_hf.data.prepare_images as module
from omni123_hf.data.inputs import InputOptions, read_pictures

if __name__ == "__main__":
    module.SHARD_SIZE = 4
    write, calls = module._write_shard, []
    def until_killed(*arguments):
        write(*arguments)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    module._write_shard = until_killed
    module.prepare_images(read_pictures(sys.argv[1], InputOptions(licence="MIT")), sys.argv[2], 8, show_progress=False)
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    found = tmp_path / "found"
    found.mkdir()
    for number in range(14):
        (found / f"{number}.png").write_bytes(encoded(halves(16 + number, 16)))
        (found / f"{number}.txt").write_text(f"number {number}")
    (found / "5.png").write_bytes(b"broken")
    (tmp_path / "run.py").write_text(RUN)
    words = [sys.executable, str(tmp_path / "run.py"), str(found), str(tmp_path / "killed")]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    with pytest.raises(Omni123Error, match="no finished pictures"):
        ImageStore.open(tmp_path / "killed")
    assert len(list((tmp_path / "killed/shards").glob("*.npz"))) == 2
    monkeypatch.setattr(module, "SHARD_SIZE", 4)
    pictures = read_pictures(str(found), InputOptions(licence="MIT"))
    for name in ("killed", "whole"):
        prepare_images(pictures, tmp_path / name, 8, workers=2, show_progress=False)
    content = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("killed", "whole")]
    assert content[0] == content[1] and len(ImageStore.open(tmp_path / "whole")) == 13
    with pytest.raises(Omni123Error, match="other pictures or settings"):
        prepare_images(pictures, tmp_path / "whole", 16, show_progress=False)
    os.utime(found / "3.png", ns=(1, 1))
    with pytest.raises(Omni123Error, match="sources have changed"):
        prepare_images(pictures, tmp_path / "whole", 8, show_progress=False)


def test_bad_settings_and_broken_stores_are_named(folder, tmp_path):
    pictures = read_pictures(f"{folder}/a.png", InputOptions(licence="MIT"))
    for size in (0, 2048):
        with pytest.raises(Omni123Error, match="size must be from 1 to 1024"):
            prepare_images(pictures, tmp_path / "x", size)
    with pytest.raises(Omni123Error, match="given more than once"):
        prepare_images(pictures * 2, tmp_path / "x")
    with pytest.raises(Omni123Error, match=r"every picture was rejected \(no_caption 1\); the details are in"):
        prepare_images(read_pictures(f"{folder}/nameless.png", InputOptions(licence="MIT")), tmp_path / "none")
    store = prepare_images(pictures, tmp_path / "store", 8, show_progress=False)
    summary = (store.folder / "images.json").read_text()
    for text, message in (
        ("{", "no summary"),
        ("[]", "no summary"),
        ('{"format": 9, "size": 1, "content_hash": ""}', "format 9"),
    ):
        (store.folder / "images.json").write_text(text)
        with pytest.raises(Omni123Error, match=message):
            ImageStore.open(store.folder)
    (store.folder / "images.json").write_text(summary)
    np.save(store.folder / "images.npy", np.zeros((1, 16, 16, 4), np.uint8))
    with pytest.raises(Omni123Error, match="do not match"):
        ImageStore.open(store.folder)
