"""Names of tensors: ours to Cube 3D's, and the comparison of a file with what its sizes call for."""

import re
from collections.abc import Iterable, Mapping

from omni123_hf.errors import Omni123Error


Shapes = Mapping[str, tuple[int, ...]]
EMBEDDER_NAMES = ("embedder.weight", "encoder.embedder.weight", "occupancy_decoder.embedder.weight")
LISTED = 12
_PROJECTIONS = {"qk_proj": "c_qk", "q_proj": "c_q", "k_proj": "c_k", "v_proj": "c_v", "o_proj": "c_proj"}
_STREAMS = {
    "generation_qkv": "attn.pre_x",
    "conditioning_qkv": "attn.pre_c",
    "generation_out": "post_1",
    "conditioning_out": "post_2",
}
_TOKENIZER_RULES = (
    (r"^point_embedding\.", "embedder."),
    (r"^encoder\.point_proj\.", "encoder.feat_in."),
    (r"^encoder\.final_norm\.", "encoder.ln_f."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.mlp\.", r"\1.blocks.\2.mlp."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.", r"\1.blocks.\2.attn."),
    (r"^quantizer\.in_proj\.", "bottleneck.block.c_in."),
    (r"^quantizer\.shortcut\.", "bottleneck.block.c_x."),
    (r"^quantizer\.out_proj\.", "bottleneck.block.c_out."),
    (r"^quantizer\.codebook\.", "bottleneck.block.codebook."),
    (r"^quantizer\.code_scale$", "bottleneck.block.cb_weight"),
    (r"^quantizer\.code_shift$", "bottleneck.block.cb_bias"),
    (r"^quantizer\.norm_weight$", "bottleneck.block.norm.weight"),
    (r"^decoder\.position_embedding$", "decoder.positional_encodings"),
    (r"^occupancy_head\.query_proj\.", "occupancy_decoder.query_in."),
    (r"^occupancy_head\.attention\.mlp\.", "occupancy_decoder.attn_out.mlp."),
    (r"^occupancy_head\.attention\.", "occupancy_decoder.attn_out.attn."),
    (r"^occupancy_head\.norm\.", "occupancy_decoder.ln_f."),
    (r"^occupancy_head\.classifier\.", "occupancy_decoder.c_head."),
)


def gpt_key(key: str) -> str:
    """Cube 3D's name of a tensor of our backbone, for all but `embed_tokens` and `shape_head`."""
    if not key.startswith(("dual_blocks.", "single_blocks.")):
        return key
    blocks, number, stream, layer, kind = key.split(".")
    if stream.endswith("_qkv"):
        place = _STREAMS[stream] if blocks == "dual_blocks" else "attn"
    elif blocks == "dual_blocks":
        place = _STREAMS[stream] if layer == "o_proj" else f"{_STREAMS[stream]}.mlp"
    else:
        place = "attn" if layer == "o_proj" else "mlp"
    return f"transformer.{blocks}.{number}.{place}.{_PROJECTIONS.get(layer, layer)}.{kind}"


def tokenizer_key(key: str) -> str:
    """Cube 3D's name of a tensor of our shape tokenizer; of the embedder's three names the first."""
    for pattern, replacement in _TOKENIZER_RULES:
        key, changed = re.subn(pattern, replacement, key)
        if changed:
            break
    return ".".join(_PROJECTIONS.get(part, part) if ".attn." in key else part for part in key.split("."))


def compare(file: str, expected: Shapes, found: Shapes, optional: Iterable[str] = ()) -> None:
    """Raises one `Omni123Error` that lists every tensor that is missing, unknown or of another shape.

    `optional` tensors may be missing, but not of another shape.
    """
    missing = sorted(set(expected) - set(found) - set(optional))
    unknown = sorted(set(found) - set(expected))
    differing = [
        f"{name} is {list(found[name])}, not {list(expected[name])}"
        for name in sorted(set(expected) & set(found))
        if tuple(expected[name]) != tuple(found[name])
    ]
    groups = (("missing", missing), ("unknown", unknown), ("of another shape", differing))
    faults = [f"{len(names)} {title} ({_capped(names)})" for title, names in groups if names]
    if faults:
        raise Omni123Error(
            f"the {file} file does not fit its own sizes, tensors: {'; '.join(faults)}. Give the unchanged file of a release"
        )


def _capped(names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def unbiased_optional(expected: Iterable[str], found: Iterable[str]) -> set[str]:
    """Biases that a GPT without biases may lack: those of kinds that no layer has. Zeros in their place change nothing."""
    kinds = {_kind(name) for name in found}
    return {name for name in expected if name.endswith(".bias") and _kind(name) not in kinds}


def _kind(name: str) -> str:
    return re.sub(r"_blocks\.\d+\.", "_blocks.*.", name)
