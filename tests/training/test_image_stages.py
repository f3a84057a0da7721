"""The two image stages end to end on a tiny store: they train, validate, save, resume, and refuse what cannot work."""

import json

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import AssetStore, StoreSizes, StoreWriter
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.training import image_tokenizer, image_vae
from omni123_hf.training.recipe import Recipe


VAE_FIELDS = {
    "encoder_config": {
        "patch_size": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_register_tokens": 1,
        "pos_embed_rescale": None,
        "image_size": 16,
    },
    "freeze_encoder": False,
    "freeze_semantic": False,
    "semantic_dim": 8,
    "texture_dim": 8,
    "texture_taps": [0, 1],
    "texture_hidden_size": 32,
    "decoder_hidden_size": 32,
    "num_decoder_layers": 1,
    "num_decoder_heads": 2,
    "upsampler_channels": [16, 8],
    "upsampler_blocks": 1,
}
TOKENIZER_FIELDS = {
    "num_tokens": 16,
    "num_codes": 32,
    "code_dim": 4,
    "encoder_hidden_size": 32,
    "num_encoder_layers": 1,
    "num_encoder_heads": 2,
    "decoder_hidden_size": 32,
    "num_decoder_layers": 1,
    "num_decoder_heads": 2,
    "entropy_tokens": 64,
    "quantizer_warmup_steps": 4,
}


def boxes_on_white(rng: np.random.Generator, size: int) -> np.ndarray:
    views = np.full((7, size, size, 4), 255, np.uint8)
    views[..., 3] = 0
    color = rng.integers(0, 200, 3)
    for view in views:
        top, left = rng.integers(0, size // 2, 2)
        view[top : top + size // 2, left : left + size // 2] = [*color, 255]
    return views


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    sizes = StoreSizes(surface_points=8, queries=16, view_size=16)
    with StoreWriter(folder, 24, sizes) as writer:
        for i in range(24):
            rng = np.random.default_rng(i)
            captions = {"short": ["a box"], "medium": [], "long": []}
            split = "validation" if i % 4 == 3 else "train"
            source = "parametric" if i % 2 else "other"
            record = AssetRecord(f"a{i}", source, "CC0-1.0", "nobody", "box", captions, split, content_hash=str(i))
            arrays = {
                "surface": np.zeros((8, 6), np.float16),
                "queries": np.zeros((16, 3), np.float16),
                "occupancy": np.zeros(2, np.uint8),
                "views": boxes_on_white(rng, 16),
            }
            writer.append(record, arrays)
    return folder


def recipe(stage: str, root, out, model: dict, steps: int = 40, **options) -> Recipe:
    training = {"max_steps": steps, "per_device_train_batch_size": 16, "learning_rate": 4e-3, "disable_tqdm": True}
    training |= {"logging_steps": 10, "save_steps": 20}
    few = {"statistics_batches": 2} if stage == "image-vae" else {}
    return Recipe(stage, out, 0, {"root": str(root)}, model, {**few, **options}, training)


@pytest.fixture(scope="module")
def trained_vae(store_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("vae")
    metrics = image_vae.train(recipe("image-vae", store_folder, out, dict(VAE_FIELDS), steps=120))
    return out, metrics


def test_the_vae_stage_learns_and_saves_standardised_latents(store_folder, trained_vae):
    out, metrics = trained_vae
    assert metrics["eval_psnr"] > 14 and {"eval_psnr_three_quarter", "eval_psnr_parametric"} <= set(metrics)
    model = Omni123ImageVAE.from_pretrained(out / "final")
    pixels = image_vae.pixels_from_views(AssetStore.open(store_folder).views(np.arange(24))).flatten(0, 1)
    with torch.no_grad():
        flat = model.encode(pixels).transpose(0, 1).flatten(1)
    assert flat.mean(1).abs().max() < 0.3 and (flat.std(1) - 1).abs().max() < 0.3
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]


def test_an_interrupted_vae_run_ends_as_an_uninterrupted_one(store_folder, tmp_path):
    from transformers import TrainerCallback

    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 20

    whole = recipe("image-vae", store_folder, tmp_path / "whole", dict(VAE_FIELDS))
    image_vae.train(whole)
    parts = recipe("image-vae", store_folder, tmp_path / "parts", dict(VAE_FIELDS))
    start = image_vae.ImageVAETrainer.__init__

    def stopping(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.add_callback(StopAt())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_vae.ImageVAETrainer, "__init__", stopping)
        image_vae.train(parts)
    image_vae.train(parts)
    one, two = (Omni123ImageVAE.from_pretrained(tmp_path / name / "final") for name in ("whole", "parts"))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_the_tokenizer_stage_runs_on_the_frozen_vae(store_folder, trained_vae, tmp_path):
    folder = trained_vae[0] / "final"
    before = {k: v.clone() for k, v in Omni123ImageVAE.from_pretrained(folder).state_dict().items()}
    model = {**TOKENIZER_FIELDS, "image_vae": str(folder)}
    metrics = image_tokenizer.train(
        recipe("image-tokenizer", store_folder, tmp_path, model, steps=80, pixel_loss_weight=2.0)
    )
    assert metrics["eval_psnr"] > 9 and metrics["eval_code_usage"] > 0.3
    tokenizer, vae = Omni123ImageTokenizer.from_pretrained(tmp_path / "final"), Omni123ImageVAE.from_pretrained(folder)
    assert tokenizer.config.latent_dim == 16 and tokenizer.config.semantic_dim == 8
    assert all(torch.equal(before[k], v) for k, v in vae.state_dict().items())
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all({"pixel_loss", "texture_mse"} <= set(line) for line in log if "loss" in line)


def test_impossible_recipes_are_refused(store_folder, tmp_path):
    with pytest.raises(ValueError, match="image_vae"):
        image_tokenizer.train(recipe("image-tokenizer", store_folder, tmp_path, dict(TOKENIZER_FIELDS)))
    with pytest.raises(ValueError, match="no encoder weights"):
        image_vae.train(recipe("image-vae", store_folder, tmp_path, {**VAE_FIELDS, "freeze_encoder": True}))
    encoder = {**VAE_FIELDS["encoder_config"], "patch_size": 32}
    fields = {**VAE_FIELDS, "encoder_config": encoder, "upsampler_channels": [16, 8, 8, 8, 8]}
    with pytest.raises(ValueError, match="another view size"):
        image_vae.train(recipe("image-vae", store_folder, tmp_path, fields))


def test_a_dinov3_checkpoint_can_be_the_encoder(tmp_path):
    """`model.encoder` copies its weights, freezes them and sets the sizes that follow from it."""
    encoder = DINOv3ViTModel(DINOv3ViTConfig(**{**VAE_FIELDS["encoder_config"], "num_hidden_layers": 6})).eval()
    encoder.save_pretrained(tmp_path / "dino")
    fields = {
        key: VAE_FIELDS[key]
        for key in ("decoder_hidden_size", "num_decoder_layers", "num_decoder_heads", "upsampler_channels")
    }
    vae = image_vae.build_model(Recipe("image-vae", tmp_path, model={**fields, "encoder": str(tmp_path / "dino")}))
    state = encoder.state_dict()
    assert all(torch.equal(state[key], value) for key, value in vae.encoder.state_dict().items())
    assert not any(p.requires_grad for p in vae.encoder.parameters())
    assert vae.config.texture_taps == [0, 1, 2] and vae.config.decoder_hidden_size == 32
