"""The weights of fast decoding: a layer's projections fused and laid out for few rows, in one type, or in 8 bits.

A decoding step multiplies each matrix by two rows, so its cost is reading the matrix. On a CPU in float32 the matrices are
packed for oneDNN, which reads them two to three times faster than the general product does for so few rows
(`docs/performance.md`); elsewhere they stay as they are, query, key and value in one and gate and up in one.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Omni123Error
from .adapters_omni123 import adapter_state, folded_weights, plain_module, why_not_foldable
from .blocks_omni123 import HeadRMSNorm, StreamOutput, StreamQKV


DECODE_WEIGHTS = ("model", "int8", "int8_dynamic")
# Entries of each weight that a stamp holds: a change in place through `.data`, as merging an adapter makes it, moves no counter.
SAMPLED_ENTRIES = 64

Linear = Callable[[torch.Tensor], torch.Tensor]


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PackedLinear:
    """`x (M, in)` to `(M, out)`; `nbytes` are what a step reads."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, pack: bool = True):
        self.nbytes, self.out_features = weight.nbytes, weight.shape[0]
        self.bias = bias
        self.is_packed = pack and weight.device.type == "cpu" and weight.dtype == torch.float32 and _has_onednn()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 2) if self.is_packed else weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


class Int8Linear:
    """Weight only: each output channel in 255 steps of its largest weight, activations as they are (CPU: in bfloat16).

    The scale is rounded to the type that it is used in before the weights are divided by it, so its rounding adds no error.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        self.out_features = weight.shape[0]
        self.on_cpu = weight.device.type == "cpu"
        # torch's CPU kernel is fast in bfloat16 alone.
        self.type = torch.bfloat16 if self.on_cpu else weight.dtype
        largest = weight.float().abs().amax(dim=1).clamp(min=1e-30)
        self.scale = (largest / 127).to(self.type)
        steps = (weight.float() / self.scale.float()[:, None]).round().clamp(-127, 127)
        self.weight = steps.to(torch.int8).contiguous()
        self.bias = bias
        self.nbytes = self.weight.nbytes + self.scale.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.on_cpu:
            y = torch.ops.aten._weight_int8pack_mm(x.to(self.type), self.weight, self.scale).to(x.dtype)
        else:
            # The compiler fuses the cast into the product; uncompiled this saves memory, not time.
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y.add_(self.bias)


class Int8DynamicLinear:
    """Weights as in `Int8Linear`, and activations in 255 steps of their range in each call: a CPU's 8-bit products are faster
    than casting weights, and the result is a little further off (`docs/performance.md`). CPU in float32 only."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise Omni123Error(
                f"decode_weights 'int8_dynamic' runs on the CPU in float32, not on {weight.device} in {weight.dtype}: use "
                "'int8' or 'model'."
            )
        if torch.backends.quantized.engine == "none" or not hasattr(torch.ops.quantized, "linear_dynamic"):
            raise Omni123Error("This torch has no 8-bit CPU kernels: use decode_weights='int8' or 'model'.")
        self.out_features = weight.shape[0]
        scale = weight.abs().amax(dim=1).clamp(min=1e-30).double() / 127
        with warnings.catch_warnings():
            # torch means to move its quantised tensors elsewhere, and says so for every weight.
            warnings.simplefilter("ignore", UserWarning)
            zeros = torch.zeros(len(scale), dtype=torch.long)
            quantized = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(quantized, bias)
        # Without VNNI, sums of two full 8-bit products overflow their 16 bits.
        self.reduce_range = not torch.cpu._is_vnni_supported()
        self.nbytes = weight.numel() + 8 * len(scale)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)


@dataclass
class LayerWeights:
    """One block of the generation stream. `norm (2 heads, head_dim)` float32 are the weights of the query and key norms."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm: torch.Tensor

    @property
    def nbytes(self) -> int:
        return sum(linear.nbytes for linear in (self.qkv, self.out, self.gate_up, self.down))  # type: ignore[attr-defined]


def joined(parts: list[nn.Module]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights and biases of several modules under one another, adapters folded in."""
    weights, biases = zip(*map(folded_weights, parts), strict=True)
    bias = None
    if any(each is not None for each in biases):
        bias = torch.cat(
            [w.new_zeros(w.shape[0]) if b is None else b.detach() for w, b in zip(weights, biases, strict=True)]
        )
    return weights[0].detach() if len(weights) == 1 else torch.cat([w.detach() for w in weights]), bias


def fuse_layer(qkv: StreamQKV, out: StreamOutput, make: Callable[..., Linear], num_heads: int) -> LayerWeights:
    norms = (folded_weights(norm)[0] for norm in (qkv.q_norm, qkv.k_norm))
    query, key = (weight.detach().float().expand(num_heads, -1) for weight in norms)
    return LayerWeights(
        qkv=make(*joined([qkv.qk_proj, qkv.v_proj])),
        out=make(*joined([out.o_proj])),
        gate_up=make(*joined([out.gate_proj, out.up_proj])),
        down=make(*joined([out.down_proj])),
        # The scale of attention, 1 / sqrt(head_dim), goes with the query.
        norm=torch.cat([query * query.shape[1] ** -0.5, key]).contiguous(),
    )


def read_parts(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules that fast decoding reads instead of calling."""
    for kind in ("dual_blocks", "single_blocks"):
        for index, block in enumerate(getattr(model, kind)):
            for stream in ("generation_qkv", "generation_out"):
                for name, module in getattr(block, stream).named_children():
                    yield f"{kind}.{index}.{stream}.{name}", module
    for name in ("embed_tokens", "shape_code_proj", "image_code_proj", "shape_head", "image_head"):
        if getattr(model, name) is not None:
            yield name, getattr(model, name)


def why_not_fast(model: Any) -> str | None:
    """What about this model fast decoding would get wrong, in words; None where it would get nothing wrong."""
    if model.training:
        return "it is in training mode"
    places = set()
    for name, module in read_parts(model):
        if (reason := why_not_foldable(module)) is not None:
            return f"its {name} {reason}"
        module = plain_module(module)
        if type(module) not in (nn.Linear, nn.Embedding, HeadRMSNorm):
            return (
                f"its {name} is a {type(module).__name__}, whose weights are not plain ones (an adapter, or quantised)"
            )
        for parameter in module.parameters():
            if type(parameter) is not nn.Parameter or not parameter.is_floating_point():
                return f"its {name} holds quantised weights"
            places.add((parameter.device, parameter.dtype))
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            return f"{name or 'it'} carries hooks, which fast decoding would not call"
    if len(places) > 1:
        return "its weights are of several types or devices"
    device, dtype = places.pop()
    if device.type not in ("cpu", "cuda") or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it is on {device} in {dtype}"
    return None


class WeightStamp:
    """What weights a decoder was made of: places, counters of in-place changes, and sampled entries of every tensor; and which
    adapters count how strongly."""

    def __init__(self, model: Any):
        tensors = [*model.parameters(), *model.buffers()]
        self.places = [(tensor.data_ptr(), tensor._version, tensor.dtype, tensor.shape) for tensor in tensors]
        self.adapters = adapter_state(model)
        flat = [tensor.detach().reshape(-1) for tensor in tensors]
        self.entries = torch.cat([part[:: max(1, part.numel() // SAMPLED_ENTRIES)].float() for part in flat])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, WeightStamp)
            and self.places == other.places
            and self.adapters == other.adapters
            and self.entries.device == other.entries.device
            and torch.equal(self.entries, other.entries)
        )

    __hash__ = None  # type: ignore[assignment]


def linear_maker(weights: str, pack: bool) -> Callable[..., Linear]:
    """How a matrix is held: "model" as the model has it, "int8" in 8 bits, "int8_dynamic" with the
    activations in 8 bits too."""
    if weights not in DECODE_WEIGHTS:
        raise Omni123Error(f"decode_weights is {weights!r}: use one of {', '.join(DECODE_WEIGHTS)}.")
    if weights == "int8":
        return Int8Linear
    if weights == "int8_dynamic":
        return Int8DynamicLinear
    return lambda weight, bias: PackedLinear(weight, bias, pack)
