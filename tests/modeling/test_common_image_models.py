"""The common model tests for the image VAE and the image tokenizer."""

from typing import Any

import torch
from common_model_tests import CommonModelTests

from omni123_hf.modeling import (
    Omni123ImageTokenizer,
    Omni123ImageTokenizerConfig,
    Omni123ImageVAE,
    Omni123ImageVAEConfig,
)


class TestOmni123ImageVAE(CommonModelTests):
    model_class = Omni123ImageVAE
    config_class = Omni123ImageVAEConfig
    row_fields = ("reconstruction", "latent")
    constant_at_start = {
        r"norm\d?\.weight$": "gains of norms start at one",
        r"texture_head\.0\.weight$": "gain of a norm",
        r"\.bias$": "biases start at zero",
        r"layer_scale\d\.lambda1$": "DINOv3's layer scales start at one value",
        r"mask_token$": "DINOv3's mask token starts at zero and is not used here",
        r"^latent_mean$": "no statistics yet",
        r"^latent_std$": "no statistics yet",
    }
    lacks = {
        "padding": "pixels fill the whole image; nothing is masked",
        "hidden states": "results are a latent and pixels; the DINOv3 encoder gives its own hidden states",
        "input embeddings": "inputs are pixels; resizing a vocabulary means nothing here",
    }
    lora_targets = ("qkv", "o_proj", "up_proj", "down_proj")

    def make_config(self, **changes: Any) -> Omni123ImageVAEConfig:
        sizes: dict[str, Any] = dict(
            encoder_config={
                "patch_size": 4, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_register_tokens": 1, "initializer_range": 0.1, "image_size": 16,
                "pos_embed_rescale": None,
            },
            freeze_encoder=False, freeze_semantic=False, image_size=16, semantic_dim=8, texture_dim=4,
            texture_taps=[0, 1], texture_hidden_size=16, decoder_hidden_size=16, num_decoder_layers=2,
            num_decoder_heads=2, decoder_mlp_ratio=2.0, upsampler_channels=[8, 8], upsampler_blocks=1,
        )  # fmt: skip
        return Omni123ImageVAEConfig(**{**sizes, **changes})

    def make_inputs(self, batch: int = 2) -> dict[str, Any]:
        pixels = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
        return {"pixel_values": pixels}

    def make_training_inputs(self, batch: int = 2) -> dict[str, Any]:
        return self.make_inputs(batch)

    def doors(self, model: Omni123ImageVAE) -> dict[str, Any]:
        pixels = self.make_inputs()["pixel_values"]
        latent = torch.randn(2, 12, 4, 4, generator=torch.Generator().manual_seed(2))
        return {"encode": lambda: model.encode(pixels), "decode": lambda: model.decode(latent)}


class TestOmni123ImageTokenizer(CommonModelTests):
    model_class = Omni123ImageTokenizer
    config_class = Omni123ImageTokenizerConfig
    row_fields = ("reconstruction", "indices")
    pinned = ("quantizer.",)
    constant_at_start = {
        r"norm\d?\.weight$": "gains of norms start at one",
        r"\.bias$": "biases start at zero",
        r"quantizer\.idle_steps$": "no step yet",
    }
    lacks = {
        "padding": "a latent fills its grid, and all tokens of a grid are used",
        "hidden states": "results are tokens and a latent; the Q-Former's inner states mean nothing outside",
        "input embeddings": "inputs are latents; the code book belongs to the quantiser and is no vocabulary to resize",
    }
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")

    def make_config(self, **changes: Any) -> Omni123ImageTokenizerConfig:
        sizes = dict(
            latent_dim=12, semantic_dim=8, num_tokens=16, num_codes=64, code_dim=4, encoder_hidden_size=32,
            num_encoder_layers=2, num_encoder_heads=2, decoder_hidden_size=48, num_decoder_layers=2,
            num_decoder_heads=2, mlp_ratio=2.0, num_frequencies=4, entropy_tokens=64, restart_after=0,
        )  # fmt: skip
        return Omni123ImageTokenizerConfig(**{**sizes, **changes})

    def make_model(self, seed: int = 0) -> Omni123ImageTokenizer:
        model: Any = self.build(seed)
        # A code book that has started; else the first training pass would replace it.
        model.quantizer.started.fill_(True)
        return model

    def make_inputs(self, batch: int = 2) -> dict[str, Any]:
        return {"latent": torch.randn(batch, 12, 4, 4, generator=torch.Generator().manual_seed(1))}

    def make_training_inputs(self, batch: int = 2) -> dict[str, Any]:
        return self.make_inputs(batch)

    def doors(self, model: Omni123ImageTokenizer) -> dict[str, Any]:
        latent = self.make_inputs()["latent"]
        indices = torch.arange(32).view(2, 16)
        return {"encode": lambda: model.encode(latent), "decode": lambda: model.decode(indices, (4, 4))}
