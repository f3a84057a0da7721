"""What a generated code costs: the fast decoder beside a naively cached loop, prefill, batches, and long chains.

    python benchmarks/generation.py --size reduced --out benchmarks/results/generation_reduced.json
    python benchmarks/generation.py --size paper --part decode --tokens 24 --repeats 1 --out benchmarks/results/generation_paper.json
    python benchmarks/generation.py --size paper --device cuda --out benchmarks/results/generation_cuda.json

Random weights, float32 on the CPU and bfloat16 on CUDA, guidance 5 (two rows a prompt), greedy.

- decode: seconds a code from the first to the last, without the prompt, of the naive loop and of the fast engine with each kind of weights, in turn within
  each repeat; medians, and the median of the ratios within a repeat. The naive loop is `generate_plan(engine="plain")`: the
  model's own forward pass on one token at a time, a cache that grows by concatenation, both guidance rows in one batch.
- prefill: the prompt up to the first code, beside a pass over all positions of the finished sequence, as a loop that fills a
  whole static buffer runs it.
- batch: codes a second, prompts included, of 4 prompts beside 1, and of 4 samples of 1 prompt.
- memory: bytes held, computed from shapes (`generation_memory.py`); alone it allocates no model.
- long: seconds a code at the start and at the end of a chain of 7,245 positions. The end is reached by forcing what comes before.

Roofline: bytes and FLOPs of a step are computed from shapes (weights of the generation stream and the head, keys and values at
the run's mean length); copy rate and matrix rate are measured in the same run. A copy moves two bytes for each byte copied.
With `--threads 1` seconds are those that the process itself was given; otherwise they are wall time, of a quiet machine please.
"""

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from generation_memory import memory_account, print_account

from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration, Step
from omni123_hf.modeling.decoder_weights_omni123 import DECODE_WEIGHTS
from omni123_hf.modeling.generation_fast_omni123 import decoder_of, release_decoder


PARTS = ("memory", "decode", "prefill", "batch", "long")
CHAIN = 7245
SIZES: dict[str, dict[str, Any]] = {
    "mini": {**Omni123Config.mini().to_dict(), "text_embed_dim": 128, "text_embed_dim_2": 128},
    # Cube 3D's grammar at 1/4 of its width: text of 77 positions, shapes alone.
    "reduced": dict(
        hidden_size=384, num_dual_layers=4, num_single_layers=1, num_attention_heads=6, num_shape_codes=16384,
        num_shape_tokens=1024, num_image_codes=0, image_code_dim=0, num_views=0, text_embed_dim=768, text_embed_dim_2=None,
    ),
    "paper": {},
}  # fmt: skip


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    # On one thread, what the process itself was given: a busy machine changes that less.
    return time.process_time() if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


class Bench:
    """One model, its text, and the clock of its device."""

    def __init__(self, size: str, device: str):
        self.device = device
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        torch.manual_seed(0)
        with torch.device(device):
            self.model = Omni123ForConditionalGeneration(Omni123Config(**SIZES[size])).to(dtype).eval()
        self.config = self.model.config
        self.dtype = dtype

    def text(self, prompts: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        text = {"text_embeds": torch.randn(prompts, 77, self.config.text_embed_dim, generator=generator)}
        if self.config.text_embed_dim_2:
            text["text_embeds_2"] = torch.randn(prompts, 128, self.config.text_embed_dim_2, generator=generator)
            # A prompt of 40 tokens, padded.
            text["text_attention_mask_2"] = (torch.arange(128) < 40).long().expand(prompts, -1)
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for key, value in text.items()
        }

    def plan(self, tokens: int, forced: int = 0) -> list[Step]:
        ids = torch.full((1, 1 + forced), 7)
        ids[0, 0] = self.config.shape_start_id
        return [Step("force", ids), Step("sample", modality="shape", count=tokens, name="shape")]

    def clock(self) -> float:
        return clock(self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        start = self.clock()
        result = work()
        return self.clock() - start, result

    def run(
        self,
        tokens: int,
        engine: str,
        weights: str = "model",
        prompts: int = 1,
        samples: int = 1,
        forced: int = 0,
        callback: Callable[[Any], Any] | None = None,
    ) -> torch.Tensor:
        settings: dict[str, Any] = {} if engine == "plain" else {"engine": "fast", "decode_weights": weights}
        return self.model.generate_plan(
            self.plan(tokens, forced), **self.text(prompts), num_samples=samples, callback=callback, **settings
        )["shape"]

    def decode(self, tokens: int, engine: str, weights: str = "model", forced: int = 0) -> tuple[float, torch.Tensor]:
        """Seconds a code from the first to the last, which leaves the prompt out; a short run comes before it."""
        self.run(3, engine, weights)
        marks: list[float] = []

        def mark(progress: Any) -> None:
            if progress.done in (1, tokens):
                marks.append(self.clock())

        codes = self.run(tokens, engine, weights, forced=forced, callback=mark)
        return (marks[1] - marks[0]) / (tokens - 1), codes


def measured_rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Bytes a second of a copy (read and written ones counted) and FLOPs a second of a large product."""
    cuda = device == "cuda"
    # Written once: pages that never were are all one page of zeros, which is read from the cache.
    source = torch.ones(2**30 if cuda else 2**28, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    size = 8192 if cuda else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = {}
    for name, work, amount in (
        ("copy_bytes_per_second", lambda: target.copy_(source), 2 * source.nbytes),
        ("matrix_flops_per_second", lambda: a @ b, 2 * size**3),
    ):
        work()
        times = []
        for _ in range(7):
            start = clock(device)
            work()
            times.append(clock(device) - start)
        best[name] = amount / min(times)
    return best


def step_cost(bench: Bench, weights: str, rows: int, keys: float) -> dict[str, float]:
    """Bytes and FLOPs of one step of `rows` rows over `keys` keys each."""
    config = bench.config
    decoder = decoder_of(bench.model, weights)
    inner = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    products = config.num_hidden_layers * inner + config.hidden_size * config.num_shape_codes
    states = config.num_hidden_layers * rows * keys * 2 * config.num_attention_heads * config.head_dim
    return {
        "weight_bytes": decoder.bytes_per_step,
        "key_value_bytes": states * torch.finfo(bench.dtype).bits / 8,
        "flops": 2 * rows * products + 2 * states,
    }


def measure_decode(bench: Bench, tokens: int, repeats: int, weights: list[str]) -> dict[str, Any]:
    runs: dict[str, list[float]] = {name: [] for name in ["naive", *weights]}
    codes: dict[str, torch.Tensor] = {}
    builds = {}
    for repeat in range(repeats):
        for name in runs:
            engine, kind = ("plain", "model") if name == "naive" else ("fast", name)
            if engine == "fast" and repeat == 0:
                release_decoder(bench.model)
                gc.collect()
                builds[name], _ = bench.timed(lambda kind=kind: decoder_of(bench.model, kind))
            seconds, codes[name] = bench.decode(tokens, engine, kind)
            runs[name].append(seconds)
    rates = measured_rates(bench.device, bench.dtype)
    keys = tokens / 2 + (117 if bench.config.text_embed_dim_2 else 77) / 2
    rows = []
    for name, seconds in runs.items():
        row: dict[str, Any] = {
            "path": name,
            "milliseconds_per_code": 1e3 * median(seconds),
            "codes_per_second": 1 / median(seconds),
            "over_naive": median(a / b for a, b in zip(runs["naive"], seconds, strict=True)),
            "codes_equal_to_naive": float((codes[name] == codes["naive"]).float().mean()),
        }
        if name != "naive":
            cost = step_cost(bench, name, 2, keys)
            moved = cost["weight_bytes"] + cost["key_value_bytes"]
            row |= cost
            row["bandwidth_reached"] = moved / median(seconds) / rates["copy_bytes_per_second"]
            row["flops_reached"] = cost["flops"] / median(seconds) / rates["matrix_flops_per_second"]
            row["seconds_to_build"] = builds[name]
        rows.append(row)
    return {"tokens": tokens, "repeats": repeats, **rates, "rows": rows}


@torch.no_grad()
def measure_prefill(bench: Bench, repeats: int) -> dict[str, Any]:
    """The guided prompt of one text: what exists, beside all positions of the finished sequence."""
    model, config = bench.model, bench.config
    text = bench.text(1)
    doubled = {key: torch.cat([value, value]) for key, value in text.items()}
    null = torch.tensor([False, True], device=bench.device)
    ids = torch.full((2, 1 + config.num_shape_tokens), 7, device=bench.device)
    ids[:, 0] = config.shape_start_id
    everything = lambda: model(ids, **doubled, null_text=null, use_cache=True, modality="shape")  # noqa: E731
    needed = lambda: bench.run(1, "fast")  # noqa: E731
    needed()
    times: dict[str, list[float]] = {"all": [], "needed": []}
    for _ in range(repeats):
        times["all"].append(bench.timed(everything)[0])
        times["needed"].append(bench.timed(needed)[0])
    return {
        "positions": ids.shape[1],
        "repeats": repeats,
        "all_positions_seconds": median(times["all"]),
        "needed_positions_seconds": median(times["needed"]),
        "ratio": median(a / b for a, b in zip(times["all"], times["needed"], strict=True)),
    }


def measure_batch(bench: Bench, tokens: int, repeats: int) -> dict[str, Any]:
    cases = {"1 prompt": (1, 1), "4 prompts": (4, 1), "1 prompt, 4 samples": (1, 4)}
    runs: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (prompts, samples) in cases.items():
            seconds, _ = bench.timed(lambda p=prompts, s=samples: bench.run(tokens, "fast", prompts=p, samples=s))
            runs[name].append(prompts * samples / seconds * tokens)
    return {
        "tokens": tokens,
        "repeats": repeats,
        "rows": [
            {
                "case": name,
                "codes_per_second": median(rates),
                "over_one": median(a / b for a, b in zip(rates, runs["1 prompt"], strict=True)),
            }
            for name, rates in runs.items()
        ],
    }


def profile_text(bench: Bench, tokens: int, forced: int) -> str:
    """Where the time of the codes after the first goes, by operation; the profiler itself costs time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)

    def mark(progress: Any) -> None:
        if progress.done == 1:
            profiler.start()
        elif progress.done == tokens:
            profiler.stop()

    bench.run(tokens, "fast", forced=forced, callback=mark)
    return profiler.key_averages().table(
        sort_by=f"self_{bench.device}_time_total", row_limit=12, max_name_column_width=40
    )


def measure_long(bench: Bench, tokens: int, repeats: int) -> dict[str, Any]:
    """Codes a second of the last `tokens` of a chain over those of its first, and the same ratio of the bytes they move."""
    runs: dict[str, list[float]] = {"early": [], "late": []}
    for _ in range(repeats):
        runs["early"].append(bench.decode(tokens, "fast")[0])
        runs["late"].append(bench.decode(tokens, "fast", forced=CHAIN - tokens)[0])
    moved = []
    for keys in (tokens / 2, CHAIN - tokens / 2):
        cost = step_cost(bench, "model", 2, keys)
        moved.append(cost["weight_bytes"] + cost["key_value_bytes"])
    return {
        "chain": CHAIN,
        "tokens": tokens,
        "repeats": repeats,
        "early_milliseconds_per_code": 1e3 * median(runs["early"]),
        "late_milliseconds_per_code": 1e3 * median(runs["late"]),
        "late_over_early_speed": median(a / b for a, b in zip(runs["early"], runs["late"], strict=True)),
        "early_over_late_bytes": moved[0] / moved[1],
    }


def report(result: dict[str, Any]) -> None:
    if found := result.get("decode"):
        print(
            f"decode, {found['tokens']} codes, medians of {found['repeats']}; copy {found['copy_bytes_per_second'] / 1e9:.1f} "
            f"GB/s, product {found['matrix_flops_per_second'] / 1e12:.3f} TFLOP/s"
        )
        for row in found["rows"]:
            line = (
                f"  {row['path']:13s} {row['milliseconds_per_code']:9.3f} ms a code, {row['codes_per_second']:8.1f} codes/s, "
                f"{row['over_naive']:5.2f} x naive, {row['codes_equal_to_naive']:.0%} equal codes"
            )
            if "weight_bytes" in row:
                line += (
                    f", {(row['weight_bytes'] + row['key_value_bytes']) / 1e6:.1f} MB and {row['flops'] / 1e6:.0f} MFLOP a "
                    f"step: {row['bandwidth_reached']:.0%} of the copy rate, {row['flops_reached']:.0%} of the product's"
                )
            print(line)
    if found := result.get("prefill"):
        print(
            f"prefill: all {found['positions']} positions {found['all_positions_seconds']:.3f} s, those that exist "
            f"{found['needed_positions_seconds']:.4f} s: {found['ratio']:.1f} x (goal at reduced: 15)"
        )
    if found := result.get("batch"):
        for row in found["rows"]:
            print(
                f"batch, {row['case']:20s} {row['codes_per_second']:8.1f} codes/s, {row['over_one']:.2f} x one prompt"
            )
    if found := result.get("long"):
        print(
            f"long: {found['early_milliseconds_per_code']:.2f} ms a code at the start, {found['late_milliseconds_per_code']:.2f} "
            f"at the end of {found['chain']}: speed {found['late_over_early_speed']:.2f} of the early one, where the bytes "
            f"allow {found['early_over_late_bytes']:.2f}"
        )


def save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="reduced")
    parser.add_argument("--part", default=",".join(PARTS), help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--tokens", type=int, help="codes of a run; default all of a shape")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", nargs="+", choices=DECODE_WEIGHTS, help="default: all that the device has")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default torch's")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--profile", type=Path, help="text file: where the time of early and of late codes of a chain goes"
    )
    options = parser.parse_args()
    parts = options.part.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--part has no {unknown[0]!r}: use {', '.join(PARTS)}")
    if options.tokens is not None and options.tokens < 2:
        parser.error("--tokens must be at least 2")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("skipped: --device cuda needs a CUDA device, and torch finds none here.")
    if options.threads:
        torch.set_num_threads(options.threads)
    account = None
    if "memory" in parts:
        # As on a GPU, and as on a CPU.
        config = Omni123Config(**SIZES[options.size])
        account = [memory_account(config, torch.bfloat16, False), memory_account(config, torch.float32, True)]
        for each in account:
            print_account(each)
        parts.remove("memory")
        if not parts:
            save(options.out, {"size": options.size, "memory": account})
            return
    bench = Bench(options.size, options.device)
    tokens = options.tokens or bench.config.num_shape_tokens
    weights = options.weights or (list(DECODE_WEIGHTS) if options.device == "cpu" else ["model", "int8"])
    result: dict[str, Any] = {
        "size": options.size,
        "parameters": sum(parameter.numel() for parameter in bench.model.parameters()),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "CPU",
        "dtype": str(bench.dtype).removeprefix("torch."),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(
        f"{options.size}: {result['parameters'] / 1e6:.1f} M parameters, {result['dtype']}, {result['threads']} threads"
    )
    measures = {
        "decode": lambda: measure_decode(bench, tokens, options.repeats, weights),
        "prefill": lambda: measure_prefill(bench, options.repeats),
        "batch": lambda: measure_batch(bench, tokens, options.repeats),
        "long": lambda: measure_long(bench, min(tokens, 64), options.repeats),
    }
    if account is not None:
        result["memory"] = account
    if options.profile is not None:
        count = min(tokens, 64)
        texts = [
            f"{name}, {count - 1} codes of {options.size}\n{profile_text(bench, count, forced)}"
            for name, forced in (("start of a chain", 0), (f"end of a chain of {CHAIN}", CHAIN - count))
        ]
        options.profile.write_text("\n".join(texts), encoding="utf-8")
    for part in parts:
        result[part] = measures[part]()
        report({part: result[part]})
    save(options.out, result)


if __name__ == "__main__":
    main()
