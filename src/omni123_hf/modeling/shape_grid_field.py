"""The field of one shape's tokens: at points, and on a regular grid at a lower cost a point.

On a grid every feature of the position embedding depends on one coordinate. The embedding and the first linear layer of
the occupancy head therefore become three table rows that are added: one table an axis, one row a grid coordinate. Keys and
values of the latents are projected once. Both are exact up to the order of float32 sums (about one part in a million).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Omni123Error
from .modeling_shape_tokenizer import Omni123ShapeTokenizer


# A matrix product may round a row differently in a batch of another size. Batches of a multiple of this many rows were
# found to give every point the same bits wherever it stands (CPU, float32), so smaller ones are filled up to it.
ROW_MULTIPLE = 512
CPU_ROWS = 32768
CUDA_ROWS = 262144
# Share of the accelerator's free memory that one batch may take.
MEMORY_SHARE = 0.25
# Tables are a way to compute this function and no other.
_QUERY = Omni123ShapeTokenizer.query


class ShapeField:
    """The field of one shape's tokens `(Ls,)`: points `(N, 3)` to values `(N,)` float32, positive inside."""

    def __init__(self, codes: torch.Tensor, tokenizer: Omni123ShapeTokenizer):
        self.tokenizer, self.device = tokenizer, codes.device
        with torch.no_grad():
            self.memory = tokenizer.project_latents(tokenizer.decode_latents(codes[None]))

    @torch.no_grad()
    def __call__(self, points: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)).to(self.device)
        return self.tokenizer.query(self.memory, batch[None])[0].float().cpu().numpy()

    def on_grid(self, axis: np.ndarray) -> ShapeGridField:
        """The same field at the points of the grid `axis` x `axis` x `axis`, `(R,)` float32 coordinates."""
        return ShapeGridField(self, axis)


class ShapeGridField:
    """Flat indices `(N,)` of a grid's points (x slowest) to values `(N,)` float32.

    Works in batches of `rows` and copies to the host once a call. Layers that are no plain `nn.Linear` (quantised ones
    are not linear in their input) have no tables, nor has a tokenizer with a `query` of its own or one that is offloaded:
    `uses_tables` is False and points are asked one by one.
    """

    def __init__(self, field: ShapeField, axis: np.ndarray, rows: int | None = None):
        self.field, self.side = field, len(axis)
        self.axis = torch.from_numpy(np.ascontiguousarray(axis, dtype=np.float32)).to(field.device)
        head = field.tokenizer.occupancy_head
        first = head.query_proj.in_layer
        # A quantised weight is a tensor class of its own in a plain layer.
        is_linear = type(first) is nn.Linear and type(first.weight) is nn.Parameter
        is_linear = is_linear and first.weight.is_floating_point()
        # Under accelerate's hooks weights are only there during a call of the model's own methods.
        is_here = not any(hasattr(part, "_hf_hook") for part in field.tokenizer.modules())
        self.uses_tables = is_linear and is_here and getattr(field.tokenizer.query, "__func__", None) is _QUERY
        self.rows = batch_rows(field) if rows is None else rows
        if self.rows < ROW_MULTIPLE or self.rows % ROW_MULTIPLE:
            raise Omni123Error(f"rows must be a multiple of {ROW_MULTIPLE}, got {self.rows}")
        if self.uses_tables:
            with torch.no_grad():
                self.tables = axis_tables(field.tokenizer, self.axis)

    @torch.no_grad()
    def __call__(self, flat: np.ndarray) -> np.ndarray:
        indices = torch.from_numpy(np.ascontiguousarray(flat, dtype=np.int64)).to(self.field.device)
        values = torch.empty(len(indices), dtype=torch.float32, device=self.field.device)
        for start in range(0, len(indices), self.rows):
            batch = indices[start : start + self.rows]
            padding = -len(batch) % ROW_MULTIPLE
            padded = torch.cat([batch, batch[-1:].expand(padding)]) if padding else batch
            values[start : start + len(batch)] = self._values(padded)[: len(batch)]
        return values.cpu().numpy()

    def _values(self, flat: torch.Tensor) -> torch.Tensor:
        x, y, z = flat // self.side**2, flat // self.side % self.side, flat % self.side
        tokenizer = self.field.tokenizer
        if not self.uses_tables:
            points = torch.stack([self.axis[x], self.axis[y], self.axis[z]], dim=-1)
            return tokenizer.query(self.field.memory, points[None])[0].float()
        head = tokenizer.occupancy_head
        hidden = self.tables[0][x]
        hidden += self.tables[1][y]
        hidden += self.tables[2][z]
        hidden = F.silu(hidden, inplace=True).to(head.norm.weight.dtype)
        return head.read(head.query_proj.out_layer(hidden)[None], self.field.memory)[0]


def axis_tables(tokenizer: Omni123ShapeTokenizer, axis: torch.Tensor) -> torch.Tensor:
    """Tables `(3, R, hidden)` float32: what the coordinate `axis[i]` in x, y or z adds to the first layer's output.

    The bias stands in the table of x.
    """
    embedding, first = tokenizer.point_embedding, tokenizer.occupancy_head.query_proj.in_layer
    frequencies = embedding.num_frequencies
    embedded = embedding(axis[:, None].expand(-1, 3))
    weight = first.weight.float()
    tables = []
    for i in range(3):
        # Columns of this axis: the coordinate, its cosines and its sines.
        columns = torch.cat(
            [torch.tensor([i])]
            + [torch.arange(frequencies) + 3 + (block + i) * frequencies for block in (0, 3)]
        ).to(axis.device)  # fmt: skip
        tables.append(embedded[:, columns] @ weight[:, columns].T)
    if first.bias is not None:
        tables[0] += first.bias.float()
    return torch.stack(tables)


def batch_rows(field: ShapeField) -> int:
    """Points a batch: what keeps a CPU busy, and on CUDA what fits in a quarter of the free memory."""
    if field.device.type != "cuda":
        return CPU_ROWS
    config = field.tokenizer.config
    free, _ = torch.cuda.mem_get_info(field.device)
    # Live at once in the widest place: the residual stream, its norm, and the MLP before and after its activation.
    bytes_a_row = 4 * config.hidden_size * (4 + 2 * config.mlp_ratio)
    rows = int(free * MEMORY_SHARE / bytes_a_row) // ROW_MULTIPLE * ROW_MULTIPLE
    return min(max(rows, ROW_MULTIPLE), CUDA_ROWS)
