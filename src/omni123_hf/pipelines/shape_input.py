"""A shape that the caller gives: a mesh, a file or shape tokens, brought to the tokens that the backbone reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading import load_mesh
from omni123_hf.geometry.normalization import FIELD_BOUND, NormalizationTransform, normalize_mesh
from omni123_hf.geometry.sampling import sample_surface
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer


MAX_FACES = 5_000_000
# As many as the prepared data sets of `omni123-mini` hold for each asset.
SURFACE_POINTS = 2048
Shape = trimesh.Trimesh | str | Path | torch.Tensor


@dataclass(frozen=True)
class ShapeInput:
    """Tokens (B, Ls) of the given shapes, and for each the transform into the model's frame (None for given tokens)."""

    tokens: torch.Tensor
    transforms: list[NormalizationTransform | None]


def encode_shapes(
    shapes: Shape | list[Shape],
    tokenizer: Omni123ShapeTokenizer,
    surface_points: int = SURFACE_POINTS,
    seed: int = 0,
) -> ShapeInput:
    """Meshes (any frame and size; y up, +z front), paths of mesh files, or tokens (Ls,) or (B, Ls) to tokens.

    A mesh is centred and scaled to a longest side of 1.92, and `surface_points` are drawn on it by `seed`; an open mesh is
    read as it is. Raises `Omni123Error` for a shape that is empty, has NaN, no area, or more than 5,000,000 faces, for a
    file that cannot be read, and for tokens of another tokenizer.
    """
    if isinstance(shapes, torch.Tensor) or (not isinstance(shapes, list)):
        shapes = [shapes]
    if not shapes:
        raise Omni123Error("the list of shapes is empty; give at least one mesh, file or row of tokens")
    tokens: list[torch.Tensor] = []
    transforms: list[NormalizationTransform | None] = []
    for shape in shapes:
        if isinstance(shape, torch.Tensor | np.ndarray):
            rows = checked_tokens(torch.as_tensor(shape), tokenizer)
            tokens.append(rows)
            transforms += [None] * len(rows)
            continue
        mesh, transform = normalize_mesh(checked_mesh(shape))
        points, normals = sample_surface(mesh, surface_points, np.random.default_rng(seed))
        arrays = [torch.from_numpy(values)[None].to(tokenizer.device) for values in (points, normals)]
        tokens.append(tokenizer.encode(arrays[0].clamp(-FIELD_BOUND, FIELD_BOUND), arrays[1]))
        transforms.append(transform)
    return ShapeInput(torch.cat([rows.to(tokenizer.device) for rows in tokens]), transforms)


def checked_mesh(shape: Any) -> trimesh.Trimesh:
    """The mesh itself, or that of a file. Raises `Omni123Error`."""
    if isinstance(shape, trimesh.Scene):
        raise Omni123Error("the shape is a trimesh.Scene; give one mesh, for example scene.to_mesh()")
    if isinstance(shape, str | Path):
        path = Path(shape)
        if not path.is_file():
            raise Omni123Error(f"the mesh file {str(path)!r} does not exist")
        try:
            shape = load_mesh(path)
        except RejectedError as error:
            raise Omni123Error(f"the mesh file {path.name!r} cannot be used: {error}") from error
    if not isinstance(shape, trimesh.Trimesh):
        raise Omni123Error(
            f"a shape must be a trimesh.Trimesh, the path of a mesh file, or shape tokens; got {type(shape).__name__}"
        )
    if len(shape.faces) > MAX_FACES:
        raise Omni123Error(f"the mesh has {len(shape.faces):,} faces, more than {MAX_FACES:,}; decimate it first")
    return shape


def checked_tokens(tokens: torch.Tensor, tokenizer: Omni123ShapeTokenizer) -> torch.Tensor:
    """Shape tokens (B, Ls) of this tokenizer. Raises `Omni123Error` for others."""
    config = tokenizer.config
    if tokens.ndim == 1:
        tokens = tokens[None]
    if tokens.is_floating_point() or tokens.ndim != 2 or tokens.shape[1] != config.num_latents or not len(tokens):
        raise Omni123Error(
            f"shape tokens must be integers ({config.num_latents},) or (rows, {config.num_latents}); got "
            f"{tuple(tokens.shape)} of {tokens.dtype}"
        )
    tokens = tokens.long()
    if int(tokens.min()) < 0 or int(tokens.max()) >= config.num_codes:
        raise Omni123Error(
            f"shape tokens reach from {int(tokens.min())} to {int(tokens.max())}; this checkpoint has 0 to "
            f"{config.num_codes - 1}"
        )
    return tokens
