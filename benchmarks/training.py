"""What a training step costs: three batchings on the same samples, the head's memory, MFU, and the data loader.

    python benchmarks/training.py --out benchmarks/results/training.json
    python benchmarks/training.py --device cuda --out benchmarks/results/training_cuda.json

- batching: forward, backward and AdamW of one task a micro-batch, padded and packed rows, over the same samples of the paper's
  mixture (Table 5), in turn within each repeat; medians over repeats. `fill` is the share of generation positions that
  are no padding, `text_fill` the same of the text. Goal: packed / padded time is the padded rows' fill ratio, within 10 %.
- loss: peak memory of the chunked head loss beside the plain one (`chunked_loss.py`, each in its own process).
- throughput: tokens and FLOPs a second of the backbone, and their share of the matmul rate measured between the steps (MFU).
  FLOPs are three times those of a forward pass without recomputation, counted by torch, attention as if nothing were masked.
- loader: samples a second of sampler and collator in one process. A GPU needs about 24.

On a CPU, seconds are those that the process itself was given, on one thread, so that a busy machine changes them little.
"""

import argparse
import contextlib
import gc
import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from chunked_loss import compare
from torch.utils.flop_counter import FlopCounterMode
from training_setup import Pools, Tokenizers, make_model, make_sampler, synthetic_pools, text_tokenizers_for

from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration, build_sequence, get_task
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.runner import CounterDataset


PARTS = ("batching", "loss", "throughput", "loader")
BATCHINGS = ("task", "padded", "packed")
# Name to batching and attention. Block masks need a GPU to train.
VARIANTS = {name: (name, "sdpa") for name in BATCHINGS}
CUDA_VARIANTS = {**VARIANTS, "packed, flex": ("packed", "flex_attention")}
PACK_MULTIPLE = 128
# Ten micro-batches, as near to Table 5 as ten can be.
QUOTA = {"text-to-image": 3, "image-to-3d": 3, "3d-to-image": 2, "text-to-3d": 2}


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def precision(device: str) -> contextlib.AbstractContextManager:
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext()


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    return {key: value.to(device) for key, value in batch.items() if torch.is_tensor(value)}


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any], device: str) -> None:
    with precision(device):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def same_samples(pools: Pools, config: Omni123Config, tokenizers: Tokenizers, batch: int) -> dict[str, list[dict]]:
    """The micro-batches of each batching, made of the same samples: those of one-task micro-batches, or all of them shuffled."""
    dataset, groups, left = CounterDataset(make_sampler(pools, batch, "task"), 10**6, 0), [], Counter(QUOTA)
    number = 0
    while left.total():
        group = [dataset[number * batch + place] for place in range(batch)]
        number += 1
        if left[group[0].task.name]:
            left[group[0].task.name] -= 1
            groups.append(group)
    flat = [sample for group in groups for sample in group]
    mixed = [flat[place] for place in np.random.default_rng(0).permutation(len(flat))]
    others = [mixed[start : start + batch] for start in range(0, len(mixed), batch)]
    return {
        name: [
            TaskCollator(config, *tokenizers, name, PACK_MULTIPLE)(g) for g in (groups if name == "task" else others)
        ]
        for name in BATCHINGS
    }


def fill_ratios(batches: list[dict], pad_id: int) -> dict[str, float]:
    """Shares of generation and of text positions that are no padding. A row without text needs one position of it.

    A packed row leaves padded text out, up to a multiple of 64 positions.
    """
    positions = sum(batch["input_ids"].numel() for batch in batches)
    padding = sum(int((batch["input_ids"] == pad_id).sum()) for batch in batches)
    laid, used = 0, 0
    for batch in batches:
        lengths = batch["text_ids"].shape[1] + batch["text_attention_mask_2"].sum(dim=1)
        real = int(lengths.masked_fill(batch["null_text"], 1).sum())
        used += real
        whole = batch["text_ids"].numel() + batch["text_ids_2"].numel()
        laid += min(whole, -(-real // 64) * 64) if "document_ids" in batch else whole
    return {"fill": 1 - padding / positions, "text_fill": used / laid}


def measure_batching(
    config: Omni123Config, batch: int, repeats: int, device: str, checkpointing: bool
) -> dict[str, Any]:
    with synthetic_pools(config, 400) as pools:
        tokenizers = text_tokenizers_for(pools)
        batches = same_samples(pools, config, tokenizers, batch)
    model = make_model(config, tokenizers).to(device)
    if checkpointing:
        model.transformer.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    variants = CUDA_VARIANTS if device == "cuda" else VARIANTS
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        spent = dict.fromkeys(variants, 0.0)
        for number in range(len(batches["task"])):
            for name, (batching, attention) in variants.items():
                model.transformer.set_attn_implementation(attention)
                inputs = to_device(batches[batching][number], device)
                start = clock(device)
                train_step(model, optimizer, inputs, device)
                spent[name] += clock(device) - start
        # The first round warms up.
        if repeat:
            for name in variants:
                seconds[name].append(spent[name])
    targets = sum(int((inputs["labels"] != -100).sum()) for inputs in batches["task"])
    rows: dict[str, Any] = {}
    for name, (batching, _) in variants.items():
        ratios = [one / other for one, other in zip(seconds[name], seconds["padded"], strict=True)]
        rows[name] = {
            "seconds_per_step": median(seconds[name]) / len(batches[batching]),
            "microseconds_per_target": 1e6 * median(seconds[name]) / targets,
            "time_over_padded": median(ratios),
            "time_over_padded_range": [min(ratios), max(ratios)],
            **fill_ratios(batches[batching], config.pad_id),
        }
    return {
        "codes_per_segment": config.num_shape_tokens,
        "samples_per_micro_batch": batch,
        "targets": targets,
        "repeats": repeats,
        "checkpointing": checkpointing,
        "batchings": rows,
        "packed_time_over_padded_fill": rows["packed"]["time_over_padded"] / rows["padded"]["fill"],
    }


def backbone_batch(config: Omni123Config, batch: int, texts: tuple[int, int], device: str) -> dict[str, Any]:
    """Random rows of image → 3D, two segments long, with text states of the two lengths."""
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: torch.randint(codes, (batch, length), generator=generator)
        for name, codes, length in (
            ("image", config.num_image_codes, config.num_image_tokens),
            ("shape", config.num_shape_codes, config.num_shape_tokens),
        )
    }
    sequence = build_sequence(get_task("image-to-3d"), parts, config)
    return {
        "input_ids": sequence.ids.to(device),
        "labels": sequence.labels.to(device),
        "prefix_length": sequence.prefix_length,
        "text_embeds": torch.randn(batch, texts[0], config.text_embed_dim, generator=generator).to(device),
        "text_embeds_2": torch.randn(batch, texts[1], config.text_embed_dim_2 or 0, generator=generator).to(device),
    }


@torch.no_grad()
def step_flops(model: Omni123ForConditionalGeneration, batch: dict[str, Any], device: str) -> int:
    """Three forward passes: the backward pass is two. Eager attention, whose products are counted on every device."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    one = {key: value[:1] if torch.is_tensor(value) else value for key, value in batch.items()}
    with FlopCounterMode(display=False) as counter, precision(device):
        model(**one)
    model.set_attn_implementation(before)
    return 3 * counter.get_total_flops() * len(batch["input_ids"])


def matmul_rate(device: str) -> float:
    """FLOPs a second of one large product: bf16 on CUDA, float32 on the CPU."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1536, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    times = []
    for _ in range(10 if device == "cuda" else 2):
        start = clock(device)
        a @ b
        times.append(clock(device) - start)
    return 2 * size**3 / min(times)


def measure_throughput(
    config: Omni123Config, batch: int, texts: tuple[int, int], steps: int, device: str, checkpointing: bool
) -> dict[str, Any]:
    torch.manual_seed(0)
    if device == "cuda":
        # What the parts before have left.
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with torch.device(device):
        model = Omni123ForConditionalGeneration(config).train()
    inputs = backbone_batch(config, batch, texts, device)
    flops = step_flops(model, inputs, device)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    times, rates = [], []
    for step in range(steps + 3):
        rates.append(matmul_rate(device))
        start = clock(device)
        train_step(model, optimizer, inputs, device)
        if step >= 3:
            times.append(clock(device) - start)
    seconds, tokens = median(times), inputs["input_ids"].numel()
    # A GPU's peak is its best, a shared CPU's rate is what it gave between the steps.
    rate = max(rates) if device == "cuda" else median(rates)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": batch,
        "generation_positions_a_row": inputs["input_ids"].shape[1],
        "text_positions_a_row": sum(texts),
        "precision": "bf16 autocast" if device == "cuda" else "float32",
        "checkpointing": checkpointing,
        "steps": steps,
        "seconds_per_step": seconds,
        "generation_tokens_per_second": tokens / seconds,
        "gigaflops_per_generation_token": flops / tokens / 1e9,
        "teraflops_per_second": flops / seconds / 1e12,
        "matmul_teraflops_per_second": rate / 1e12,
        "mfu": flops / seconds / rate,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def measure_loader(config: Omni123Config, batch: int, repeats: int) -> dict[str, Any]:
    """Samples a second of drawing, and of drawing, laying out and tokenizing the text; one process, one thread."""
    rows: dict[str, Any] = {}
    with synthetic_pools(config, 2000) as pools:
        tokenizers = text_tokenizers_for(pools)
        for name in BATCHINGS:
            dataset = CounterDataset(make_sampler(pools, batch, name), 10**6, 0)
            collate = TaskCollator(config, *tokenizers, name, PACK_MULTIPLE)

            def draw(
                group: int,
                dataset: CounterDataset = dataset,
                collate: Callable[[list], Any] = lambda samples: samples,
            ) -> None:
                collate([dataset[group * batch + place] for place in range(batch)])

            draw(0, dataset, collate)
            rates = {}
            for what, keywords in (("sampler", {}), ("sampler_and_collator", {"collate": collate})):
                times = []
                for repeat in range(repeats):
                    start = clock("cpu")
                    for group in range(40):
                        draw(1 + repeat * 40 + group, **keywords)
                    times.append(clock("cpu") - start)
                rates[f"{what}_samples_per_second"] = 40 * batch / median(times)
            rows[name] = rates
    return {"codes_per_segment": config.num_shape_tokens, "samples_per_micro_batch": batch, "batchings": rows}


def sized(base: Omni123Config, codes_per_segment: int) -> Omni123Config:
    return Omni123Config(
        **{**base.to_diff_dict(), "num_shape_tokens": codes_per_segment, "num_image_tokens": codes_per_segment}
    )


def report_batching(result: dict[str, Any]) -> None:
    print(f"batching, {result['codes_per_segment']} codes a segment, {result['samples_per_micro_batch']} samples:")
    for name, row in result["batchings"].items():
        low, high = row["time_over_padded_range"]
        print(
            f"  {name:12s} {row['seconds_per_step']:8.3f} s a step, {row['microseconds_per_target']:8.1f} us a target, "
            f"{row['time_over_padded']:5.2f} x padded ({low:.2f}-{high:.2f}), fill {row['fill']:.2f}, "
            f"text {row['text_fill']:.2f}"
        )
    print(
        f"  packed time / padded time / padded fill: {result['packed_time_over_padded_fill']:.2f} (goal: at most 1.11)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="codes a segment of the batchings; default 64 256, or 1024"
    )
    parser.add_argument("--batch", type=int, help="rows of a micro-batch; default 16 at 64 codes a segment, 8 above")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--no-checkpointing", action="store_true", help="hold all activations (CUDA; the CPU always does)"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, cuda = options.device, options.device == "cuda"
    result: dict[str, Any] = {
        "device": "CPU",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
    }
    if cuda and not torch.cuda.is_available():
        raise SystemExit("skipped: --device cuda needs a CUDA device, and torch finds none here.")
    torch.set_num_threads(1)
    if cuda:
        result |= {"device": torch.cuda.get_device_name(), "threads": torch.get_num_threads()}
    base = Omni123Config.paper() if cuda else Omni123Config.mini()
    checkpointing = cuda and not options.no_checkpointing
    if "batching" in options.parts:
        result["batching"] = []
        for length in options.lengths or ([1024] if cuda else [64, 256]):
            batch = options.batch or (16 if length <= 64 else 8)
            result["batching"].append(
                measure_batching(sized(base, length), batch, options.repeats, device, checkpointing)
            )
            report_batching(result["batching"][-1])
    if "loss" in options.parts:
        result["loss"] = compare(2048, 65536, 1536, [256], device)
        for row in result["loss"]["rows"]:
            print(f"loss, chunk {row['chunk'] or 'none'}: {row['peak_mb']:.0f} MB ({row['memory_share']:.0%})")
    if "throughput" in options.parts:
        rows, texts = (options.batch or 8, (77, 128)) if cuda else (options.batch or 16, (32, 64))
        found = measure_throughput(base, rows, texts, options.steps, device, checkpointing)
        result["throughput"] = found
        print(
            f"throughput: {found['generation_tokens_per_second']:.0f} tokens/s, {found['teraflops_per_second']:.3f} of "
            f"{found['matmul_teraflops_per_second']:.3f} TFLOP/s ({found['precision']}): MFU {found['mfu']:.0%}"
        )
        if not cuda:
            print("throughput on CUDA: skipped, this run is on the CPU (--device cuda, where there is one)")
    if "loader" in options.parts:
        result["loader"] = []
        for length in (64, 1024):
            result["loader"].append(measure_loader(sized(Omni123Config.mini(), length), 16, options.repeats))
            for name, row in result["loader"][-1]["batchings"].items():
                print(
                    f"loader, {length} codes a segment, {name}: {row['sampler_samples_per_second']:.0f} samples/s drawn, "
                    f"{row['sampler_and_collator_samples_per_second']:.0f} drawn and collated"
                )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
