"""Pictures through `omni123 data prepare` and its alias `images`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from picture_samples import encoded, halves
from PIL import Image
from tiny_prepared import write_tiny_edits, write_tiny_pictures

from omni123_hf.cli.main import main
from omni123_hf.data.image_store import ImageStore


def call(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main(["data", *(str(argument) for argument in arguments)])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fetch fluent-emoji` writes, with one picture; read only."""
    raw = tmp_path_factory.mktemp("raw")
    root = raw / "fluent-emoji"
    for folder in ("fluent-emoji-3d/assets", "unicode-emoji-json", "emojilib/dist"):
        (root / folder).mkdir(parents=True)
    Image.new("RGBA", (32, 32), (250, 210, 40, 255)).save(root / "fluent-emoji-3d" / "assets" / "1f36a.webp")
    names = {"🍪": {"name": "cookie", "group": "Food & Drink"}}
    (root / "unicode-emoji-json" / "data-by-emoji.json").write_text(json.dumps(names))
    (root / "emojilib" / "dist" / "emoji-en-US.json").write_text("{}")
    return raw


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a captioned picture and a broken one, and beside it a folder of meshes; read only."""
    folder = tmp_path_factory.mktemp("found") / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(halves()))
    (folder / "a.txt").write_text("two halves")
    (folder / "b.png").write_bytes(b"broken")
    (folder.parent / "meshes").mkdir()
    trimesh.creation.box().export(folder.parent / "meshes" / "box.ply")
    return folder


def test_prepare_and_images_are_one_command_for_pictures(raw, found, tmp_path, capsys):
    options = ("--raw", raw, "--out", tmp_path / "pool", "--licence", "MIT", "--attribution", "Ann", "--size", 16)
    assert call("prepare", "fluent-emoji", found, *options, "--workers", 2) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fluent-emoji: 1 pictures" in text and "2 pictures of 16 x 16" in text
    assert "rejected 1 unreadable_picture 1" in text
    store = ImageStore.open(tmp_path / "pool")
    assert [record.attribution.split()[0] for record in store.records] == ["Fluent", "Ann"]
    assert call("images", "fluent-emoji", found, *options) == 0, "the same run"
    assert store.content_hash[:16] in capsys.readouterr().out
    assert call("images", "fluent-emoji", found, *options, "--seed", 1) == 2
    assert "other pictures or settings" in capsys.readouterr().err


def test_stats_and_view_of_pictures_and_pairs(tmp_path, capsys):
    pictures, edits = write_tiny_pictures(tmp_path / "pictures").folder, write_tiny_edits(tmp_path).folder
    for folder, name, words in ((pictures, "photo/0", "8 pictures of 16"), (edits, "edit/box/0", "by edit type")):
        assert call("stats", folder) == 0 and words in capsys.readouterr().out
        assert call("stats", folder, "--json") == 0 and json.loads(capsys.readouterr().out)["content_hash"]
        assert call("view", folder, "--id", name, "--out", tmp_path / "new" / "sheet.png") == 0
        with Image.open(tmp_path / "new" / "sheet.png") as sheet:
            assert sheet.width > 700 and len(sheet.getcolors(10**6)) > 50
        assert call("view", folder, "--id", "nobody", "--out", tmp_path / "x.png") == 2
        assert "'nobody'" in capsys.readouterr().err and not (tmp_path / "x.png").exists()
    assert call("stats", tmp_path) == 2
    assert "holds no finished data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("prepare", "fluent-emoji", "parametric"), "parametric is meshes and fluent-emoji is pictures"),
        (("prepare", "{found}", "{found}/../meshes"), "/meshes is meshes and"),
        (("prepare", "{found}", "--up", "y"), "--up: of no meaning for pictures"),
        (
            ("prepare", "{found}", "--preset", "mini", "--captions", "template"),
            "--preset and --captions: of no meaning",
        ),
        (("prepare", "{found}", "--engine", "ray"), "--engine: of no meaning for pictures"),
        (
            ("prepare", "{found}", "--caption-endpoint", "http://x/v1"),
            "--caption-endpoint: of no meaning for pictures",
        ),
        (("prepare", "{found}/../meshes", "--size", "32"), "--size: of no meaning for meshes"),
        (("prepare", "{found}"), "states no licence for any of its 2 assets; give it with --licence"),
        (("prepare", "{found}", "{found}", "--licence", "MIT"), "given twice"),
        (("images", "{found}/../meshes"), "holds no picture"),
        (("images", "nonsense"), "unknown source of pictures"),
        (("images", "fluent-emoji", "--raw", "{found}"), "data fetch fluent-emoji"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(found, tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert call(*(str(word).format(found=found) for word in arguments), "--out", out) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not out.exists()
