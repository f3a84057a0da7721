"""What an adapter does to text → 3D: its own domain and the old one, before and after, on held-out objects.

Generation is greedy with the checkpoint's own guidance, from each object's first medium caption (short or long where there is none).
A failed generation is never dropped: its Chamfer distance is that of the two farthest points of the box, its IoU is 0, and it
is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh

from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.data.store import AssetStore
from omni123_hf.evaluation.figures_generation import BATCH, chamfer_matrix, decode_shape
from omni123_hf.evaluation.shape_metrics import WORST_CHAMFER, chamfer_l1, occupancy_iou, uniform_points
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.modeling.tasks import get_task
from omni123_hf.training.lora_data import Domain


POINTS = 2048
QUERIES = 4096
MOST_OBJECTS = 64
TASK = "text-to-3d"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Reference:
    """A held-out object: prompt, surface points (P, 3), uniform queries (Q, 3) with occupancy (Q,), and tokens (Ls,).

    `picture` is its stored view (S, S, 3) uint8, None where only tokens are known; then surface and occupancy are those that the
    tokens decode to.
    """

    id: str
    prompt: str
    surface: np.ndarray
    queries: np.ndarray
    occupancy: np.ndarray
    tokens: np.ndarray
    picture: np.ndarray | None


@dataclass(frozen=True)
class Outputs:
    """Meshes (None where it failed) and scores of every reference."""

    meshes: list[trimesh.Trimesh | None]
    chamfer: np.ndarray
    volume_iou: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Means and medians; `chamfer` is the sum of both directed means."""
        return {
            "chamfer": float(self.chamfer.mean()),
            "chamfer_median": float(np.median(self.chamfer)),
            "volume_iou": float(self.volume_iou.mean()),
            "failed": sum(mesh is None for mesh in self.meshes),
        }


def prompt_of(captions: dict[str, list[str]]) -> str:
    """The first medium caption, else the first one there is."""
    for level in ("medium", *CAPTION_LEVELS):
        if captions.get(level):
            return captions[level][0]
    raise ValueError("A record without a caption cannot be prompted: give it one.")


def references(pipeline: Any, domain: Domain, resolution: int, seed: int = 0) -> list[Reference]:
    """At most `MOST_OBJECTS` measured objects of a domain, evenly spaced."""
    rows = domain.pool.indices(domain.measured)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_OBJECTS)).round().astype(int))]
    found = []
    for row in rows:
        record = domain.pool.record(int(row))
        tokens = domain.pool.codes(int(row), "shape_tokens").astype(np.int64)
        truth = (
            decoded_truth(pipeline.shape_tokenizer, tokens, resolution, seed)
            if domain.store is None
            else stored_truth(domain.store, record.source_row)
        )
        if truth is not None:
            found.append(Reference(record.id, prompt_of(domain.pool.texts(int(row))), *truth[:3], tokens, truth[3]))
    return found


def stored_truth(store: AssetStore, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    half = store.sizes.queries // 2
    view = store.summary["views"].index("three_quarter")
    return (
        store.surface(row)[:POINTS, :3],
        store.queries(row)[:half][:QUERIES],
        store.occupancy(row)[:half][:QUERIES],
        store.views(row)[view, ..., :3],
    )


@torch.no_grad()
def decoded_truth(
    shape_tokenizer: Any, tokens: np.ndarray, resolution: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, None] | None:
    """As `stored_truth` from tokens alone; None for tokens without a surface, which nothing can be compared with."""
    mesh, _ = decode_shape(shape_tokenizer, torch.from_numpy(tokens).to(shape_tokenizer.device), resolution)
    if mesh is None:
        return None
    rng = np.random.default_rng(seed)
    queries = uniform_points(QUERIES, FIELD_BOUND, rng).astype(np.float32)
    inside = occupancy(shape_tokenizer, torch.from_numpy(tokens)[None], queries[None])[0]
    return sample_surface(mesh, POINTS, rng)[0], queries, inside, None


@torch.no_grad()
def occupancy(shape_tokenizer: Any, tokens: torch.Tensor, queries: np.ndarray) -> np.ndarray:
    """(B, Q) bool of shape tokens (B, Ls) at queries (B, Q, 3)."""
    device = shape_tokenizer.device
    memory = shape_tokenizer.project_latents(shape_tokenizer.decode_latents(tokens.to(device)))
    return (shape_tokenizer.query(memory, torch.from_numpy(queries).to(device)) > 0).cpu().numpy()


@torch.no_grad()
def generate_tokens(pipeline: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Shape tokens (N, Ls), greedy, with the checkpoint's own guidance."""
    sampling = pipeline.prepare_sampling()
    null = pipeline.null_conditioning(is_guided=sampling.guidance_scale != 1)
    parts = []
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        codes = pipeline.generate_codes(
            get_task(TASK), pipeline.encode_prompt(batch), sampling, rows=len(batch), negative_text_embeds=null
        )
        parts.append(codes["shape"].cpu())
    return torch.cat(parts)


@torch.no_grad()
def score(
    pipeline: Any,
    tokens: torch.Tensor,
    wanted: Sequence[Reference],
    resolution: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Decodes shape tokens (N, Ls), one a reference, and compares."""
    meshes: list[trimesh.Trimesh | None] = []
    chamfer, iou = [], []
    for number, (row, reference) in enumerate(zip(tokens, wanted, strict=True)):
        mesh, _ = decode_shape(pipeline.shape_tokenizer, row.to(pipeline.shape_tokenizer.device), resolution)
        meshes.append(mesh)
        if mesh is None:
            chamfer.append(WORST_CHAMFER)
            iou.append(0.0)
        else:
            points = sample_surface(mesh, POINTS, np.random.default_rng(seed))[0]
            chamfer.append(chamfer_l1(points, reference.surface)["sum"])
            inside = occupancy(pipeline.shape_tokenizer, row[None], reference.queries[None])[0]
            iou.append(occupancy_iou(inside, reference.occupancy))
        if progress is not None:
            progress(number + 1, len(wanted))
    return Outputs(meshes, np.array(chamfer), np.array(iou))


def generated(pipeline: Any, wanted: Sequence[Reference], resolution: int, progress: Any = None) -> Outputs:
    """What the pipeline, with whatever adapters are active, makes of the references' prompts."""
    return score(
        pipeline, generate_tokens(pipeline, [r.prompt for r in wanted]), wanted, resolution, progress=progress
    )


def round_trip(pipeline: Any, wanted: Sequence[Reference], resolution: int) -> Outputs:
    """The references' own tokens decoded: what no adapter of the backbone can do better."""
    return score(pipeline, torch.from_numpy(np.stack([r.tokens for r in wanted])), wanted, resolution)


def one_object_for_all(domain: Domain, wanted: Sequence[Reference]) -> float | None:
    """Mean Chamfer distance when every prompt is answered with the training object that is nearest to all others.

    A model that learned the domain but not to read must reach this; None for a domain without meshes.
    """
    if domain.store is None:
        return None
    rows = domain.store.indices("train")[:MOST_OBJECTS]
    if not len(rows):
        return None
    surfaces = [domain.store.surface(int(row))[:512, :3] for row in rows]
    medoid = int(rows[int(chamfer_matrix(surfaces, surfaces).sum(1).argmin())])
    points = domain.store.surface(medoid)[:POINTS, :3]
    return float(np.mean([chamfer_l1(points, reference.surface)["sum"] for reference in wanted]))


def change(before: float, after: float) -> float:
    """Relative change: 0.05 is five per cent more."""
    return after / before - 1 if before else float(after > 0)
