"""What of a recipe determines a run, and what a run notes of its machine."""

import json
import subprocess

import pytest
from tiny_runs import IMAGE, stage_recipe
from transformers import TrainingArguments

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.training.arguments import training_arguments
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.run_description import (
    add_environment,
    check_same_run,
    code_revision,
    describe_run,
    differences,
    environment,
    write_description,
)


@pytest.fixture
def make(tmp_path):
    def build(stage="image-vae", **training):
        raw = stage_recipe(stage, tmp_path, tmp_path / "run", **training)
        return Recipe(**{**raw, "output_dir": tmp_path / "run"})

    return build


def describe(recipe, facts=None):
    return describe_run(recipe, training_arguments(recipe), facts)


def changed(make, **training):
    return list(differences(describe(make()), describe(make(**training))))


def test_only_fields_that_change_what_is_computed_count(make):
    free = {
        "logging_steps": 1,
        "save_steps": 2,
        "save_total_limit": 9,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "dataloader_num_workers": 1,
        "activation_checkpointing": True,
        "torch_compile": True,
        "disable_tqdm": False,
        "run_name": "x",
        # The same eight samples a step, in other micro-batches.
        "per_device_train_batch_size": 2,
        "global_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "samples_per_group": 4,
    }
    assert changed(make, **free) == []
    assert changed(make, adam_beta2=0.98) == ["training.adam_beta2"]
    assert changed(make, lr_scheduler_type="linear") == ["training.lr_scheduler_type"]
    assert changed(make, gradient_accumulation_steps=4) == ["training.global_batch_size"]


def test_a_value_that_is_written_out_equals_the_default(make):
    assert changed(make, weight_decay=0.0, lr_scheduler_type="cosine", max_grad_norm=1.0) == []


def test_data_and_models_count_by_content(make, tmp_path):
    torch_model = Omni123ImageTokenizer(Omni123ImageTokenizerConfig(**{**IMAGE, "latent_dim": 16, "semantic_dim": 8}))
    for name in ("vae", "elsewhere"):
        torch_model.save_pretrained(tmp_path / name)
    (tmp_path / "data").mkdir()
    recipe, moved = make("image-tokenizer"), make("image-tokenizer")
    moved.model["image_vae"] = str(tmp_path / "elsewhere")
    moved.data["root"] = "/"
    assert list(differences(describe(recipe), describe(moved))) == ["data.root"]
    facts = {"data_hash": "abc"}
    assert describe(recipe, facts) == describe(moved, facts)
    assert describe(recipe, facts)["data"] == facts
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes(b"retrained")
    assert list(differences(describe(recipe, facts), describe(moved, facts))) == ["model.image_vae"]


def test_a_changed_schedule_is_refused_unless_it_is_asked_for(make, tmp_path):
    before, longer = make(), make(max_steps=20, warmup_steps=2)
    write_description(tmp_path, before, describe(before))
    check_same_run(tmp_path, describe(before), False)
    with pytest.raises(Omni123Error, match=r"max_steps .10 → 20.*warmup_steps .0 → 2.*allow_new_schedule=true"):
        check_same_run(tmp_path, describe(longer), False)
    check_same_run(tmp_path, describe(longer), True)
    with pytest.raises(Omni123Error, match="training.learning_rate"):
        check_same_run(tmp_path, describe(make(max_steps=20, learning_rate=1e-5)), True)
    saved = json.loads((tmp_path / "run.json").read_text())
    assert len(saved["hash"]) == 64 and saved["run"]["stage"] == "image-vae"
    assert json.loads((tmp_path / "recipe.json").read_text())["training"]["max_steps"] == 10


def test_the_environment_names_versions_device_and_revision(tmp_path):
    facts = environment(TrainingArguments(tmp_path, use_cpu=True))
    assert {"python", "torch", "transformers", "accelerate"} <= set(facts["versions"])
    assert facts["device"].startswith("cpu") and facts["processes"] == 1 and facts["precision"] == "float32"
    for _ in range(2):
        add_environment(tmp_path / "environment.json", facts)
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 2


def test_the_revision_is_that_of_the_checkout_that_tracks_the_code(tmp_path):
    def git(*arguments):
        user = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *user, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    file, stranger = tmp_path / "code.py", tmp_path / "installed.py"
    file.write_text("a = 1\n")
    git("init", "-q")
    git("add", "code.py")
    git("commit", "-q", "-m", "x")
    stranger.write_text("")
    found = code_revision(file)
    assert found is not None and len(found["revision"]) == 40 and found["dirty"] is False
    file.write_text("a = 2\n")
    assert code_revision(file)["dirty"] is True
    # Installed inside of somebody's repository, but no part of it.
    assert code_revision(stranger) is None
