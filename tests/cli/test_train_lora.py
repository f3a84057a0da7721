"""`omni123 train lora` from the outside: a folder becomes an adapter that generates; errors are one line and leave nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_store import write_tiny_store

from omni123_hf.cli.main import main
from omni123_hf.evaluation.lora_card import adapter_licence, licence_lines, publish
from omni123_hf.pipelines import Omni123JointPipeline


def call(*arguments) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code or 0


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    write_tiny_store(folder / "new", 12)
    write_tiny_store(folder / "old", 8)
    return folder


def arguments(stores: Path, base: Path, out: Path) -> list:
    return [
        "train", "lora", "training.warmup_steps=1", "--data", stores / "new", "--base", base, "--out", out, "--rank", 2, "--steps", 2,
        "--batch", 2, "--regularization-data", stores / "old", "--resolution", 16,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(stores, tiny_pipeline_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "boxes"
    assert call(*arguments(stores, tiny_pipeline_folder, out)) == 0
    return out


def test_the_folder_is_whole_and_names_no_place_on_this_machine(trained, tiny_pipeline_folder):
    names = sorted(path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file())
    published = [name for name in names if not name.startswith("work/")]
    assert published == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "images/before_after.png", "provenance.json", "results.json",
    ]  # fmt: skip
    for name in published:
        if name.endswith((".json", ".md")):
            text = (trained / name).read_text()
            assert str(trained.parent) not in text and str(tiny_pipeline_folder.parent) not in text, name
    assert np.asarray(Image.open(trained / "images/before_after.png")).std() > 1
    facts = json.loads((trained / "provenance.json").read_text())
    assert (
        facts["licence"] == "CC0-1.0" and facts["base"]["name"] == "tiny" and len(facts["base"]["fingerprint"]) == 64
    )
    assert {entry["source"] for entry in facts["data"]["new"]["sources"]} == {"ldraw", "parametric"}
    assert (trained / "work" / "preflight.json").is_file()


def test_the_card_says_what_was_measured(trained):
    card, result = (trained / "README.md").read_text(), json.loads((trained / "results.json").read_text())
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["base_model"] == "tiny" and metadata["base_model_relation"] == "adapter"
    assert metadata["license"] == "cc0-1.0" and "lora" in metadata["tags"]
    for domain in ("new", "old"):
        measured = result["figures"][domain]
        assert len(measured["each"]) == measured["objects"] >= 2
        assert f"{measured['before']['chamfer']:.3f} | {measured['after']['chamfer']:.3f}" in card
        assert measured["before"]["failed"] <= measured["objects"]
    assert "images/before_after.png" in card and "only" in card


def test_the_adapter_loads_and_generates(trained, tiny_pipeline_folder, tmp_path, monkeypatch):
    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
    pipeline.load_lora_weights(trained)
    assert (
        pipeline.describe_adapters()[0]["revision"]
        == json.loads((trained / "provenance.json").read_text())["revision"]
    )
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )
    out = ["--model", tiny_pipeline_folder, "--resolution", 16, "--quiet", "--lora", trained, "--out", tmp_path / "o"]
    assert call("generate", "a tall red vase", *out) == 0


def test_repeated_it_changes_nothing_and_with_other_settings_it_is_refused(
    trained, stores, tiny_pipeline_folder, capsys
):
    before = (trained / "adapter_model.safetensors").read_bytes()
    assert call(*arguments(stores, tiny_pipeline_folder, trained)) == 0
    assert (trained / "adapter_model.safetensors").read_bytes() == before
    assert call(*arguments(stores, tiny_pipeline_folder, trained), "--learning-rate", "0.5") == 2
    assert "begun with other training" in capsys.readouterr().err
    assert (trained / "adapter_model.safetensors").read_bytes() == before


def test_a_recipe_does_the_same_as_options(stores, tiny_pipeline_folder, trained, tmp_path):
    recipe = {
        "stage": "lora",
        "output_dir": str(tmp_path / "boxes"),
        "data": {"meshes": str(stores / "new"), "regularization": str(stores / "old")},
        "model": {"from_pretrained": str(tiny_pipeline_folder)},
        "options": {"rank": 2, "alpha": 4},
        "training": {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 1},
    }
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(recipe))
    assert call("train", "lora", "--config", tmp_path / "lora.yaml", "--resolution", 16) == 0
    weights = "adapter_model.safetensors"
    assert (tmp_path / "boxes" / weights).read_bytes() == (trained / weights).read_bytes()


def test_only_the_preflight_trains_nothing(stores, tiny_pipeline_folder, tmp_path, capsys):
    assert call(*arguments(stores, tiny_pipeline_folder, tmp_path / "o"), "--preflight-only") == 0
    shown = capsys.readouterr().out
    assert "12 usable" in shown and "held out" in shown and "volume IoU" in shown and "warning:" in shown
    assert not (tmp_path / "o" / "work" / "run").exists() and not (tmp_path / "o" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --out"),
        (["--out", "OUT"], "there is no data"),
        (["--out", "OUT", "--data", "STORE", "--base", "omni123-giga"], "unknown checkpoint"),
        (["--out", "OUT", "--data", "STORE", "--heldout-share", "1.5"], "heldout_share"),
        (["--out", "OUT", "--data", "STORE", "options.ranks=3"], "has no option"),
        (["--out", "OUT", "--data", "STORE", "data.meshes.x=3"], "name a section and a key"),
        (["--out", "OUT", "--config", "nothing.yaml"], "does not exist"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(stores, tmp_path, capsys, options, message):
    places = {"OUT": str(tmp_path / "out"), "STORE": str(stores / "new")}
    assert call("train", "lora", *(places.get(option, option) for option in options)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_other_stages_are_reached_as_before(capsys):
    assert call("train", "pretrain", "--config", "nothing.yaml") == 2
    assert "recipe nothing.yaml does not exist" in capsys.readouterr().err


def test_meshes_without_a_licence_are_refused(tiny_pipeline_folder, tmp_path, capsys):
    import trimesh

    (tmp_path / "meshes").mkdir()
    trimesh.creation.box().export(tmp_path / "meshes" / "red_box.obj")
    command = ["train", "lora", "--data", tmp_path / "meshes", "--base", tiny_pipeline_folder, "--out", tmp_path / "o"]
    assert call(*command) == 2
    assert "states no licence" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_the_licence_follows_from_the_data():
    assert adapter_licence({"CC0-1.0": 3}) == "CC0-1.0"
    assert adapter_licence({"CC0-1.0": 3, "CC-BY-4.0": 1}) == "CC-BY-4.0"
    assert adapter_licence({"Apache-2.0": 3, "CC-BY-NC-4.0": 1}) == "Apache-2.0 AND CC-BY-NC-4.0"
    assert adapter_licence({"Apache-2.0": 3, "unknown": 1}) == "unknown"
    assert adapter_licence({"unknown": 1}, "MIT") == "MIT"
    assert licence_lines("CC-BY-4.0") == ["license: cc-by-4.0"]
    assert licence_lines("A AND B")[0] == "license: other"


def test_a_folder_without_an_adapter_is_not_published(tmp_path):
    from omni123_hf.errors import Omni123Error

    (tmp_path / "final").mkdir()
    with pytest.raises(Omni123Error, match="training did not end"):
        publish(tmp_path / "final", tmp_path / "out", {}, Image.new("RGB", (8, 8)))
    assert not (tmp_path / "out").exists()
