"""Recipes: overrides, presets, and errors a person can act on."""

from pathlib import Path

import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123Config, Omni123ShapeTokenizerConfig
from omni123_hf.training.recipe import build_config, load_recipe
from omni123_hf.training.runner import training_arguments
from omni123_hf.training.stages import STAGES, get_stage


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_names_a_stage(path, tmp_path):
    recipe = load_recipe(path, [f"output_dir={tmp_path}"])
    assert recipe.stage in STAGES
    assert callable(get_stage(recipe.stage))
    if recipe.training:
        assert training_arguments(recipe).max_steps > 0


def test_overrides_reach_nested_keys_and_keep_types(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: pretrain\noutput_dir: out\ntraining: {max_steps: 5}\n")
    recipe = load_recipe(path, ["training.max_steps=7", "options.tasks.text-to-3d=0.5", "seed=3"])
    assert recipe.training["max_steps"] == 7
    assert recipe.options == {"tasks": {"text-to-3d": 0.5}}
    assert recipe.seed == 3


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stage: pretrain\noutput_dir: out\nmodle: {}\n", [], "modle"),
        ("output_dir: out\n", [], "stage"),
        ("[1, 2]\n", [], "mapping"),
        ("stage: pretrain\noutput_dir: out\n", ["no-equals-sign"], "key=value"),
        ("stage: pretrain\noutput_dir: out\n", ["stage.deep=1"], "section"),
    ],
)
def test_bad_recipes_are_named(tmp_path, text, overrides, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(Omni123Error, match=message):
        load_recipe(path, overrides)


def test_a_missing_recipe_and_an_unknown_stage_are_named(tmp_path):
    with pytest.raises(Omni123Error, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(Omni123Error, match="shape-tokenizer"):
        get_stage("shape")


def test_presets_take_single_fields_and_refuse_unknown_ones():
    config = build_config(Omni123ShapeTokenizerConfig, {"preset": "mini", "num_codes": 32})
    assert (config.num_codes, config.num_latents) == (32, Omni123ShapeTokenizerConfig.mini().num_latents)
    assert build_config(Omni123Config, {"preset": "paper"}).num_dual_layers == 24
    with pytest.raises(Omni123Error, match="num_cods"):
        build_config(Omni123ShapeTokenizerConfig, {"preset": "mini", "num_cods": 32})
    with pytest.raises(Omni123Error, match="huge"):
        build_config(Omni123Config, {"preset": "huge"})
