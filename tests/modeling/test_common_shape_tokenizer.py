"""The common model tests for the shape tokenizer."""

from typing import Any

import torch
import torch.nn.functional as F
from common_model_tests import CommonModelTests

from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig


class TestOmni123ShapeTokenizer(CommonModelTests):
    model_class = Omni123ShapeTokenizer
    config_class = Omni123ShapeTokenizerConfig
    row_fields = ("logits", "indices")
    pinned = ("point_embedding.", "quantizer.")
    constant_at_start = {
        r"norm\.weight$": "gains of norms start at one",
        r"\.bias$": "biases start at zero",
        r"quantizer\.code_scale$": "codes start unscaled",
        r"quantizer\.code_shift$": "codes start unshifted",
        r"quantizer\.norm_weight$": "unit gain of the family's state dict, frozen",
    }
    lacks = {
        "padding": "every row of a batch has the same number of points and of queries",
        "hidden states": "results are tokens and a field; `encode_latents` and `decode_latents` give the states between",
        "input embeddings": "inputs are points; the code book belongs to the quantiser and is no vocabulary to resize",
    }
    lora_targets = ("qk_proj", "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")

    def make_config(self, **changes: Any) -> Omni123ShapeTokenizerConfig:
        sizes = dict(
            num_latents=8, num_codes=64, code_dim=4, hidden_size=32, num_attention_heads=2, num_encoder_layers=3,
            encoder_cross_attention_layers=[0, 2], num_decoder_layers=2, num_frequencies=4, mlp_ratio=2.0,
        )  # fmt: skip
        return Omni123ShapeTokenizerConfig(**{**sizes, **changes})

    def make_inputs(self, batch: int = 2) -> dict[str, Any]:
        g = torch.Generator().manual_seed(1)
        points = torch.rand(batch, 24, 3, generator=g) - 0.5
        normals = F.normalize(torch.randn(batch, 24, 3, generator=g), dim=-1)
        return {"points": points, "normals": normals, "queries": torch.rand(batch, 16, 3, generator=g) - 0.5}

    def make_training_inputs(self, batch: int = 2) -> dict[str, Any]:
        inputs = self.make_inputs(batch)
        return {**inputs, "occupancy": (inputs["queries"].norm(dim=-1) < 0.4).float()}

    def doors(self, model: Omni123ShapeTokenizer) -> dict[str, Any]:
        inputs = self.make_inputs()
        tokens = torch.arange(16).view(2, 8)
        latents = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(2)).to(model.dtype)
        return {
            "encode": lambda: model.encode(inputs["points"], inputs["normals"]),
            "decode_latents": lambda: model.decode_latents(tokens),
            "query": lambda: model.query(latents, inputs["queries"]),
        }
