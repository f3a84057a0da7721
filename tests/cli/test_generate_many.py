"""`omni123 generate` beyond one prompt and one sample: files of prompts, samples, the best of n, colour, previews."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import trimesh
from test_generate import PROMPT, call, solid  # noqa: F401

from omni123_hf.cli.generate_run import read_prompts, slug


SAMPLING = ["--temperature", "1", "--resolution", "16", "--quiet"]


@pytest.fixture
def run(tiny_pipeline_folder):
    return lambda *arguments: call("generate", *arguments, "--model", tiny_pipeline_folder, *SAMPLING)


def record(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_of_prompts_goes_on_where_it_stopped(run, tmp_path, solid, capsys):  # noqa: F811
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a tall red vase\n\n" + "tall " * 100 + "\na blue car\n")
    # The second is too long: it is said and passed over, the others are made.
    assert run("--prompts", prompts, "--out", out) == 1
    captured = capsys.readouterr()
    assert "shorten it" in captured.err and len(captured.err.splitlines()) == 1
    assert "2 made, 1 failed, 0 there already" in captured.out
    made = sorted(path.name for path in out.iterdir())
    assert made == ["0001_a_tall_red_vase", "0004_a_blue_car"]
    assert record(out / made[1])["prompt"] == "a blue car"
    prompts.write_text("a tall red vase\n\n\na blue car\na small white mug\n")
    before = (out / made[0] / "result.json").read_bytes()
    assert run("--prompts", prompts, "--out", out, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["a small white mug"]
    assert (out / made[0] / "result.json").read_bytes() == before
    assert run("--prompts", prompts, "--out", out) == 0
    assert "all 3 results are there already" in capsys.readouterr().out


def test_samples_and_the_best_of_some(run, tmp_path, solid, capsys):  # noqa: F811
    out = tmp_path / "out"
    assert run(PROMPT, "--out", out, "--num-samples", 2) == 0
    one = ["image.png", "mesh.glb", "preview.png"]
    assert names(out) == ["result.json", *(f"sample_{n}/{name}" for n in (1, 2) for name in one)]
    assert [sample["folder"] for sample in record(out)["samples"]] == ["sample_1", "sample_2"]
    (out / "mine.txt").write_text("of somebody else")
    # Another run in the same folder takes the place of the first and touches nothing else.
    assert run(PROMPT, "--out", out, "--best-of", 3) == 0
    expected = ["candidate_2", "candidate_3"]
    assert names(out) == sorted(["mine.txt", "result.json", *one, *(f"{c}/{name}" for c in expected for name in one)])
    samples = record(out)["samples"]
    scores = [sample["score"]["score"] for sample in samples]
    assert scores == sorted(scores, reverse=True) and sorted(sample["sample"] for sample in samples) == [0, 1, 2]
    assert [sample["folder"] for sample in samples] == [".", *expected]
    assert "best of 3" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["obj", "stl", "ply"])
def test_another_format_takes_the_place_of_the_first(run, tmp_path, solid, capsys, suffix):  # noqa: F811
    out = tmp_path / "out"
    assert run(PROMPT, "--out", out) == 0
    capsys.readouterr()
    assert run(PROMPT, "--out", out, "--format", suffix) == 0
    assert names(out) == sorted(["image.png", f"mesh.{suffix}", "preview.png", "result.json"])
    assert record(out)["settings"]["format"] == suffix and f"mesh.{suffix}: " in capsys.readouterr().out
    mesh = trimesh.load(out / f"mesh.{suffix}", force="mesh")
    assert mesh.is_watertight and len(mesh.faces) == record(out)["mesh"]["faces"]


def test_a_format_for_all_samples_and_prompts(run, tmp_path, solid, capsys):  # noqa: F811
    one = ["image.png", "mesh.ply", "preview.png"]
    for option, others in (("--num-samples", ["sample_1", "sample_2"]), ("--best-of", ["candidate_2"])):
        out = tmp_path / option
        assert run(PROMPT, "--out", out, option, 2, "--format", "ply", "--json") == 0
        made = sorted(
            ["result.json", *(one if option == "--best-of" else []), *(f"{o}/{name}" for o in others for name in one)]
        )
        assert names(out) == made == json.loads(capsys.readouterr().out)["files"]
    prompts, out = tmp_path / "prompts.txt", tmp_path / "many"
    prompts.write_text("a vase\n")
    assert run("--prompts", prompts, "--out", out, "--format", "obj") == 0
    prompts.write_text("a vase\na car\n")
    capsys.readouterr()
    # What is there already would stay an OBJ: said before anything is made.
    assert run("--prompts", prompts, "--out", out, "--format", "stl") == 2
    assert "0001_a_vase has its mesh as obj; go on with --format obj" in capsys.readouterr().err
    assert run("--prompts", prompts, "--out", out, "--format", "obj") == 0
    assert "1 made, 0 failed, 1 there already" in capsys.readouterr().out
    assert [name for name in names(out) if "mesh" in name] == ["0001_a_vase/mesh.obj", "0002_a_car/mesh.obj"]


def test_colours_at_the_vertices_of_a_ply(run, tmp_path, solid):  # noqa: F811
    assert run(PROMPT, "--out", tmp_path, "--color", "vertex", "--format", "ply") == 0
    if "failure" in record(tmp_path)["color"]:
        pytest.skip("the random weights of this session draw nothing")
    assert trimesh.load(tmp_path / "mesh.ply", process=False).visual.kind == "vertex"


@pytest.mark.parametrize("mode", ["vertex", "texture"])
def test_colour(run, tmp_path, solid, mode):  # noqa: F811
    out = tmp_path / "out"
    assert run(PROMPT, "--out", out, "--color", mode, "--texture-size", 256) == 0
    color = record(out)["color"]
    assert color["mode"] == mode
    mesh = trimesh.load(out / "mesh.glb", force="mesh", process=False)
    if "failure" in color:
        pytest.skip("the random weights of this session draw nothing")
    assert mesh.visual.kind == mode and 0 < color["seen_share"] <= 1
    if mode == "texture":
        assert np.asarray(mesh.visual.material.baseColorTexture).shape[:2] == (256, 256)


def test_previews_are_there_while_it_works_and_gone_after(run, tmp_path, solid, monkeypatch):  # noqa: F811
    from omni123_hf.geometry import export

    written = []
    original = export.export_glb
    monkeypatch.setattr(
        export, "export_glb", lambda mesh, path, facts: written.append(path.name) or original(mesh, path, facts)
    )
    out = tmp_path / "out"
    assert run(PROMPT, "--out", out, "--preview-every", 3) == 0
    assert written == ["preview_mesh.glb", "preview_mesh.glb", "mesh.glb"]
    assert names(out) == ["image.png", "mesh.glb", "preview.png", "result.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a prompt, or --prompts"),
        ([PROMPT, "--prompts", "IN/prompts.txt"], "one of the two"),
        (["--prompts", "IN/absent.txt"], "no file and no folder"),
        (["--prompts", "IN/blank.txt"], "holds no prompt"),
        (["--prompts", "IN/folder"], "holds no .txt"),
        (["--prompts", "IN/binary.txt"], "no text in UTF-8"),
        (["--prompts", "IN/with_empty"], "a.txt in"),
        ([PROMPT, "--num-samples", "2", "--best-of", "2"], "not both"),
        ([PROMPT, "--num-samples", "0"], "must be 1 to 64"),
        ([PROMPT, "--best-of", "65"], "must be 1 to 64"),
        ([PROMPT, "--best-of", "2", "--temperature", "0"], "all samples are the same"),
        ([PROMPT, "--color", "paint"], "no colour mode 'paint'"),
        ([PROMPT, "--color", "texture", "--texture-size", "9"], "64 to 8192"),
        ([PROMPT, "--preview-every", "0"], "at least 1"),
        ([PROMPT, "--format", "fbx"], "unknown mesh format 'fbx'"),
        ([PROMPT, "--format", "stl", "--color", "vertex"], "a stl file cannot hold --color vertex"),
        ([PROMPT, "--format", "ply", "--color", "texture"], "use --format glb"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tiny_pipeline_folder, tmp_path, capsys, arguments, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "with_empty").mkdir()
    (tmp_path / "with_empty" / "a.txt").write_text(" \n")
    (tmp_path / "prompts.txt").write_text("a vase")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    words = [str(word).replace("IN/", f"{tmp_path}/") for word in arguments]
    out = tmp_path / "out"
    options = [] if "--temperature" in words else ["--temperature", "1"]
    assert call("generate", *words, *options, "--out", out, "--model", tiny_pipeline_folder) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not out.exists()


def test_prompts_of_a_folder_and_names_of_lines(tmp_path):
    (tmp_path / "b.txt").write_text("a vase\nwith two handles\n")
    (tmp_path / "a.txt").write_text("a car")
    assert read_prompts(tmp_path) == [("a", "a car"), ("b", "a vase with two handles")]
    assert slug("Ein grüner Stuhl!") == "ein_gr_ner_stuhl" and slug("椅子") == "prompt"
    assert re.fullmatch(r"[a-z_]{1,60}", slug("long " * 50))


def test_a_face_budget_and_a_real_size(run, tmp_path, solid, capsys):  # noqa: F811
    assert run(PROMPT, "--out", tmp_path / "out", "--target-faces", "200", "--longest-side", "12") == 0
    mesh = trimesh.load(tmp_path / "out/mesh.glb", force="mesh")
    assert len(mesh.faces) <= 200 and mesh.is_watertight and max(mesh.extents) == pytest.approx(12, rel=1e-5)
    finish = record(tmp_path / "out")["settings"]["finish"]
    assert (finish["target_faces"], finish["longest_side"]) == (200, 12.0)
    capsys.readouterr()
    for bad, message in (
        (("--target-faces", "1"), "at least 4"),
        (("--longest-side", "-1"), "positive number"),
        (("--longest-side", "2", "--color", "vertex"), "leave out --longest-side"),
    ):
        assert run(PROMPT, "--out", tmp_path / "bad", *bad) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "bad").exists()
