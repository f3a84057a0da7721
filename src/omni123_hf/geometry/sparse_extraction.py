"""Surface extraction that asks the field where the surface can be, checks at random where it did not, and goes on if wrong.

`safe` evaluates every second grid point of each axis (an eighth of the grid), then the cells near the surface. Features that
an eighth of the points cannot miss are found for certain: all that are two grid points wide in each axis. What is thinner is
found where it touches something that was found, by the slopes that it causes, or by the audit. `fast` begins at every fourth
point. Any doubt leads on: from `fast` to `safe`, from `safe` to the dense grid. See docs/extraction.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.audit import audit, missed_share_bound
from omni123_hf.geometry.extraction_report import ExtractionReport
from omni123_hf.geometry.marching import closed_marching_cubes
from omni123_hf.geometry.sparse_grid import CORNERS, Evaluate, Lattice, Refinement, first_lattice, refine


@dataclass(frozen=True)
class Plan:
    """How a mode begins: the stride of its first lattice, how cells are refined, how many points an audit draws.

    An audit draws `audit_points`, or `audit_share` of the grid where that is less.
    """

    stride: int
    refinement: Refinement
    audit_points: int
    audit_share: float


PLANS = {
    "safe": Plan(2, Refinement(grow=1, slope=1.0), audit_points=30_000, audit_share=1 / 32),
    "fast": Plan(4, Refinement(grow=0, slope=0.5), audit_points=4_096, audit_share=1 / 128),
}
Marched = tuple[np.ndarray, np.ndarray, np.ndarray]


class SparseExtraction:
    """One extraction: `run()` gives what `closed_marching_cubes` gives for the dense grid; `report` says how."""

    def __init__(self, evaluate: Evaluate, side: int, mode: str, seed: int = 0):
        self.evaluate, self.side = evaluate, side
        self.report = ExtractionReport(mode, side)
        self.rng = np.random.default_rng(seed)

    def run(self) -> Marched:
        """Vertices in grid units, faces, and the grid. Raises `EmptySurfaceError` only after a dense evaluation."""
        lattice = self._search(self.report.mode)
        marched = None
        while marched is None:
            marched = self._march(lattice)
        return marched

    def ask(self, flat: np.ndarray) -> np.ndarray:
        """The field at flat indices, counted."""
        self.report.evaluated += len(flat)
        return self.evaluate(flat)

    def _search(self, mode: str) -> Lattice:
        """The finest lattice, closed, audited, and escalated where there was reason to."""
        plan = PLANS[mode]
        before = self.report.evaluated
        lattice = first_lattice(self.side, plan.stride, self.ask)
        before = self._level(lattice, before)
        while lattice.stride > 1:
            lattice = refine(lattice, self.ask, plan.refinement)
            before = self._level(lattice, before)
        return self._check(lattice, plan, mode)

    def _check(self, lattice: Lattice, plan: Plan, mode: str) -> Lattice:
        """Whether the lattice can be believed; the lattice to believe."""
        inside = lattice.values > 0
        if not inside[1:-1, 1:-1, 1:-1].any():
            return self._dense(lattice, "nothing was found inside")
        if inside.all():
            return self._dense(lattice, "nothing was found outside")
        for is_second in (False, True):
            self.report.specks = lattice.specks()
            if mode == "safe" and self.report.specks:
                return self._dense(
                    lattice, f"{self.report.specks} features of one grid point, between which may be more"
                )
            if not self._audit(lattice, plan):
                return lattice
            if mode == "fast":
                self.report.escalations.append("safe: the audit found misses")
                return self._check(self._every_second(lattice), PLANS["safe"], "escalated")
            if mode == "escalated":
                # `fast` goes on once. What was found is followed, and the report says that there may be more.
                self.report.unresolved, self.report.missed_share_bound = True, None
                return lattice
            if not is_second:
                self.report.escalations.append("audit: misses were followed, and as many points drawn again")
        return self._dense(lattice, "the second audit found misses")

    def _audit(self, lattice: Lattice, plan: Plan) -> int:
        """Misses that a new audit finds; the surface they belong to is followed."""
        count = min(plan.audit_points, max(1, int(plan.audit_share * self.side**3)))
        audited, misses = audit(lattice, self.ask, count, self.rng)
        unknown = lattice.known.size - int(lattice.known.sum())
        self.report.audited += audited
        self.report.misses += len(misses)
        self.report.missed_share_bound = missed_share_bound(audited, unknown)
        lattice.close(self.ask, misses)
        return len(misses)

    def _every_second(self, lattice: Lattice) -> Lattice:
        """What `safe` evaluates beside what is known: every second point, and the cells that they name."""
        before = self.report.evaluated
        coarse = lattice.every(2)
        self.report.misses += len(coarse.ask(np.flatnonzero(~coarse.known), self.ask))
        before = self._level(coarse, before)
        fine = refine(coarse, self.ask, PLANS["safe"].refinement)
        fine.values[lattice.known] = lattice.values[lattice.known]
        fine.known |= lattice.known
        fine.close(self.ask)
        self._level(fine, before)
        return fine

    def _dense(self, lattice: Lattice, reason: str) -> Lattice:
        """Every point that is left."""
        self.report.escalations.append(f"dense: {reason}")
        before = self.report.evaluated
        misses = lattice.ask(np.flatnonzero(~lattice.known), self.ask)
        self.report.misses += len(misses)
        self.report.missed_share_bound = 0.0
        self._level(lattice, before)
        return lattice

    def _level(self, lattice: Lattice, before: int) -> int:
        self.report.levels.append({"stride": lattice.stride, "evaluated": self.report.evaluated - before})
        return self.report.evaluated

    def _march(self, lattice: Lattice) -> Marched | None:
        """The surface, or None when a repair came upon points whose sign was not the one they had been given."""
        wrong: list[np.ndarray] = []

        def complete(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            corners = (cells[:, None] + CORNERS).reshape(-1, 3)
            places = np.unique((corners[:, 0] * self.side + corners[:, 1]) * self.side + corners[:, 2])
            places = places[~lattice.known.reshape(-1)[places]]
            wrong.append(lattice.ask(places, self.ask))
            return places, lattice.values.reshape(-1)[places]

        try:
            marched = closed_marching_cubes(lattice.values, complete)
        except Omni123Error:
            if not any(map(len, wrong)):
                raise
        changed = np.concatenate([np.empty(0, dtype=np.int64), *wrong])
        if not len(changed):
            return marched
        self.report.misses += len(changed)
        lattice.close(self.ask, changed)
        return None
