"""A real image-text-to-text model and processor of about 50,000 random parameters, and a CLIP of the same size."""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
)

from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer


TEXTS = ["a wooden chair with four legs", "a red table", '{"subject": "lamp", "short": ["x"]}', "front back top"]
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }} {% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
IMAGE_SIZE, PATCH = 32, 16


def image_processor() -> CLIPImageProcessor:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)


def tiny_llava(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    tokenizer = build_qwen_tokenizer(TEXTS, vocab_size=400, max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = LlavaProcessor(
        image_processor(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=IMAGE_SIZE,
        patch_size=PATCH, projection_dim=16,
    )  # fmt: skip
    language = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=language, vision_feature_select_strategy="full",
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=(IMAGE_SIZE // PATCH) ** 2 + 1,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval(), processor


def terse_llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The same, but whatever it sees and reads, it closes every text after one token: its nonsense is short."""
    model, processor = tiny_llava()
    quote = processor.tokenizer('"', add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "linear_2.weight")):
                weight.zero_()
            if name.endswith(("embed_tokens.weight", "linear_2.bias")):
                weight.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[quote] = 1.0
    return model, processor


def tiny_clip(seed: int = 0) -> tuple[CLIPModel, CLIPProcessor]:
    tokenizer = build_clip_tokenizer(TEXTS, vocab_size=150, max_length=12)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": IMAGE_SIZE, "patch_size": PATCH,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return CLIPModel(config).eval(), CLIPProcessor(image_processor(), tokenizer)
