"""`omni123 data` as a user runs it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import trimesh
from PIL import Image

from omni123_hf.cli.main import main
from omni123_hf.data.store import AssetStore


SETTINGS = """
surface_points: 256
sharp_points: 64
queries: 512
view_size: 32
random_views: 1
view_geometry: true
resolution: 64
round_trip_resolution: 64
"""


def call(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main(["data", *(str(argument) for argument in arguments)])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as one finds it: a closed mesh, an open one, a broken one, and one nobody gave a licence."""
    folder = tmp_path_factory.mktemp("found")
    closed = trimesh.creation.cylinder(0.5, 1.0, sections=24)
    opened = trimesh.creation.icosphere(2)
    opened.update_faces(opened.triangles_center[:, 1] < 0.95)
    for name, mesh in (("drum", closed), ("ball", opened)):
        mesh.export(folder / f"{name}.glb")
        (folder / f"{name}.json").write_text(json.dumps({"caption": f"a {name}", "licence": "CC0-1.0"}))
    (folder / "broken.glb").write_bytes(b"glTF")
    (folder / "broken.json").write_text('{"licence": "MIT"}')
    closed.export(folder / "nobodys.glb")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def prepared(found: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder prepared, read only."""
    out = tmp_path_factory.mktemp("out") / "set"
    assert call("prepare", found, "--out", out, "--config", found / "settings.yaml", "--workers", 2) == 0
    return out


def test_prepare_says_what_became_of_every_asset(prepared, found, capsys):
    assert call("prepare", found, "--out", prepared, "--config", found / "settings.yaml") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "2 prepared, 2 rejected" in text and "kept 1" in text and "repaired 1" in text and "unknown_licence 1" in text
    )
    store = AssetStore.open(prepared)
    assert {record.captions["short"][0] for record in store.records} == {"a ball", "a drum"}
    reasons = {line["reason"] for line in map(json.loads, (prepared / "rejected.jsonl").read_text().splitlines())}
    assert len(reasons) == 2 and "unknown_licence" in reasons


def test_stats_in_words_and_as_json(prepared, capsys):
    assert call("stats", prepared) == 0
    text = capsys.readouterr().out
    assert "kept 1, repaired 1, rejected 2" in text and "thin_walls" in text and "volume_iou" in text
    assert call("stats", prepared, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["outcome"]["rejected_by_reason"]["unknown_licence"] == 1 and values["licence"] == {"CC0-1.0": 2}
    assert values["quality"]["volume_iou"]["min"] > 0.9 and values["caption_source"] == {"sidecar": 2}


def test_stats_of_a_data_set_from_before_quality_was_measured(tmp_path, capsys):
    from tiny_store import write_tiny_store

    write_tiny_store(tmp_path)
    assert call("stats", tmp_path) == 0
    assert "16 assets" in capsys.readouterr().out


def test_view_draws_stored_views_and_samples(prepared, tmp_path, capsys):
    asset = AssetStore.open(prepared).records[0].id
    assert call("view", prepared, "--id", asset, "--out", tmp_path / "new" / "sheet.png") == 0
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > 700 and sheet.height > 1000
        assert len(set(sheet.convert("RGB").resize((64, 64)).getdata())) > 50
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]
    assert call("view", prepared, "--id", "nobody", "--out", tmp_path / "x.png") == 2
    assert "has no asset 'nobody'" in capsys.readouterr().err
    assert call("view", prepared, "--id", asset, "--out", tmp_path / "x.pdf") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nonsense"], "unknown source"),
        (["{found}", "{found}"], "given twice"),
        (["{found}/nobodys.glb"], "--allow-unknown-licence"),
        (["{found}", "--preset", "huge"], "unknown preset"),
        (["{found}", "--engine", "spark"], "must be local or ray"),
        (["{found}", "--up", "x"], "must be y or z"),
        (["{found}", "--captions", "poems"], "given or template"),
        (["{found}", "--config", "{found}/none.yaml"], "not a readable YAML"),
        (["{found}", "--caption-model", "m"], "both --caption-endpoint and --caption-model"),
        (["{found}", "--caption-model", "m", "--caption-endpoint", "ftp://x"], "http or https"),
        (["{found}/broken.glb"], "every asset was rejected"),
    ],
)
def test_bad_input_is_one_line(found, tmp_path, capsys, arguments, message):
    out = tmp_path / "set"
    words = [argument.format(found=found) for argument in arguments]
    assert call("prepare", *words, "--out", out) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (out / "dataset.json").exists()


def test_an_unknown_licence_is_kept_when_allowed_or_stated(found, tmp_path):
    mesh, settings = found / "nobodys.glb", found / "settings.yaml"
    assert call("prepare", mesh, "--out", tmp_path / "a", "--config", settings, "--allow-unknown-licence") == 0
    assert AssetStore.open(tmp_path / "a").records[0].licence == "unknown"
    stated = ["--licence", "by", "--attribution", "M. Aker"]
    assert call("prepare", mesh, "--out", tmp_path / "b", "--config", settings, *stated) == 0
    record = AssetStore.open(tmp_path / "b").records[0]
    assert (record.licence, record.attribution) == ("CC-BY-4.0", "M. Aker")


def test_stats_of_token_shards_are_those_of_token_stats(tmp_path, capsys):
    sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "shards"))
    from tiny_shards import write_tiny_shards

    write_tiny_shards(tmp_path)
    assert call("stats", tmp_path, "--json") == 0
    ours = capsys.readouterr().out
    assert call("token-stats", tmp_path, "--json") == 0
    assert capsys.readouterr().out == ours and "code_use" in ours


def test_stats_of_a_broken_data_set_is_one_line(tmp_path, capsys):
    (tmp_path / "dataset.json").write_text("{broken")
    assert call("stats", tmp_path) == 2
    assert "not readable JSON" in capsys.readouterr().err


def test_fetch_names_every_source(capsys):
    assert call("fetch", "--help") == 0
    help_text = capsys.readouterr().out
    assert "fluent-emoji" in help_text and "npm" in help_text


def test_words_that_cannot_be_read_reject_one_asset(found, tmp_path, capsys):
    folder = tmp_path / "found"
    shutil.copytree(found, folder)
    (folder / "ball.json").write_text("{broken")
    assert call("prepare", folder, "--out", tmp_path / "set", "--config", found / "settings.yaml") == 0
    assert "bad_metadata" in capsys.readouterr().out
