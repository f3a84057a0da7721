"""The commands of the tasks on the tiny checkpoint: files, records, batches that resume, sessions, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from omni123_hf.cli.main import main


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with two pictures, a file that is none, and a mesh."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, level in (("a", 40), ("b", 200)):
        picture = np.full((24, 16, 3), 255, np.uint8)
        picture[6:18, 4:12] = level
        Image.fromarray(picture).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no picture")
    trimesh.creation.box((1, 2, 0.5)).export(folder / "box.glb")
    return folder


def run(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def common(checkpoint: Path) -> list[object]:
    return ["--model", checkpoint, "--quiet"]


def record(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_picture_becomes_a_mesh_or_a_named_failure(inputs, tmp_path, tiny_pipeline_folder, capsys):
    out = tmp_path / "out"
    code = run(
        "image-to-3d",
        inputs / "a.png",
        "--out",
        out,
        "--resolution",
        16,
        "--format",
        "obj",
        *common(tiny_pipeline_folder),
    )
    facts = record(out)
    assert facts["task"] == "image-to-3d" and facts["input"] == "a.png" and facts["settings"]["seed"] == 0
    assert code == (facts["failure"] is not None)
    assert (out / "mesh.obj").is_file() == (facts["failure"] is None)
    assert not list(tmp_path.glob(".omni123-*")) and not list(out.glob(".*"))


def test_a_folder_is_a_batch_that_goes_on_and_passes_broken_files_over(inputs, tmp_path, tiny_pipeline_folder, capsys):
    (inputs / "c.png").write_bytes(b"broken")
    out = tmp_path / "out"
    command = ["image-to-3d", inputs, "--out", out, "--resolution", 16, "--json", "--model", tiny_pipeline_folder]
    assert run(*command) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["input"] for line in lines] == ["a.png", "b.png"]
    assert "error: c.png" in printed.err
    before = (out / "a" / "result.json").stat().st_mtime_ns
    (inputs / "c.png").unlink()
    (out / "b" / "result.json").unlink()
    run(*command)
    assert [json.loads(line)["input"] for line in capsys.readouterr().out.splitlines()] == ["b.png"]
    assert (out / "a" / "result.json").stat().st_mtime_ns == before


def test_views_of_a_mesh_and_of_a_prompt(inputs, tmp_path, tiny_pipeline_folder):
    out = tmp_path / "views"
    assert (
        run("render-views", inputs / "box.glb", "--out", out, "--views", "front, top", *common(tiny_pipeline_folder))
        == 0
    )
    assert {path.name for path in out.iterdir()} == {"front.png", "top.png", "result.json"}
    chain = tmp_path / "chain"
    run(
        "multiview", "a red vase", "--out", chain, "--views", "front,left", "--extra-views", "back", "--resolution", 16,
        *common(tiny_pipeline_folder),
    )  # fmt: skip
    assert {"front.png", "left.png", "back.png", "result.json"} <= {path.name for path in chain.iterdir()}
    assert record(chain)["views"] == ["front", "left", "back"]


def test_an_edit_alone_and_in_a_session(inputs, tmp_path, tiny_pipeline_folder, capsys):
    out, session = tmp_path / "out", tmp_path / "session"
    rest = ["--resolution", 16, *common(tiny_pipeline_folder)]
    run("edit", "make it taller", "--mesh", inputs / "box.glb", "--out", out, *rest)
    assert record(out)["locality"]["changed_volume_share"] >= 0 and record(out)["instruction"] == "make it taller"
    assert run("edit", "make it taller", "--mesh", inputs / "box.glb", "--session", session, *rest) == 0
    assert run("edit", "add a handle", "--session", session, *rest) == 0
    assert run("edit", "add wings", "--session", session, "--at", 1, *rest) == 0
    nodes = json.loads((session / "session.json").read_text())["nodes"]
    assert [node["parent"] for node in nodes] == [None, 0, 1, 1]
    assert run("edit", "x", "--mesh", inputs / "box.glb", "--session", session, *rest) == 2
    assert "leave out --mesh" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["image-to-3d", "IN/a.png", "--color", "vertex"],
        ["edit", "wider", "--mesh", "IN/box.glb", "--color", "texture"],
    ],
)
def test_results_in_colour(inputs, tmp_path, tiny_pipeline_folder, monkeypatch, arguments):
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )
    words = [word.replace("IN/", f"{inputs}/") for word in arguments]
    options = ["--out", tmp_path / "out", "--resolution", 16, "--texture-size", 128]
    assert run(*words, *options, *common(tiny_pipeline_folder)) == 0
    color = record(tmp_path / "out")["color"]
    if "failure" in color:
        pytest.skip("the random weights of this session draw nothing")
    mesh = trimesh.load(tmp_path / "out" / "mesh.glb", force="mesh", process=False)
    assert color["mode"] == mesh.visual.kind == arguments[-1] and color["seen_share"] > 0


@pytest.mark.parametrize("name, target", [("box.glb", "back.stl"), ("a.png", "back.png")])
def test_tokens_go_there_and_back(inputs, tmp_path, tiny_pipeline_folder, capsys, name, target):
    tokens = tmp_path / "tokens.json"
    model = ["--model", tiny_pipeline_folder]
    assert run("tokenize", inputs / name, "--out", tokens, *model) == 0
    facts = json.loads(tokens.read_text())
    assert len(facts["tokens"]) == (8 if facts["kind"] == "shape" else 16)
    code = run("detokenize", tokens, "--out", tmp_path / target, "--resolution", 24, *model)
    # Random weights may have no surface at all: that is said, and nothing is written.
    assert (tmp_path / target).is_file() == (code == 0)
    if code:
        assert "no surface" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["image-to-3d", "absent.png", "--out", "OUT"], "no file and no folder"),
        (["image-to-3d", "IN/a.png", "--out", "OUT", "--format", "3mf"], "unknown mesh format"),
        (["image-to-3d", "IN/notes.txt", "--out", "OUT"], "notes.txt"),
        (["image-to-3d", "IN/a.png", "--out", "OUT", "--target-faces", "2"], "target_faces"),
        (["render-views", "IN/box.glb", "--out", "OUT", "--views", "front,below"], "no view 'below'"),
        (["render-views", "IN/box.glb", "--out", "OUT", "--views", "front,front"], "each once"),
        (["image-to-3d", "IN/a.png", "--out", "OUT", "--color", "texture", "--format", "obj"], "cannot hold --color"),
        (["image-to-3d", "IN/a.png", "--out", "OUT", "--color", "oil"], "no colour mode 'oil'"),
        (["edit", "x", "--session", "OUT", "--mesh", "IN/box.glb", "--color", "vertex"], "--color belongs to --out"),
        (["edit", "add a handle"], "give --out for one result"),
        (["edit", "add a handle", "--out", "OUT"], "--out needs --mesh"),
        (["edit", "add a handle", "--session", "OUT"], "give --mesh to begin"),
        (["tokenize", "absent.glb", "--out", "OUT.json"], "no file"),
        (["detokenize", "IN/notes.txt", "--out", "OUT.glb"], "holds no tokens"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    inputs, tmp_path, tiny_pipeline_folder, capsys, arguments, message
):
    words = [word.replace("IN/", f"{inputs}/").replace("OUT", str(tmp_path / "out")) for word in arguments]
    assert run(*words, "--model", tiny_pipeline_folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_an_empty_folder_and_equal_names_are_refused(tmp_path, tiny_pipeline_folder, capsys):
    (tmp_path / "empty").mkdir()
    assert run("image-to-3d", tmp_path / "empty", "--out", tmp_path / "o", "--model", tiny_pipeline_folder) == 2
    assert "holds no file of .png" in capsys.readouterr().err
    for suffix in ("png", "jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "empty" / f"a.{suffix}")
    assert run("image-to-3d", tmp_path / "empty", "--out", tmp_path / "o", "--model", tiny_pipeline_folder) == 2
    assert "two files" in capsys.readouterr().err
