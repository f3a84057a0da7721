"""Captioned pictures as an image store: `omni123 data images`, and `omni123 data prepare` where its sources are pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.inputs import InputOptions

DEFAULT_SIZE = 64
PICTURE_HELP = (
    "fluent-emoji; a folder of pictures with captions beside them; a table of pictures (.csv, .parquet, .jsonl). "
    "LABEL=PATH names a source."
)


def register(app: typer.Typer) -> None:
    """Add the command to `omni123 data`."""
    app.command()(images)


def images(
    sources: Annotated[list[str], typer.Argument(help=PICTURE_HELP, metavar="SOURCE...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the pictures; a stopped run goes on there.")],
    raw: Annotated[Path, typer.Option("--raw", help="Folder that holds what `fetch` wrote.")] = Path("data/raw"),
    size: Annotated[int, typer.Option("--size", min=1, max=1024, help="Pixels a side.")] = DEFAULT_SIZE,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    per_category: Annotated[
        int | None, typer.Option("--per-category", min=1, help="Most pictures a category.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most pictures a source.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the splits.")] = 0,
    licence: Annotated[str, typer.Option("--licence", help="SPDX licence of pictures that state none.")] = "",
    attribution: Annotated[str, typer.Option("--attribution", help="Credit line of pictures that state none.")] = "",
    allow_unknown_licence: Annotated[
        bool, typer.Option("--allow-unknown-licence", help="Keep pictures whose licence is not stated.")
    ] = False,
) -> None:
    """Prepare pictures with captions and without shapes; the same as `prepare`, which tells pictures from meshes."""
    from omni123_hf.data.inputs import InputOptions

    options = InputOptions(raw, per_category, limit, seed, licence, attribution)
    prepare_pictures(sources, options, out, size, workers, allow_unknown_licence)


def prepare_pictures(
    sources: Sequence[str], options: InputOptions, out: Path, size: int, workers: int, allow_unknown_licence: bool
) -> None:
    """Read the sources, prepare them into one image store and print what became of them."""
    from omni123_hf.data.inputs import read_pictures
    from omni123_hf.data.inputs.fields import clean_text
    from omni123_hf.data.inputs.read import check_licences
    from omni123_hf.data.prepare_images import prepare_images

    if len(set(sources)) != len(sources):
        raise Omni123Error(f"a source is given twice: {' '.join(sources)}; name each once")
    assets = []
    for name in sources:
        chosen = read_pictures(name, options)
        if not allow_unknown_licence:
            check_licences(chosen, name)
        typer.echo(f"{clean_text(name)}: {len(chosen)} pictures")
        assets += chosen
    store = prepare_images(assets, out, size, options.seed, workers, allow_unknown_licence)
    typer.echo(f"{out}: {len(store)} pictures of {size} x {size}, content hash {store.content_hash[:16]}")
    outcome = store.summary["settings"].get("outcome", {})
    typer.echo(f"  {'rejected':<32} {outcome['rejected']:>7}")
    for reason, count in outcome["rejected_by_reason"].items():
        typer.echo(f"    {reason:<30} {count:>7}")
