"""Text to a mesh file, all in one: the fast paths beside the plain ones, and proof that both give the same mesh.

    python benchmarks/end_to_end.py --size mini --repeats 3 --out benchmarks/results/end_to_end_mini.json
    python benchmarks/end_to_end.py --size reduced --repeats 1 --out benchmarks/results/end_to_end_reduced.json

`mini` is the shipped checkpoint:

- command: `omni123 generate` as a user starts it, from the start of the process to the files.
- pipeline: the same in a process that has loaded the checkpoint: `engine="plain"` and a dense grid beside `engine="fast"` with
  `safe` and `fast` extraction, in turn within each repeat. Codes, vertices and faces are compared.

`reduced` and `paper` have random weights and no pipeline: the backbone of `generation.py` writes its codes, the fitted tokenizer of
`extraction.py` is extracted. Of the dense grid a slab is timed and scaled up (`--dense-share`).
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch


PROMPT = "a round wooden table with three legs"
MODES = ("safe", "fast")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def command(repeats: int) -> dict[str, Any]:
    """Seconds of whole processes, and of their parts as they report them."""
    seconds, parts = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "omni123_hf.cli.main", "generate", PROMPT, "--out", folder, "--quiet"]
            taken, _ = timed(lambda line=line: subprocess.run(line, check=True, capture_output=True))
            seconds.append(taken)
            parts.append(json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))["seconds"])
    middle = sorted(range(repeats), key=lambda place: seconds[place])[repeats // 2]
    return {"seconds": median(seconds), "all": seconds, "parts_of_the_median_run": parts[middle]}


def pipeline(repeats: int, resolution: int) -> dict[str, Any]:
    """The loaded checkpoint: plain and dense, then fast in each mode."""
    from omni123_hf.pipelines import Omni123JointPipeline

    model = Omni123JointPipeline.from_pretrained("omni123-mini")
    model.set_progress_bar_config(disable=True)
    runs: dict[str, list[float]] = {"plain": [], **{mode: [] for mode in MODES}}
    equal: dict[str, bool] = dict.fromkeys(MODES, True)
    model(PROMPT, output_type="tokens")
    for _ in range(repeats):
        model.set_decoding("plain")
        taken, reference = timed(lambda: model(PROMPT, resolution=resolution, extraction="dense"))
        runs["plain"].append(taken)
        model.set_decoding("fast")
        for mode in MODES:
            taken, output = timed(lambda mode=mode: model(PROMPT, resolution=resolution, extraction=mode))
            runs[mode].append(taken)
            equal[mode] &= torch.equal(output.shape_tokens, reference.shape_tokens)
            equal[mode] &= torch.equal(output.image_tokens, reference.image_tokens)
            equal[mode] &= np.array_equal(output.meshes[0].vertices, reference.meshes[0].vertices)
            equal[mode] &= np.array_equal(output.meshes[0].faces, reference.meshes[0].faces)
    return {"revision": model.revision, "resolution": resolution, **ratios(runs), "equal_to_plain": equal}


def composed(size: str, repeats: int, resolution: int, tokens: int, share: float) -> dict[str, Any]:
    """Codes of a random backbone and the surface of a fitted field; the shapes have nothing to do with the codes."""
    from extraction import CHUNK, REDUCED, fitted_tokenizer
    from generation import Bench

    from omni123_hf.geometry.extraction import extract_surface_with_report
    from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
    from omni123_hf.modeling.shape_grid_field import ShapeField

    bench = Bench(size, "cpu")
    tokenizer, codes = fitted_tokenizer(Omni123ShapeTokenizerConfig(**(REDUCED if size == "reduced" else {})), "cpu")
    field = ShapeField(codes, tokenizer)
    axis = np.linspace(-1.05, 1.05, resolution, dtype=np.float32)
    rows = max(1, round(share * resolution))
    slab = np.stack(np.meshgrid(axis[:rows] * 0, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    runs: dict[str, list[float]] = {"plain": [], **{mode: [] for mode in MODES}}
    same = True
    for _ in range(repeats):
        slow, wanted = bench.timed(lambda: bench.run(tokens, "plain"))
        quick, made = bench.timed(lambda: bench.run(tokens, "fast"))
        same &= torch.equal(wanted, made)
        dense, _ = timed(lambda: [field(slab[start : start + CHUNK]) for start in range(0, len(slab), CHUNK)])
        runs["plain"].append(slow + dense * resolution / rows)
        for mode in MODES:
            taken, _ = timed(lambda mode=mode: extract_surface_with_report(field, resolution=resolution, mode=mode))
            runs[mode].append(quick + taken)
    return {
        "resolution": resolution,
        "tokens": tokens,
        "dense_share": rows / resolution,
        **ratios(runs),
        "codes_equal_to_plain": same,
    }


def ratios(runs: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "seconds": {name: median(values) for name, values in runs.items()},
        "times_faster": {
            mode: median(plain / own for plain, own in zip(runs["plain"], runs[mode], strict=True)) for mode in MODES
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("mini", "reduced", "paper"), default="mini")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=None, help="96 for mini, 129 otherwise")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--dense-share", type=float, default=0.02)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "size": arguments.size,
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
    }
    if arguments.size == "mini":
        result["command"] = command(arguments.repeats)
        result["pipeline"] = pipeline(arguments.repeats, arguments.resolution or 96)
    else:
        result["composed"] = composed(
            arguments.size,
            arguments.repeats,
            arguments.resolution or 129,
            arguments.tokens,
            arguments.dense_share,
        )
    print(json.dumps(result, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
