"""`omni123 convert cube3d` and `omni123 verify-conversion` as a user runs them, and what the other commands make of the result."""

import json
import os
from pathlib import Path

import pytest
import torch
import trimesh
from cube3d_checkpoint import V05, CubeCheckpoint
from cube3d_reference import save_parity_folder
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from omni123_hf.cli.main import main
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer


STORED = Path(os.environ.get("OMNI123_PARITY", Path(__file__).parents[3] / "shared" / "parity" / "cube3d_v05_tiny"))
needs_stored = pytest.mark.skipif(
    not (STORED / "io.safetensors").is_file(),
    reason="no outputs of the original here: set OMNI123_PARITY to a folder that holds them",
)
PROMPT = "a round wooden table"


def call(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code or 0


@pytest.fixture
def solid(monkeypatch):
    """Random weights give no reliable surface: let the field be a ball."""
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )


@pytest.fixture(scope="module")
def parity(tmp_path_factory) -> Path:
    """A parity folder of random weights and the second implementation's outputs. Read only."""
    return save_parity_folder(tmp_path_factory.mktemp("parity"), CubeCheckpoint.random(V05))


def make_clip(folder: Path, width: int) -> Path:
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer([PROMPT, "a tall red vase"], vocab_size=80, max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    CLIPTextModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def convert(source: Path, out: Path, *more: object) -> int:
    files = ("--gpt", source / "shape_gpt.safetensors", "--tokenizer", source / "shape_tokenizer.safetensors")
    return call("convert", "cube3d", *files, "--out", out, *more)


def one_error(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_without_a_text_encoder_the_command_says_how_to_add_one(parity, tmp_path, capsys):
    out = tmp_path / "models" / "cube"
    assert convert(parity, out, "--config", parity / "config.json") == 0
    said = capsys.readouterr().out
    assert f"--out {out} --config" in said and "--text-encoder openai/clip-vit-large-patch14 --overwrite" in said
    assert call("generate", PROMPT, "--out", tmp_path / "outputs", "--model", out, "--quiet") == 2
    assert "--text-encoder" in one_error(capsys)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["models"]

    # The command it printed, with another text encoder.
    printed = next(line for line in said.splitlines() if "convert cube3d" in line).split()[1:]
    printed[printed.index("--text-encoder") + 1] = str(make_clip(tmp_path / "clip", V05.text))
    assert call(*printed) == 0
    assert (out / "text_encoder").is_dir() and "no text encoder" not in capsys.readouterr().out


def test_a_converted_folder_gives_a_mesh_and_no_image(parity, tmp_path, solid, capsys):
    model, out = tmp_path / "cube", tmp_path / "outputs"
    assert convert(parity, model, "--text-encoder", make_clip(tmp_path / "clip", V05.text)) == 0
    options = ("--resolution", 16, "--bbox", 1, 2, 0.5, "--seed", 4, "--temperature", 1)
    assert call("generate", PROMPT, "--out", out, "--model", model, *options) == 0
    assert sorted(file.name for file in out.iterdir()) == ["mesh.glb", "preview.png", "result.json"]
    mesh = trimesh.load(out / "mesh.glb", force="mesh")
    assert mesh.is_watertight and len(mesh.faces) > 100
    result = json.loads((out / "result.json").read_text())
    assert result["task"] == "text-to-3d" and set(result["tokens"]) == {"text", "shape"}
    settings = result["settings"]
    assert (settings["guidance_scale"], settings["guidance_schedule"]) == (4.0, "linear_decay")
    assert settings["bbox"] == [1.0, 2.0, 0.5]

    capsys.readouterr()
    assert call("info", model, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pipeline"] == "Omni123TextTo3DPipeline" and set(facts["absent"]) == {"text_encoder_2", "tokenizer_2"}
    assert facts["settings"] == {"default_guidance_scale": 4.0, "default_guidance_schedule": "linear_decay"}
    assert facts["provenance"]["converted_from"]["files"]["gpt"]["file"] == "shape_gpt.safetensors"
    assert call("info", model) == 0
    assert "absent: " in capsys.readouterr().out


def test_boxes_are_refused_where_the_checkpoint_has_none(tiny_pipeline_folder, tmp_path, capsys):
    options = ("--out", tmp_path / "out", "--model", tiny_pipeline_folder, "--bbox", 1, 1, 1, "--quiet")
    assert call("generate", PROMPT, *options) == 2
    assert "leave out --bbox" in one_error(capsys) and not list(tmp_path.iterdir())


def test_the_joint_protocol_refuses_a_checkpoint_without_images(parity, tmp_path, capsys):
    assert convert(parity, tmp_path / "cube") == 0
    assert call("evaluate", "mini", "--model", tmp_path / "cube", "--quiet") == 2
    assert "this protocol also measures images" in one_error(capsys)


def test_bad_files_are_one_line_and_exit_code_2(parity, tmp_path, capsys):
    assert convert(tmp_path, tmp_path / "out") == 2
    assert "no file" in one_error(capsys)
    gpt = parity / "shape_gpt.safetensors"
    assert call("convert", "cube3d", "--gpt", gpt, "--tokenizer", gpt, "--out", tmp_path / "out") == 2
    assert "swapped" in one_error(capsys)
    assert convert(parity, Path("/proc/out")) == 2
    assert "cannot write to --out" in one_error(capsys)
    assert call("convert", "cube3d") == 2
    assert not list(tmp_path.iterdir())


def test_verify_passes_and_fails_by_its_exit_code(parity, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert call("verify-conversion", parity, "--out", report) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(report.read_text()) and printed["passed"] and printed["max"] < 1e-5
    assert call("verify-conversion", parity, "--tolerance", "1e-9", "--out", report) == 1
    assert json.loads(report.read_text())["passed"] is False
    assert json.loads(capsys.readouterr().out)["tolerance"] == 1e-9
    assert call("verify-conversion", tmp_path) == 2
    assert "lacks shape_gpt.safetensors" in one_error(capsys)
    assert call("verify-conversion", parity, "--out", tmp_path) == 2
    assert "is a folder" in one_error(capsys)


def test_stored_outputs_that_differ_exit_with_1_and_a_damaged_weight_with_2(parity, tmp_path, capsys):
    for name in ("shape_gpt", "shape_tokenizer", "io"):
        tensors = load_file(parity / f"{name}.safetensors")
        if name == "io":
            tensors["grid_occupancy"][0, 0, 0, 0] += 0.01
        save_file(tensors, tmp_path / f"{name}.safetensors")
    assert call("verify-conversion", tmp_path) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["max"] == report["errors"]["grid_occupancy"] == pytest.approx(0.01, rel=1e-3)
    weights = load_file(tmp_path / "shape_gpt.safetensors")
    weights["text_proj.weight"][0, 0] = float("inf")
    save_file(weights, tmp_path / "shape_gpt.safetensors")
    assert call("verify-conversion", tmp_path) == 2
    assert "text_proj.weight" in one_error(capsys)


def test_outputs_that_were_not_compared_exit_with_1_or_2_and_are_named(parity, tmp_path, capsys):
    for name in ("shape_gpt", "shape_tokenizer"):
        save_file(load_file(parity / f"{name}.safetensors"), tmp_path / f"{name}.safetensors")
    io = load_file(parity / "io.safetensors")
    wrong = {**io, "logits": io["logits"] + 100}
    save_file({name: tensor for name, tensor in wrong.items() if name != "text"}, tmp_path / "io.safetensors")
    assert call("verify-conversion", tmp_path) == 2
    assert "logits (lacks text)" in one_error(capsys)
    wrong["logit"] = wrong.pop("logits")
    save_file(wrong, tmp_path / "io.safetensors")
    assert call("verify-conversion", tmp_path) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["unknown"] == ["logit"] and "not compared: logit" in captured.err


def test_configurations_and_hub_files_that_are_bad_are_one_line(parity, tmp_path, capsys):
    config, out = tmp_path / "config.json", tmp_path / "out"
    for text in (
        '{"gpt_model": {"rope_theta": 1' + "0" * 400 + "}}",
        "[" * 100_000,
        '{"gpt_model": {"n_head": [1, "a"]}}',
    ):
        config.write_text(text)
        assert convert(parity, out, "--config", config) == 2
        assert len(one_error(capsys)) < 500
    for name in ("org/name:../x", "org/name:/etc/passwd", "org/name@../x", "~nobody-of-this-name/x.safetensors"):
        assert call("convert", "cube3d", "--gpt", name, "--tokenizer", name, "--out", out) == 2
        one_error(capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@needs_stored
def test_the_original_is_met_and_gives_a_mesh(tmp_path, request, capsys):
    """The comparison, then a mesh with a random CLIP of the checkpoint's text width."""
    assert call("verify-conversion", STORED) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["max"] <= 1e-4 and report["not_checked"] == []
    request.getfixturevalue("solid")
    clip = make_clip(tmp_path / "clip", 48)
    assert convert(STORED, tmp_path / "cube", "--config", STORED / "config.json", "--text-encoder", clip) == 0
    options = ("--out", tmp_path / "out", "--model", tmp_path / "cube", "--resolution", 16, "--quiet")
    assert call("generate", PROMPT, *options) == 0
    assert (tmp_path / "out" / "mesh.glb").stat().st_size > 1000


@needs_stored
@pytest.mark.parametrize(("file", "name"), [("shape_gpt", "lm_head.weight"), ("shape_tokenizer", "encoder.query")])
def test_a_changed_weight_of_the_original_fails(tmp_path, capsys, file, name):
    for part in ("shape_gpt", "shape_tokenizer", "io"):
        tensors = load_file(STORED / f"{part}.safetensors")
        if part == file:
            # One element: the norms around these weights take out what is common to a row.
            tensors[name][1, 0] += 0.1
        save_file(tensors, tmp_path / f"{part}.safetensors")
    assert call("verify-conversion", tmp_path) == 1
    assert not json.loads(capsys.readouterr().out)["passed"]
