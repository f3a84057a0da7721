"""A whole pipeline of tiny, real, randomly initialised components."""

import torch


TINY_PROMPT = "a round wooden table with three legs"
TINY_CAPTIONS = [
    TINY_PROMPT,
    "a tall red vase",
    "a wooden chair with four legs and a high back",
    "a blue car with four wheels",
    "a small white mug with a handle",
]


def build_tiny_pipeline(seed: int = 0):
    """An `Omni123JointPipeline` with about 100,000 random parameters."""
    from transformers import CLIPTextConfig, CLIPTextModel, Qwen3Config, Qwen3Model

    from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
    from omni123_hf.modeling.configuration_image_vae import DINOV3_TINY, Omni123ImageVAEConfig
    from omni123_hf.modeling.configuration_omni123 import Omni123Config
    from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
    from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
    from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
    from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
    from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
    from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
    from omni123_hf.pipelines import Omni123JointPipeline

    torch.manual_seed(seed)
    tokenizer = build_clip_tokenizer(TINY_CAPTIONS, vocab_size=120, max_length=16)
    tokenizer_2 = build_qwen_tokenizer(TINY_CAPTIONS, vocab_size=320, max_length=24)
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    qwen = Qwen3Config(
        vocab_size=len(tokenizer_2),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        eos_token_id=tokenizer_2.eos_token_id,
        pad_token_id=tokenizer_2.pad_token_id,
    )
    vae = Omni123ImageVAEConfig(
        encoder_config={
            **DINOV3_TINY,
            "patch_size": 4,
            "image_size": 16,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        freeze_encoder=False,
        freeze_semantic=False,
        image_size=16,
        semantic_dim=8,
        texture_dim=4,
        texture_taps=[0, 1],
        texture_hidden_size=16,
        decoder_hidden_size=16,
        num_decoder_layers=1,
        num_decoder_heads=2,
        upsampler_channels=[8, 8],
        upsampler_blocks=1,
    )
    image_tokens = Omni123ImageTokenizerConfig(
        latent_dim=12,
        semantic_dim=8,
        num_tokens=16,
        num_codes=32,
        code_dim=8,
        encoder_hidden_size=16,
        num_encoder_layers=1,
        num_encoder_heads=2,
        decoder_hidden_size=16,
        num_decoder_layers=1,
        num_decoder_heads=2,
        num_frequencies=4,
    )
    shape = Omni123ShapeTokenizerConfig(
        num_latents=8,
        num_codes=32,
        hidden_size=24,
        num_attention_heads=2,
        num_encoder_layers=1,
        encoder_cross_attention_layers=[0],
        num_decoder_layers=1,
        num_frequencies=8,
    )
    backbone = Omni123Config(
        num_shape_codes=32,
        num_image_codes=32,
        num_shape_tokens=8,
        num_image_tokens=16,
        hidden_size=32,
        num_dual_layers=2,
        num_single_layers=1,
        num_attention_heads=2,
        shape_code_dim=16,
        image_code_dim=8,
        text_embed_dim=16,
        text_embed_dim_2=24,
    )
    return Omni123JointPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(clip),
        tokenizer_2=tokenizer_2,
        text_encoder_2=Qwen3Model(qwen),
        transformer=Omni123ForConditionalGeneration(backbone),
        image_vae=Omni123ImageVAE(vae),
        image_tokenizer=Omni123ImageTokenizer(image_tokens),
        shape_tokenizer=Omni123ShapeTokenizer(shape),
    )
