"""Marching cubes over a list of cells, on any device: the vertices and faces of scikit-image's, in its order, bit for bit.

Cells carry the values of their corners, so no array of the whole grid is needed. Which triangles fill a cell is decided as by
Lewiner et al. 2003 (section 3: the sign of a face's saddle, then whether the two halves meet inside); positions are computed
in float64 by the operations of scikit-image in its order, and rounded to float32 once.
"""

from __future__ import annotations

import torch

from omni123_hf.geometry.cell_tables import CENTRE, CellTables, cell_tables


# Added to magnitudes before they are inverted, and the width of a test's zero: the spacing of float64 at 1.
EPSILON = 2.0**-52
# Cells at a time while triangles are chosen: bounds the memory of what lies between.
BATCH = 2**17
PLAIN_CASES = {1: "1", 2: "2", 5: "5", 8: "8", 9: "9", 11: "11", 14: "14"}


def march_cells(cells: torch.Tensor, values: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices (V,3) float32 in grid units and faces (F,3) int32, turned as by `gradient_direction="ascent"`.

    cells (N,) int64: flat indices of low corners on a grid of `side` points an axis, ascending (x slowest). values (N,8)
    float32: at the corners in the order of `sparse_grid.CORNERS`; the surface is where they cross 0. A cell without a change of
    sign adds nothing. Cells left out must not have one, or the surface ends there.
    """
    tables = cell_tables(cells.device)
    # What the triangles of a batch of cells use: keys of edges, the cell's number, and the edge's in that cell.
    keys, users, edges = [], [], []
    for start in range(0, len(cells), BATCH):
        key, user, edge = _uses(tables, cells[start : start + BATCH], values[start : start + BATCH], side)
        keys.append(key)
        users.append((user + start).int())
        edges.append(edge.to(torch.int8))
    if not keys:
        return values.new_empty(0, 3), cells.new_empty(0, 3).int()
    known, vertex = torch.unique(torch.cat(keys), return_inverse=True)
    del keys
    # Vertices are numbered in the order in which the triangles come upon them.
    use = torch.arange(len(vertex), device=cells.device)
    first = torch.full_like(known, len(vertex)).scatter_reduce_(0, vertex, use, "amin")
    order = torch.argsort(first)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=cells.device)
    faces = number[vertex].reshape(-1, 3).int()
    first = first[order]
    user, edge = torch.cat(users)[first].long(), torch.cat(edges)[first].long()
    vertices = [
        _positions(tables, cells[user[i : i + BATCH]], values[user[i : i + BATCH]], edge[i : i + BATCH], side)
        for i in range(0, len(user), BATCH)
    ]
    return torch.cat(vertices) if vertices else values.new_empty(0, 3), faces


def _uses(
    tables: CellTables, cells: torch.Tensor, values: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every corner of a triangle in order: the key of its edge, the number of its cell, and the edge (U,)."""
    corners = values[:, tables.corner].double()
    index = ((corners > 0) << torch.arange(8, device=cells.device)).sum(dim=1)
    crossed = torch.nonzero((index > 0) & (index < 255))[:, 0]
    filling = _fillings(tables, corners[crossed], index[crossed])
    count = 3 * tables.triangles[filling]
    which = torch.repeat_interleave(torch.arange(len(crossed), device=cells.device), count)
    place = torch.arange(len(which), device=cells.device) - (torch.cumsum(count, 0) - count)[which]
    edge = tables.edges[filling[which], place]
    user = crossed[which]
    return 4 * cells[user] + _edge_offsets(tables, side)[edge], user, edge


def _edge_offsets(tables: CellTables, side: int) -> torch.Tensor:
    """What (13,) to add to four times a cell's index for a key that an edge has in all cells around it; last, the centre."""
    bits = tables.corner[tables.ends]
    # Ends as bits (x, y, z): the lower end has those that both share, the axis is the bit in which they differ.
    low, axis = bits[:, 0] & bits[:, 1], bits[:, 0] ^ bits[:, 1]
    offset = ((low >> 2) * side + (low >> 1 & 1)) * side + (low & 1)
    return torch.cat([4 * offset + (axis >> 1), offset.new_tensor([3])])


def _positions(
    tables: CellTables, cells: torch.Tensor, values: torch.Tensor, edge: torch.Tensor, side: int
) -> torch.Tensor:
    """Positions (V,3) float32 of vertices on `edge` (V,) of cells (V,), or in their middle: corners weighted by 1 / |value|."""
    used = torch.ones(len(tables.ends) + 1, 8, dtype=torch.bool, device=cells.device)
    used[:CENTRE] = torch.nn.functional.one_hot(tables.ends, 8).sum(dim=1) > 0
    weight = torch.where(used[edge], 1.0 / (EPSILON + values[:, tables.corner].double().abs()), 0.0)
    place = tables.corner[:, None] >> torch.tensor([2, 1, 0], device=cells.device) & 1
    moment, total = torch.zeros_like(weight[:, :3]), torch.zeros_like(weight[:, 0])
    # One after the other: the order of a sum decides its last bit.
    for corner in range(8):
        moment = moment + weight[:, corner, None] * place[corner]
        total = total + weight[:, corner]
    low = torch.stack([cells // side**2, cells // side % side, cells % side], dim=1)
    return (low.double() + moment / total[:, None]).float()


def _fillings(tables: CellTables, corners: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows (N,) of `tables.edges` that fill cells of corner values (N,8) float64."""
    case, configuration = tables.cases[index].unbind(dim=1)
    filling = torch.empty_like(index)
    for number in case.unique().tolist():
        chosen = torch.nonzero(case == number)[:, 0]
        config = configuration[chosen]
        if number in PLAIN_CASES:
            filling[chosen] = tables.first[PLAIN_CASES[number]] + config
        else:
            filling[chosen] = _AMBIGUOUS[number](tables, corners[chosen], config)
    return filling


def _case_3(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    joined = _face(tables, corners, tables.tests["3"][config, 0])
    return config + torch.where(joined, tables.first["3_2"], tables.first["3_1"])


def _case_4(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    apart = _inside(tables, corners, tables.tests["4"][config, 0], None)
    return config + torch.where(apart, tables.first["4_1"], tables.first["4_2"])


def _case_6(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    face, sign, edge = tables.tests["6"][config].unbind(dim=1)
    apart = _inside(tables, corners, sign, edge)
    divided = torch.where(apart, tables.first["6_1_1"], tables.first["6_1_2"])
    return config + torch.where(_face(tables, corners, face), tables.first["6_2"], divided)


def _case_7(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    test = tables.tests["7"][config]
    joined = sum(_face(tables, corners, test[:, i]).long() << i for i in range(3))
    inside = _inside(tables, corners, test[:, 3], test[:, 4])
    first = tables.first
    # One face joined: 7_2 with the number of the face. Two: 7_3 with the number of the pair.
    one = torch.tensor([0, 0, 1, 0, 2, 0, 0, 0], device=config.device)[joined]
    two = torch.tensor([0, 0, 0, 0, 0, 1, 2, 0], device=config.device)[joined]
    faces = torch.tensor([0, 1, 1, 2, 1, 2, 2, 3], device=config.device)[joined]
    options = torch.stack(
        [
            first["7_1"] + config,
            first["7_2"] + 3 * config + one,
            first["7_3"] + 3 * config + two,
            config + torch.where(inside, first["7_4_2"], first["7_4_1"]),
        ]
    )
    return options.gather(0, faces[None])[0]


def _case_10(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    return _two_faces(tables, corners, config, "10", None)


def _case_12(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    return _two_faces(tables, corners, config, "12", tables.tests["12"][config, 3])


def _two_faces(
    tables: CellTables, corners: torch.Tensor, config: torch.Tensor, case: str, edge: torch.Tensor | None
) -> torch.Tensor:
    """Cases 10 and 12, which have two ambiguous faces."""
    test, first = tables.tests[case][config], tables.first
    one, other = _face(tables, corners, test[:, 0]), _face(tables, corners, test[:, 1])
    apart = _inside(tables, corners, test[:, 2], edge)
    neither = torch.where(apart, first[f"{case}_1_1"], first[f"{case}_1_2"])
    with_one = torch.where(other, first[f"{case}_1_1_"], first[f"{case}_2"])
    without = torch.where(other, first[f"{case}_2_"], neither)
    return config + torch.where(one, with_one, without)


def _case_13(tables: CellTables, corners: torch.Tensor, config: torch.Tensor) -> torch.Tensor:
    test, first = tables.tests["13"][config], tables.first
    joined = sum(_face(tables, corners, test[:, i]).long() << i for i in range(6))
    sub = tables.subconfig13[joined]
    # Subconfigurations in the order of the table: 13_1, six 13_2, twelve 13_3, four 13_4, four 13_5, and the first three mirrored.
    inner = (sub - 23).clamp(0, 3)
    apart = _inside(tables, corners, test[:, 6], tables.inner_edges13[config, inner])
    rows = torch.full_like(sub, -1)
    for low, high, name, of_each in (
        (0, 1, "13_1", 1), (1, 7, "13_2", 6), (7, 19, "13_3", 12), (19, 23, "13_4", 4),
        (27, 39, "13_3_", 12), (39, 45, "13_2_", 6), (45, 46, "13_1_", 1),
    ):  # fmt: skip
        rows = torch.where((sub >= low) & (sub < high), first[name] + of_each * config + sub - low, rows)
    closed = torch.where(apart, first["13_5_1"], first["13_5_2"]) + 4 * config + inner
    return torch.where((sub >= 23) & (sub < 27), closed, rows)


def _face(tables: CellTables, corners: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Whether the surface joins across a face (N,): its number plus one, negative for the other pair of corners."""
    a, b, c, d = corners.gather(1, tables.faces[test.abs() - 1]).unbind(dim=1)
    saddle = a * c - b * d
    return torch.where(saddle.abs() < EPSILON, test >= 0, test * a * saddle >= 0)


def _inside(tables: CellTables, corners: torch.Tensor, sign: torch.Tensor, edge: torch.Tensor | None) -> torch.Tensor:
    """Lewiner's test of the inside (N,): on the plane across `edge` where it is cut, or, without one, through the saddle."""
    which = torch.full_like(sign, 8) if edge is None else edge
    ends = tables.parallel[which]
    start = corners.gather(1, ends[:, :, 0])
    stop = corners.gather(1, ends[:, :, 1])
    if edge is None:
        (a0, b0, c0, d0), (a1, b1, c1, d1) = start.unbind(dim=1), stop.unbind(dim=1)
        square = (a1 - a0) * (c1 - c0) - (b1 - b0) * (d1 - d0)
        linear = c0 * (a1 - a0) + a0 * (c1 - c0) - d0 * (b1 - b0) - b0 * (d1 - d0)
        t = -linear / (2 * square + EPSILON)
        outside = (t < 0) | (t > 1)
    else:
        t = start[:, 0] / (start[:, 0] - stop[:, 0] + EPSILON)
        outside = torch.zeros_like(sign, dtype=torch.bool)
    cut = start + (stop - start) * t[:, None]
    if edge is not None:
        cut[:, 0] = 0.0
    a, b, c, d = cut.unbind(dim=1)
    pattern = ((cut >= 0) << torch.arange(4, device=cut.device)).sum(dim=1)
    saddle = a * c - b * d
    # Three corners or more, or two neighbours with the first and second: joined. Opposite corners: as the saddle says.
    joined = torch.isin(pattern, torch.tensor([7, 11, 13, 14, 15], device=cut.device))
    undecided = ((pattern == 5) & ~(saddle < EPSILON)) | ((pattern == 10) & ~(saddle >= EPSILON))
    # Where the saddle decides against the sign, scikit-image answers no whatever the sign; so does this.
    answer = torch.where(joined, sign < 0, (sign > 0) & ~undecided)
    return torch.where(outside, sign > 0, answer)


_AMBIGUOUS = {3: _case_3, 4: _case_4, 6: _case_6, 7: _case_7, 10: _case_10, 12: _case_12, 13: _case_13}
