"""The triangles of Lewiner's marching cubes (Lewiner et al. 2003), as one table that cells are looked up in.

The tables themselves are those of the installed scikit-image, read when they are first needed: what is marched here and what
scikit-image marches cannot drift apart. Corners are numbered as there: 0 to 3 round the low face of the cell, 4 to 7 above.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from omni123_hf.errors import Omni123Error


# Corner i of the tables is corner TABLE_CORNER[i] of `sparse_grid.CORNERS`, whose last axis runs fastest.
TABLE_CORNER = (0, 1, 3, 2, 4, 5, 7, 6)
# Corners at the ends of each of the twelve edges.
EDGE_ENDS = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip
CENTRE = 12
# Corners of the six faces, in the order in which a face is tested; a test's number is that of its face plus one.
FACE_CORNERS = ((0, 4, 5, 1), (1, 5, 6, 2), (2, 6, 7, 3), (3, 7, 4, 0), (0, 3, 2, 1), (4, 7, 6, 5))
# The four parallel edges round the cell, from each edge on, all in the direction of the first: a plane across the edge cuts them.
PARALLEL_EDGES = (
    ((0, 1), (3, 2), (7, 6), (4, 5)),
    ((1, 2), (0, 3), (4, 7), (5, 6)),
    ((2, 3), (1, 0), (5, 4), (6, 7)),
    ((3, 0), (2, 1), (6, 5), (7, 4)),
    ((4, 5), (7, 6), (3, 2), (0, 1)),
    ((5, 6), (4, 7), (0, 3), (1, 2)),
    ((6, 7), (5, 4), (1, 0), (2, 3)),
    ((7, 4), (6, 5), (2, 1), (3, 0)),
    ((0, 4), (3, 7), (2, 6), (1, 5)),
    ((1, 5), (0, 4), (3, 7), (2, 6)),
    ((2, 6), (1, 5), (0, 4), (3, 7)),
    ((3, 7), (2, 6), (1, 5), (0, 4)),
)
# Ways to fill a cell, in the order of the table's rows. The last number is that of the case, before it stands the variant.
TILINGS = (
    "1", "2", "3_1", "3_2", "4_1", "4_2", "5", "6_1_1", "6_1_2", "6_2", "7_1", "7_2", "7_3", "7_4_1", "7_4_2", "8", "9",
    "10_1_1", "10_1_1_", "10_1_2", "10_2", "10_2_", "11", "12_1_1", "12_1_1_", "12_1_2", "12_2", "12_2_", "13_1", "13_1_",
    "13_2", "13_2_", "13_3", "13_3_", "13_4", "13_5_1", "13_5_2", "14",
)  # fmt: skip
TESTS = ("3", "4", "6", "7", "10", "12", "13")
WIDEST = 36


@dataclass(frozen=True)
class CellTables:
    """Tables on one device.

    cases (256,2): case 0..14 and configuration of a cell whose corner i of the tables is positive where bit i is set.
    edges (T,36): edges of the triangles of each way to fill a cell, three a triangle. triangles (T,): their number.
    first: row of the first configuration of each of `TILINGS`. tests: for each ambiguous case the faces, sign and edge to test.
    subconfig13 (64,): for case 13, what the results of six face tests amount to. inner_edges13: first edge of each 13_5_1.
    corner, ends, faces, parallel: the constants above.
    """

    cases: torch.Tensor
    edges: torch.Tensor
    triangles: torch.Tensor
    first: dict[str, int]
    tests: dict[str, torch.Tensor]
    subconfig13: torch.Tensor
    inner_edges13: torch.Tensor
    corner: torch.Tensor
    ends: torch.Tensor
    faces: torch.Tensor
    parallel: torch.Tensor


@cache
def cell_tables(device: torch.device) -> CellTables:
    """The tables on a device. Raises `Omni123Error` where scikit-image does not hold them any more."""
    rows: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    first: dict[str, int] = {}
    for name in TILINGS:
        table = _read(f"TILING{name}")
        table = table.reshape(-1, table.shape[-1])
        first[name] = sum(len(row) for row in rows)
        counts.append(np.full(len(table), table.shape[1] // 3))
        rows.append(np.pad(table, ((0, 0), (0, WIDEST - table.shape[1]))))

    def on_device(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

    return CellTables(
        cases=on_device(_read("CASES")),
        edges=on_device(np.concatenate(rows)),
        triangles=on_device(np.concatenate(counts)),
        first=first,
        tests={name: on_device(_read(f"TEST{name}").reshape(len(_read(f"TEST{name}")), -1)) for name in TESTS},
        subconfig13=on_device(_read("SUBCONFIG13")),
        inner_edges13=on_device(_read("TILING13_5_1")[..., 0]),
        corner=on_device(TABLE_CORNER),
        ends=on_device(EDGE_ENDS),
        faces=on_device(FACE_CORNERS),
        parallel=on_device(PARALLEL_EDGES),
    )


def _read(name: str) -> np.ndarray:
    """One table of scikit-image, int8."""
    try:
        from skimage.measure import _marching_cubes_lewiner_luts as luts

        shape, text = getattr(luts, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Omni123Error(
            f"the installed scikit-image does not hold the marching cubes table {name}; install scikit-image 0.26, or extract "
            'with mode="dense"'
        ) from error
    return np.frombuffer(base64.decodebytes(text.encode()), dtype=np.int8).reshape(shape)
