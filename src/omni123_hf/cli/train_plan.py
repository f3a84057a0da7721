"""`omni123 train STAGE --dry-run`: prints the plan of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.training.recipe import Recipe


def plan_recipe(
    recipe: Recipe,
    config: Path,
    devices: int | None,
    peak_tflops: float | None,
    mfu: float | None,
    shard: int | None,
    as_json: bool,
) -> None:
    """Prints the plan; raises `Omni123Error` afterwards when something in it would be refused."""
    import os

    from omni123_hf.training.plan import DEFAULT_MFU, PlanSettings, make_plan
    from omni123_hf.training.plan_report import plan_lines

    number = int(os.environ.get("WORLD_SIZE", "1")) if devices is None else devices
    settings = PlanSettings(number, peak_tflops, DEFAULT_MFU if mfu is None else mfu, shard)
    plan = make_plan(recipe, settings, recipes_beside(config))
    if as_json:
        typer.echo(json.dumps(plan.to_dict(), indent=2, ensure_ascii=False))
    else:
        for line in plan_lines(plan):
            typer.echo(line)
    refused = plan.findings.refused
    if refused:
        raise Omni123Error(f"training would refuse this recipe: {refused[0]}")


def recipes_beside(config: Path) -> dict[str, Recipe]:
    """`final` folders to the recipes in the same folder whose runs write them; files that are no recipes are left out."""
    from omni123_hf.training.recipe import load_recipe

    found = {}
    for path in sorted(config.parent.glob("*.yaml")):
        try:
            recipe = load_recipe(path)
        except Omni123Error:
            # Some other YAML file: it is no recipe that a run could begin from.
            continue
        found[str(recipe.output_dir / "final")] = recipe
    return found
