"""The backbone together with its text encoders, as one trainable module."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, Qwen3Config, Qwen3Model

from ..errors import Omni123Error
from ..modeling.modeling_omni123 import ATTENTION_IMPLEMENTATIONS, Omni123ForConditionalGeneration, Omni123Output


def build_text_encoders(
    options: dict[str, Any], tokenizer: PreTrainedTokenizerBase, tokenizer_2: PreTrainedTokenizerBase
) -> tuple[CLIPTextModel, Qwen3Model]:
    """Both encoders: names or folders load pretrained weights, mappings of config fields build small new ones.

    In float32, whatever the weights are stored in: autocast chooses the precision of training.
    """
    first, second = options["text_encoder"], options["text_encoder_2"]
    if isinstance(first, str):
        clip = CLIPTextModel.from_pretrained(first, dtype=torch.float32)
    else:
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **first,
            )
        )
    if isinstance(second, str):
        qwen = Qwen3Model.from_pretrained(second, dtype=torch.float32)
    else:
        qwen = Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer_2),
                max_position_embeddings=tokenizer_2.model_max_length,
                pad_token_id=tokenizer_2.pad_token_id,
                bos_token_id=None,
                eos_token_id=tokenizer_2.eos_token_id,
                **second,
            )
        )
    return clip, qwen


def check_attention(name: str, device: torch.device) -> None:
    """Raises `Omni123Error` for an implementation of attention that does not exist, or cannot train on this device.

    Of a packed row sdpa lays every document out in a row of its own, and eager attends over the square of the whole row.
    """
    if name not in ATTENTION_IMPLEMENTATIONS:
        raise Omni123Error(
            f"options.attention {name!r} does not exist: use one of {', '.join(ATTENTION_IMPLEMENTATIONS)}."
        )
    if name == "flex_attention" and device.type == "cpu":
        raise Omni123Error("options.attention flex_attention has no backward pass on the CPU: use sdpa.")


class TextConditionedOmni123(nn.Module):
    """Text ids in, loss out. `freeze_text_encoders` is the paper's setting; small checkpoints train them along."""

    def __init__(
        self,
        transformer: Omni123ForConditionalGeneration,
        text_encoder: CLIPTextModel,
        text_encoder_2: Qwen3Model | None,
        freeze_text_encoders: bool = False,
    ):
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        if freeze_text_encoders:
            text_encoder.requires_grad_(False)
            if text_encoder_2 is not None:
                text_encoder_2.requires_grad_(False)

    def forward(
        self,
        text_ids: torch.Tensor,
        text_ids_2: torch.Tensor | None = None,
        text_attention_mask_2: torch.Tensor | None = None,
        **inputs: Any,
    ) -> Omni123Output:
        """`text_ids (B, Lc)` (all positions kept), `text_ids_2 (B, Lq)` with its mask, the rest as the backbone takes it.

        Of a packed row the text has an entry for each document.
        """
        inputs |= self.encode_text(text_ids, text_ids_2, text_attention_mask_2)
        return self.transformer(**inputs)

    def encode_text(
        self,
        text_ids: torch.Tensor,
        text_ids_2: torch.Tensor | None = None,
        text_attention_mask_2: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The text as the backbone takes it: `text_embeds` and, with a second encoder, `text_embeds_2` and its mask."""
        text = {"text_embeds": self.text_encoder(input_ids=text_ids).last_hidden_state}
        if self.text_encoder_2 is not None:
            assert text_attention_mask_2 is not None
            second = self.text_encoder_2(input_ids=text_ids_2, attention_mask=text_attention_mask_2, use_cache=False)
            text |= {"text_embeds_2": second.last_hidden_state, "text_attention_mask_2": text_attention_mask_2}
        return text

    def save_components(self, folder: Path) -> None:
        """Writes `transformer`, `text_encoder` and, where there is one, `text_encoder_2` below `folder`."""
        self.transformer.save_pretrained(folder / "transformer")
        self.text_encoder.save_pretrained(folder / "text_encoder")
        if self.text_encoder_2 is not None:
            self.text_encoder_2.save_pretrained(folder / "text_encoder_2")
