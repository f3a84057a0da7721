"""A tiny real model, text and sequences for the tests of the autoregressive model."""

import torch

from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration, build_sequence, get_task


KS, KI, LS, LI = 13, 9, 5, 4


def make_config(**changes) -> Omni123Config:
    sizes = dict(
        num_shape_codes=KS, num_image_codes=KI, num_shape_tokens=LS, num_image_tokens=LI, hidden_size=32,
        num_dual_layers=2, num_single_layers=2, num_attention_heads=4, shape_code_dim=3, image_code_dim=5,
        text_embed_dim=10, text_embed_dim_2=12, initializer_range=0.2, token_dropout=0.3,
    )  # fmt: skip
    return Omni123Config(**{**sizes, **changes})


def make_model(seed: int = 0, implementation: str = "sdpa", **changes) -> Omni123ForConditionalGeneration:
    torch.manual_seed(seed)
    config = make_config(**changes)
    config._attn_implementation = implementation
    model = Omni123ForConditionalGeneration(config)
    with torch.no_grad():
        # Depth-scaled starts would leave the residual branches too quiet for tests of who sees whom.
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(std=0.2)
    if config.shape_code_dim:
        model.set_code_tables(
            shape=torch.randn(config.num_shape_codes, config.shape_code_dim),
            image=torch.randn(config.num_image_codes, config.image_code_dim),
        )
    return model.eval()


def make_text(batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {
        "text_embeds": torch.randn(batch, 4, 10, generator=g),
        "text_embeds_2": torch.randn(batch, 6, 12, generator=g),
        "text_attention_mask_2": mask,
    }


def make_sequence(name: str, config: Omni123Config, batch: int = 2, seed: int = 2):
    task = get_task(name, num_images=2, num_extra_images=1)
    g = torch.Generator().manual_seed(seed)
    sizes = {"image": (LI, KI), "shape": (LS, KS)}
    parts = {
        s.name: torch.randint(sizes[s.kind][1], (batch, sizes[s.kind][0]), generator=g)
        for s in task.segments
        if s.kind != "view"
    }
    return build_sequence(task, parts, config)
