"""What the shape tokenizer refuses: input that its layers would turn into plausible nonsense, or into an error of torch's.

Shapes are always checked. Values are not while a graph is traced or captured (there are none, or reading one would break
the capture). On an accelerator the values of one call are read together, since each reading waits for the device.
"""

import math
from typing import Any

import torch

from ..errors import Omni123Error


FIELD_BOUND = 1.05
# Stores hold normals in half precision, which keeps their length to 0.1 %; the rest is for other people's exporters.
NORMAL_TOLERANCE = 0.05


def values_are_readable(x: torch.Tensor) -> bool:
    if torch.compiler.is_compiling() or x.is_meta:
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def check_tensor(name: str, x: Any, shape: str, fits: bool) -> None:
    if not isinstance(x, torch.Tensor):
        raise Omni123Error(f"{name} must be a torch tensor {shape}; got {type(x).__name__}.")
    if not fits:
        raise Omni123Error(f"{name} must have shape {shape}; got {tuple(x.shape)}.")


def check_surface(points: torch.Tensor, normals: torch.Tensor) -> None:
    """Raises `Omni123Error` unless `points` and `normals` are `(B, N, 3)`, in ±1.05 and of unit length."""
    for name, x in (("points", points), ("normals", normals)):
        check_tensor(name, x, "(B, N, 3)", getattr(x, "ndim", 0) == 3 and x.shape[-1] == 3)
        if not x.is_floating_point():
            raise Omni123Error(f"{name} must be floating point; got {x.dtype}.")
    if normals.shape != points.shape:
        raise Omni123Error(
            "points and normals must both be (B, N, 3), a normal for each point; "
            f"got {tuple(points.shape)} and {tuple(normals.shape)}."
        )
    if points.numel() == 0:
        raise Omni123Error(f"points have shape {tuple(points.shape)}: there is no surface point to encode.")
    if not values_are_readable(points):
        return
    lengths = torch.linalg.vector_norm(normals.float(), dim=-1)
    # A NaN or an infinity anywhere reaches these three figures and fails their comparisons.
    extent, shortest, longest = torch.stack([points.float().abs().amax(), lengths.amin(), lengths.amax()]).tolist()
    if extent <= FIELD_BOUND and 1 - NORMAL_TOLERANCE <= shortest and longest <= 1 + NORMAL_TOLERANCE:
        return
    if not (torch.isfinite(points).all() and torch.isfinite(normals).all()):
        raise Omni123Error("points or normals contain NaN or infinity: clean the mesh before sampling it.")
    if extent > FIELD_BOUND:
        raise Omni123Error(
            f"points lie outside the box ±{FIELD_BOUND} (largest coordinate {extent:.4g}): "
            "normalise the mesh first (longest side 1.92, centred)."
        )
    if shortest == 0:
        raise Omni123Error(
            f"{int((lengths == 0).sum())} normals have length zero (faces without area, or padding): drop those points."
        )
    raise Omni123Error(
        f"normals must have unit length; got lengths from {shortest:.4g} to {longest:.4g}: divide them by their length."
    )


def check_latents(latents: torch.Tensor, width: int) -> None:
    """Raises `Omni123Error` unless decoded `latents` are `(B, L, width)`."""
    check_tensor(
        "latents", latents, f"(B, L, {width})", getattr(latents, "ndim", 0) == 3 and latents.shape[-1] == width
    )


def check_queries(queries: torch.Tensor, batch: int, of: str) -> None:
    """Raises `Omni123Error` unless `queries` are finite and `(B, Q, 3)` with B = `batch`, the rows of `of`.

    Queries may lie outside ±1.05 and there may be none: an extraction grid may be padded. The field is only trained
    inside the box; what it answers outside has no meaning.
    """
    check_tensor("queries", queries, "(B, Q, 3)", getattr(queries, "ndim", 0) == 3 and queries.shape[-1] == 3)
    if not queries.is_floating_point():
        raise Omni123Error(f"queries must be floating point; got {queries.dtype}.")
    if len(queries) != batch:
        raise Omni123Error(
            f"queries have {len(queries)} rows, but {of} have {batch}: give one set of queries for each."
        )
    if values_are_readable(queries) and not torch.isfinite(queries).all():
        raise Omni123Error("queries contain NaN or infinity: a point of the field has finite coordinates.")


def check_labels(
    name: str, labels: torch.Tensor, queries: torch.Tensor, bounds: tuple[float, float] | None = None
) -> None:
    """Raises `Omni123Error` unless `labels (B, Q)` hold a finite value, within `bounds`, for each of `queries (B, Q, 3)`."""
    shape = tuple(queries.shape[:2])
    check_tensor(name, labels, f"{shape}, one value for each query,", getattr(labels, "shape", None) == shape)
    if labels.numel() == 0:
        raise Omni123Error(f"there are no queries to compare with {name}: the loss would be NaN.")
    if not values_are_readable(labels):
        return
    low, high = torch.stack(labels.float().aminmax()).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Omni123Error(f"{name} contain NaN or infinity: label every query with a number.")
    if bounds is not None and not (bounds[0] <= low and high <= bounds[1]):
        raise Omni123Error(
            f"{name} must lie in [{bounds[0]:g}, {bounds[1]:g}]; values range from {low:.4g} to {high:.4g}."
        )


def check_codes(indices: torch.Tensor, num_latents: int, num_codes: int) -> None:
    """Raises `Omni123Error` unless `indices` are whole numbers in `[0, num_codes)` of shape `(B, num_latents)`."""
    fits = getattr(indices, "ndim", 0) == 2 and indices.shape[1] == num_latents
    check_tensor("shape tokens", indices, f"(B, {num_latents}): give (B, {num_latents}) as encode() does", fits)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise Omni123Error(
            f"shape tokens must be whole numbers; got {indices.dtype}: use the ids that encode() gives."
        )
    if len(indices) == 0:
        raise Omni123Error("shape tokens have no rows: there is nothing to decode.")
    if not values_are_readable(indices):
        return
    low, high = torch.stack(indices.long().aminmax()).tolist()
    if low < 0 or high >= num_codes:
        raise Omni123Error(f"shape tokens must be in [0, {num_codes}); got {low}..{high}.")
