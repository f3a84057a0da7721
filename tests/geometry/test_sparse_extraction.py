"""`safe` and `fast` against the dense mesh, on fields that are kind to a sparse search and on fields that are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry import marching
from omni123_hf.geometry.audit import audit, draw_cells, draw_points, missed_share_bound
from omni123_hf.geometry.brick_grid import BrickGrid
from omni123_hf.geometry.extraction import EmptySurfaceError, extract_surface, extract_surface_with_report
from omni123_hf.geometry.sparse_extraction import SparseExtraction
from omni123_hf.geometry.sparse_grid import Lattice, corners_of, lattice_index


SIDE = 42
CELL = 2.1 / (SIDE - 1)


class GridOf:
    """A field given by its values on the grid (R,R,R); counts the points that are asked for."""

    def __init__(self, grid):
        self.grid, self.asked = np.asarray(grid, dtype=np.float32), 0

    def on_grid(self, axis):
        assert len(axis) == len(self.grid) and axis[0] == -axis[-1]
        return self

    def __call__(self, flat):
        self.asked += len(flat)
        return self.grid.reshape(-1)[flat]


def places(side=SIDE):
    axis = np.linspace(-1.05, 1.05, side)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def sharp(distance, side=SIDE, steepness=8.0):
    """Logits of a signed distance, positive inside: saturated within a fraction of a cell, as a trained occupancy is."""
    return np.clip(steepness * distance / (2.1 / (side - 1)), -9, 9)


def ball(center, radius, side=SIDE):
    return radius - np.linalg.norm(places(side) - center, axis=-1)


def turned():
    q, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))
    return places() @ q


def blob():
    return np.max([ball((0.2, 0, 0), 0.5), ball((-0.3, 0.3, 0.1), 0.35)], axis=0) * 5


def thin_plate():
    p = turned()
    return sharp(np.minimum(0.7 * CELL - np.abs(p[..., 0]), 0.6 - np.abs(p[..., 1:]).max(axis=-1)))


def wire_frame():
    near = np.sort(np.abs(np.abs(turned()) - 0.55), axis=-1)
    within = 0.55 + CELL - np.abs(turned()).max(axis=-1)
    return sharp(np.minimum(0.8 * CELL - np.hypot(near[..., 0], near[..., 1]), within))


def aligned_wires():
    """Bars one grid point thick at odd indices, which no second grid point touches, beside a ball."""
    grid = sharp(ball((0.75, 0.75, 0.75), 0.2))
    for a in (5, 25):
        for b in (5, 25):
            grid[5:26, a, b] = grid[a, 5:26, b] = grid[a, b, 5:26] = 9
    return grid


def dust():
    grid = sharp(ball((0, 0, 0), 0.4))
    rng = np.random.default_rng(1)
    grid[tuple(rng.integers(1, SIDE - 1, (3, 60)))] = 9
    return grid


def touching_the_border():
    return sharp(ball((0.8, 0.9, 0), 0.6))


def hollow_shell():
    return sharp(1.2 * CELL - np.abs(ball((0, 0, 0), 0.7)))


def boxes_touching_at_an_edge():
    return sharp(
        np.maximum(
            *(0.3 - np.abs(places() - np.array([0.3, 0.3, 0]) * sign).max(axis=-1) for sign in (1, -1)),
        )
    )


def full():
    return np.full((SIDE,) * 3, 3.0) + 0.1 * places()[..., 0]


FIELDS = (
    blob, thin_plate, wire_frame, aligned_wires, dust, touching_the_border, hollow_shell, boxes_touching_at_an_edge, full,
)  # fmt: skip


def compared(grid, mode, seed=0):
    """Whether the mesh is that of dense, and the report, whose count is checked against the field's own."""
    dense = extract_surface(GridOf(grid), resolution=len(grid))
    field = GridOf(grid)
    mesh, report = extract_surface_with_report(field, resolution=len(grid), mode=mode, seed=seed)
    assert field.asked == report.evaluated <= report.points == grid.size
    equal = np.array_equal(mesh.vertices, dense.vertices) and np.array_equal(mesh.faces, dense.faces)
    return equal, report


@pytest.mark.parametrize("make", FIELDS, ids=lambda make: make.__name__)
def test_safe_gives_the_dense_mesh(make):
    equal, report = compared(make(), "safe")
    assert equal
    escalated = {"dust", "full"}
    assert (report.evaluated == report.points) == (make.__name__ in escalated), report
    assert bool(report.misses) == (make.__name__ in {"dust", "aligned_wires"}), report
    assert not report.unresolved and report.missed_share_bound < 2e-3
    assert json.loads(json.dumps(report.to_dict()))["misses"] == report.misses


@pytest.mark.parametrize("make", [blob, touching_the_border, hollow_shell, full], ids=lambda make: make.__name__)
def test_fast_gives_the_dense_mesh_of_solids_and_asks_less(make):
    equal, report = compared(make(), "fast")
    assert equal and not report.unresolved
    if make is not full:
        assert report.misses == 0 and report.evaluated < compared(make(), "safe")[1].evaluated


@pytest.mark.parametrize("make", [aligned_wires, dust], ids=lambda make: make.__name__)
def test_fast_says_what_it_missed(make):
    equal, report = compared(make(), "fast")
    assert equal or report.misses
    assert report.escalations and report.escalations[0].startswith("safe")
    assert equal or report.unresolved or report.missed_share_bound > 0


def test_random_fields_of_every_roughness():
    for seed in range(24):
        rng = np.random.default_rng(seed)
        side = int(rng.integers(8, 30))
        grid = ndimage.gaussian_filter(rng.standard_normal((side,) * 3), rng.choice([0, 0.5, 1, 2, 4]))
        grid = grid / grid.std() - rng.uniform(-1.5, 1.5)
        if seed % 3 == 0:
            grid = np.sign(grid) * rng.choice([0.01, 1.0, 100.0], grid.shape)
        try:
            equal, report = compared(grid, "safe", seed)
        except Omni123Error as error:
            # What dense refuses (nothing inside, an open surface) is refused by both, in the same words.
            for mode in ("dense", "safe"):
                with pytest.raises(type(error)) as caught:
                    extract_surface(GridOf(grid), resolution=side, mode=mode)
                assert str(caught.value) == str(error)
            continue
        assert equal or report.misses, (seed, report)
        assert equal, (seed, report)


def test_repairs_ask_for_cells_that_were_never_evaluated(monkeypatch):
    repairs = []
    real = marching.separate
    monkeypatch.setattr(marching, "separate", lambda *args: (repairs.append(1), real(*args)))
    rng = np.random.default_rng(4)
    noise = np.where(rng.random((24,) * 3) < 0.1, 1.0, -1.0) * rng.choice([0.01, 1.0, 100.0], (24,) * 3)
    # A piece in which marching cubes crosses an edge, alone in the grid.
    grid = np.full((SIDE,) * 3, -1.0, dtype=np.float32)
    grid[17:21, 18:22, 20:24] = noise[8:12, 9:13, 11:15]
    dense = marching.closed_marching_cubes(grid)
    assert repairs, "this field no longer needs a repair"

    index = np.arange(SIDE)
    lattice = Lattice(1, SIDE, index, grid.copy(), np.zeros(grid.shape, dtype=bool))
    lattice.known |= corners_of(lattice.mixed())
    lattice.values[~lattice.known] = -7.0
    field = GridOf(grid)
    marched = SparseExtraction(field, SIDE, "fast")._march(lattice)
    assert 0 < field.asked < 500
    assert np.array_equal(marched[0], dense[0]) and np.array_equal(marched[1], dense[1])


def test_nothing_inside_is_only_said_of_the_whole_grid():
    for mode in ("safe", "fast"):
        field = GridOf(np.full((20,) * 3, -1.0))
        with pytest.raises(EmptySurfaceError, match="nothing is inside"):
            extract_surface(field, resolution=20, mode=mode)
        assert field.asked == 20**3
        speck = np.full((20,) * 3, -1.0)
        speck[5, 7, 9] = 1.0
        assert compared(speck, mode)[0]


def test_the_bound_is_honest_about_a_speck_that_was_missed():
    grid = sharp(ball((0, 0, 0), 0.4))
    grid[3, 3, 3] = 9
    equal, report = compared(grid, "safe")
    unknown = report.points - report.evaluated
    if not equal:
        assert report.missed_share_bound * unknown >= 1
    else:
        assert report.misses


def test_reports_repeat_and_bad_input_is_refused():
    first, second = (compared(aligned_wires(), "safe", seed=3)[1] for _ in range(2))
    assert first == second
    assert first != compared(aligned_wires(), "safe", seed=4)[1]
    with pytest.raises(Omni123Error, match="unknown extraction mode 'quick'"):
        extract_surface(GridOf(blob()), resolution=SIDE, mode="quick")
    holes = blob()
    holes[holes > 0] = np.nan
    for mode in ("safe", "fast"):
        with pytest.raises(Omni123Error, match="finite"):
            extract_surface(GridOf(holes), resolution=SIDE, mode=mode)


def test_a_function_of_points_is_asked_in_full_batches_and_progress_ends():
    sizes, seen = [], []

    def field(points):
        sizes.append(len(points))
        return 0.6 - np.linalg.norm(points, axis=1)

    mesh = extract_surface(field, 33, chunk=2048, progress=lambda *args: seen.append(args), mode="safe")
    assert all(size % 512 == 0 and size <= 2048 for size in sizes)
    assert seen[-1] == (33**3, 33**3) and all(a[0] <= b[0] for a, b in zip(seen, seen[1:], strict=False))
    dense = extract_surface(field, 33)
    assert np.array_equal(mesh.vertices, dense.vertices) and np.array_equal(mesh.faces, dense.faces)


def test_lattices_are_nested_and_draws_are_uniform():
    for side in (4, 33, 96, 257):
        index = [set(lattice_index(side, stride).tolist()) for stride in (4, 2, 1)]
        assert index[0] <= index[1] <= index[2] and {0, side - 1} <= index[0]
    cells = np.zeros((3,) * 3, dtype=bool)
    cells[1, 1, 1] = True
    assert corners_of(cells).sum() == 8 and corners_of(cells)[1:3, 1:3, 1:3].all()
    assert missed_share_bound(30_000, 10**6) == pytest.approx(1e-4, rel=0.01) and missed_share_bound(0, 5) == 1.0


def partly_known(side=17):
    """A grid of which every second point is known, and a random third of the rest."""
    values = np.random.default_rng(0).standard_normal((side,) * 3).astype(np.float32)
    index = lattice_index(side, 2)
    coarse = values[np.ix_(index, index, index)]
    grid = BrickGrid(Lattice(2, side, index, coarse, np.ones(coarse.shape, dtype=bool)))
    grid.ask(np.flatnonzero(np.random.default_rng(1).random(side**3) < 0.3), GridOf(values))
    return grid, values


def test_draws_are_uniform_and_leave_nothing_out():
    grid, values = partly_known()
    known = grid.is_known(np.arange(17**3))
    assert (~known).sum() == grid.left_out and np.array_equal(
        grid.take(np.flatnonzero(known)), values.reshape(-1)[known]
    )
    rng = np.random.default_rng(1)
    counts = np.bincount(np.concatenate([draw_points(grid, 400, rng) for _ in range(300)]), minlength=17**3)
    assert not counts[known].any() and len(draw_points(grid, 10**6, rng)) == (~known).sum()
    expected = 400 * 300 / (~known).sum()
    assert abs(counts[~known][:1000].mean() / expected - 1) < 0.05
    known = known.reshape((17,) * 3)
    wanted = np.zeros((17,) * 3, dtype=bool)
    wanted[:-1, :-1, :-1] = corners_of(~known)[1:-1, 1:-1, 1:-1]
    left_out = wanted.reshape(-1)
    counts = np.bincount(np.concatenate([draw_cells(grid, 150, rng) for _ in range(600)]), minlength=17**3)
    assert not counts[~left_out].any() and np.array_equal(draw_cells(grid, 10**6, rng), np.flatnonzero(left_out))
    expected = 150 * 600 / left_out.sum()
    assert abs(counts[left_out][:1000].mean() / expected - 1) < 0.05


def test_an_audit_asks_whole_cells_and_counts_misses():
    grid, values = partly_known()
    before = grid.left_out
    field = GridOf(values)
    found = audit(grid, field, 40, 25, np.random.default_rng(0))
    assert (found.cells, found.points) == (40, 25)
    assert field.asked == found.asked == before - grid.left_out and found.asked > 25 + 40
    # Half of the signs of noise are not those of their neighbours.
    assert 0 < found.missed_cells <= 40 and len(found.misses) > 0.3 * found.asked
