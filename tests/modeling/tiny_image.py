"""Tiny configurations of the two image models and pictures that they can learn."""

import torch

from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.configuration_image_vae import Omni123ImageVAEConfig


ENCODER = {
    "patch_size": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_register_tokens": 2,
    "initializer_range": 0.1,
    "image_size": 16,
}


def tiny_vae_config(**fields) -> Omni123ImageVAEConfig:
    sizes = {
        "encoder_config": ENCODER,
        "freeze_encoder": False,
        "freeze_semantic": False,
        "semantic_dim": 8,
        "texture_dim": 8,
        "texture_taps": [0, 1],
        "texture_hidden_size": 32,
        "decoder_hidden_size": 32,
        "num_decoder_layers": 1,
        "num_decoder_heads": 2,
        "decoder_mlp_ratio": 2.0,
        "upsampler_channels": [16, 8],
        "upsampler_blocks": 1,
        "latent_noise": 0.1,
    }
    return Omni123ImageVAEConfig(**{**sizes, **fields})


def tiny_tokenizer_config(**fields) -> Omni123ImageTokenizerConfig:
    sizes = {
        "latent_dim": 12,
        "semantic_dim": 8,
        "num_tokens": 16,
        "num_codes": 32,
        "code_dim": 4,
        "encoder_hidden_size": 32,
        "num_encoder_layers": 1,
        "num_encoder_heads": 2,
        "decoder_hidden_size": 48,
        "num_decoder_layers": 2,
        "num_decoder_heads": 2,
        "mlp_ratio": 2.0,
        "num_frequencies": 4,
        "entropy_tokens": 64,
        "restart_after": 20,
    }
    return Omni123ImageTokenizerConfig(**{**sizes, **fields})


def shapes_on_white(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Coloured discs and boxes on white, `(count, 3, size, size)` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    images = []
    for k in range(count):
        cx, cy, radius = (torch.rand(3, generator=generator) * torch.tensor([0.8, 0.8, 0.4]) - 0.4).tolist()
        radius = 0.6 + radius
        distance = (x - cx).abs().maximum((y - cy).abs()) if k % 2 else ((x - cx) ** 2 + (y - cy) ** 2).sqrt()
        color = torch.rand(3, 1, 1, generator=generator) * 1.6 - 1
        images.append(torch.where(distance < radius, color, torch.ones(3, 1, 1)))
    return torch.stack(images)
