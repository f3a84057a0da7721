"""`omni123 data pairs` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from omni123_hf.cli.main import main
from omni123_hf.data.editing.pair_store import EditPairStore


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


def test_pairs_of_tokens_are_checked_against_the_checkpoint_that_wrote_them(tiny_pipeline_folder, tmp_path, capsys):
    folder = tmp_path / "found"
    folder.mkdir()
    for key, last in (("a", 31), ("b", 32)):
        np.save(folder / f"{key}_source.npy", np.arange(8)[None])
        np.save(folder / f"{key}_target.npy", np.array([[0] * 7 + [last]]))
        (folder / f"{key}.json").write_text('{"instruction": "add a lid", "type": "add"}')
    command = ("pairs", "--tokens", folder, "--checkpoint", tiny_pipeline_folder, *STATED)
    assert call(*command, "--out", tmp_path / "tokens") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 pairs of 8 tokens, 1 left out token_range 1 add 1" in text
    assert call("stats", tmp_path / "tokens") == 0 and "token_range" in capsys.readouterr().out
    common = ("--checkpoint", tiny_pipeline_folder, "--out", tmp_path / "shards")
    assert call("tokenize", tmp_path / "tokens", *common) == 0
    assert "edits: 1 records of 16 codes" in capsys.readouterr().out
    assert call("view", tmp_path / "tokens", "--id", "x", "--out", tmp_path / "x.png") == 2
    assert "holds token pairs" in capsys.readouterr().err
    for words, problem in (
        (("--tokens", folder), "belong together"),
        (
            ("--tokens", folder, "--checkpoint", tiny_pipeline_folder, "--workers", 2),
            "--workers and --engine are for shapes",
        ),
        (("--parametric", 2, "--checkpoint", tiny_pipeline_folder), "belong together"),
        (("--tokens", folder, "--checkpoint", "nobodys"), "unknown checkpoint"),
    ):
        assert call("pairs", *words, *STATED, "--out", tmp_path / "none") == 2
        assert problem in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ((), "one of --parametric"),
        (("--parametric", 2, "--table", "TABLE"), "one of --parametric"),
        (("--parametric", 2, "--kinds", "paint"), "kinds are add"),
        (("--parametric", 0), "greater than or equal to 1"),
        (("--parametric", 2, "--engine", "spark"), "local or ray"),
        (("--parametric", 2, "--licence", "MIT"), "leave those options out"),
        (("--table", "TABLE", "--kinds", "add", *STATED), "--kinds and --first are for --parametric"),
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
