"""Surface extraction that asks the field where the surface can be, checks at random where it did not, and goes on if wrong.

`safe` evaluates every second grid point of each axis (an eighth of the grid), then the cells near the surface. Features that
an eighth of the points cannot miss are found for certain: all that are two grid points wide in each axis. What is thinner is
found where it touches something that was found, by the slopes that it causes, or by the audit. `fast` begins at every fourth
point. Any doubt leads on: from `fast` to `safe`, from `safe` to the dense grid. See docs/extraction.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omni123_hf.geometry.audit import audit, missed_share_bound
from omni123_hf.geometry.brick_grid import BrickGrid, finest, specks
from omni123_hf.geometry.extraction_report import ExtractionReport
from omni123_hf.geometry.sparse_grid import Evaluate, Lattice, Refinement, corner_places, first_lattice, refine
from omni123_hf.geometry.sparse_marching import any_outside, any_within, closed_marching_cells


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Plan:
    """How a mode begins: the stride of its first lattice, how cells are refined, how many points and cells an audit draws.

    An audit draws `audit_points` points, or `audit_share` of the grid's where that is less, and `audit_cells` cells, or an eighth
    of that share, as a cell has eight corners.
    """

    stride: int
    refinement: Refinement
    audit_points: int
    audit_cells: int
    audit_share: float

    def draws(self, side: int) -> tuple[int, int]:
        """Cells and points that an audit of a grid of `side` points an axis draws."""
        share = self.audit_share * side**3
        return min(self.audit_cells, max(1, int(share / 8))), min(self.audit_points, max(1, int(share)))


PLANS = {
    "safe": Plan(2, Refinement(grow=1, slope=1.0), audit_points=30_000, audit_cells=8_192, audit_share=1 / 32),
    "fast": Plan(4, Refinement(grow=0, slope=0.5), audit_points=4_096, audit_cells=1_024, audit_share=1 / 128),
}
Marched = tuple[np.ndarray, np.ndarray]


class SparseExtraction:
    """One extraction: `run()` gives what `closed_marching_cubes` gives for the dense grid; `report` says how."""

    def __init__(self, evaluate: Evaluate, side: int, mode: str, seed: int = 0, device: str | torch.device = "cpu"):
        self.evaluate, self.side, self.device = evaluate, side, device
        self.report = ExtractionReport(mode, side)
        self.rng = np.random.default_rng(seed)

    def run(self) -> Marched:
        """Vertices in grid units and faces. Raises `EmptySurfaceError` only after a dense evaluation."""
        grid = self._search(self.report.mode)
        marched = None
        while marched is None:
            marched = self._march(grid)
        return marched

    def ask(self, flat: np.ndarray) -> np.ndarray:
        """The field at flat indices, counted."""
        self.report.evaluated += len(flat)
        return self.evaluate(flat)

    def _search(self, mode: str) -> BrickGrid:
        """The whole grid, closed, audited, and escalated where there was reason to."""
        plan = PLANS[mode]
        before = self.report.evaluated
        lattice = first_lattice(self.side, plan.stride, self.ask)
        before = self._level(lattice.stride, before)
        while lattice.stride > 2:
            lattice = refine(lattice, self.ask, plan.refinement)
            before = self._level(lattice.stride, before)
        grid = finest(lattice, self.ask, plan.refinement)
        self._level(grid.stride, before)
        return self._check(grid, plan, mode)

    def _check(self, grid: BrickGrid, plan: Plan, mode: str) -> BrickGrid:
        """Whether the grid can be believed; the grid to believe."""
        mixed = grid.mixed_cells()
        if not any_within(grid, mixed):
            return self._dense(grid, "nothing was found inside")
        if not any_outside(grid, mixed):
            return self._dense(grid, "nothing was found outside")
        for is_second in (False, True):
            self.report.specks = specks(grid, mixed)
            if mode == "safe" and self.report.specks:
                return self._dense(grid, f"{self.report.specks} features of one grid point, between which may be more")
            if not self._audit(grid, plan):
                return grid
            if mode == "fast":
                self.report.escalations.append("safe: the audit found misses")
                return self._check(self._every_second(grid), PLANS["safe"], "escalated")
            if mode == "escalated":
                # `fast` goes on once. What was found is followed, and the report says that there may be more.
                self.report.unresolved, self.report.missed_share_bound = True, None
                return grid
            if not is_second:
                self.report.escalations.append("audit: misses were followed, and as many cells and points drawn again")
            mixed = grid.mixed_cells()
        return self._dense(grid, "the second audit found misses")

    def _audit(self, grid: BrickGrid, plan: Plan) -> int:
        """Misses that a new audit finds; the surface they belong to is followed."""
        found = audit(grid, self.ask, *plan.draws(self.side), self.rng)
        report = self.report
        report.audited += found.asked
        report.audited_cells += found.cells
        report.missed_cells += found.missed_cells
        report.misses += len(found.misses)
        report.missed_share_bound = missed_share_bound(found.points, grid.left_out)
        grid.close(self.ask, found.misses)
        return len(found.misses)

    def _every_second(self, grid: BrickGrid) -> BrickGrid:
        """What `safe` evaluates beside what is known: every second point, and the cells that they name."""
        before = self.report.evaluated
        coarse: Lattice = grid.every_second()
        self.report.misses += len(coarse.ask(np.flatnonzero(~coarse.known), self.ask))
        before = self._level(coarse.stride, before)
        fine = finest(coarse, self.ask, PLANS["safe"].refinement, grid)
        self._level(fine.stride, before)
        return fine

    def _dense(self, grid: BrickGrid, reason: str) -> BrickGrid:
        """Every point that is left."""
        self.report.escalations.append(f"dense: {reason}")
        before = self.report.evaluated
        self.report.misses += len(grid.ask_all(self.ask))
        self.report.missed_share_bound = 0.0
        self._level(grid.stride, before)
        return grid

    def _level(self, stride: int, before: int) -> int:
        self.report.levels.append({"stride": stride, "evaluated": self.report.evaluated - before})
        return self.report.evaluated

    def _march(self, grid: BrickGrid | Lattice) -> Marched | None:
        """The surface, or None when a repair came upon points whose sign was not the one they had been given."""
        changed: list[np.ndarray] = []

        def complete(cells: np.ndarray) -> bool:
            changed.append(grid.ask(np.unique(corner_places(cells, self.side)), self.ask))
            return len(changed[-1]) > 0

        marched = closed_marching_cells(grid, complete, self.device)
        if marched is None:
            self.report.misses += len(changed[-1])
            grid.close(self.ask, changed[-1])
        return marched
