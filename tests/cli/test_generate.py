"""The command line from the outside: files, progress, errors, exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trimesh
from PIL import Image

from omni123_hf.cli.main import main


PROMPT = "a round wooden table with three legs"


@pytest.fixture
def solid(monkeypatch):
    """Random weights give no reliable surface: let the field be a ball."""
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )


def call(*arguments: str) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code or 0


def generate(folder: Path, out: Path, *more: str, prompt: str = PROMPT) -> int:
    return call("generate", prompt, "--out", out, "--model", folder, "--resolution", "16", *more)


def test_writes_the_four_files(tiny_pipeline, tiny_pipeline_folder, tmp_path, solid, capsys):
    out = tmp_path / "new" / "outputs"
    assert generate(tiny_pipeline_folder, out, "--seed", "5") == 0
    assert sorted(file.name for file in out.iterdir()) == ["image.png", "mesh.glb", "preview.png", "result.json"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "new"]
    assert Image.open(out / "image.png").size == (16, 16)
    assert Image.open(out / "preview.png").width > Image.open(out / "preview.png").height
    mesh = trimesh.load(out / "mesh.glb", force="mesh")
    assert mesh.is_watertight and len(mesh.faces) > 100
    result = json.loads((out / "result.json").read_text())
    assert result["prompt"] == PROMPT and result["seed"] == 5
    assert len(result["model"]["revision"]) == 12
    text, text_2 = (
        len(tokenizer(PROMPT)["input_ids"]) for tokenizer in (tiny_pipeline.tokenizer, tiny_pipeline.tokenizer_2)
    )
    assert result["tokens"] == {"text": text, "text_2": text_2, "image": 16, "shape": 8}
    assert result["mesh"]["watertight"] and result["mesh"]["components"] == 1
    assert result["print"]["is_printable"] and result["print"]["problems"] == []
    assert result["mesh"]["faces"] == len(mesh.faces) and result["mesh"]["volume"] > 0
    assert result["settings"]["extraction"] == result["extraction"]["mode"] == "safe"
    assert 0 < result["extraction"]["share"] <= 1 and result["extraction"]["misses"] == 0
    assert {"load", "transformer", "shape_decoder", "total"} <= set(result["seconds"])
    captured = capsys.readouterr()
    assert "watertight" in captured.out and "tokens" in captured.err and "surface" in captured.err


def test_a_failed_surface_is_said_and_leaves_no_old_mesh(tiny_pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: torch.full(queries.shape[:2], -1.0),
    )
    (tmp_path / "mesh.glb").write_bytes(b"of an earlier run")
    assert generate(tiny_pipeline_folder, tmp_path, "--quiet") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.png", "result.json"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["mesh"] is None and result["print"] is None and "inside" in result["failure"]
    assert "no surface" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", [], "prompt is empty"),
        ("tall " * 100, [], "shorten it"),
        (PROMPT, ["--guidance-scale", "-2"], "guidance scale"),
        (PROMPT, ["--temperature", "-1"], "temperature"),
        (PROMPT, ["--resolution", "50000"], "use at most"),
        (PROMPT, ["--device", "abacus"], "no device 'abacus'"),
        (PROMPT, ["--model", "omni123-giga"], "unknown checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny_pipeline_folder, tmp_path, capsys, prompt, options, message):
    out = tmp_path / "outputs"
    assert generate(tiny_pipeline_folder, out, *options, prompt=prompt) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint(tiny_pipeline_folder, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "copy"))
    weights = folder / "transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert generate(folder, tmp_path / "outputs", "--quiet") == 2
    assert "corrupt or truncated" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_output_folder_that_is_a_file_or_below_one(tiny_pipeline_folder, tmp_path, capsys):
    file = tmp_path / "taken"
    file.write_text("here")
    assert generate(tiny_pipeline_folder, file) == 2
    assert "is a file" in capsys.readouterr().err
    assert generate(tiny_pipeline_folder, file / "below") == 2
    assert "lies below the file" in capsys.readouterr().err
    assert file.read_text() == "here"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output_folder(tiny_pipeline_folder, tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        assert generate(tiny_pipeline_folder, tmp_path / "outputs") == 2
    finally:
        tmp_path.chmod(0o700)
    assert "cannot write to --out" in capsys.readouterr().err


def test_folder_that_even_root_cannot_write(tiny_pipeline_folder, capsys):
    assert generate(tiny_pipeline_folder, Path("/proc/outputs")) == 2
    assert "cannot write to --out" in capsys.readouterr().err


def test_an_error_while_writing_leaves_nothing(tiny_pipeline_folder, tmp_path, solid, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "mesh.glb")

    monkeypatch.setattr("omni123_hf.geometry.export.export_glb", full)
    assert generate(tiny_pipeline_folder, tmp_path / "outputs", "--quiet") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_out_of_memory_is_one_line(tiny_pipeline_folder, tmp_path, monkeypatch, capsys):
    def exhausted(self, latents, queries):
        return torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query", exhausted)
    assert generate(tiny_pipeline_folder, tmp_path / "outputs", "--quiet") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: out of memory")
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(tiny_pipeline_folder, tmp_path):
    from omni123_hf.errors import Omni123Error

    with pytest.raises(Omni123Error):
        main(["generate", "", "--out", str(tmp_path), "--model", str(tiny_pipeline_folder), "--debug"])


def test_info(tiny_pipeline_folder, capsys):
    assert call("info", "--json") == 0
    assert "torch" in json.loads(capsys.readouterr().out)["libraries"]
    assert call("info", tiny_pipeline_folder, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pipeline"] == "Omni123JointPipeline" and facts["provenance"] == {"note": "random weights"}
    assert facts["parameters"] == sum(part["parameters"] for part in facts["components"].values()) > 10_000
    assert facts["components"]["transformer"]["class"] == "Omni123ForConditionalGeneration"
    assert call("info", "someone/tiny") == 2
    assert "Hub id" in capsys.readouterr().err


def test_help_does_not_load_torch():
    code = "import sys\nfrom omni123_hf.cli.main import build_app\nbuild_app()\nprint('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_usage_errors_exit_with_2(capsys):
    assert call("generate") == 2
    assert call("generate", PROMPT, "--out", "x", "--resolution", "many") == 2
    assert call("--version") == 0
    assert "omni123-hf" in capsys.readouterr().out


def test_an_adapter_is_used_and_recorded(tiny_pipeline, tiny_pipeline_folder, tmp_path, solid, capsys):
    sys.path.append(str(Path(__file__).parents[1] / "pipelines"))
    from test_pipeline_lora import write_adapter

    from omni123_hf.pipelines import Omni123JointPipeline

    own = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
    adapter = write_adapter(tmp_path / "adapter", own, {"name": "tiny", "revision": own.revision})
    records = {}
    for name, options in {"base": [], "adapter": ["--lora", adapter, "--lora-scale", "0.5"]}.items():
        assert generate(tiny_pipeline_folder, tmp_path / name, "--quiet", *options) == 0
        records[name] = json.loads((tmp_path / name / "result.json").read_text())["model"]
    assert records["base"]["adapters"] == []
    assert records["adapter"]["adapters"][0]["scale"] == 0.5
    assert len(records["adapter"]["adapters"][0]["revision"]) == 12
    capsys.readouterr()
    assert generate(tiny_pipeline_folder, tmp_path / "x", "--lora-scale", "0.5") == 2
    assert "--lora-scale needs --lora" in capsys.readouterr().err
    assert generate(tiny_pipeline_folder, tmp_path / "x", "--lora", "nowhere", "--quiet") == 2
    assert "neither a folder nor a Hub id" in capsys.readouterr().err and not (tmp_path / "x").exists()
