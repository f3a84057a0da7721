"""The two image stages end to end on a tiny store: they train, validate, save, resume, and refuse what cannot work."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
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
    options |= {"validation_pictures": 0} | options
    if stage == "image-vae":
        options |= {"statistics_batches": 2}
    return Recipe(stage, out, 0, {"root": str(root)}, model, options, training)


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


def tokenizer_recipe(trained_vae, root, out, steps=24, **options):
    fields = {key: value for key, value in TOKENIZER_FIELDS.items() if key != "restart_after"}
    model = {**fields, "image_vae": str(trained_vae[0] / "final"), "restart_after": 3, "num_codes": 64}
    return recipe("image-tokenizer", root, out, model, steps=steps, **options)


def test_a_dead_code_comes_back_to_life_without_its_past(store_folder, trained_vae, tmp_path, monkeypatch):
    """Codes of which no token is near are re-seeded from the batch, counted, and freed of their gradients and moments."""
    forget = image_tokenizer.ImageTokenizerTrainer.forget_moved_codes
    dead = torch.arange(40, 64)
    moved: list[tuple[int, int]] = []

    def watched(self):
        quantizer, step = self.model.quantizer, self.state.global_step
        codebook = quantizer.codebook
        if step == 10:
            # A cone that no token enters: the codes are as far as they can be from the mean of all live ones.
            codebook.data[dead] = -codebook.data[:40].mean(0) + 0.01 * torch.randn(24, 4)
            quantizer.idle_steps[dead] = 0
        idle = set(torch.cat([torch.empty(0, dtype=torch.long), *quantizer._moved]).tolist())
        past = self.optimizer.state.get(codebook)
        before = None if past is None or not idle else past["exp_avg_sq"].clone()
        forget(self)
        if 10 < step and idle:
            rows = torch.tensor(sorted(idle))
            kept = torch.ones(64, dtype=torch.bool)
            kept[rows] = False
            assert (codebook.grad[rows] == 0).all() and (past["exp_avg"][rows] == 0).all()
            assert (past["exp_avg_sq"][rows] == before[kept].mean(0)).all()
            assert torch.equal(past["exp_avg_sq"][kept], before[kept])
            assert torch.equal(self.average.averages["quantizer.codebook"][rows], codebook.detach()[rows])
            moved.append((step, len(idle & set(dead.tolist()))))

    monkeypatch.setattr(image_tokenizer.ImageTokenizerTrainer, "forget_moved_codes", watched)
    metrics = image_tokenizer.train(tokenizer_recipe(trained_vae, store_folder, tmp_path, ema_decay=0.9))
    # Unused in steps 11, 12 and 13, then moved.
    assert min(step for step, count in moved if count) == 13 and sum(count for _, count in moved) >= 20
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(line.get("codes_restarted", 0) for line in log) >= 20
    assert all("codes_restarted" in line and "batch_codes_used" in line for line in log if line["step"] == 20)
    assert metrics["eval_code_usage"] > 0.4


def test_the_code_book_starts_without_a_past(store_folder, trained_vae, tmp_path, monkeypatch):
    """The warm-up's gradients of zero would leave Adam second moments for steps several times too long."""
    forget = image_tokenizer.ImageTokenizerTrainer.forget_moved_codes
    started: list[tuple[bool, bool]] = []

    def watched(self):
        codebook, starts = self.model.quantizer.codebook, bool(self.model.quantizer._moved)
        before = codebook in self.optimizer.state
        forget(self)
        if starts:
            started.append((before, codebook in self.optimizer.state))

    monkeypatch.setattr(image_tokenizer.ImageTokenizerTrainer, "forget_moved_codes", watched)
    image_tokenizer.train(tokenizer_recipe(trained_vae, store_folder, tmp_path, steps=5))
    assert started == [(True, False)]


@pytest.mark.parametrize("cut", [2, 15])
def test_a_tokenizer_run_killed_in_or_after_its_warm_up_goes_on_to_the_bit(store_folder, trained_vae, tmp_path, cut):
    whole, parts = (tokenizer_recipe(trained_vae, store_folder, tmp_path / name, 20) for name in ("whole", "parts"))
    for job in (whole, parts):
        job.options |= {"ema_decay": 0.8, "half_size_share": 0.5}
        # So few tokens that the start of the code book needs several steps of them.
        job.training |= {"save_steps": cut, "save_total_limit": 20, "per_device_train_batch_size": 2}
    image_tokenizer.train(whole)
    shutil.copytree(whole.output_dir / f"checkpoint-{cut}", parts.output_dir / f"checkpoint-{cut}")
    kept = (parts.output_dir / f"checkpoint-{cut}" / "codebook_warmup.safetensors").exists()
    assert kept == (cut < TOKENIZER_FIELDS["quantizer_warmup_steps"])
    image_tokenizer.train(parts)
    one, two = (load_file(job.output_dir / "final" / "model.safetensors") for job in (whole, parts))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_half_of_the_steps_may_be_at_half_size(store_folder, trained_vae, tmp_path, monkeypatch):
    sizes: list[int] = []
    encode = Omni123ImageVAE.encode
    monkeypatch.setattr(Omni123ImageVAE, "encode", lambda self, x: (sizes.append(x.shape[-1]), encode(self, x))[1])
    job = tokenizer_recipe(trained_vae, store_folder, tmp_path, 20, half_size_share=0.5)
    job.options["validation_assets"] = 1
    image_tokenizer.train(job)
    assert 5 <= sizes[:20].count(8) <= 15 and set(sizes) == {8, 16}
    draws = [image_tokenizer.is_half_size(step, 0.25, 3) for step in range(2000)]
    assert sum(draws) / 2000 == pytest.approx(0.25, abs=0.04)
    with pytest.raises(ValueError, match="half_size_share is 1.0"):
        image_tokenizer.check_half_size(1.0, 64, 8)
    with pytest.raises(ValueError, match="no multiple of twice the patch size"):
        image_tokenizer.check_half_size(0.5, 24, 8)


def test_the_tokenizers_picture_has_the_vae_between(store_folder, trained_vae, tmp_path):
    image_tokenizer.train(tokenizer_recipe(trained_vae, store_folder, tmp_path, 5, validation_pictures=3))
    with Image.open(tmp_path / "samples" / "step_000005.png") as image:
        assert image.size == (3 * 132 + 4, 3 * 132 + 4 + 16)


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
