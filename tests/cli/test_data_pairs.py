"""`omni123 data pairs` and `omni123 data images` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from PIL import Image

from omni123_hf.cli.main import main
from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.image_store import ImageStore


STATED = ("--licence", "cc-by", "--attribution", "Ann", "--made-with", "TRELLIS")


def call(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main(["data", *(str(argument) for argument in arguments)])
    return int(caught.value.code or 0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two pairs of boxes, of which one has no known licence."""
    for name, height in (("low", 0.5), ("high", 1.0)):
        trimesh.creation.box((1.0, height, 1.0)).export(tmp_path / f"{name}.glb")
    rows = [
        {"source": "low.glb", "target": "high.glb", "instruction": "make it taller", "edit_type": "resize"},
        {"source": "high.glb", "target": "low.glb", "instruction": "make it lower", "licence": "unknown"},
    ]
    path = tmp_path / "boxes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_of_a_table_are_prepared_and_those_without_licence_left_out(table, tmp_path, capsys):
    assert call("pairs", "--table", table, "--out", tmp_path / "edits", *STATED) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 pairs, 1 left out" in text and "unknown_licence 1" in text and "1 pairs prepared, 0 rejected" in text
    pair = EditPairStore.open(tmp_path / "edits").pairs[0]
    assert (pair.id, pair.licence, pair.attribution) == ("edit/boxes/0000001", "CC-BY-4.0", "Ann")


def test_parametric_pairs_of_the_kinds_that_were_asked_for(tmp_path, capsys):
    command = ("pairs", "--parametric", 2, "--kinds", "add,remove", "--seed", 3, "--out", tmp_path / "edits")
    assert call(*command) == 0 and "2 pairs prepared" in capsys.readouterr().out
    store = EditPairStore.open(tmp_path / "edits")
    assert {pair.edit_type for pair in store.pairs} == {"add", "remove"}
    assert call(*command) == 0, "a finished run is opened"
    assert call("pairs", "--parametric", 3, "--out", tmp_path / "edits") == 2
    assert "other pairs or settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ((), "one of --parametric"),
        (("--parametric", 2, "--table", "TABLE"), "one of --parametric"),
        (("--parametric", 2, "--kinds", "paint"), "kinds are add"),
        (("--parametric", 0), "greater than or equal to 1"),
        (("--parametric", 2, "--engine", "spark"), "local or ray"),
        (("--parametric", 2, "--licence", "MIT"), "leave those options out"),
        (("--table", "TABLE", "--kinds", "add", *STATED), "--kinds is for --parametric"),
        (("--table", "TABLE", "--licence", "MIT"), "with --attribution and --made-with"),
        (("--table", "TABLE", *STATED[2:], "--licence", "n/a"), "needs a licence"),
        (("--table", "TABLE", *STATED[:4], "--made-with", "Hunyuan3D-2"), "--allow-restricted"),
        (("--table", "none.csv", *STATED), "not a readable table"),
        (("--folder", "none.tar", *STATED), "no readable"),
    ],
)
def test_bad_input_is_one_clear_error_and_writes_nothing(table, tmp_path, capsys, arguments, problem):
    words = [table if word == "TABLE" else word for word in arguments]
    assert call("pairs", *words, "--out", tmp_path / "edits") == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "edits").exists()


def test_pictures_become_a_pool(tmp_path, capsys):
    root = tmp_path / "raw" / "fluent-emoji"
    for folder in ("fluent-emoji-3d/assets", "unicode-emoji-json", "emojilib/dist"):
        (root / folder).mkdir(parents=True)
    Image.new("RGBA", (32, 32), (250, 210, 40, 255)).save(root / "fluent-emoji-3d" / "assets" / "1f36a.webp")
    names = {"🍪": {"name": "cookie", "group": "Food & Drink"}}
    (root / "unicode-emoji-json" / "data-by-emoji.json").write_text(json.dumps(names))
    (root / "emojilib" / "dist" / "emoji-en-US.json").write_text("{}")
    command = ("images", "fluent-emoji", "--raw", tmp_path / "raw", "--out", tmp_path / "pool")
    assert call(*command, "--size", 16) == 0 and "1 pictures of 16 x 16" in capsys.readouterr().out
    assert ImageStore.open(tmp_path / "pool").images(0).shape == (16, 16, 4)
    assert call(*command) == 2 and "other pictures or settings" in capsys.readouterr().err
    assert call("images", "fluent-emoji", "--raw", tmp_path, "--out", tmp_path / "none") == 2
    assert "data fetch fluent-emoji" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert call("images", "nonsense", "--out", tmp_path / "none") == 2
    assert "unknown source of pictures" in capsys.readouterr().err
