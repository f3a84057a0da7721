"""Image VAEs around pretrained DINOv3 encoders: from folders, a stub of the Hub and loaded models, and what is refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file
from tiny_image import shapes_on_white
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.configuration_image_vae import Omni123ImageVAEConfig
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE


SMALL_DECODER = {
    "texture_hidden_size": 32,
    "decoder_hidden_size": 32,
    "num_decoder_layers": 1,
    "num_decoder_heads": 2,
    "upsampler_channels": [8, 8, 8, 8],
    "upsampler_blocks": 1,
}


def tiny_dinov3(dtype: torch.dtype = torch.float32, **fields) -> DINOv3ViTModel:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_register_tokens": 4,
        "initializer_range": 0.1,
        "image_size": 32,
    }
    torch.manual_seed(11)
    return DINOv3ViTModel(DINOv3ViTConfig(**{**sizes, **fields})).to(dtype).eval()


def build(source, **changes) -> Omni123ImageVAE:
    torch.manual_seed(5)
    return Omni123ImageVAE.from_dinov3(source, **{**SMALL_DECODER, **changes})


def message(source, **changes) -> str:
    with pytest.raises(Omni123Error) as caught:
        build(source, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_encoder(vae: Omni123ImageVAE, encoder: DINOv3ViTModel) -> None:
    wanted = encoder.state_dict()
    found = vae.encoder.state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value.to(found[key].dtype)), key


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_dinov3().save_pretrained(tmp_path / "my-dinov3")
    return tmp_path / "my-dinov3"


@pytest.mark.parametrize("registers", [0, 4])
def test_a_folder_gives_a_frozen_exact_encoder_in_a_vae_that_works(tmp_path, registers):
    encoder = tiny_dinov3(num_register_tokens=registers)
    encoder.save_pretrained(tmp_path)
    vae = build(tmp_path)
    assert_same_encoder(vae, encoder)
    assert not vae.training and not any(p.requires_grad for p in vae.encoder.parameters())
    assert (vae.config.semantic_dim, vae.config.texture_taps, vae.config.patch_size) == (32, [0, 1, 2], 16)
    pixels = shapes_on_white(6, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (vae.config.image_mean, vae.config.image_std))
    with torch.no_grad():
        wanted = encoder(((pixels + 1) / 2 - mean) / std).last_hidden_state[:, 1 + registers :]
        torch.testing.assert_close(vae._encoder_features(pixels)[0], wanted)
    batches = [shapes_on_white(16, 32, seed) for seed in range(2)]
    vae.fit_semantic_projection(batches)
    vae.fit_latent_statistics(batches)
    latent = vae.encode(torch.cat(batches))
    assert latent.shape == (32, 96, 2, 2)
    spread = latent.std((0, 2, 3))
    torch.testing.assert_close(spread[:31], torch.ones(31), atol=2e-2, rtol=0)
    torch.testing.assert_close(spread[32:], torch.ones(64), atol=2e-2, rtol=0)
    # A LayerNorm of width 32 spans 31 dimensions: the last component must stay near zero, not become noise of size 1.
    assert spread[31] < 0.01
    assert vae.decode(latent).shape == (32, 3, 32, 32)


def test_folder_and_loaded_model_give_the_same_vae_from_the_same_seed(folder):
    encoder = tiny_dinov3().train()
    one, two = build(folder), build(encoder)
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    torch.manual_seed(6)
    other = Omni123ImageVAE.from_dinov3(folder, **SMALL_DECODER)
    assert not torch.equal(other.decoder.in_proj.weight, one.decoder.in_proj.weight)
    assert_same_encoder(other, encoder)
    assert encoder.training and all(p.requires_grad for p in encoder.parameters()), "the given model is left as it was"


def test_sharded_half_precision_and_both_ways_of_naming_layers(tmp_path):
    encoder = tiny_dinov3()
    encoder.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert_same_encoder(build(tmp_path / "sharded"), encoder)

    encoder.save_pretrained(tmp_path / "plain")
    published = load_file(tmp_path / "plain" / "model.safetensors")
    assert any(key.startswith("layer.0.") for key in published)
    (tmp_path / "nested").mkdir()
    shutil.copy(tmp_path / "plain" / "config.json", tmp_path / "nested")
    save_file(encoder.state_dict(), tmp_path / "nested" / "model.safetensors", metadata={"format": "pt"})
    assert_same_encoder(build(tmp_path / "nested"), encoder)

    half = tiny_dinov3(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    vae = build(tmp_path / "half")
    assert vae.dtype == vae.encoder.dtype == torch.float32
    assert_same_encoder(vae, half)


def test_dtype_of_the_vae_leaves_rotary_frequencies_in_float32(folder):
    vae = build(folder, dtype=torch.bfloat16)
    assert vae.dtype == vae.encoder.dtype == torch.bfloat16
    assert vae.encoder.rope_embeddings.inv_freq.dtype == torch.float32
    assert vae.encode(shapes_on_white(1, 32)).dtype == torch.bfloat16


def test_sizes_follow_the_encoder_unless_they_are_stated():
    def sizes(**encoder):
        config = Omni123ImageVAEConfig.for_encoder(DINOv3ViTConfig(**encoder))
        return config.semantic_dim, config.texture_taps, config.upsampler_channels

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    assert sizes(**large) == (768, [0, 4, 8], [512, 256, 256, 128])
    assert sizes() == (384, [0, 2, 4], [512, 256, 256, 128])
    assert sizes(num_hidden_layers=40, hidden_size=4096, num_attention_heads=32)[:2] == (768, [0, 7, 13])
    assert sizes(num_hidden_layers=2)[1] == [0, 1]
    assert sizes(patch_size=8)[2] == [256, 256, 128]
    assert sizes(patch_size=32)[2] == [512, 512, 256, 256, 128]
    assert sizes(patch_size=[16, 16])[2] == [512, 256, 256, 128]
    paper = Omni123ImageVAEConfig.for_encoder(DINOv3ViTConfig(num_register_tokens=4, **large))
    assert paper.latent_dim == 832 and paper.decoder_hidden_size == 1024 and paper.freeze_encoder
    assert paper.encoder().num_register_tokens == 4
    stated = Omni123ImageVAEConfig.for_encoder(DINOv3ViTConfig(), semantic_dim=96, texture_taps=[1])
    assert (stated.semantic_dim, stated.texture_taps) == (96, [1])


def test_a_given_configuration_is_kept_and_a_contradiction_refused(folder):
    config = Omni123ImageVAEConfig(
        encoder_config={"hidden_size": 24}, semantic_dim=24, texture_taps=[1, 4], image_size=64, **SMALL_DECODER
    )
    vae = Omni123ImageVAE.from_dinov3(folder, config=config, texture_dim=5)
    assert (vae.config.semantic_dim, vae.config.texture_taps, vae.config.texture_dim) == (24, [1, 4], 5)
    assert vae.config.image_size == 64 and vae.encoder.config.hidden_size == 32
    assert "exceeds the encoder's width 32" in message(folder, config=Omni123ImageVAEConfig(texture_taps=[0]))
    assert "texture_taps" in message(folder, texture_taps=[6])
    assert "no field 'colour'" in message(folder, colour=1)
    assert "encoder_config" in message(folder, encoder_config={})


def test_the_source_travels_with_the_vae_and_no_local_path_does(folder, tmp_path):
    vae = build(folder)
    assert vae.config.encoder_source == {
        "name_or_path": "my-dinov3",
        "revision": None,
        "licence": "dinov3-license",
        "licence_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        "architecture": "DINOv3ViTModel",
    }
    vae.save_pretrained(tmp_path / "vae")
    assert str(tmp_path) not in (tmp_path / "vae" / "config.json").read_text()
    loaded = Omni123ImageVAE.from_pretrained(tmp_path / "vae")
    assert loaded.config.encoder_source == vae.config.encoder_source
    pixels = shapes_on_white(2, 32)
    torch.testing.assert_close(loaded.encode(pixels), vae.encode(pixels))
    from_loaded = build(DINOv3ViTModel.from_pretrained(folder))
    assert from_loaded.config.encoder_source["name_or_path"] == "my-dinov3"
    assert build(tiny_dinov3()).config.encoder_source["name_or_path"] is None


def test_licence_and_pixel_statistics_of_the_folder_are_read(folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# An encoder of our own\n")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.43, 0.41, 0.3], "image_std": [0.21, 0.16, 0.14]})
    )
    config = build(folder).config
    assert config.encoder_source["licence"] == "mit" and config.encoder_source["licence_link"] is None
    assert (config.image_mean, config.image_std) == ([0.43, 0.41, 0.3], [0.21, 0.16, 0.14])
    assert build(folder, image_mean=[0.5] * 3).config.image_mean == [0.5] * 3
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert "README.md" in message(folder)


def test_incomplete_or_foreign_weights_are_refused_and_never_filled_with_random_numbers(folder):
    weights = load_file(folder / "model.safetensors")
    for dropped in ("layer.3.attention.q_proj.weight", "norm.weight", "embeddings.register_tokens"):
        kept = {key: value for key, value in weights.items() if key != dropped}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        text = message(folder)
        assert "lack 1 tensors" in text and dropped.removeprefix("layer.") in text

    extra = {**weights, **{key.replace("layer.0.", "layer.6."): v.clone() for key, v in weights.items()}}
    save_file(extra, folder / "model.safetensors", metadata={"format": "pt"})
    assert "against their config.json" in message(folder)

    wrong = {**weights, "norm.weight": torch.ones(7)}
    save_file(wrong, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot load the DINOv3 weights" in message(folder)

    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "cannot load the DINOv3 weights" in message(folder)
    (folder / "model.safetensors").unlink()
    assert "cannot load the DINOv3 weights" in message(folder)
    # A pickle could run code: it is not read, though it holds all that is wanted.
    torch.save(weights, folder / "pytorch_model.bin")
    assert "a pytorch_model.bin is not read" in message(folder)


def test_a_missing_shard_is_refused(tmp_path):
    tiny_dinov3().save_pretrained(tmp_path, max_shard_size="20KB")
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    assert "cannot load the DINOv3 weights" in message(tmp_path)


def test_other_families_are_named_with_the_fix(tmp_path):
    for config, words in (
        (DINOv3ConvNextConfig(), "is a DINOv3 ConvNeXt"),
        (Dinov2Config(), "its model_type is 'dinov2'"),
        (CLIPVisionConfig(), "its model_type is 'clip_vision_model'"),
    ):
        config.save_pretrained(tmp_path)
        text = message(tmp_path)
        assert words in text and "facebook/dinov3-vitl16" in text
    clip = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    assert "CLIPVisionModel is no DINOv3ViTModel" in message(CLIPVisionModel(clip))
    assert "power of two" in message(tiny_dinov3(patch_size=14))
    assert "4 channels" in message(tiny_dinov3(num_channels=4))


def test_paths_that_lead_nowhere(folder, tmp_path):
    assert "neither a folder nor a Hub id" in message(tmp_path / "nothing")
    assert "neither a folder nor a Hub id" in message(folder / "config.json")
    assert "neither a folder nor a Hub id" in message("~nobody-of-this-name/dinov3")
    assert "leave out revision" in message(folder, revision="main")
    assert "leave out revision" in message(tiny_dinov3(), revision="main")
    (folder / "config.json").write_text("{")
    assert "cannot read config.json" in message(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov3_vit", "hidden_size": "wide"}))
    assert "describes no DINOv3 ViT" in message(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in message(folder)


def test_a_hub_id_is_read_through_the_cache_with_its_commit(tmp_path, monkeypatch):
    # The layout of the Hub's own cache, read offline: everything but the network is real.
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--dinov3-tiny"
    encoder = tiny_dinov3()
    encoder.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    vae = build("someone/dinov3-tiny")
    assert_same_encoder(vae, encoder)
    assert vae.config.encoder_source["name_or_path"] == "someone/dinov3-tiny"
    assert vae.config.encoder_source["revision"] == commit
    assert "cannot download 'someone/another'" in message("someone/another")


def test_the_hub_is_asked_for_the_revision_with_the_token_and_its_refusals_say_what_to_do(folder, monkeypatch):
    asked = []
    answer: list[Exception] = []

    def stub(name, **arguments):
        asked.append((name, arguments["revision"], arguments["token"]))
        if answer:
            raise answer[0]
        return str(folder)

    monkeypatch.setattr("omni123_hf.modeling.image_encoder_dinov3.snapshot_download", stub)
    build("someone/dinov3", revision="v2", token="hf_x")
    assert asked == [("someone/dinov3", "v2", "hf_x")]
    response = SimpleNamespace(headers={}, request=None, status_code=403)
    for error, words in (
        (
            GatedRepoError("403", response=response),
            ("accept its licence at https://huggingface.co/someone/x", "log in"),
        ),
        (RepositoryNotFoundError("404", response=response), ("no Hub repository", "log in")),
        (RevisionNotFoundError("404", response=response), ("no revision 'v9'",)),
        (ConnectionError("no route\nto host"), ("cannot download", "no route to host", "local folder")),
    ):
        answer[:] = [error]
        text = message("someone/x", revision="v9")
        assert all(word in text for word in words), text
