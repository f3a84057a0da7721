"""A new backbone begins with an old one's weights: exactly where settings agree, by meaning where sizes grow."""

import pytest
import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration
from omni123_hf.training.warm_start import warm_start


# The shape of a converted Cube 3D checkpoint: shapes only, one text encoder, baked table, the empty prompt.
CUBE = {
    "num_shape_codes": 13, "num_image_codes": 0, "num_shape_tokens": 5, "num_views": 0, "hidden_size": 32,
    "num_dual_layers": 3, "num_single_layers": 1, "num_attention_heads": 4, "shape_code_dim": None,
    "image_code_dim": None, "text_embed_dim": 10, "text_embed_dim_2": None, "null_condition": "empty_prompt",
    "use_bbox": True, "rope_theta": 10000.0, "token_dropout": 0.0, "normalize_text_embeds": False,
    "initializer_range": 0.2,
}  # fmt: skip
GROWN = {
    "num_image_codes": 9, "num_image_tokens": 4, "num_views": 6, "num_dual_layers": 5, "num_single_layers": 3,
    "shape_code_dim": 3, "image_code_dim": 5, "token_dropout": 0.1, "null_condition": "learned",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    model = Omni123ForConditionalGeneration(Omni123Config(**CUBE)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("cube")
    model.save_pretrained(folder / "transformer")
    return folder, model


def grown(**changes) -> Omni123ForConditionalGeneration:
    torch.manual_seed(1)
    model = Omni123ForConditionalGeneration(Omni123Config(**{**CUBE, **GROWN, **changes})).eval()
    if model.shape_code_table is not None:
        model.set_code_tables(shape=torch.randn(13, 3), image=torch.randn(9, 5))
    return model


def logits(model) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    codes = torch.randint(13, (2, 5), generator=g)
    ids = torch.cat([torch.full((2, 1), model.config.shape_start_id), codes], dim=1)
    text = torch.randn(2, 4, 10, generator=g)
    with torch.no_grad():
        return model(ids, text_embeds=text, modality="shape").shape_logits


def test_a_deeper_model_with_images_and_views_computes_what_the_old_one_did(source):
    folder, model = source
    target = grown()
    before = logits(target)
    report = warm_start(target, folder)
    torch.testing.assert_close(logits(target), logits(model), atol=1e-5, rtol=0)
    assert (logits(target) - before).abs().max() > 1e-2
    assert "image_head.weight" in report.new and "shape_head.weight" in report.copied
    assert report.differing_settings == {"null_condition": ("empty_prompt", "learned")}
    assert target.image_code_proj.weight.abs().sum() > 0


def test_new_layers_learn_although_they_begin_as_the_identity(source):
    folder, _ = source
    target = grown()
    warm_start(target, folder)
    ids = torch.cat([torch.full((2, 1), target.config.shape_start_id), torch.arange(5).repeat(2, 1)], dim=1)
    labels = ids.clone()
    labels[:, 0] = -100
    target(ids, text_embeds=torch.randn(2, 4, 10), labels=labels).loss.backward()
    assert target.dual_blocks[2].generation_out.o_proj.weight.grad.abs().sum() > 0
    assert target.single_blocks[2].generation_out.o_proj.weight.grad.abs().sum() > 0


def test_differing_settings_are_reported_and_sizes_that_cannot_fit_refused(source):
    folder, _ = source
    report = warm_start(grown(rope_theta=1000.0, num_shape_tokens=4), folder)
    assert report.differing_settings["rope_theta"] == (10000.0, 1000.0)
    assert report.differing_settings["num_shape_tokens"] == (5, 4)
    for changes, message in (
        ({"hidden_size": 64}, "hidden_size is 64"),
        ({"num_shape_codes": 14, "shape_code_dim": None}, "num_shape_codes is 14"),
        ({"num_dual_layers": 2}, "has 3 num_dual_layers"),
    ):
        with pytest.raises(Omni123Error, match=message):
            warm_start(grown(**changes), folder)
    with pytest.raises(Omni123Error, match="holds no backbone"):
        warm_start(grown(), folder / "nothing")
