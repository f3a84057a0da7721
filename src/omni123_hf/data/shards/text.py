"""Text embeddings of captions, computed once: what a checkpoint's encoders make of every text of a pool."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase, Qwen3Model

from omni123_hf.data.shards.tokenizers import load_component
from omni123_hf.data.tokens import weights_hash
from omni123_hf.errors import Omni123Error


ENCODERS = {"text_encoder": ("tokenizer", CLIPTextModel), "text_encoder_2": ("tokenizer_2", Qwen3Model)}


class CheckpointTextEncoders:
    """The text encoders of a checkpoint, reading texts as its pipelines do: padded to the tokenizer's length, and cut.

    CLIP keeps all positions and ignores the mask; Qwen3 masks its padding.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """folder: of the checkpoint. Raises `Omni123Error` for one without text encoders."""
        self.facts: dict[str, dict[str, Any]] = {}
        self._parts: dict[str, tuple[PreTrainedTokenizerBase, Any]] = {}
        for name, (tokenizer_name, model_class) in ENCODERS.items():
            if not (folder / name).is_dir():
                continue
            tokenizer = AutoTokenizer.from_pretrained(folder / tokenizer_name)
            model = load_component(model_class, folder / name, device)
            self._parts[name] = (tokenizer, model)
            self.facts[name] = {
                "shape": [int(tokenizer.model_max_length), int(model.config.hidden_size)],
                "weights": weights_hash(folder / name),
                "tokenizer": tokenizer_hash(folder / tokenizer_name),
            }
        if not self.facts:
            raise Omni123Error(f"the checkpoint {folder.name!r} has no text encoder; leave the text embeddings out")

    @torch.no_grad()
    def embed(self, encoder: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """N texts to embeddings (N, positions, width) float32 and mask (N, positions)."""
        tokenizer, model = self._parts[encoder]
        encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(model.device)
        inputs = {"input_ids": encoded["input_ids"]}
        if encoder == "text_encoder_2":
            inputs["attention_mask"] = encoded["attention_mask"]
        embeddings = model(**inputs).last_hidden_state
        return embeddings.float().cpu().numpy(), encoded["attention_mask"].cpu().numpy()


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 over the files of a saved text tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()
