"""Peak memory and time of the chunked head loss against the plain one, forward and backward, each in its own process.

    python benchmarks/chunked_loss.py --out benchmarks/results/chunked_loss.json

Peak memory is what the process holds at most beyond what it held when inputs and weights were in place. It therefore counts
logits, their copies and all gradients, but not the head itself. The head is the paper's image head, 65,536 codes x 1,536.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omni123_hf.modeling.loss_omni123 import summed_cross_entropy


def peak_of_process() -> int:
    """Bytes that this process held at most. Not `ru_maxrss`, which begins at what the process held that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure(chunk: int, tokens: int, codes: int, width: int, device: str) -> dict[str, float]:
    """One forward and backward pass in this process: extra peak memory in MB, seconds, loss and gradient norms."""
    torch.manual_seed(0)
    # Touching every page first: gradients and weights then count in the same way whatever the allocator does.
    head = nn.Linear(width, codes, bias=False, device=device)
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    labels = torch.randint(codes, (tokens,), device=device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = peak_of_process()
    start = time.perf_counter()
    loss = summed_cross_entropy(head, hidden, labels, chunk) / tokens
    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = peak_of_process()
    return {
        "chunk": chunk,
        "peak_mb": (peak - before) / 2**20,
        "seconds": time.perf_counter() - start,
        "loss": float(loss),
        "hidden_gradient_norm": float(hidden.grad.norm()),
        "head_gradient_norm": float(head.weight.grad.norm()),
    }


def compare(tokens: int, codes: int, width: int, chunks: Sequence[int], device: str) -> dict[str, Any]:
    """`measure` of the plain loss and of every chunk size, each in a process of its own, beside the plain one."""
    rows = []
    for chunk in (0, *chunks):
        command = [sys.executable, __file__, "--one", str(chunk), "--device", device]
        for name, value in (("tokens", tokens), ("codes", codes), ("width", width)):
            command += [f"--{name}", str(value)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for row in rows:
        row["memory_share"] = row["peak_mb"] / rows[0]["peak_mb"]
        row["time_ratio"] = row["seconds"] / rows[0]["seconds"]
    return {
        "tokens": tokens,
        "codes": codes,
        "width": width,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--codes", type=int, default=65536)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.tokens, options.codes, options.width, options.device)))
        return
    result = compare(options.tokens, options.codes, options.width, options.chunks, options.device)
    for row in result["rows"]:
        print(
            f"chunk {row['chunk'] or 'none':>5}: {row['peak_mb']:7.0f} MB ({row['memory_share']:.0%}), "
            f"{row['seconds']:6.2f} s ({row['time_ratio']:.2f}x), loss {row['loss']:.6f}"
        )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
