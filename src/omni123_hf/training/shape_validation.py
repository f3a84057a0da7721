"""Validation of the shape tokenizer: figures and pictures of held-out shapes through the nearest codes, as in inference."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..data.store import AssetStore
from ..geometry.cameras import ALL_VIEWS, THREE_QUARTER
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from .pictures import picture_grid, surface_cell


# Query points of a shape whose slope is measured; they are differentiated, which costs memory.
SLOPE_QUERIES = 256
# Shapes, and surface points of all of them, that are encoded at a time.
MAX_BATCH, MAX_POINTS = 16, 2**18


def encode_rows(model: Omni123ShapeTokenizer, store: AssetStore, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
    """Tokens `(B, L)` of stored shapes, from all their surface points."""
    surface = torch.from_numpy(np.stack([store.surface(int(row)) for row in rows])).to(model.device)
    return model.encode(surface[..., :3].clamp(-1.05, 1.05), surface[..., 3:])


def validation_figures(model: Omni123ShapeTokenizer, store: AssetStore, indices: np.ndarray) -> dict[str, float]:
    """Means over shapes through nearest codes, and the share of codes that they use.

    `volume_iou_*` (uniform queries) and `surface_iou_*` (queries near the surface) by source, of the sign of the field.
    For a "tsdf" model also `distance_error`, the mean absolute error within the truncation in asset units (the longest
    side is 1.92), and `slope_error`, the mean of `| |∇ distance| - 1 |` in the truncation band.
    """
    scores: dict[str, list[float]] = {}
    used: set[int] = set()
    half = store.sizes.queries // 2
    batch = min(MAX_BATCH, max(1, MAX_POINTS // store.sizes.surface_points))
    for start in range(0, len(indices), batch):
        rows = indices[start : start + batch]
        with torch.no_grad():
            tokens = encode_rows(model, store, rows)
            used.update(tokens.flatten().tolist())
            memory = model.project_latents(model.decode_latents(tokens))
            queries = torch.from_numpy(np.stack([store.queries(int(i)) for i in rows])).to(model.device)
            field = torch.cat([model.query(memory, part) for part in queries.split(2048, dim=1)], dim=1)
        for row, values in zip(rows, field.cpu().numpy(), strict=True):
            inside, truth = values > 0, store.occupancy(int(row))
            kind = "parametric" if store.records[int(row)].source == "parametric" else "real"
            for name, part in (("volume_iou", slice(0, half)), ("surface_iou", slice(half, None))):
                union = (inside[part] | truth[part]).sum()
                iou = (inside[part] & truth[part]).sum() / union if union else 1.0
                scores.setdefault(f"{name}_{kind}", []).append(float(iou))
        if model.config.field_target == "tsdf":
            distance = torch.from_numpy(np.stack([store.signed_distance(int(i)) for i in rows])).to(model.device)
            for name, figure in distance_errors(model, memory, queries, field, distance).items():
                scores.setdefault(name, []).extend(figure)
    figures = {name: float(np.mean(values)) for name, values in scores.items()}
    figures["codes_used"] = len(used) / model.config.num_codes
    return figures


def distance_errors(
    model: Omni123ShapeTokenizer,
    memory: tuple[torch.Tensor, torch.Tensor],
    queries: torch.Tensor,
    field: torch.Tensor,
    distance: torch.Tensor,
) -> dict[str, list[float]]:
    """The two figures of a "tsdf" model for each of B shapes, from its field and the true `distance (B, Q)` at `queries`."""
    truncation = model.config.tsdf_truncation
    errors = (truncation * field.clamp(-1, 1) - distance.clamp(-truncation, truncation)).abs().mean(1)
    # The last queries lie near the surface. The plain attention kernel, for the others cannot all be differentiated.
    near = queries[:, -SLOPE_QUERIES:].clone().requires_grad_()
    with torch.enable_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(model.query(memory, near).sum(), near)
    slope_error = (truncation * gradient.norm(dim=-1) - 1).abs()
    band = distance[:, -SLOPE_QUERIES:].abs() < truncation
    slopes = [float(row[inside].mean()) for row, inside in zip(slope_error, band, strict=True) if inside.any()]
    return {"distance_error": errors.tolist(), "slope_error": slopes}


@torch.no_grad()
def shape_picture(
    model: Omni123ShapeTokenizer, store: AssetStore, rows: np.ndarray, resolution: int, chunk: int = 16384
) -> Image.Image:
    """A row a shape: its stored three-quarter view beside the surface that its tokens decode to, from the same camera."""
    view = ALL_VIEWS.index(THREE_QUARTER)
    cells = []
    for row in rows:
        memory = model.project_latents(model.decode_latents(encode_rows(model, store, [int(row)])))

        def field(points: np.ndarray, memory: tuple[torch.Tensor, torch.Tensor] = memory) -> np.ndarray:
            parts = torch.from_numpy(points).to(model.device)[None].split(chunk, dim=1)
            return torch.cat([model.query(memory, part)[0] for part in parts]).cpu().numpy()

        size = store.sizes.view_size
        cells.append([store.views(int(row))[view, ..., :3], surface_cell(field, resolution, size)])
    return picture_grid(cells, ["input", "reconstruction"])
