"""`omni123 train STAGE --dry-run` as a user runs it, and names of checkpoints in recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from omni123_hf.cli.main import main
from omni123_hf.cli.train import resolve_checkpoints
from omni123_hf.cli.train_plan import resolve_for_plan
from omni123_hf.errors import Omni123Error
from omni123_hf.training.recipe import load_recipe


RECIPES = Path(__file__).parents[2] / "recipes"


def call(*arguments: object) -> int:
    """Exit code of `omni123 train` with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main(["train", *(str(argument) for argument in arguments)])
    return int(caught.value.code or 0)


def test_a_plan_as_text_and_as_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("edit", "--config", RECIPES / "paper_edit.yaml", "--dry-run", "--devices", 32)
    assert call(*command) == 0
    text = capsys.readouterr().out
    assert "2,260,867,456" in text and "not here, so not looked at" in text and "would be refused" not in text
    assert call(*command, "--json", "--peak-tflops", 500, "--mfu", 0.3, "--shard", 8) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["time"]["peak_tflops"] == 500 and values["time"]["mfu"] == 0.3 and values["memory"]["shard"] == 8
    assert values["step"]["samples"] == 128 and values["refused"] == []
    assert list(tmp_path.iterdir()) == []


def test_what_would_be_refused_is_printed_and_exits_with_2(capsys):
    config = RECIPES / "paper_edit.yaml"
    assert call("edit", "--config", config, "--dry-run", "--devices", 32, "options.batching=sorted") == 2
    output = capsys.readouterr()
    assert "would be refused" in output.out and "2,260,867,456" in output.out
    assert output.err.startswith("error: training would refuse this recipe: batching 'sorted'")


def test_options_of_the_plan_need_it_and_are_checked(capsys):
    config = RECIPES / "paper_edit.yaml"
    assert call("edit", "--config", config, "--devices", 4) == 2
    assert "--devices is for --dry-run" in capsys.readouterr().err
    assert call("edit", "--config", config, "--dry-run", "--devices", 4, "--shard", 3) == 2
    assert "--shard must divide --devices" in capsys.readouterr().err


def test_names_of_checkpoints_become_folders_and_stay_names_in_the_recipe(tmp_path):
    recipe = load_recipe(RECIPES / "mini_edit.yaml")
    resolve_for_plan(recipe, {})
    folder = Path(recipe.model["from_pretrained"])
    assert (folder / "transformer" / "config.json").is_file() and recipe.data["checkpoint"] == str(folder)
    saved = recipe.to_dict()
    assert saved["model"] == {"from_pretrained": "omni123-mini"} and saved["data"]["checkpoint"] == "omni123-mini"
    resolve_checkpoints(recipe)
    assert recipe.to_dict() == saved, "a folder stays as it is"
    again = load_recipe(RECIPES / "mini_edit.yaml")
    resolve_checkpoints(again)
    assert again.model == recipe.model and again.to_dict() == saved


def test_a_name_that_leads_nowhere_is_refused_before_training_and_not_looked_up_by_a_plan(tmp_path):
    content = yaml.safe_load((RECIPES / "mini_edit.yaml").read_text())
    content["model"]["from_pretrained"] = "omni123-nano"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    recipe = load_recipe(path)
    resolve_for_plan(recipe, {})
    assert recipe.model["from_pretrained"] == "omni123-nano"
    with pytest.raises(Omni123Error, match="unknown checkpoint 'omni123-nano'"):
        resolve_checkpoints(recipe)
