"""Names, damaged checkpoints, revisions and the Hub route."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines import Omni123JointPipeline, registry


@pytest.fixture
def copy(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "copy"))


def load_error(folder: Path | str, **kwargs) -> str:
    with pytest.raises(Omni123Error) as caught:
        Omni123JointPipeline.from_pretrained(folder, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_names(tmp_path):
    assert "unknown checkpoint 'omni123-giga'" in load_error("omni123-giga")
    assert "unknown checkpoint" in load_error(str(tmp_path / "absent"))
    assert "holds no model_index.json" in load_error(tmp_path)


def test_bundled_name_is_found_in_a_root(tiny_pipeline_folder, monkeypatch):
    monkeypatch.setattr(registry, "checkpoint_roots", lambda: [tiny_pipeline_folder.parent])
    assert registry.bundled_checkpoints() == {"tiny": tiny_pipeline_folder}
    assert registry.resolve_checkpoint("tiny") == tiny_pipeline_folder
    assert registry.resolve_checkpoint("someone/tiny") is None


def test_checkpoint_roots_are_the_package_and_the_repository():
    roots = registry.checkpoint_roots()
    assert roots[0].parent == Path(registry.__file__).parents[1]
    if len(roots) > 1:
        assert (roots[1].parent / "pyproject.toml").is_file()


@pytest.mark.parametrize("kept", [0, 4, 100, -20])
def test_truncated_weights(copy, kept):
    file = copy / "transformer" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "transformer/model.safetensors is corrupt or truncated" in load_error(copy)


def test_weights_that_are_no_safetensors(copy):
    (copy / "image_vae" / "model.safetensors").write_bytes(b"<html>not found</html>" * 10)
    assert "image_vae/model.safetensors is corrupt or truncated" in load_error(copy)


def test_one_changed_byte_is_found_by_its_hash(copy):
    file = copy / "shape_tokenizer" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert "shape_tokenizer/model.safetensors" in load_error(copy)
    assert Omni123JointPipeline.from_pretrained(copy, verify_hashes=False).revision


def test_missing_files(copy):
    (copy / "text_encoder" / "config.json").unlink()
    assert "lacks text_encoder/config.json" in load_error(copy)
    shutil.rmtree(copy / "text_encoder")
    assert "lacks the component folder 'text_encoder'" in load_error(copy)


def test_missing_weights_file(copy):
    (copy / "text_encoder_2" / "model.safetensors").unlink()
    assert "no safetensors file in text_encoder_2/" in load_error(copy)


def test_broken_json(copy):
    (copy / "transformer" / "config.json").write_text("{")
    assert "cannot read transformer/config.json" in load_error(copy)
    (copy / "model_index.json").write_text("[]")
    assert "model_index.json holds no JSON object" in load_error(copy)


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "image_vae"])
def test_a_missing_tensor_is_refused_instead_of_filled_with_noise(copy, component):
    file = copy / component / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(max(tensors))
    save_file(tensors, file, metadata={"format": "pt"})
    assert f"{component} lacks 1 tensor" in load_error(copy, verify_hashes=False)


def test_weights_of_another_size_are_refused(copy):
    file = copy / "transformer" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "hidden_size": 64, "head_dim": 32}))
    assert "cannot load the checkpoint" in load_error(copy, verify_hashes=False)


def test_an_index_cannot_name_foreign_code(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["transformer"] = ["antigravity", "Fly"]
    (copy / "model_index.json").write_text(json.dumps(index))
    assert "unknown class antigravity.Fly" in load_error(copy, verify_hashes=False)


def test_revision_follows_the_content_and_not_the_place(tiny_pipeline_folder, copy):
    (copy / registry.PROVENANCE_FILE).unlink()
    assert registry.checkpoint_revision(copy) == registry.checkpoint_revision(tiny_pipeline_folder)
    config = copy / "transformer" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert registry.checkpoint_revision(copy) != registry.checkpoint_revision(tiny_pipeline_folder)


def test_provenance_keeps_facts(copy):
    written = registry.write_provenance(copy, data_hash="abc")
    assert registry.provenance(copy) == written and written["data_hash"] == "abc"
    assert "transformer/model.safetensors" in written["files"]


def test_hub_id_goes_through_a_snapshot(tiny_pipeline_folder, monkeypatch):
    asked = []

    def snapshot(name, **kwargs):
        asked.append((name, kwargs))
        return str(tiny_pipeline_folder)

    monkeypatch.setattr("omni123_hf.pipelines.pipeline_base.snapshot_download", snapshot)
    pipeline = Omni123JointPipeline.from_pretrained("someone/tiny", revision="v1")
    assert asked == [("someone/tiny", {"revision": "v1"})]
    assert pipeline.revision == registry.checkpoint_revision(tiny_pipeline_folder)


def test_hub_id_that_is_not_cached_offline(tmp_path):
    message = load_error("someone/nothing", cache_dir=str(tmp_path), local_files_only=True)
    assert "cannot download 'someone/nothing'" in message


def test_a_revision_of_a_local_checkpoint_is_refused_and_not_ignored(tiny_pipeline_folder):
    assert "leave out revision" in load_error(tiny_pipeline_folder, revision="v1")


def test_a_home_folder_that_does_not_exist_is_an_unknown_checkpoint():
    assert "unknown checkpoint" in load_error("~nobody-of-this-name/model")


def test_a_pipeline_of_a_task_that_the_checkpoint_was_not_trained_on_says_so(copy, caplog):
    from omni123_hf.pipelines import Omni123EditPipeline

    Omni123EditPipeline.from_pretrained(copy)
    assert not caplog.records and registry.trained_tasks(copy) is None
    (copy / "recipes").mkdir()
    mixture = {"a": {"tasks": ["text-to-3d"]}, "b": {"tasks": "text-to-image"}, "c": {"tasks": {"3d-to-image": 1.0}}}
    recipe = {"options": {"tasks": {"text-to-image-to-3d": 1.0}, "mixture": mixture}}
    (copy / "recipes" / "omni123.json").write_text(json.dumps(recipe))
    assert registry.trained_tasks(copy) == {"text-to-3d", "text-to-image", "3d-to-image", "text-to-image-to-3d"}
    Omni123JointPipeline.from_pretrained(copy)
    assert not caplog.records
    Omni123EditPipeline.from_pretrained(copy)
    assert "was not trained on edit-3d" in caplog.text
