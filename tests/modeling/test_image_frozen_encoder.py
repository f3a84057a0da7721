"""The frozen DINOv3 encoder of the image VAE: eval mode, no gradients and no change, whoever says otherwise."""

import pytest
import torch
from tiny_image import ENCODER, shapes_on_white
from tiny_image import tiny_vae_config as tiny
from transformers import DINOv3ViTConfig, Trainer, TrainingArguments

from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_two_passes_in_train_mode_agree_although_dinov3_jitters_positions():
    assert DINOv3ViTConfig().pos_embed_rescale is not None, "the trap this test guards against is gone"
    pixels = shapes_on_white(4, 16)
    frozen = Omni123ImageVAE(tiny(freeze_encoder=True)).train()
    assert frozen.training and frozen.decoder.training and not frozen.encoder.training
    first = frozen.raw_latent(pixels)
    torch.testing.assert_close(frozen.raw_latent(pixels), first, atol=0, rtol=0)
    torch.testing.assert_close(frozen.eval().raw_latent(pixels), first, atol=0, rtol=0)
    trained = Omni123ImageVAE(tiny()).train()
    assert not torch.allclose(trained.raw_latent(pixels), trained.raw_latent(pixels))


def test_nothing_thaws_it():
    model = Omni123ImageVAE(tiny(freeze_encoder=True, freeze_semantic=True))
    pixels = shapes_on_white(4, 16)
    first = model.raw_latent(pixels)
    model.train()
    model.requires_grad_(True)
    model.gradient_checkpointing_enable()
    wrapped = torch.nn.Sequential(model).train().requires_grad_(True)
    assert wrapped.training and not any(module.training for module in model.encoder.modules())
    torch.testing.assert_close(model.raw_latent(pixels), first, atol=0, rtol=0)
    model(pixels).loss.backward()
    # `Sequential.requires_grad_` goes past the model to its parameters; without a graph they still get no gradient.
    assert all(p.grad is None for p in model.encoder.parameters())
    model.requires_grad_(True)
    frozen = [p for part in (model.encoder, model.semantic_proj) for p in part.parameters()]
    assert not any(p.requires_grad for p in frozen)
    assert all(p.requires_grad for part in (model.texture_head, model.decoder) for p in part.parameters())
    assert model.texture_head[1].weight.grad.abs().sum() > 0


def test_a_trainer_with_gradient_checkpointing_leaves_it_as_it_is(tmp_path):
    model = Omni123ImageVAE(tiny(freeze_encoder=True))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        weight_decay=0.5,
        gradient_checkpointing=True,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    samples = [{"pixel_values": pixels} for pixels in shapes_on_white(8, 16)]
    Trainer(model=model, args=arguments, train_dataset=samples).train()
    changed = {
        name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"semantic_proj", "texture_head", "decoder", "latent_mean", "latent_std"}


@pytest.mark.parametrize("frozen", [True, False])
def test_gradient_checkpointing_changes_no_number(frozen):
    model = Omni123ImageVAE(
        tiny(freeze_encoder=frozen, encoder_config={**ENCODER, "pos_embed_rescale": None}, num_decoder_layers=2)
    ).train()
    pixels = shapes_on_white(3, 16)

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(1)
        model.zero_grad()
        loss = model(pixels).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    loss, gradients = run()
    recomputed = []
    handle = model.decoder.stages[1].expand.register_forward_hook(lambda *_: recomputed.append(1))
    model.gradient_checkpointing_enable()
    loss_checkpointed, gradients_checkpointed = run()
    assert len(recomputed) == 2, "the upsampler is computed again in the backward pass"
    handle.remove()
    torch.testing.assert_close(loss_checkpointed, loss, atol=0, rtol=0)
    assert gradients_checkpointed.keys() == gradients.keys()
    assert any(name.startswith("encoder.") for name in gradients) is not frozen
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_checkpointed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
