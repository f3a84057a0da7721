"""A plan as lines of text."""

from collections.abc import Mapping
from typing import Any

from .plan import Plan


def plan_lines(plan: Plan) -> list[str]:
    """What `omni123 train STAGE --dry-run` prints."""
    lines = [f"plan of stage {plan.stage}, output in {plan.output_dir}: nothing is trained or written"]
    lines += section("parameters", parameter_lines(plan.parameters))
    lines += section("tokens of a sample", task_lines(plan.tasks))
    lines += section("a step", token_lines(plan.step, plan.devices))
    lines += section("the run", token_lines(plan.run, None))
    lines += section("operations (training FLOPs)", operation_lines(plan.operations))
    lines += section("memory of a device", memory_lines(plan.memory))
    lines += section("time", time_lines(plan))
    for name, entries in (
        ("assumed", plan.findings.assumptions),
        ("not here, so not looked at", plan.findings.missing),
        ("would be refused", plan.findings.refused),
    ):
        lines += section(name, [f"- {entry}" for entry in entries])
    return lines


def section(name: str, lines: list[str]) -> list[str]:
    return [name, *(f"  {line}" for line in lines)] if lines else []


def row(name: str, value: str, note: str = "") -> str:
    return f"{name:<32} {value:>20}{'  ' + note if note else ''}"


def parameter_lines(parameters: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in parameters.items():
        if not isinstance(value, Mapping):
            lines.append(row(name, f"{value:,}"))
            continue
        lines.append(row(name, f"{value['total']:,}"))
        lines += [row(f"  {part}", f"{count:,}") for part, count in value.items() if part != "total"]
    return lines


def task_lines(tasks: list[dict[str, Any]]) -> list[str]:
    if not tasks:
        return []
    names = ("probability", "generation", "conditioning", "targets", "GFLOP")
    lines = [f"{'subset':<16} {'task':<32}" + "".join(f"{name:>13}" for name in names)]
    for task in tasks:
        lines.append(
            f"{task['subset']:<16} {task['task']:<32}{task['probability']:>13.4f}{task['generation_tokens']:>13,}"
            f"{task['conditioning_tokens']:>13,}{task['target_tokens']:>13,}{task['operations'] / 1e9:>13,.1f}"
        )
    return lines


def token_lines(counts: Mapping[str, float], devices: int | None) -> list[str]:
    lines = []
    for name, value in counts.items():
        if name in ("micro_batch", "micro_batches"):
            continue
        note = ""
        if name == "samples" and devices is not None:
            note = f"{counts['micro_batch']} × {counts['micro_batches']} micro-batches × {devices} device(s)"
        lines.append(row(name.replace("_", " "), f"{value:,.0f}", note))
    return lines


def operation_lines(operations: Mapping[str, float]) -> list[str]:
    lines = []
    for name, value in operations.items():
        shown = f"{value:.1%}" if name.endswith("share") else si(value)
        lines.append(row(name.replace("_", " "), shown))
    return lines


def si(value: float) -> str:
    """`8.1e9` as "8.10 G": numbers of operations run from kilo to yotta."""
    for exponent, letter in ((24, "Y"), (21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if value >= 10**exponent:
            return f"{value / 10**exponent:.2f} {letter}"
    return f"{value:,.0f}"


def duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:,.1f} seconds"
    return f"{hours * 60:,.1f} minutes" if hours < 1 else f"{hours:,.1f} hours"


def memory_lines(memory: Mapping[str, Any]) -> list[str]:
    if not memory:
        return []
    lines = [f"{memory['precision']}; states divided by {memory.get('shard', 1)}"]
    forms = [name for name in ("keeping_activations", "recomputing_activations") if name in memory]
    lines.append(" " * 32 + "".join(f"{name.replace('_', ' '):>26}" for name in forms))
    for part in memory[forms[0]]:
        lines.append(f"{part:<32}" + "".join(f"{memory[name][part] / 2**30:>22.3f} GiB" for name in forms))
    lines.append(f"the recipe trains {memory['recipe'].replace('_', ' ')}")
    return lines


def time_lines(plan: Plan) -> list[str]:
    if not plan.time:
        return []
    return [
        row("device time", duration(plan.time["device_hours"])),
        row("wall time", duration(plan.time["wall_hours"]), f"on {plan.devices} device(s)"),
        row("at", f"{plan.time['peak_tflops']:g} TFLOP/s", f"{plan.time['peak_origin']}; MFU {plan.time['mfu']:.0%}"),
    ]
