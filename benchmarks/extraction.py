"""Surface extraction, dense against `safe` and `fast`: seconds, points asked, equality of the meshes, share of the roofline.

    python benchmarks/extraction.py --size reduced --resolution 257 --dense-share 0.02 --repeats 3 \\
        --out benchmarks/results/extraction_reduced.json
    python benchmarks/extraction.py --size mini --resolution 257 --repeats 3 --out benchmarks/results/extraction_mini.json
    python benchmarks/extraction.py --memory-only --memory-resolutions 257 513 \\
        --out benchmarks/results/extraction_memory.json

Peak memory is that of a synthetic field, each mode and resolution in a fresh process: what the process holds at most, less what
it holds before. It does not depend on how busy the machine is, as the seconds do.

The dense baseline is the straightforward one: points of the whole grid in chunks, each with its position embedding, latents
projected once. With `--dense-share` below 1 a contiguous slab through the middle of the grid is timed and scaled up; the
output says so, and equality is then tested at `--equality-resolution`. Ratios are taken within a repeat, then the median.

`mini` is the trained checkpoint with a shape of its own encoding. `reduced` and `paper` have random weights whose last layer
is fitted by least squares to a solid (`fitted_tokenizer`): what they cost is what trained ones cost, but the smoothness of
their field is not that of a trained one, so the share of points asked is only an indication.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omni123_hf.data.parametric.registry import build, sample_program
from omni123_hf.geometry.extraction import evaluate_grid, extract_surface_with_report
from omni123_hf.geometry.marching import closed_marching_cubes
from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.shape_grid_field import ShapeField
from omni123_hf.pipelines.shape_input import encode_shapes


MINI = Path(__file__).parents[1] / "checkpoints" / "omni123-mini" / "shape_tokenizer"
# The published format (16,384 codes, 1,024 tokens) at a width that two CPU cores can bear; few layers, as extraction uses none.
REDUCED = {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_encoder_layers": 2,
    "encoder_cross_attention_layers": [0],
    "num_decoder_layers": 2,
}
CHUNK = 32768


class TimedField:
    """A field on grids that counts the seconds spent in it."""

    def __init__(self, field: ShapeField):
        self.field, self.seconds = field, 0.0

    def on_grid(self, axis: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        start = time.perf_counter()
        inner = self.field.on_grid(axis)
        self.seconds += time.perf_counter() - start

        def timed(flat: np.ndarray) -> np.ndarray:
            start = time.perf_counter()
            values = inner(flat)
            self.seconds += time.perf_counter() - start
            return values

        return timed


def stool(points: np.ndarray) -> np.ndarray:
    """Signed distance, positive inside, of a seat on four legs."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], np.abs(points[:, 2])
    seat = np.min([0.75 - np.maximum(x, z), 0.12 - np.abs(y - 0.4)], axis=0)
    leg = np.min([0.14 - np.hypot(x - 0.5, z - 0.5), 0.55 - np.abs(y + 0.15)], axis=0)
    return np.maximum(seat, leg)


@torch.no_grad()
def fitted_tokenizer(config: Omni123ShapeTokenizerConfig, device: str) -> tuple[Omni123ShapeTokenizer, torch.Tensor]:
    """Random weights with a field like a solid's, and its codes.

    The embedding's frequencies are lowered, since random high ones give noise without a surface; then the last layer is
    fitted by least squares to the clipped distance of `stool`.
    """
    torch.manual_seed(0)
    tokenizer = Omni123ShapeTokenizer(config).eval().to(device)
    tokenizer.point_embedding.weight.mul_(0.15)
    codes = torch.randint(config.num_codes, (config.num_latents,), device=device)
    field = ShapeField(codes, tokenizer)
    features: list[torch.Tensor] = []
    classifier = tokenizer.occupancy_head.classifier
    hook = classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0][0].double().cpu()))
    points = np.random.default_rng(0).uniform(-1.05, 1.05, (16384, 3)).astype(np.float32)
    for chunk in np.split(points, 4):
        field(chunk)
    hook.remove()
    inputs = torch.cat(features)
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    target = torch.from_numpy(np.clip(40 * stool(points), -6, 6)).double()
    gram = inputs.T @ inputs + 1e-4 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(gram, inputs.T @ target).float().to(device)
    classifier.weight.copy_(solved[None, :-1])
    classifier.bias.copy_(solved[-1:])
    return tokenizer, codes


def subject(size: str, device: str, width: int | None) -> tuple[Omni123ShapeTokenizer, torch.Tensor, str]:
    """Tokenizer, codes, and what they are."""
    if size == "mini":
        tokenizer = Omni123ShapeTokenizer.from_pretrained(MINI).eval().to(device)
        mesh = build(sample_program("chair", np.random.default_rng(5))).to_mesh()
        return tokenizer, encode_shapes(mesh, tokenizer).tokens[0], "omni123-mini, a chair by its own encoding"
    settings = dict(REDUCED) if size == "reduced" else {"num_encoder_layers": 1, "encoder_cross_attention_layers": [0]}
    if width is not None:
        settings |= {"hidden_size": width, "num_attention_heads": max(1, width // 64)}
    tokenizer, codes = fitted_tokenizer(Omni123ShapeTokenizerConfig(**settings), device)
    return tokenizer, codes, "random weights, last layer fitted to a solid: shares of points are an indication only"


def costs(config: Omni123ShapeTokenizerConfig, with_tables: bool) -> dict[str, float]:
    """FLOPs of a point, and bytes of it if every layer reads its input and writes its output once (float32)."""
    width, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    embedded = 3 + 6 * config.num_frequencies
    first = 3 * width if with_tables else 2 * embedded * width
    flops = first + 2 * (3 * width**2 + 2 * width * inner) + 4 * config.num_latents * width
    # Values read and written: embedding or table rows, then SiLU, out_layer, norm, q, attention, o, sum, norm, MLP, sum, norm.
    moved = (6 * width if with_tables else 3 * embedded + width) + 22 * width + 2 * (width + inner) + 2 * inner
    return {"flops": float(flops), "bytes": 4.0 * moved}


def machine_rates(device: str) -> dict[str, float]:
    """Copy bandwidth (bytes read and written a second) and float32 matrix rate of this machine, best of five."""

    def best(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(5):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    source = torch.zeros(32 * 2**20, device=device)
    copied = torch.empty_like(source)
    a, b = torch.randn(4096, 1024, device=device), torch.randn(1024, 1024, device=device)
    product = torch.empty(4096, 1024, device=device)
    return {
        "copy_bytes_per_second": 2 * source.numel() * 4 / best(lambda: copied.copy_(source)),
        "matrix_flops_per_second": 2 * 4096 * 1024 * 1024 / best(lambda: torch.mm(a, b, out=product)),
    }


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def dense_seconds(field: ShapeField, resolution: int, share: float) -> tuple[float, int]:
    """Seconds to ask the plain field at `share` of the grid, in the middle, and the points that were asked."""
    axis = np.linspace(-1.05, 1.05, resolution, dtype=np.float32)
    total = resolution**3
    count = min(total, max(CHUNK, round(share * total)))
    first = (total - count) // 2
    start = time.perf_counter()
    for low in range(first, first + count, CHUNK):
        flat = np.arange(low, min(low + CHUNK, first + count))
        field(np.stack([axis[i] for i in np.unravel_index(flat, (resolution,) * 3)], axis=1))
    return time.perf_counter() - start, count


def one_repeat(field: ShapeField, resolution: int, share: float) -> dict[str, Any]:
    """Every mode once, one after the other."""
    rows: dict[str, Any] = {}
    for mode in ("safe", "fast"):
        timed = TimedField(field)
        start = time.perf_counter()
        mesh, report = extract_surface_with_report(timed, resolution, mode=mode)
        rows[mode] = {
            "seconds": time.perf_counter() - start,
            "field_seconds": timed.seconds,
            "faces": len(mesh.faces),
            "report": report.to_dict(),
        }
    seconds, count = dense_seconds(field, resolution, share)
    # What is not the field: dense marches a whole array, the others cells. Taken to cost dense what it costs `safe`.
    rest = rows["safe"]["seconds"] - rows["safe"]["field_seconds"]
    rows["dense"] = {
        "field_seconds": seconds * resolution**3 / count,
        "seconds": seconds * resolution**3 / count + rest,
        "points_timed": count,
        "extrapolated": count < resolution**3,
    }
    for mode in ("safe", "fast"):
        rows[mode]["speedup"] = rows["dense"]["seconds"] / rows[mode]["seconds"]
    return rows


def equality(field: ShapeField, resolution: int) -> dict[str, Any]:
    """Whether each mode gives the dense mesh of the same grid field exactly, and how far that is from the plain field's."""
    grid = evaluate_grid(field, resolution)
    vertices, faces, _ = closed_marching_cubes(grid)
    plain = evaluate_grid(lambda points: field(points), resolution, chunk=CHUNK)
    scale = 2 * 1.05 / (resolution - 1)
    result: dict[str, Any] = {
        "resolution": resolution,
        "faces": len(faces),
        "tables_against_plain": {
            "largest_difference": float(np.abs(plain - grid).max()),
            "signs_that_differ": int(((plain > 0) != (grid > 0)).sum()),
        },
    }
    for mode in ("safe", "fast"):
        mesh, report = extract_surface_with_report(field, resolution, mode=mode)
        same = len(mesh.vertices) == len(vertices) and np.array_equal(
            mesh.vertices, vertices.astype(np.float64) * scale - 1.05
        )
        result[mode] = {"equal": bool(same and np.array_equal(mesh.faces, faces)), "report": report.to_dict()}
    return result


def bumpy_ball(points: np.ndarray) -> np.ndarray:
    """A cheap field, saturated like a trained one; its surface crosses about as many cells as a shape's does."""
    x, y, z = points.T
    distance = 0.7 - np.sqrt(x * x + y * y + z * z) - 0.1 * np.sin(9 * x) * np.sin(8 * y) * np.sin(7 * z)
    return np.clip(40 * distance, -8, 8)


def peak_bytes() -> int:
    """The most that this process has held in memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def memory_of(mode: str, resolution: int) -> dict[str, Any]:
    """Peak memory of one extraction of `bumpy_ball`. Only means something in a process that has done nothing else."""
    extract_surface_with_report(bumpy_ball, 17, mode=mode)
    before = peak_bytes()
    mesh, report = extract_surface_with_report(bumpy_ball, resolution, mode=mode)
    return {
        "mode": mode,
        "resolution": resolution,
        "peak_bytes": peak_bytes() - before,
        "bytes_before": before,
        "bytes_of_one_float_grid": 4 * resolution**3,
        "faces": len(mesh.faces),
        "share_of_points": report.share,
    }


def peak_memory(resolutions: list[int]) -> list[dict[str, Any]]:
    """`memory_of` every mode, each in a fresh process."""
    rows = []
    for resolution in resolutions:
        for mode in ("dense", "safe", "fast"):
            command = [sys.executable, __file__, "--memory-of", mode, "--resolution", str(resolution)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(f"{resolution} {mode:>5}: {rows[-1]['peak_bytes'] / 2**20:8.0f} MiB at most", flush=True)
    return rows


def write(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("mini", "reduced", "paper"), default="reduced")
    parser.add_argument("--width", type=int, help="another hidden size for reduced or paper")
    parser.add_argument("--resolution", type=int, default=257)
    parser.add_argument("--equality-resolution", type=int, default=129, help="0 leaves the test out")
    parser.add_argument("--dense-share", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--memory-resolutions", type=int, nargs="*", default=[257], help="none leaves the measurement out"
    )
    parser.add_argument("--memory-only", action="store_true", help="measure nothing but memory")
    parser.add_argument(
        "--memory-of", choices=("dense", "safe", "fast"), help="measure this one in this process and print it"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options.resolution)))
        return
    memory = peak_memory(options.memory_resolutions)
    if options.memory_only:
        write({"field": bumpy_ball.__doc__, "torch": torch.__version__, "memory": memory}, options.out)
        return
    tokenizer, codes, what = subject(options.size, options.device, options.width)
    field = ShapeField(codes, tokenizer)
    rates = machine_rates(options.device)
    # Once unmeasured: threads, allocator and kernels start.
    extract_surface_with_report(field, 33, mode="safe")
    repeats = []
    for number in range(options.repeats):
        repeats.append(one_repeat(field, options.resolution, options.dense_share))
        row = repeats[-1]
        print(f"repeat {number + 1}: " + ", ".join(f"{m} {row[m]['seconds']:.1f} s" for m in row), flush=True)
    table: dict[str, Any] = {}
    for mode in ("dense", "safe", "fast"):
        rows = [repeat[mode] for repeat in repeats]
        cost = costs(tokenizer.config, with_tables=mode != "dense")
        asked = options.resolution**3 if mode == "dense" else rows[0]["report"]["evaluated"]
        field_seconds = statistics.median(row["field_seconds"] for row in rows)
        bound = min(rates["matrix_flops_per_second"], cost["flops"] / cost["bytes"] * rates["copy_bytes_per_second"])
        table[mode] = {
            "seconds": statistics.median(row["seconds"] for row in rows),
            "field_seconds": field_seconds,
            "speedup": statistics.median(row.get("speedup", 1.0) for row in rows),
            "points": asked,
            "share_of_points": asked / options.resolution**3,
            "points_per_second": asked / field_seconds,
            "flops_per_point": cost["flops"],
            "bytes_per_point": cost["bytes"],
            "share_of_roofline": asked / field_seconds * cost["flops"] / bound,
        }
    result = {
        "size": options.size,
        "field": what,
        "resolution": options.resolution,
        "dense": f"extrapolated from {repeats[0]['dense']['points_timed']:,} points in the middle of the grid"
        if repeats[0]["dense"]["extrapolated"]
        else "every point was timed",
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine_rates": rates,
        "modes": table,
        "memory": memory,
        "equality": equality(field, options.equality_resolution) if options.equality_resolution else None,
        "repeats": repeats,
    }
    print(f"{options.size}: {what}; dense {result['dense']}")
    for mode, row in table.items():
        print(
            f"{mode:>5}: {row['seconds']:8.1f} s, {row['speedup']:5.1f}x, {row['share_of_points']:6.1%} of the points, "
            f"{row['points_per_second']:9,.0f} points/s, {row['share_of_roofline']:4.0%} of the roofline"
        )
    if result["equality"] is not None:
        for mode in ("safe", "fast"):
            print(f"{mode} equals dense at {options.equality_resolution}: {result['equality'][mode]['equal']}")
    write(result, options.out)


if __name__ == "__main__":
    main()
