"""`omni123 train lora`: from a folder of meshes with captions to an adapter with a card; and the group that `train` becomes by it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from omni123_hf.cli.train import train
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.training.lora_data import BaseCheckpoint
    from omni123_hf.training.recipe import Recipe

WORK = "work"


class TrainGroup(TyperGroup):
    """`train lora ...` is a command of its own; everything else is the command of the stages."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] == ["lora"] else ["stage", *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return (None if name == "stage" else name), command, rest


train_app = typer.Typer(cls=TrainGroup, rich_markup_mode=None)
train_app.command("stage", epilog="Adapters have options of their own: omni123 train lora --help")(train)


@train_app.command()
def lora(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, such as training.warmup_steps=50.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder of meshes with captions, or any SOURCE of 'omni123 data prepare'."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Bundled name, folder or Hub id of the checkpoint; omni123-mini.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the adapter; a stopped run goes on there.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Recipe of stage lora; see docs/lora.md. Options win over it.")
    ] = None,
    preflight_only: Annotated[
        bool, typer.Option("--preflight-only", help="Prepare and check the data, print the report, train nothing.")
    ] = False,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Rank of the adapters; 16.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Strength; twice the rank.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Peak of the cosine schedule.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Samples of a micro-batch; a step has four.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of splits, samples and weights.")] = None,
    train_heads: Annotated[
        bool | None, typer.Option("--train-heads/--no-train-heads", help="Train the code heads too; larger adapters.")
    ] = None,
    heldout_share: Annotated[
        float | None, typer.Option("--heldout-share", help="Share of meshes only measured; 0.2.")
    ] = None,
    regularization_data: Annotated[
        str | None,
        typer.Option(
            "--regularization-data",
            help="What the base must not lose: token shards, a prepared data set, parametric, or none. By default the "
            "generator's objects for bases trained on them.",
        ),
    ] = None,
    regularization_share: Annotated[
        float | None, typer.Option("--regularization-share", help="Share of batches that rehearse it.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="SPDX licence of meshes that state none.")] = None,
    attribution: Annotated[
        str | None, typer.Option("--attribution", help="Credit line of meshes that state none.")
    ] = None,
    allow_unknown_licence: Annotated[
        bool | None, typer.Option("--allow-unknown-licence", help="Train on meshes whose licence is not stated.")
    ] = None,
    adapter_licence: Annotated[
        str | None, typer.Option("--adapter-licence", help="Licence of the adapter; from its data when left out.")
    ] = None,
    up: Annotated[str | None, typer.Option("--up", help="Axis that points up in the files: y or z.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes that prepare meshes.")] = None,
    resolution: Annotated[int, typer.Option("--resolution", help="Grid of the measured surfaces.")] = 64,
) -> None:
    """Train a LoRA adapter for a domain of your own: check, tokenise, train, measure before and after, write a card."""
    given: dict[str, dict[str, Any]] = {
        "data": {
            "meshes": data,
            "heldout_share": heldout_share,
            "regularization": regularization_data,
            "licence": licence,
            "attribution": attribution,
            "allow_unknown_licence": allow_unknown_licence,
            "up": up,
            "workers": workers,
        },
        "model": {"from_pretrained": base},
        "options": {
            "rank": rank,
            "alpha": alpha if alpha is not None or rank is None else 2 * rank,
            "train_heads": train_heads,
            "regularization_share": regularization_share,
        },
        "training": {"max_steps": steps, "learning_rate": learning_rate, "per_device_train_batch_size": batch},
    }
    recipe = lora_recipe(config, overrides, out, seed, given)
    run_lora(recipe, preflight_only, adapter_licence, resolution)


def lora_recipe(
    config: Path | None,
    overrides: list[str] | None,
    out: Path | None,
    seed: int | None,
    given: dict[str, dict[str, Any]],
) -> Recipe:
    """The recipe of a run: the stage's defaults, then the file with its overrides, then the options."""
    from omni123_hf.training.lora import TRAINING
    from omni123_hf.training.recipe import Recipe, load_recipe, parse_override

    if config is not None:
        recipe = load_recipe(config, overrides)
        if recipe.stage != "lora":
            raise Omni123Error(f"{config} is a recipe of stage {recipe.stage!r}, not 'lora'.")
    else:
        if out is None:
            raise Omni123Error("give --out, the folder of the adapter (or --config, a recipe with output_dir).")
        recipe = Recipe("lora", out)
        for text in overrides or []:
            keys, value = parse_override(text)
            if len(keys) != 2 or keys[0] not in given:
                raise Omni123Error(
                    f"override {text!r}: without --config name a section and a key, one of {', '.join(given)}."
                )
            getattr(recipe, keys[0])[keys[1]] = value
    recipe.output_dir = out or recipe.output_dir
    recipe.seed = recipe.seed if seed is None else seed
    for section, values in given.items():
        getattr(recipe, section).update({name: value for name, value in values.items() if value is not None})
    for name, value in TRAINING.items():
        recipe.training.setdefault(name, value)
    unknown = set(recipe.model) - {"from_pretrained"}
    if unknown:
        raise Omni123Error(
            f"the model section of stage lora takes from_pretrained, the base; it has {sorted(unknown)}."
        )
    recipe.model.setdefault("from_pretrained", "omni123-mini")
    return recipe


def run_lora(recipe: Recipe, preflight_only: bool, licence: str | None, resolution: int) -> dict[str, Any] | None:
    """All steps in order, each found again when the command is repeated; returns the figures (None after a preflight)."""
    import torch
    from transformers.utils import logging as transformers_logging

    from omni123_hf.cli.data_tokens import need_extras
    from omni123_hf.evaluation.lora_card import adapter_licence, licences_of, lineage, publish
    from omni123_hf.evaluation.lora_run import measure
    from omni123_hf.pipelines.lora import import_peft
    from omni123_hf.pipelines.pipeline_base import check_resolution
    from omni123_hf.training import lora_data
    from omni123_hf.training.lora import lora_options, train
    from omni123_hf.training.lora_preflight import preflight, report_lines, write_report

    need_extras()
    import_peft()
    check_resolution(resolution)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Omni123Error("omni123 train lora runs as one process: start it without torchrun.")
    transformers_logging.disable_progress_bar()
    options, settings = lora_data.data_options(recipe), lora_options(recipe)
    base = base_checkpoint(str(recipe.model["from_pretrained"]))
    out, work = recipe.output_dir, recipe.output_dir / WORK
    device = "cuda" if torch.cuda.is_available() else "cpu"
    typer.echo(f"base: {base.name}, revision {base.revision}")
    store = lora_data.prepare_meshes(options, base, work, recipe.seed)
    groups = lora_data.split_meshes(store, float(options["heldout_share"]), recipe.seed)
    old = lora_data.old_domain(options, base, work, device)
    report = preflight(store, groups, base, old, device)
    write_report(report, work / "preflight.json")
    for line in report_lines(report):
        typer.echo(line)
    if preflight_only:
        typer.echo(f"report: {work / 'preflight.json'}")
        return None
    domain = lora_data.Domain(lora_data.tokenize(store, base, work / "shards", options, device), "heldout", store)
    sources = {"new": lineage(domain.pool, "train"), "old": None if old is None else lineage(old.pool, "train")}
    chosen = adapter_licence(licences_of(*sources.values()), licence)
    adapter = train(at(recipe, work / "run"), base, domain, old)
    result, sheet = measure(adapter, base, domain, old, recipe, settings, resolution, device)
    result |= {"licence": chosen, "data": sources, "preflight": report}
    publish(adapter.folder, out, result, sheet)
    for line in summary(result):
        typer.echo(line)
    typer.echo(f"adapter: {out} (licence {chosen})")
    return result


def at(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with another output folder."""
    from dataclasses import replace

    return replace(recipe, output_dir=folder)


def base_checkpoint(name: str) -> BaseCheckpoint:
    """The checked base, downloaded when `name` is a Hub id; its name does not tell where on this machine it lies."""
    from omni123_hf.cli.data_tokens import checkpoint_folder
    from omni123_hf.pipelines.registry import bundled_checkpoints, checkpoint_revision, provenance
    from omni123_hf.training.lora_data import BaseCheckpoint

    folder = checkpoint_folder(name)
    is_public = not Path(name).exists() or name in bundled_checkpoints()
    known = name if is_public else folder.resolve().name
    return BaseCheckpoint(known, folder, checkpoint_revision(folder), str(provenance(folder).get("licence", "")))


def summary(result: dict[str, Any]) -> list[str]:
    """Before and after in a few lines."""
    lines = []
    for domain, measured in result["figures"].items():
        before, after = measured["before"], measured["after"]
        loss = measured["mean_loss"]
        lines.append(
            f"{domain} domain: loss {loss['before']:.3f} -> {loss['after']:.3f}, text-to-3d Chamfer {before['chamfer']:.3f} -> "
            f"{after['chamfer']:.3f}, volume IoU {before['volume_iou']:.3f} -> {after['volume_iou']:.3f}, failed "
            f"{before['failed']} -> {after['failed']}"
        )
    return lines
