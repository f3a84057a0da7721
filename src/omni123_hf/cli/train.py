"""`omni123 train STAGE`: runs a recipe."""

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="shape-tokenizer, image-vae, image-tokenizer, tokenize, pretrain, continued, sft or edit."
        ),
    ],
    config: Annotated[Path, typer.Option("--config", help="Recipe, a YAML file; see recipes/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, such as training.max_steps=100.")
    ] = None,
) -> None:
    """Train one stage; started again, it goes on from its newest checkpoint. SIGTERM saves one first (exit code 143)."""
    from omni123_hf.errors import Omni123Error
    from omni123_hf.training.processes import end_process_group
    from omni123_hf.training.recipe import load_recipe
    from omni123_hf.training.stages import get_stage

    run_stage = get_stage(stage)
    recipe = load_recipe(config, overrides)
    if recipe.stage != stage:
        raise Omni123Error(f"{config} is a recipe of stage {recipe.stage!r}, not {stage!r}.")
    failed = False
    try:
        metrics = run_stage(recipe)
    except (Exception, KeyboardInterrupt):
        failed = True
        raise
    finally:
        end_process_group(failed)
    if os.environ.get("RANK", "0") != "0":
        return
    for name, value in metrics.items():
        typer.echo(f"{name}: {value:.4f}")
