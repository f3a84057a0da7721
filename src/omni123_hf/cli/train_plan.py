"""`omni123 train STAGE --dry-run`: prints the plan of a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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
    from omni123_hf.training.plan import DEFAULT_MFU, PlanSettings, make_plan
    from omni123_hf.training.plan_report import plan_lines

    beside = recipes_beside(config)
    resolve_for_plan(recipe, beside)
    number = int(os.environ.get("WORLD_SIZE", "1")) if devices is None else devices
    settings = PlanSettings(number, peak_tflops, DEFAULT_MFU if mfu is None else mfu, shard)
    plan = make_plan(recipe, settings, beside)
    if as_json:
        typer.echo(json.dumps(plan.to_dict(), indent=2, ensure_ascii=False))
    else:
        for line in plan_lines(plan):
            typer.echo(line)
    refused = plan.findings.refused
    if refused:
        raise Omni123Error(f"training would refuse this recipe: {refused[0]}")


def resolve_for_plan(recipe: Recipe, beside: Mapping[str, Recipe]) -> None:
    """As `train.resolve_checkpoints`, but of a Hub id the configurations alone are fetched, and what leads nowhere stays."""
    from omni123_hf.cli.train import checkpoint_names
    from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase
    from omni123_hf.pipelines.registry import bundled_checkpoints, resolve_checkpoint

    for section, key, name in checkpoint_names(recipe):
        if name in beside:
            continue
        try:
            folder = bundled_checkpoints().get(name) or resolve_checkpoint(name)
        except Omni123Error:
            # The plan lists it among what is not here.
            continue
        if folder is None:
            folder = Path(Omni123PipelineBase.download(name, allow_patterns=["*.json", "*.txt"]))
        recipe.use_folder(section, key, folder)


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
