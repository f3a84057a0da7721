"""A trained model as the beginning of a later stage, and the view tokens that continued training adds to it (paper §4.5)."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase, Qwen3Model

from ..errors import Omni123Error
from ..geometry.cameras import CANONICAL_VIEWS
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from .recipe import load_pretrained
from .text_conditioned import TextConditionedOmni123


def load_initial(
    folder: Path, fields: dict[str, Any], freeze_text_encoders: bool
) -> tuple[TextConditionedOmni123, PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """Backbone, text encoders and tokenizers of a stage's `final` folder or of a checkpoint, in float32.

    `fields` change the backbone's configuration. A checkpoint with one text encoder (Cube 3D) gives None for the second
    tokenizer. Raises `Omni123Error` for a folder that lacks a part.
    """
    needed = ["transformer", "text_encoder", "tokenizer"]
    has_second = (folder / "text_encoder_2").is_dir()
    if has_second:
        needed += ["text_encoder_2", "tokenizer_2"]
    missing = [name for name in needed if not (folder / name).is_dir()]
    if missing:
        raise Omni123Error(
            f"{folder} lacks {', '.join(missing)}: give the `final` folder of a training stage, or a whole checkpoint."
        )
    if fields.get("preset"):
        raise Omni123Error(
            "model.preset builds a new model and model.from_pretrained takes one that exists: give one."
        )
    try:
        transformer = load_pretrained(Omni123ForConditionalGeneration, str(folder / "transformer"), fields).float()
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True).float()
        text_encoder_2 = (
            Qwen3Model.from_pretrained(folder / "text_encoder_2", use_safetensors=True).float() if has_second else None
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        tokenizer_2 = AutoTokenizer.from_pretrained(folder / "tokenizer_2") if has_second else None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, Omni123Error):
            raise
        line = " ".join(str(error).split())[:200]
        raise Omni123Error(f"{folder} cannot be loaded as a trained model: {type(error).__name__}: {line}") from error
    model = TextConditionedOmni123(transformer, text_encoder, text_encoder_2, freeze_text_encoders)
    return model, tokenizer, tokenizer_2


@torch.no_grad()
def new_view_embeddings(transformer: Omni123ForConditionalGeneration, seed: int) -> None:
    """Gives the model the six canonical views with embeddings drawn anew; everything else stays as it was loaded."""
    if transformer.config.num_views < len(CANONICAL_VIEWS):
        transformer.resize_view_embeddings(len(CANONICAL_VIEWS))
    rows = transformer.embed_tokens.weight[transformer.config.view_offset :]
    # A generator of its own: the draw must not depend on what was built before.
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows.shape, generator=generator) * transformer.config.initializer_range
    rows.copy_(drawn)
