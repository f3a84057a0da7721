"""One line of the table of figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureRow:
    """One line of the table. `bar_cpu` and `bar_gpu` are what CPU and GPU training must reach; None where there is no bar.

    A row with `bar_cpu` alone has one bar, whatever it was trained on. `must_exceed`: equal to the bar is not enough, as where the bar
    is a baseline's value.
    """

    name: str
    value: float
    unit: str = ""
    bar_cpu: float | None = None
    bar_gpu: float | None = None
    chance: float | None = None
    baseline: float | None = None
    note: str = ""
    must_exceed: bool = False

    @property
    def verdict(self) -> str:
        """`gpu bar`, `cpu bar` or `below`, the highest bar that the value reaches; `yes` or `below` where there is one bar; empty
        where there is none."""
        if self.bar_cpu is None:
            return ""
        if self.bar_gpu is None:
            reached = self.value > self.bar_cpu if self.must_exceed else self.value >= self.bar_cpu
            return "yes" if reached else "below"
        if self.value >= self.bar_gpu:
            return "gpu bar"
        return "cpu bar" if self.value >= self.bar_cpu else "below"

    def show(self, number: float | None) -> str:
        """A number in the row's unit: percent, dB, or a plain fraction."""
        if number is None:
            return "–"
        if self.unit == "%":
            return f"{100 * number:.1f}%"
        return f"{number:.1f} dB" if self.unit == "dB" else f"{number:.3f}"

    @property
    def bars(self) -> str:
        """Both bars, `cpu / gpu`, or the one that there is; `>` where it must be exceeded."""
        if self.bar_cpu is None:
            return "–"
        one = f"{'> ' if self.must_exceed else ''}{self.show(self.bar_cpu)}"
        return one if self.bar_gpu is None else f"{one} / {self.show(self.bar_gpu)}"
