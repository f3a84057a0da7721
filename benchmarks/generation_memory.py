"""Bytes that fast decoding of one guided shape holds, computed from shapes on the meta device: nothing is allocated or measured.

    python benchmarks/generation.py --size paper --part memory

Two rows (conditional and unconditional) behind text of 77 + 128 positions. Not in it: the CUDA context, cuBLAS workspaces, the
allocator's fragments, text encoders, tokenizers and surface extraction.
"""

from typing import Any

import torch

from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration
from omni123_hf.modeling.decoder_omni123 import BUCKET, SHARED_MULTIPLE, FastDecoder


ROWS = 2
TEXT = (77, 128)


def memory_account(config: Omni123Config, dtype: torch.dtype, packs: bool) -> dict[str, Any]:
    """`packs`: a CPU in float32, where every matrix that a step reads is packed anew; elsewhere only fused ones are copies."""
    with torch.device("meta"):
        model = Omni123ForConditionalGeneration(config).to(dtype).eval()
    decoder: Any = FastDecoder(model, static=True)
    tensors = [*model.parameters(), *model.buffers()]
    copied = sum(layer.nbytes if packs else layer.qkv.nbytes + layer.gate_up.nbytes for layer in decoder.layers)
    if packs:
        copied += sum(head.nbytes for head in decoder.logit_heads.values())
    size = torch.finfo(dtype).bits // 8
    text = TEXT[0] + (TEXT[1] if config.text_embed_dim_2 else 0)
    round_up = lambda count, multiple: -(-count // multiple) * multiple  # noqa: E731
    own = round_up(config.num_shape_tokens - 1, BUCKET)
    dual = round_up(text + 1, SHARED_MULTIPLE) + own
    token = 2 * ROWS * config.num_attention_heads * config.head_dim * size
    cache = token * (config.num_dual_layers * dual + config.num_single_layers * (SHARED_MULTIPLE + own))
    # The pass's own keys and values, beside the buffers that they are copied to; the unconditional ones are kept.
    prompt = token * (config.num_dual_layers * (text + 1) + config.num_single_layers)
    # Logits in the model's type, in float32, and both guidance sums; a prompt's widest activations (gate, up and their product).
    logits = ROWS * config.num_shape_codes * (size + 3 * 4)
    activations = ROWS * (text + 1) * (3 * config.intermediate_size + 4 * config.hidden_size) * size
    parts = {
        "weights": sum(tensor.nbytes for tensor in tensors),
        "copy of what a step reads": copied,
        "keys and values": cache,
        "the same, while a second call refills them": cache,
        "prompt": prompt,
        "logits and activations": logits + activations,
    }
    return {"dtype": str(dtype).removeprefix("torch."), "bytes": parts, "total": sum(parts.values())}


def print_account(account: dict[str, Any]) -> None:
    print(f"memory, computed from shapes and not measured, {account['dtype']}, one guided shape:")
    for name, count in account["bytes"].items():
        print(f"  {name:44s} {count / 1e6:10.1f} MB")
    print(f"  {'together':44s} {account['total'] / 1e6:10.1f} MB")
