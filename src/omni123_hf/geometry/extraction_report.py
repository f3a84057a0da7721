"""How a surface was found: what was asked of the field, and what is known about what was not asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


MODES = ("dense", "safe", "fast")


@dataclass
class ExtractionReport:
    """What an extraction did.

    mode: as asked for. resolution: grid points a side. evaluated: points at which the field was asked, the audit's among
    them; `points` is what dense asks. levels: for each lattice that was visited its stride in grid steps and the points
    that it cost. audited: points that audits asked among those that were left out, over all rounds: corners of the cells drawn,
    and points drawn. audited_cells: cells drawn at random among those with a corner left out. missed_cells: those of them with a
    corner whose sign was not the one it had been given. misses: all such points that audits or later steps came upon. specks: single points whose six neighbours all have the other sign.
    escalations: why and to what the extraction went further than its mode begins with, in order; "dense" in the last one
    means that every point was evaluated. unresolved: the last audit still found misses (`fast` only).
    missed_share_bound: with 95 % confidence no greater share of the points left out has a wrong sign; 0 when none was
    left out, None when the last audit found misses.
    """

    mode: str
    resolution: int
    evaluated: int = 0
    levels: list[dict[str, int]] = field(default_factory=list)
    audited: int = 0
    audited_cells: int = 0
    misses: int = 0
    missed_cells: int = 0
    specks: int = 0
    escalations: list[str] = field(default_factory=list)
    unresolved: bool = False
    missed_share_bound: float | None = 0.0

    @property
    def points(self) -> int:
        """Points of the grid."""
        return self.resolution**3

    @property
    def share(self) -> float:
        """Evaluated points over those of the grid."""
        return self.evaluated / self.points

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"points": self.points, "share": self.share}
