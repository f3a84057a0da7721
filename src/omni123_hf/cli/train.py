"""`omni123 train STAGE`: runs a recipe, or plans it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni123_hf.cli.data_tokens import checkpoint_folder
from omni123_hf.cli.train_plan import plan_recipe
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.training.recipe import Recipe


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the run would cost and what would be refused; train nothing.")
    ] = False,
    devices: Annotated[int | None, typer.Option("--devices", help="Of --dry-run: devices in all.")] = None,
    peak_tflops: Annotated[
        float | None, typer.Option("--peak-tflops", help="Of --dry-run: peak of one device.")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option("--mfu", help="Of --dry-run: share of the peak that is reached.")
    ] = None,
    shard: Annotated[
        int | None, typer.Option("--shard", help="Of --dry-run: devices that divide weights, gradients and moments.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Of --dry-run: print JSON.")] = False,
) -> None:
    """Train one stage; started again, it goes on from its newest checkpoint. SIGTERM saves one first (exit code 143)."""
    from omni123_hf.training.processes import end_process_group
    from omni123_hf.training.recipe import load_recipe
    from omni123_hf.training.stages import get_stage

    options = {"--devices": devices, "--peak-tflops": peak_tflops, "--mfu": mfu, "--shard": shard}
    alone = [name for name, value in {**options, "--json": as_json or None}.items() if value is not None]
    if alone and not dry_run:
        raise Omni123Error(f"{alone[0]} is for --dry-run: add it, or leave {alone[0]} out.")
    run_stage = get_stage(stage)
    recipe = load_recipe(config, overrides)
    if recipe.stage != stage:
        raise Omni123Error(f"{config} is a recipe of stage {recipe.stage!r}, not {stage!r}.")
    if dry_run:
        plan_recipe(recipe, config, devices, peak_tflops, mfu, shard, as_json)
        return
    resolve_checkpoints(recipe)
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


def resolve_checkpoints(recipe: Recipe) -> None:
    """Puts folders in the place of bundled names and Hub ids, which are downloaded. What is a folder already stays.

    Raises `Omni123Error` for a name that leads nowhere.
    """
    for section, key, name in checkpoint_names(recipe):
        recipe.use_folder(section, key, checkpoint_folder(name))


def checkpoint_names(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Section, key and name where a recipe means a whole checkpoint and names no folder of this machine.

    That is `data.checkpoint`, and `model.from_pretrained` and `warm_start`, of the autoregressive stages.
    """
    from omni123_hf.training.stages import AUTOREGRESSIVE

    places = (("data", "checkpoint"), ("model", "from_pretrained"), ("model", "warm_start"))
    named = [(section, key, getattr(recipe, section).get(key)) for section, key in places]
    if recipe.stage not in AUTOREGRESSIVE:
        return []
    return [(*place, name) for *place, name in named if isinstance(name, str) and not Path(name).is_dir()]  # type: ignore[misc]
