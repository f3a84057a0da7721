"""Pre-training in two resolutions (paper §4.4): the second stage reads longer images with the weights of the first."""

import pytest
import torch
from tiny_pools import KI, QUIET, codes_of, record, tiny_recipe
from transformers import AutoTokenizer

from omni123_hf.data.shards.format import Field, PoolLayout
from omni123_hf.data.shards.writer import write_pool
from omni123_hf.data.tokens import weights_hash
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ForConditionalGeneration
from omni123_hf.training.stages import get_stage


SHORT = 4


def test_stage_2_changes_the_number_of_image_tokens_and_no_weight_depends_on_it(pools_workspace, tmp_path):
    names = ("image_tokenizer", "image_vae")
    origin = {"tokenizers": {name: weights_hash(pools_workspace / name) for name in names}}
    layout = PoolLayout("images", (Field("image_tokens", "image", SHORT, KI),))

    def encode(records):
        return torch.tensor([codes_of(r.source_row, 1, SHORT, KI).tolist() for r in records]).numpy()

    write_pool(tmp_path / "short", layout, [record(i, ()) for i in range(8)], encode, origin, QUIET)
    mixture = {"images": {"tasks": ["text-to-image"]}}
    first = tiny_recipe(pools_workspace, tmp_path / "stage1", steps=2, mixture=mixture)
    first.data["pools"] = {"images": {"shards": str(tmp_path / "short")}}
    first.model["num_image_tokens"] = SHORT
    get_stage("pretrain")(first)
    initial = {"from_pretrained": str(tmp_path / "stage1" / "final"), "num_image_tokens": 16}
    second = tiny_recipe(pools_workspace, tmp_path / "stage2", steps=1, model=initial, mixture=mixture)
    second.training |= {"learning_rate": 0.0, "warmup_steps": 0}
    get_stage("pretrain")(second)
    models = [
        Omni123ForConditionalGeneration.from_pretrained(tmp_path / stage / "final" / "transformer")
        for stage in ("stage1", "stage2")
    ]
    assert [model.config.num_image_tokens for model in models] == [SHORT, 16]
    before, after = (model.state_dict() for model in models)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_tokenizer_by_name_is_cut_at_the_length_of_the_recipe_and_keeps_it(pools_workspace, tmp_path):
    plain = tiny_recipe(pools_workspace, tmp_path / "plain", steps=1)
    get_stage("pretrain")(plain)
    named = tiny_recipe(pools_workspace, tmp_path / "named", steps=1)
    folder = str(tmp_path / "plain" / "final" / "tokenizer_2")
    named.options["tokenizer_2"] = {"name": folder, "max_length": 5}
    get_stage("pretrain")(named)
    saved = AutoTokenizer.from_pretrained(tmp_path / "named" / "final" / "tokenizer_2")
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 24 and saved.model_max_length == 5
    named.options["tokenizer_2"] = {"name": folder, "max_len": 5}
    with pytest.raises(Omni123Error, match="takes name and max_length"):
        get_stage("pretrain")(named)
