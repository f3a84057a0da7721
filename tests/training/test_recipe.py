"""Recipes: overrides, presets, and errors a person can act on."""

import re
from pathlib import Path

import pytest
import torch
from transformers import DINOv3ViTConfig

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import (
    Omni123Config,
    Omni123ImageTokenizer,
    Omni123ImageTokenizerConfig,
    Omni123ShapeTokenizer,
    Omni123ShapeTokenizerConfig,
)
from omni123_hf.modeling.configuration_image_vae import DINOV3_LARGE, Omni123ImageVAEConfig
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.training import image_tokenizer, image_vae, shape_tokenizer
from omni123_hf.training.plan import check_training
from omni123_hf.training.recipe import Recipe, build_config, load_pretrained, load_recipe, stage_options
from omni123_hf.training.runner import training_arguments
from omni123_hf.training.stage_trainer import check_shared_options
from omni123_hf.training.stages import STAGES, get_stage


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TOKENIZER_RECIPES = (
    "paper_shape_tokenizer", "paper_shape_tokenizer_tsdf", "paper_image_vae", "paper_image_vae_512", "paper_image_tokenizer",
)  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_names_a_stage(path, tmp_path):
    recipe = load_recipe(path, [f"output_dir={tmp_path}"])
    assert recipe.stage in {*STAGES, "lora"}
    assert recipe.stage == "lora" or callable(get_stage(recipe.stage))
    if recipe.training:
        check_training(recipe)
        assert recipe.training["max_steps"] > 0


STAGE_MODULES = {
    "shape-tokenizer": shape_tokenizer,
    "image-vae": image_vae,
    "image-tokenizer": image_tokenizer,
}


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if load_recipe(path).stage in STAGE_MODULES], ids=lambda path: path.stem
)
def test_the_options_of_every_tokenizer_recipe_are_known(path):
    recipe = load_recipe(path)
    options = stage_options(recipe, STAGE_MODULES[recipe.stage].OPTIONS)
    assert all(options[name] == value for name, value in recipe.options.items())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("paper_shape_tokenizer", 273.473617),
        ("paper_shape_tokenizer_tsdf", 273.473617),
        ("paper_image_vae", 469.5),
        ("paper_image_vae_512", 469.5),
        ("paper_image_tokenizer", 531.8),
    ],
)
def test_the_papers_recipes_form_the_papers_models_and_the_stages_parts(name, millions, tmp_path):
    recipe = load_recipe(RECIPES[0].parent / f"{name}.yaml", [f"output_dir={tmp_path}"])
    arguments = training_arguments(recipe)
    options = stage_options(recipe, STAGE_MODULES[recipe.stage].OPTIONS)
    check_shared_options(options, arguments)
    fields = {
        key: value for key, value in recipe.model.items() if key not in ("from_pretrained", "encoder", "image_vae")
    }
    config_class, model_class = {
        "shape-tokenizer": (Omni123ShapeTokenizerConfig, Omni123ShapeTokenizer),
        "image-vae": (Omni123ImageVAEConfig, Omni123ImageVAE),
        "image-tokenizer": (Omni123ImageTokenizerConfig, Omni123ImageTokenizer),
    }[recipe.stage]
    if "encoder" in recipe.model:
        config = Omni123ImageVAEConfig.for_encoder(DINOv3ViTConfig(**DINOV3_LARGE), **fields)
    else:
        config = build_config(config_class, {"preset": "paper", **fields})
    with torch.device("meta"):
        model = model_class(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    if recipe.stage == "image-vae":
        assert model.config.latent_dim == 832
        assert image_vae.build_perceptual_loss(model, options, config.image_size) is not None
        adversary = image_vae.build_adversary(options, arguments, config.image_size)
        assert (adversary is None) == (name == "paper_image_vae")
    if recipe.stage == "shape-tokenizer":
        with torch.device("meta"):
            teacher = shape_tokenizer.build_self_distillation(model, options, arguments)
        assert teacher.student_head.prototypes.shape == (65536, 256)


def test_every_line_of_the_papers_recipes_says_whose_it_is():
    """Numbers in a paper recipe are the paper's (with its section), the preset's, or marked as not in the paper."""
    for path in RECIPES:
        if not path.stem.startswith("paper_") or path.stem not in TOKENIZER_RECIPES:
            continue
        for line in path.read_text().splitlines():
            value, _, remark = line.partition("#")
            if re.search(r":\s*[\d.]", value) or re.search(r": (true|false)", value):
                assert "not in the paper" in remark or "§4" in remark, (path.name, line)


def test_unknown_options_and_values_of_another_kind_are_named(tmp_path):
    defaults = {"share": 0.5, "flip": True, "count": 3, "name": "none", "start": None}
    good = Recipe("image-vae", tmp_path, options={"share": 1, "start": 5})
    assert stage_options(good, defaults) == {**defaults, "share": 1, "start": 5}
    for options, message in (
        (
            {"shares": 1.0, "flop": 2},
            "stage image-vae has no option flop, shares: it knows count, flip, name, share, start",
        ),
        ({"count": True}, "option count is True: give a value of type int"),
        ({"count": 1.0}, "option count is 1.0"),
        ({"flip": 1}, "option flip is 1"),
        ({"share": "much"}, "option share is 'much': give a value of type float"),
    ):
        with pytest.raises(Omni123Error, match=message):
            stage_options(Recipe("image-vae", tmp_path, options=options), defaults)


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
