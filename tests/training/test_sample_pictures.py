"""Pictures drawn while training: they show what was generated, and training does not notice."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pools import save_tokenizers, tiny_recipe, write_pools
from torch import nn

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, Omni123ForConditionalGeneration, Omni123ShapeTokenizer
from omni123_hf.modeling.configuration_image_vae import DINOV3_TINY, Omni123ImageVAEConfig
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.runner import training_arguments
from omni123_hf.training.sample_options import SampleOptions
from omni123_hf.training.sample_pictures import SamplePictures, check_sampling_is_possible, undisturbed
from omni123_hf.training.stages import get_stage


TASKS_OF_THE_RUN = {"text-to-image": 0.3, "text-to-3d": 0.3, "image-to-3d": 0.2, "3d-to-posed-image": 0.2}


@pytest.fixture(scope="module")
def decodable_workspace(tmp_path_factory) -> Path:
    """As `pools_workspace`, with an image VAE that is one: 16² pixels, 4 × 4 cells of 8 + 8 channels."""
    folder = tmp_path_factory.mktemp("decodable")
    tokenizers = save_tokenizers(folder)
    encoder = {
        **DINOV3_TINY, "patch_size": 4, "image_size": 16, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    config = Omni123ImageVAEConfig(
        encoder_config=encoder, freeze_encoder=False, freeze_semantic=False, image_size=16, semantic_dim=8,
        texture_dim=8, texture_taps=[0, 1], texture_hidden_size=16, decoder_hidden_size=16, num_decoder_layers=1,
        num_decoder_heads=2, upsampler_channels=[8, 8], upsampler_blocks=1,
    )  # fmt: skip
    torch.manual_seed(1)
    Omni123ImageVAE(config).save_pretrained(tokenizers["image_vae"])
    write_pools(folder / "shards", tokenizers)
    return folder


def trained_weights(workspace: Path, out: Path, text: Path | None, **options) -> dict[str, torch.Tensor]:
    recipe = tiny_recipe(workspace, out, steps=6, tasks=TASKS_OF_THE_RUN, validation_batches=1, **options)
    recipe.model["token_dropout"] = 0.2
    recipe.training |= {"max_steps": 6, "learning_rate": 1e-2}
    if text is not None:
        recipe.options |= {name: str(text / name) for name in ("tokenizer", "tokenizer_2")}
    get_stage("pretrain")(recipe)
    return Omni123ForConditionalGeneration.from_pretrained(out / "final" / "transformer").state_dict()


def test_pictures_change_no_bit_of_the_weights(decodable_workspace, tmp_path, monkeypatch):
    drawn = SamplePictures.picture

    def greedy_with_random_numbers(self, *arguments):
        # Whatever draws from the common generators inside, as libraries may.
        torch.rand(3), np.random.rand(3), random.random()
        return drawn(self, *arguments)

    monkeypatch.setattr(SamplePictures, "picture", greedy_with_random_numbers)
    samples = {
        "every": 2,
        "count": 2,
        "resolution": 12,
        "size": 32,
        "tasks": list(TASKS_OF_THE_RUN),
        "temperature": 1.0,
    }
    without = trained_weights(decodable_workspace, tmp_path / "off", None)
    recipe_text = tmp_path / "off" / "final"
    with_samples = trained_weights(decodable_workspace, tmp_path / "on", recipe_text, samples=samples)
    assert without.keys() == with_samples.keys()
    assert all(torch.equal(without[name], with_samples[name]) for name in without)
    files = sorted((tmp_path / "on" / "samples").iterdir())
    assert [file.name for file in files] == [f"step_{step:08d}.png" for step in (2, 4, 6)]
    pictures = [np.asarray(Image.open(file)) for file in files]
    # Eight records, the same at every step; what the model makes of them differs.
    assert len({picture.shape for picture in pictures}) == 1 and not np.array_equal(pictures[0], pictures[2])


def test_pictures_reach_tensorboard_and_a_shape_without_surface_says_so(decodable_workspace, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cells = []
    table = __import__("omni123_hf.training.sample_pictures", fromlist=["picture_table"]).picture_table
    monkeypatch.setattr(
        "omni123_hf.training.sample_pictures.picture_table",
        lambda rows, size: cells.extend(cell for row in rows for cell in row.cells) or table(rows, size),
    )
    workspace = tmp_path / "work"
    folders = save_tokenizers(workspace)
    shape = Omni123ShapeTokenizer.from_pretrained(folders["shape_tokenizer"])
    shape.occupancy_head.classifier.bias.data.fill_(-1e4)  # Nothing is inside, whatever the tokens.
    shape.save_pretrained(folders["shape_tokenizer"])
    write_pools(workspace / "shards", folders)
    recipe = tiny_recipe(workspace, tmp_path / "run", steps=2, tasks={"text-to-3d": 1.0})
    recipe.options["samples"] = {"every": 2, "count": 1, "resolution": 10, "size": 32}
    recipe.training["report_to"] = "tensorboard"
    get_stage("pretrain")(recipe)
    assert [cell.label for cell in cells] == ["shape"]
    assert cells[0].picture is None and "no surface: nothing is inside" in cells[0].message
    (folder,) = {path.parent for path in (tmp_path / "run" / "runs").rglob("events.*")}
    (image,) = events.EventAccumulator(str(folder)).Reload().Images("samples")
    assert image.step == 2


def test_edits_show_source_and_result_and_a_model_without_learned_null_its_empty_prompt(pools_workspace, tmp_path):
    recipe = tiny_recipe(pools_workspace, tmp_path / "p", steps=1, mixture={"edits": {"tasks": ["edit-3d"]}})
    recipe.model["null_condition"] = "empty_prompt"
    recipe.options["samples"] = {"every": 1, "count": 2, "resolution": 10, "size": 32}
    get_stage("pretrain")(recipe)
    width, height = Image.open(tmp_path / "p" / "samples" / "step_00000001.png").size
    assert height > 2 * 32 and width >= 2 * 32


def test_random_states_and_modes_come_back():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    module[1].eval()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    wanted = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    with pytest.raises(KeyError), undisturbed(module):
        module.eval()
        torch.rand(5), np.random.rand(5), random.random()
        raise KeyError
    assert (torch.rand(1), np.random.rand(), random.random()) == wanted
    assert [part.training for part in module.modules()] == [True, True, False]


def test_default_tasks_show_what_a_run_trains():
    read = lambda *trained: SampleOptions.read({"every": 1}, trained).tasks  # noqa: E731
    assert read("image-to-3d", "text-to-3d", "text-to-image") == ("text-to-image", "text-to-3d")
    assert read("text-to-3d", "text-to-image-to-3d") == ("text-to-image-to-3d",)
    assert read("edit-3d") == ("edit-3d",) and read("images-to-3d") == ("images-to-3d",)
    assert SampleOptions.read(None, list(TASKS)) is None


@pytest.mark.parametrize(
    "section, message",
    [
        ({"count": 2}, "mapping with every"),
        ({"every": 5, "often": True}, "mapping with every"),
        ({"every": 0}, "whole number of at least 1"),
        ({"every": 5, "resolution": 4}, "at least 8"),
        ({"every": 5, "temperature": -1.0}, "at least 0"),
        ({"every": 5, "tasks": ["edit-3d"]}, "tasks that the run trains"),
    ],
)
def test_bad_sample_options(section, message):
    with pytest.raises(Omni123Error, match=message):
        SampleOptions.read(section, ["text-to-3d"])


def test_what_cannot_be_decoded_or_generated_is_refused(tmp_path):
    arguments = training_arguments(Recipe("pretrain", tmp_path, training={"max_steps": 1}))
    segments = [segment for name in ("text-to-3d", "text-to-image") for segment in TASKS[name].segments]
    folders = {name: tmp_path for name in ("shape_tokenizer", "image_tokenizer")}
    with pytest.raises(Omni123Error, match="decodes with the image_vae, which the data section does not name"):
        check_sampling_is_possible(segments, folders, arguments, sharded=False)
    check_sampling_is_possible(segments[:1], folders, arguments, sharded=False)
    with pytest.raises(Omni123Error, match="leave it out under FSDP"):
        check_sampling_is_possible(segments[:1], folders, arguments, sharded=True)
