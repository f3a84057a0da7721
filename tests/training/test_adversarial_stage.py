"""The image VAE with everything on: perceptual and adversarial terms, averaged weights, pictures, and exact resumption."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_image_stages import VAE_FIELDS, recipe, store_folder
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.discriminator_image import PatchDiscriminator, generator_loss
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.training import image_vae
from omni123_hf.training.adversarial import Adversary, adaptive_weight


__all__ = ["store_folder"]
# Late: the run of 30 steps is adversarial from step 10, and its checkpoint at 20 lies within that part.
EVERYTHING = {
    "perceptual": "ssim",
    "adversarial_weight": 0.5,
    "adversarial_start": 10,
    "discriminator_lead": 4,
    "discriminator_width": 4,
    "discriminator_layers": 2,
    "ema_decay": 0.9,
}


def train(root, out, steps=30, **options):
    job = recipe("image-vae", root, out, dict(VAE_FIELDS), steps, **options)
    job.training |= {"save_steps": 10, "save_total_limit": 5, "gradient_accumulation_steps": 2}
    job.training["per_device_train_batch_size"] = 4
    return image_vae.train(job)


@pytest.fixture(scope="module")
def whole(store_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(store_folder, out, validation_pictures=2, **EVERYTHING)
    return out


def states(folder):
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_equal_states(one, two):
    assert one.keys() == two.keys() and len(one)
    for name in one:
        assert one[name].keys() == two[name].keys()
        assert all(torch.equal(value, two[name][key]) for key, value in one[name].items()), name


def test_a_run_killed_in_its_adversarial_part_goes_on_to_the_bit(store_folder, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "parts")
    for part in ("checkpoint-30", "final", "samples"):
        shutil.rmtree(tmp_path / "parts" / part)
    train(store_folder, tmp_path / "parts", validation_pictures=2, **EVERYTHING)
    for part in ("checkpoint-30", "final"):
        assert_equal_states(states(whole / part), states(tmp_path / "parts" / part))
    assert set(states(whole / "checkpoint-30")) == {"model.safetensors", "ema.safetensors", "adversary.safetensors"}
    assert set(states(whole / "final")) == {"model.safetensors"}
    pictures = [(folder / "samples" / "step_000030.png").read_bytes() for folder in (whole, tmp_path / "parts")]
    assert pictures[0] == pictures[1]


def test_nothing_adversarial_happens_before_its_start(store_folder, whole, tmp_path):
    options = {key: value for key, value in EVERYTHING.items() if key in ("perceptual", "ema_decay")}
    train(store_folder, tmp_path, **options)
    for step, same in ((10, True), (20, False)):
        one, two = (load_file(f / f"checkpoint-{step}" / "model.safetensors") for f in (whole, tmp_path))
        assert torch.equal(one["decoder.out_conv.weight"], two["decoder.out_conv.weight"]) == same
    # The discriminator begins to learn some steps earlier.
    first = load_file(whole / "checkpoint-10" / "adversary.safetensors")
    assert any(name.startswith("optimizer.") and float(value) == 4 for name, value in first.items() if "step" in name)


def test_the_log_names_every_part(whole):
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    early, late = (next(line for line in log if line["step"] == step and "loss" in line) for step in (10, 30))
    assert {"pixel_loss", "perceptual_loss", "discriminator_loss"} <= set(early) and "adversarial_loss" not in early
    assert {"adversarial_loss", "adversarial_weight", "discriminator_real", "discriminator_fake"} <= set(late)
    assert late["adversarial_weight"] > 0
    assert late["pixel_loss"] < early["pixel_loss"]


def test_the_final_model_holds_the_averaged_weights(whole):
    final = Omni123ImageVAE.from_pretrained(whole / "final")
    average, newest = (
        load_file(whole / "checkpoint-30" / "ema.safetensors"),
        load_file(whole / "checkpoint-30" / "model.safetensors"),
    )
    weight = final.decoder.out_conv.weight
    assert torch.equal(weight, average["average.decoder.out_conv.weight"])
    assert not torch.equal(weight, newest["decoder.out_conv.weight"])
    assert int(average["updates"]) == 30


def test_pictures_show_inputs_beside_reconstructions(store_folder, whole):
    with Image.open(whole / "samples" / "step_000030.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 132 + 4 + 16, 2 * 132 + 4, 3)
    store = image_vae.AssetStore.open(store_folder)
    row = image_vae.held_in_assets(store, 64, 0)[0]
    assert np.array_equal(sheet[24:148:8, 8:132:8], store.views(int(row))[6, ..., :3])
    assert not np.array_equal(sheet[24:148:8, 140:264:8], sheet[24:148:8, 8:132:8])


def test_the_adaptive_weight_balances_the_gradients_at_the_last_layer():
    torch.manual_seed(0)
    last, x = nn.Conv2d(4, 3, 1), torch.randn(2, 4, 16, 16)
    image = last(x)
    loss, adversarial = image.abs().mean(), generator_loss(PatchDiscriminator(4, 2)(image))
    weight = adaptive_weight(loss, adversarial, last.weight)
    norms = [
        torch.autograd.grad(term, last.weight, retain_graph=True)[0].norm() for term in (loss, weight * adversarial)
    ]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=0.02)
    assert not weight.requires_grad


def test_the_vaes_term_leaves_the_discriminator_alone():
    torch.manual_seed(0)
    last = nn.Conv2d(4, 3, 1)
    adversary = Adversary(PatchDiscriminator(4, 2), 0.5, start=3, lead=2, learning_rate=1e-3)
    before = {name: value.clone() for name, value in adversary.state_dict().items()}
    image = last(torch.randn(2, 4, 16, 16))
    term, figures = adversary.generator_term(image, image.abs().mean(), last.weight)
    term.backward()
    assert all(torch.equal(value, before[name]) for name, value in adversary.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in adversary.discriminator.parameters())
    assert last.weight.grad.abs().sum() > 0 and set(figures) == {"adversarial_loss", "adversarial_weight"}
    assert [adversary.learns(step) for step in range(4)] == [False, True, True, True]
    assert [adversary.judges(step) for step in range(4)] == [False, False, False, True]


def test_the_discriminator_follows_the_schedule_of_the_vae():
    torch.manual_seed(0)
    adversary = Adversary(PatchDiscriminator(4, 2), 0.5, start=0, lead=0, learning_rate=1e-2)
    bias = adversary.discriminator.layers[0].bias
    for schedule in (0.5, 0.0):
        before = bias.detach().clone()
        adversary.accumulate(torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), 1.0)
        adversary.step(schedule, 1.0)
        # Adam's first step is as long as the learning rate, wherever there is a gradient.
        assert (bias - before).abs().max().item() == pytest.approx(schedule * 1e-2, rel=1e-3, abs=1e-9)


def test_a_run_cannot_change_its_mind(store_folder, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-10", tmp_path / "checkpoint-10")
    for change, message in (
        ({"adversarial_weight": 0.0}, "options.adversarial_weight .0.5 → 0.0."),
        ({"ema_decay": 0.0}, "options.ema_decay"),
    ):
        with pytest.raises(Omni123Error, match=message):
            train(store_folder, tmp_path, **{**EVERYTHING, **change})


def test_the_perceptual_term_of_a_frozen_encoder_trains(store_folder, tmp_path):
    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**VAE_FIELDS["encoder_config"])).eval().save_pretrained(tmp_path / "dino")
    names = (
        "decoder_hidden_size",
        "num_decoder_layers",
        "num_decoder_heads",
        "upsampler_channels",
        "texture_hidden_size",
    )
    fields = {name: VAE_FIELDS[name] for name in names} | {"encoder": str(tmp_path / "dino"), "texture_dim": 8}
    weights = []
    for perceptual in ("encoder", "none"):
        job = recipe("image-vae", store_folder, tmp_path / perceptual, fields, 12, perceptual=perceptual)
        image_vae.train(job)
        weights.append(load_file(tmp_path / perceptual / "final" / "model.safetensors"))
    assert not torch.equal(weights[0]["decoder.out_conv.weight"], weights[1]["decoder.out_conv.weight"])
    log = [json.loads(line) for line in (tmp_path / "encoder" / "log.jsonl").read_text().splitlines()]
    assert 0 < log[0]["perceptual_loss"] < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perceptual": "lpips"}, "choose one of none, encoder, ssim"),
        ({"perceptual": "encoder"}, "needs that encoder frozen"),
        ({"perceptual": "ssim", "perceptual_weight": 0.0}, "perceptual_weight is 0.0"),
        ({"adversarial_weight": -1.0}, "must not be negative"),
        ({"adversarial_weight": 0.5, "adversarial_start": "late"}, "adversarial_start is 'late'"),
        ({"adversarial_weight": 0.5, "adversarial_start": 30}, "lies beyond max_steps 30"),
        ({"adversarial_weight": 0.5, "discriminator_layers": 5}, "lower discriminator_layers"),
        ({"adversarial": 0.5}, "has no option adversarial: it knows adversarial_start"),
        ({"flip": "yes"}, "option flip is 'yes': give a value of type bool"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(store_folder, tmp_path, options, message):
    with pytest.raises(Omni123Error, match=message):
        train(store_folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
