"""`omni123 data`: fetch sources, prepare a data set of meshes or pictures, look at one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni123_hf.cli.data_captions import (
    Alignment,
    AlignmentModel,
    AlignmentThreshold,
    CaptionCache,
    CaptionDevice,
    CaptionEndpoint,
    CaptionModel,
    CaptionOptions,
    CaptionPrompts,
    CaptionResponseFormat,
    CaptionTransformers,
)
from omni123_hf.cli.data_images import DEFAULT_SIZE, prepare_pictures
from omni123_hf.cli.data_images import register as register_image_commands
from omni123_hf.cli.data_pairs import register as register_pair_commands
from omni123_hf.cli.data_synthesis import register as register_synthesis_command
from omni123_hf.cli.data_tokens import register as register_token_commands
from omni123_hf.cli.data_tokens import token_stats
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.inputs.kinds import Kind

data_app = typer.Typer(
    help="Fetch sources, prepare data sets and look at them.", no_args_is_help=True, rich_markup_mode=None
)
register_token_commands(data_app)
register_image_commands(data_app)
register_pair_commands(data_app)
register_synthesis_command(data_app)

SOURCE_HELP = (
    "parametric, sweethome3d, ldraw; a folder of meshes; a table (.csv, .parquet, .jsonl); a datasets folder; a data set "
    "on the Hub (OWNER/NAME). Or pictures: fluent-emoji, a folder or a table of them. LABEL=PATH names a source."
)
# Parameters of `prepare` that say nothing about pictures, and those that say nothing about meshes.
MESH_OPTIONS = (
    "engine", "preset", "config", "up", "captions", "caption_endpoint", "caption_model", "caption_transformers", "caption_device",
    "caption_response_format", "caption_prompts", "caption_cache", "alignment", "alignment_model", "alignment_threshold",
)  # fmt: skip
PICTURE_OPTIONS = ("size",)


@data_app.command()
def fetch(
    names: Annotated[
        list[str], typer.Argument(help="Sources: sweethome3d, ldraw, fluent-emoji (pictures).", metavar="NAMES...")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder that gets one folder a source.")] = Path("data/raw"),
) -> None:
    """Download and unpack sources: real meshes through apt, fluent-emoji through npm, without installing anything."""
    from omni123_hf.data.sources import fetch as fetch_source

    for name in names:
        typer.echo(f"{name}: {fetch_source(name, out)}")


@data_app.command()
def prepare(
    context: typer.Context,
    sources: Annotated[list[str], typer.Argument(help=SOURCE_HELP, metavar="SOURCE...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set; a stopped run goes on there.")],
    raw: Annotated[Path, typer.Option("--raw", help="Folder that holds what `fetch` wrote.")] = Path("data/raw"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the local engine.")] = 1,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray (RAY_ADDRESS names the cluster).")] = "local",
    preset: Annotated[str, typer.Option("--preset", help="default, mini or full; see docs/data.md.")] = "default",
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings that differ.")] = None,
    per_category: Annotated[
        int | None,
        typer.Option("--per-category", min=1, help="Most assets a category (parametric: exactly; 100 if not given)."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most assets a source.")] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=1, max=1024, help="Pixels a side of pictures; 64 if not given.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of programs, samples and splits.")] = None,
    licence: Annotated[str, typer.Option("--licence", help="SPDX licence of assets that state none.")] = "",
    attribution: Annotated[str, typer.Option("--attribution", help="Credit line of assets that state none.")] = "",
    allow_unknown_licence: Annotated[
        bool, typer.Option("--allow-unknown-licence", help="Keep assets whose licence is not stated.")
    ] = False,
    up: Annotated[str, typer.Option("--up", help="Axis that points up in the files: y or z.")] = "y",
    captions: Annotated[
        str | None, typer.Option("--captions", help="given, or template to fill the lengths that are missing.")
    ] = None,
    caption_endpoint: CaptionEndpoint = None,
    caption_model: CaptionModel = None,
    caption_transformers: CaptionTransformers = None,
    caption_device: CaptionDevice = None,
    caption_response_format: CaptionResponseFormat = "json_schema",
    caption_prompts: CaptionPrompts = None,
    caption_cache: CaptionCache = Path("data/captions"),
    alignment: Alignment = None,
    alignment_model: AlignmentModel = None,
    alignment_threshold: AlignmentThreshold = None,
) -> None:
    """Make solid, filter, sample, label and render the meshes of one or more sources into one data set; or check and
    square their pictures into one image store."""
    from omni123_hf.data.inputs import InputOptions, read_source
    from omni123_hf.data.inputs.fields import clean_text
    from omni123_hf.data.inputs.read import check_licences
    from omni123_hf.data.preparation_config import load_config
    from omni123_hf.data.prepare import prepare_dataset

    if len(set(sources)) != len(sources):
        raise Omni123Error(f"a source is given twice: {' '.join(sources)}; name each once")
    kind = kind_of_sources(sources)
    refuse_options(context, MESH_OPTIONS if kind == "pictures" else PICTURE_OPTIONS, kind)
    if kind == "pictures":
        stated = InputOptions(raw, per_category, limit, seed or 0, licence, attribution)
        prepare_pictures(sources, stated, out, size or DEFAULT_SIZE, workers, allow_unknown_licence)
        return
    if up not in ("y", "z"):
        raise Omni123Error(f"--up must be y or z, got {up!r}")
    if engine not in ("local", "ray"):
        raise Omni123Error(f"--engine must be local or ray, got {engine!r}")
    changes: dict[str, Any] = {"seed": seed, "captions": captions}
    changes["allow_unknown_licence"] = allow_unknown_licence or None
    settings = load_config(preset, config, **{name: value for name, value in changes.items() if value is not None})
    words = CaptionOptions(
        caption_endpoint, caption_model, caption_transformers, caption_device, caption_response_format, caption_prompts,
        caption_cache, alignment, alignment_model, alignment_threshold,
    )  # fmt: skip
    words.check()
    check_engine(words, engine, workers)
    if words.writes and settings.captions == "template":
        raise Omni123Error(
            "a caption model writes all captions and leaves none for --captions template; give one of them"
        )
    options = InputOptions(raw, per_category, limit, settings.seed, licence, attribution, "z" if up == "z" else "y")
    assets: list[Any] = []
    for name in sources:
        chosen = read_source(name, options)
        if not settings.allow_unknown_licence:
            check_licences(chosen, name)
        typer.echo(f"{clean_text(name)}: {len(chosen)} assets")
        assets += chosen
    store = prepare_dataset(
        assets,
        out,
        workers=workers,
        config=settings,
        engine="ray" if engine == "ray" else "local",
        captioner=words.captioner(),
    )
    outcome = store.summary["settings"].get("outcome", {})
    typer.echo(f"{out}: {len(store)} prepared, {len(assets) - len(store)} rejected")
    for name in ("kept", "repaired", "rejected"):
        typer.echo(f"  {name:<32} {outcome[name]:>7}")
    for reason, count in outcome["rejected_by_reason"].items():
        typer.echo(f"    {reason:<30} {count:>7}")


def kind_of_sources(sources: list[str]) -> Kind:
    """What all of the sources are. Raises `Omni123Error` when some are meshes and some pictures."""
    from omni123_hf.data.inputs import kind_of_source

    kinds = {name: kind_of_source(name) for name in sources}
    by_kind = {kind: name for name, kind in kinds.items()}
    if len(by_kind) > 1:
        raise Omni123Error(
            f"{by_kind['meshes']} is meshes and {by_kind['pictures']} is pictures; prepare them in calls of their own, and "
            "tokenize both into one folder of token shards"
        )
    return next(iter(by_kind))


def refuse_options(context: typer.Context, names: Sequence[str], kind: Kind) -> None:
    """Raises `Omni123Error` when an option among `names`, those that mean nothing for this kind, was given."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if (origin := context.get_parameter_source(name)) is not None and origin.name != "DEFAULT"
    ]
    if given:
        raise Omni123Error(
            f"{' and '.join(given)}: of no meaning for {kind}; leave {'it' if len(given) == 1 else 'them'} out"
        )


@data_app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Prepared data sets.", metavar="DIR...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the merged data set.")],
) -> None:
    """Write several prepared data sets as one."""
    from omni123_hf.data.merge import merge_stores

    store = merge_stores(folders, out)
    typer.echo(f"{out}: {len(store)} assets, content hash {store.content_hash[:16]}")


@data_app.command()
def stats(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Prepared assets, pictures, editing pairs or token pairs, or a folder of token shards.", metavar="DIR"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Outcome, splits, licences, words and quality of prepared data; counts of token shards."""
    if (folder / "shards.json").is_file():
        token_stats(str(folder), verify=False, as_json=as_json)
        return
    from omni123_hf.data.statistics import prepared_statistics, statistics_text

    values = prepared_statistics(folder)
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False) if as_json else statistics_text(folder, values))


@data_app.command()
def view(
    folder: Annotated[Path, typer.Argument(help="Prepared assets, pictures or editing pairs.", metavar="DIR")],
    record_id: Annotated[
        str, typer.Option("--id", help="Id of the asset, picture or pair, as in manifest.jsonl or pairs.jsonl.")
    ],
    out: Annotated[Path, typer.Option("--out", help="PNG file to write.")],
) -> None:
    """Draw an asset with its views, samples, captions and quality figures; a picture with its captions; or an editing pair
    with source, target, changed region and instructions."""
    from omni123_hf.data.prepared import open_prepared
    from omni123_hf.data.prepared_picture import picture_of_record

    if out.suffix.lower() != ".png":
        raise Omni123Error(f"--out must be a .png file, got {out}")
    picture = picture_of_record(open_prepared(folder), record_id)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        picture.save(temporary, format="PNG")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    typer.echo(out)


def check_engine(words: CaptionOptions, engine: str, workers: int) -> None:
    """Raise `Omni123Error` where processes would each load a model that is meant to be there once."""
    if words.transformers and workers > 1:
        raise Omni123Error(
            f"each of {workers} workers would hold the model of --caption-transformers; use --workers 1, or serve the model "
            "and give --caption-endpoint"
        )
    if words.is_local and engine == "ray":
        raise Omni123Error(
            "--caption-transformers and --alignment clip hold a model in each process and are not for --engine ray; "
            "serve the model and use --caption-endpoint and --alignment judge"
        )
