"""Recipes: overrides, presets, and errors a person can act on."""

from pathlib import Path

import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import (
    Omni123Config,
    Omni123ImageTokenizer,
    Omni123ImageTokenizerConfig,
    Omni123ShapeTokenizerConfig,
)
from omni123_hf.training.recipe import build_config, load_pretrained, load_recipe
from omni123_hf.training.runner import training_arguments
from omni123_hf.training.stages import STAGES, get_stage


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_names_a_stage(path, tmp_path):
    recipe = load_recipe(path, [f"output_dir={tmp_path}"])
    assert recipe.stage in {*STAGES, "lora"}
    assert recipe.stage == "lora" or callable(get_stage(recipe.stage))
    if recipe.training:
        assert training_arguments(recipe).max_steps > 0


def test_overrides_reach_nested_keys_and_keep_types(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: pretrain\noutput_dir: out\ntraining: {max_steps: 5}\n")
    recipe = load_recipe(path, ["training.max_steps=7", "options.tasks.text-to-3d=0.5", "seed=3"])
    assert recipe.training["max_steps"] == 7
    assert recipe.options == {"tasks": {"text-to-3d": 0.5}}
    assert recipe.seed == 3


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    """YAML 1.1 alone reads 1e-3 as text, which ends as a TypeError inside the optimiser."""
    path = tmp_path / "r.yaml"
    path.write_text("stage: pretrain\noutput_dir: out\ntraining: {weight_decay: 5e-2, warmup_steps: 10}\n")
    recipe = load_recipe(path, ["training.learning_rate=1e-3", "data.root=1e-3x"])
    assert recipe.training == {"weight_decay": 0.05, "warmup_steps": 10, "learning_rate": 0.001}
    assert recipe.data["root"] == "1e-3x"


def test_a_missing_key_and_a_wrong_training_field_are_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"stage: pretrain\noutput_dir: {tmp_path}\ntraining: {{max_step: 5}}\n")
    recipe = load_recipe(path)
    with pytest.raises(Omni123Error, match="data section needs root"):
        recipe.data["root"]
    with pytest.raises(Omni123Error, match="needs max_steps"):
        training_arguments(recipe)
    recipe.training["max_steps"] = 5
    with pytest.raises(Omni123Error, match="max_step"):
        training_arguments(recipe)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stage: pretrain\noutput_dir: out\nmodle: {}\n", [], "modle"),
        ("output_dir: out\n", [], "stage"),
        ("[1, 2]\n", [], "mapping"),
        ("stage: [pretrain\n", [], "no valid YAML"),
        ("stage: pretrain\noutput_dir: out\n", ["seed=[1"], "no valid YAML"),
        ("stage: pretrain\noutput_dir: out\ndata: runs\n", [], "'data'"),
        ("stage: pretrain\noutput_dir: out\nseed: one\n", [], "whole number"),
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
    with pytest.raises(Omni123Error, match="num_cods"):
        build_config(Omni123ShapeTokenizerConfig, {"num_cods": 32})
    with pytest.raises(Omni123Error, match="semantic_dim 99"):
        build_config(Omni123ImageTokenizerConfig, {"preset": "mini", "semantic_dim": 99})
    with pytest.raises(Omni123Error, match="num_codes"):
        build_config(Omni123ShapeTokenizerConfig, {"preset": "mini", "num_codes": "many"})


def test_a_wider_preset_gets_wider_heads():
    assert Omni123Config.mini().head_dim == 48
    assert build_config(Omni123Config, {"preset": "mini", "hidden_size": 384}).head_dim == 96
    assert build_config(Omni123Config, {"preset": "mini", "hidden_size": 384, "head_dim": 32}).head_dim == 32


def test_a_trained_model_takes_fields_of_the_recipe(tmp_path):
    sizes = {"latent_dim": 4, "semantic_dim": 2, "num_tokens": 4, "num_codes": 8, "code_dim": 4, "num_frequencies": 2}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_hidden_size": 8, f"num_{side}_heads": 2, f"num_{side}_layers": 1}
    Omni123ImageTokenizer(Omni123ImageTokenizerConfig(**sizes)).save_pretrained(tmp_path)
    model = load_pretrained(Omni123ImageTokenizer, str(tmp_path), {"restart_after": 7})
    assert model.config.restart_after == model.quantizer.restart_after == 7
    with pytest.raises(Omni123Error, match="restart_afer"):
        load_pretrained(Omni123ImageTokenizer, str(tmp_path), {"restart_afer": 7})
