"""What one device must hold in training: states of the model exactly, activations as autograd keeps them.

Activations are measured, not guessed: the layers of the real model run once on fake tensors, which have shapes and types but no
data, and what autograd saves for the backward pass is added up. Under bf16 autocast that includes the bf16 copies of weights.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextModel, Qwen3Config, Qwen3Model

from ..modeling.blocks_omni123 import Omni123DualBlock, Omni123SingleBlock, rotary_tables
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration


FLOAT32, BF16 = 4, 2
MOMENTS = 2


@dataclass(frozen=True)
class MicroBatch:
    """Shape of the largest micro-batch of one device: `rows` of `text` and `generation` positions.

    `image_targets` and `shape_targets` count codes with a loss in all rows. `text_rows` texts of `text_lengths` tokens each:
    a packed batch is one row with a text for each document.
    """

    rows: int
    text: int
    generation: int
    shape_targets: int
    image_targets: int
    text_rows: int
    text_lengths: tuple[int, int]


def state_bytes(trainable: int, frozen: int, buffers: int, shard: int, replicas: int) -> dict[str, int]:
    """Weights in float32, their gradients and AdamW's two moments, over `shard` devices that divide them.

    `trainable` and `frozen` are counts of parameters, `buffers` bytes, which every device holds.

    `replicas` devices beyond sharding hold the same: plain data parallelism (DDP) then keeps gradients a second time in its
    communication buckets.
    """

    def divided(numbers: int) -> int:
        return -(-FLOAT32 * numbers // shard)

    parts = {
        "weights": divided(trainable + frozen) + buffers,
        "gradients": divided(trainable),
        "AdamW moments": MOMENTS * divided(trainable),
    }
    if shard == 1 and replicas > 1:
        parts["DDP buckets"] = FLOAT32 * trainable
    return parts


def gathered_bytes(model: Omni123ForConditionalGeneration, others: int, bf16: bool) -> int:
    """What FSDP gathers of the weights at a time: two blocks, one in use and the next, and all that belongs to no block."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in (*model.dual_blocks, *model.single_blocks)]
    whole = sum(p.numel() for p in model.parameters())
    return (BF16 if bf16 else FLOAT32) * (2 * max(blocks) + whole - sum(blocks) + others)


def autocast(bf16: bool) -> AbstractContextManager:
    # Fake tensors stand on the CPU; autocast casts the same operations there as on CUDA as far as these models go.
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()


def saved_bytes(run: Callable[[], Any], weights: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `run()`, each storage once, without the `weights` themselves."""
    own = {tensor.untyped_storage()._cdata for tensor in weights}
    # Kept alive, so that no storage takes the place of another that is gone.
    kept: list[torch.Tensor] = []
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(sizes.values())


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def block_bytes(config: Omni123Config, batch: MicroBatch, kind: str, bf16: bool) -> int:
    """What one block keeps: "dual", "last dual" or "single"."""
    width, rows, text, length = config.hidden_size, batch.rows, batch.text, batch.generation
    layer = {"dual": 0, "last dual": config.num_dual_layers - 1, "single": config.num_dual_layers}[kind]
    with FakeTensorMode(), autocast(bf16):
        generation = torch.empty(rows, length, width, requires_grad=True)
        rotation = rotary_tables(torch.arange(length), config.head_dim, config.rope_theta)
        queries = text + length if kind == "dual" else length
        keys = length if kind == "single" else text + length
        dense = config._attn_implementation != "flex_attention"
        mask = torch.empty(rows, 1, queries, keys, dtype=torch.bool) if dense else None
        masks = [] if mask is None else [mask]
        if kind == "single":
            single = Omni123SingleBlock(config, layer)
            return saved_bytes(lambda: single(generation, rotation, mask), [*tensors_of(single), *masks])
        conditioning = torch.empty(rows, text, width, requires_grad=True)
        dual = Omni123DualBlock(config, layer)
        return saved_bytes(lambda: dual(generation, conditioning, rotation, mask)[:2], [*tensors_of(dual), *masks])


def mask_bytes(config: Omni123Config, batch: MicroBatch) -> int:
    """Boolean masks of eager and sdpa, one for each kind of block and shared by all blocks of it."""
    if config._attn_implementation == "flex_attention":
        return 0
    text, length = batch.text, batch.generation
    return batch.rows * ((text + length) ** 2 + length * (text + length) + length**2)


def block_counts(config: Omni123Config) -> dict[str, int]:
    counts = {"dual": config.num_dual_layers - 1, "last dual": 1, "single": config.num_single_layers}
    return {kind: count for kind, count in counts.items() if count}


def activation_bytes(config: Omni123Config, batch: MicroBatch, bf16: bool) -> tuple[int, int]:
    """Activations of the backbone's blocks: all kept; and recomputed, when inputs of blocks and one block at a time are kept."""
    counts = block_counts(config)
    single = {kind: block_bytes(config, batch, kind, bf16) for kind in counts}
    ends = batch.rows * batch.generation * config.hidden_size * FLOAT32  # Input of the final norm.
    shared = mask_bytes(config, batch) + ends
    stream = batch.rows * config.hidden_size * FLOAT32
    inputs = {kind: stream * (batch.generation + (batch.text if kind != "single" else 0)) for kind in counts}
    return (
        shared + sum(counts[kind] * single[kind] for kind in counts),
        shared + sum(counts[kind] * inputs[kind] for kind in counts) + max(single.values()),
    )


def text_activation_bytes(encoders: list[CLIPTextModel | Qwen3Model], batch: MicroBatch, bf16: bool) -> int:
    """Activations of text encoders that are trained; frozen ones keep none."""
    total = 0
    for encoder, length in zip(encoders, batch.text_lengths, strict=False):
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            continue
        config = encoder.config
        with FakeTensorMode(), autocast(bf16):
            ids = torch.zeros(batch.text_rows, length, dtype=torch.long)
            if isinstance(config, Qwen3Config):
                model: nn.Module = Qwen3Model(config)
                extra = {"attention_mask": torch.ones_like(ids), "use_cache": False}
            else:
                model, extra = CLIPTextModel(config), {}

            def run(model: nn.Module = model, ids: torch.Tensor = ids, extra: dict[str, Any] = extra) -> torch.Tensor:
                return model(input_ids=ids, **extra).last_hidden_state

            total += saved_bytes(run, tensors_of(model))
    return total


def loss_bytes(config: Omni123Config, batch: MicroBatch, bf16: bool) -> int:
    """Heads and loss: one chunk of logits, and until the backward pass the gradients of head and hidden states.

    Without chunks (`loss_chunk_size` 0, or fewer targets than one) the logits of all targets exist, about three times: as they
    leave the head, in float32, and as their gradient.
    """
    width, element = config.hidden_size, BF16 if bf16 else FLOAT32
    kept, largest = 0, 0
    for targets, codes in (
        (batch.shape_targets, config.num_shape_codes),
        (batch.image_targets, config.num_image_codes),
    ):
        if not targets:
            continue
        states = targets * width * FLOAT32
        if config.loss_chunk_size and targets > config.loss_chunk_size:
            # A chunk: logits in the computed type and in float32, their gradient; the head in the computed type.
            cast = codes * width * BF16 if bf16 else 0
            largest = max(largest, config.loss_chunk_size * codes * (2 * element + FLOAT32) + cast)
            kept += states + codes * width * FLOAT32
        else:
            largest = max(largest, targets * codes * FLOAT32)
            kept += targets * codes * (FLOAT32 + element)
        kept += states
    return kept + largest


def train_memory(
    model: Omni123ForConditionalGeneration,
    encoders: list[CLIPTextModel | Qwen3Model],
    batch: MicroBatch,
    devices: int,
    shard: int,
    bf16: bool,
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of one of `devices` by part, "total" last, with activations kept and with activations recomputed.

    `shard` devices divide the states among them. The total is an upper limit: activations shrink while gradients grow.
    """
    modules: list[nn.Module] = [model, *encoders]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in parameters) - trainable
    buffers = sum(buffer.numel() * buffer.element_size() for module in modules for buffer in module.buffers())
    parts = state_bytes(trainable, frozen, buffers, shard, devices // shard)
    others = sum(parameter.numel() for encoder in encoders for parameter in encoder.parameters())
    if shard > 1:
        parts["gathered weights"] = gathered_bytes(model, others, bf16)
    text = text_activation_bytes(encoders, batch, bf16)
    heads = loss_bytes(model.config, batch, bf16)
    forms = []
    for activations in activation_bytes(model.config, batch, bf16):
        form = {**parts, "activations": activations + text, "heads and loss": heads}
        forms.append({**form, "total": sum(form.values())})
    return forms[0], forms[1]
