"""Training logs as curves: one picture a stage, and a table of how the validation figures moved.

A log is JSON lines with `step`, perhaps `seconds`, training values such as `loss`, and validation values `eval_…`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni123_hf.errors import Omni123Error


STAGES = ("shape_tokenizer", "shape_decoder", "image_vae", "image_tokenizer", "omni123")
HIDDEN = frozenset({"step", "seconds", "epoch", "learning_rate", "grad_norm", "total_flos"})
MAXIMUM_CURVES = 6
SECOND_AXIS = 3.0


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log in order; a line that is no JSON object with a step raises Omni123Error."""
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise Omni123Error(f"{path}, line {number} is no JSON: {error}.") from error
        if not isinstance(line, dict) or "step" not in line:
            raise Omni123Error(f"{path}, line {number} has no 'step': training logs hold one object a line.")
        lines.append(line)
    if not lines:
        raise Omni123Error(f"The training log {path} is empty: copy the stage's log.jsonl there.")
    return lines


def read_logs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Logs by stage name: the known stages first, in the order of training. None at all raises Omni123Error."""
    found = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if not found:
        raise Omni123Error(
            f"No training logs (*.jsonl) in {folder}: copy each stage's log.jsonl there under its stage's name."
        )
    order = [name for name in STAGES if name in found] + [name for name in found if name not in STAGES]
    return {name: read_log(found[name]) for name in order}


def curves(log: list[dict[str, Any]]) -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[tuple[int, float]]]]:
    """Series (step, value) of the training values and of the validation values (`eval_` taken off)."""
    training: dict[str, list[tuple[int, float]]] = {}
    validation: dict[str, list[tuple[int, float]]] = {}
    for line in log:
        for key, value in line.items():
            if key in HIDDEN or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if key.startswith("eval_"):
                if not key.endswith(("_runtime", "_per_second")):
                    validation.setdefault(key.removeprefix("eval_"), []).append((line["step"], float(value)))
            elif not key.startswith("train_"):
                training.setdefault(key, []).append((line["step"], float(value)))
    return training, validation


def draw_curves(name: str, log: list[dict[str, Any]], path: Path) -> None:
    """Draw a stage's training values (left) and validation values (right) as PNG; needs matplotlib (`omni123-hf[train]`)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Omni123Error("Drawing curves needs matplotlib: pip install 'omni123-hf[train]'.") from error
    figure = Figure(figsize=(9, 3.2), dpi=100, layout="constrained")
    for axes, title, series in zip(figure.subplots(1, 2), ("training", "validation"), curves(log), strict=True):
        axes.set_title(f"{name.replace('_', ' ')}: {title}", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        _plot(axes, series)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _plot(axes: Any, series: dict[str, list[tuple[int, float]]]) -> None:
    """Plot the first series; those above `SECOND_AXIS` (decibels, perplexities) get an axis of their own at the right."""
    # The loss first, then what was logged most often: a legend of a dozen names reads as none.
    names = sorted(series, key=lambda key: (key != "loss", -len(series[key]), key))[:MAXIMUM_CURVES]
    large = [
        key for key in names if max(abs(value) for _, value in series[key][len(series[key]) // 2 :]) > SECOND_AXIS
    ]
    both = bool(large) and len(large) < len(names)
    right = axes.twinx() if both else axes
    lines = []
    for number, key in enumerate(names):
        steps, values = zip(*series[key], strict=True)
        target, label = (right, f"{key} (right)") if both and key in large else (axes, key)
        marker = "." if len(steps) < 40 else None
        lines += target.plot(steps, values, label=label, linewidth=1.2, marker=marker, color=f"C{number}")
    if lines:
        axes.legend(lines, [line.get_label() for line in lines], fontsize=7)


def progress_rows(log: list[dict[str, Any]]) -> list[tuple[str, float, float, float]]:
    """How each validation figure moved: name and its values nearest to a third, two thirds and the end of training."""
    _, validation = curves(log)
    rows = []
    for name, series in validation.items():
        if len({step for step, _ in series}) < 2:
            continue
        last = series[-1][0]
        values = [min(series, key=lambda point: abs(point[0] - share * last))[1] for share in (1 / 3, 2 / 3)]
        rows.append((name, values[0], values[1], series[-1][1]))
    return rows
