"""`omni123 data`: fetch real meshes, prepare a data set, look at one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from omni123_hf.errors import Omni123Error


PARAMETRIC = "parametric"

data_app = typer.Typer(
    help="Fetch sources, prepare data sets and look at them.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Sources: sweethome3d, ldraw.", metavar="NAMES...")],
    out: Annotated[Path, typer.Option("--out", help="Folder that gets one folder a source.")] = Path("data/raw"),
) -> None:
    """Download and unpack sources of real meshes through apt, without installing anything."""
    from omni123_hf.data.sources import fetch as fetch_source

    for name in names:
        typer.echo(f"{name}: {fetch_source(name, out)}")


@data_app.command()
def prepare(
    sources: Annotated[list[str], typer.Argument(help="parametric, sweethome3d, ldraw.", metavar="SOURCE...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set; a stopped run goes on there.")],
    raw: Annotated[Path, typer.Option("--raw", help="Folder that holds what `fetch` wrote.")] = Path("data/raw"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    per_category: Annotated[
        int | None,
        typer.Option("--per-category", min=1, help="Most assets a category (parametric: exactly; 100 if not given)."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most assets a source.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of programs, samples and splits.")] = 0,
) -> None:
    """Normalise, label, sample and render the assets of one or more sources into one data set."""
    from omni123_hf.data.prepare import PreparationConfig, prepare_dataset

    if len(set(sources)) != len(sources):
        raise Omni123Error(f"a source is given twice: {' '.join(sources)}; name each once")
    assets: list[Any] = []
    for name in sources:
        chosen = choose_assets(name, raw, per_category, limit, seed)
        typer.echo(f"{name}: {len(chosen)} assets")
        assets += chosen
    store = prepare_dataset(assets, out, workers=workers, config=PreparationConfig(seed=seed))
    typer.echo(f"{out}: {len(store)} prepared, {len(assets) - len(store)} rejected")


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
def stats(folder: Annotated[Path, typer.Argument(help="A prepared data set.", metavar="DIR")]) -> None:
    """Counts of a prepared data set by split, source, licence and category."""
    from omni123_hf.data.store import AssetStore

    store = AssetStore.open(folder)
    typer.echo(f"{folder}: {len(store)} assets, content hash {store.content_hash[:16]}")
    for title, key in (("split", "split"), ("source", "source"), ("licence", "licence"), ("category", "category")):
        typer.echo(f"by {title}:")
        for value, count in Counter(getattr(record, key) for record in store.records).most_common():
            typer.echo(f"  {value:<32} {count:>7}")
    words = [len(text.split()) for record in store.records for texts in record.captions.values() for text in texts]
    typer.echo(f"captions: {len(words)}, {sum(words) / len(words):.1f} words on average")
    reasons = rejection_reasons(folder / "rejected.jsonl")
    if reasons:
        typer.echo("rejected:")
        for reason, count in reasons.most_common():
            typer.echo(f"  {reason:<32} {count:>7}")


def choose_assets(name: str, raw: Path, per_category: int | None, limit: int | None, seed: int) -> list[Any]:
    """Assets of one source; with a limit, categories take turns, so that a small data set still has all of them."""
    from omni123_hf.data.prepare import parametric_assets
    from omni123_hf.data.sources import SOURCES, iter_assets

    if name == PARAMETRIC:
        try:
            specs: list[Any] = list(parametric_assets(per_category or 100, seed))
        except ModuleNotFoundError as error:
            raise Omni123Error(
                f"parametric objects need {error.name}; install it with: pip install 'omni123-hf[data]'"
            ) from error
        return specs[:limit]
    if name not in SOURCES:
        raise Omni123Error(f"unknown source {name!r}; choose from {PARAMETRIC}, {', '.join(SOURCES)}")
    folder = raw / name
    if not folder.is_dir():
        raise Omni123Error(f"{folder} does not exist; run 'omni123 data fetch {name} --out {raw}' first")
    by_category: dict[str, list[Any]] = {}
    for asset in iter_assets(name, folder):
        by_category.setdefault(asset.category, []).append(asset)
    ranked = [
        (position, category, asset)
        for category, assets in by_category.items()
        for position, asset in enumerate(assets[:per_category])
    ]
    ranked.sort(key=lambda entry: entry[:2])
    return [asset for _, _, asset in ranked[:limit]]


def rejection_reasons(path: Path) -> Counter[str]:
    """How often each reason stands in a `rejected.jsonl`; empty when the file is not there."""
    import json

    if not path.is_file():
        return Counter()
    return Counter(json.loads(line)["reason"] for line in path.read_text(encoding="utf-8").splitlines())
