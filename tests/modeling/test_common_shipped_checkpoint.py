"""The shipped checkpoint loads through transformers' Auto classes, complete and without a stray tensor."""

from pathlib import Path

import pytest
import torch
from common_contract import is_poisoned, poisoned_memory, tensors_of_model
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

from omni123_hf.modeling import (
    Omni123ForConditionalGeneration,
    Omni123ImageTokenizer,
    Omni123ImageVAE,
    Omni123ShapeTokenizer,
)


FOLDER = Path(__file__).parents[2] / "checkpoints" / "omni123-mini"
COMPONENTS = {
    "transformer": Omni123ForConditionalGeneration,
    "shape_tokenizer": Omni123ShapeTokenizer,
    "image_vae": Omni123ImageVAE,
    "image_tokenizer": Omni123ImageTokenizer,
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_loads_through_the_auto_classes(name):
    with poisoned_memory():
        model, info = AutoModel.from_pretrained(FOLDER, subfolder=name, output_loading_info=True)
    assert type(model) is COMPONENTS[name] and not model.training
    assert type(AutoConfig.from_pretrained(FOLDER, subfolder=name)) is COMPONENTS[name].config_class
    assert {key: value for key, value in info.items() if value} == {}
    assert [key for key, tensor in tensors_of_model(model).items() if is_poisoned(tensor)] == []


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_holds_the_files_values(name):
    model = AutoModel.from_pretrained(FOLDER, subfolder=name)
    state = model.state_dict()
    with safe_open(FOLDER / name / "model.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}
    assert len(stored) == len(state)
    # The VAE's encoder is written under DINOv3's published names; every other key is the model's own.
    own = stored.keys() & state.keys()
    assert stored.keys() - own == {key for key in stored if key.startswith("encoder.")} - own
    assert all(torch.equal(stored[key], state[key]) for key in own)
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float32}


def test_a_folder_of_another_component_is_refused():
    with pytest.raises(ValueError):
        Omni123ShapeTokenizer.from_pretrained(FOLDER, subfolder="image_tokenizer")
