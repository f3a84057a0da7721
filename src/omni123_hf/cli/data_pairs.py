"""`omni123 data pairs` and `omni123 data images`: editing pairs and captioned pictures as prepared folders."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.editing.readers import ReadPairs


def register(app: typer.Typer) -> None:
    """Add the commands to `omni123 data`."""
    app.command()(pairs)
    app.command()(images)


def pairs(
    out: Annotated[Path, typer.Option("--out", help="Folder of the pairs; a stopped run goes on there.")],
    parametric: Annotated[
        int | None, typer.Option("--parametric", min=1, help="Make this many pairs with our own generator.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", help="Read a table (.csv, .jsonl, .parquet) of source, target, instruction."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Read a folder or tar of mesh pairs by the names of its files.")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option("--kinds", help="Of --parametric: some of add,remove,replace,resize, with commas.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the set; that of the file if not given.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="SPDX licence of pairs that state none.")] = "",
    attribution: Annotated[str, typer.Option("--attribution", help="Credit line of pairs that state none.")] = "",
    chain: Annotated[
        list[str] | None,
        typer.Option("--made-with", help="A program or model that made the pairs, more than once for several."),
    ] = None,
    allow_restricted: Annotated[
        bool, typer.Option("--allow-restricted", help="Read pairs of a model whose terms bar training on them.")
    ] = False,
    allow_unknown_licence: Annotated[
        bool, typer.Option("--allow-unknown-licence", help="Keep pairs whose licence is not known.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of samples and splits.")] = 0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the local engine.")] = 1,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray (RAY_ADDRESS names the cluster).")] = "local",
) -> None:
    """Prepare editing pairs: two shapes of one object in one frame, an instruction, and where they differ."""
    if engine not in ("local", "ray"):
        raise Omni123Error(f"--engine must be local or ray, got {engine!r}")
    given = [path for path in (table, folder) if path is not None]
    if len(given) + (parametric is not None) != 1:
        raise Omni123Error("give one of --parametric, --table and --folder")
    if parametric is None and kinds is not None:
        raise Omni123Error("--kinds is for --parametric; the pairs of others have the kinds they have")
    described = (name, licence, attribution, chain, allow_restricted, allow_unknown_licence)
    if parametric is not None and any(described):
        raise Omni123Error(
            "pairs of our own generator have their name, licence and attribution; leave those options out"
        )
    from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG
    from omni123_hf.data.editing.prepare_pairs import prepare_pairs

    specs: list[Any]
    if parametric is not None:
        from omni123_hf.data.editing.parametric_pairs import KINDS, parametric_pairs

        chosen = KINDS if kinds is None else tuple(word.strip() for word in kinds.split(","))
        specs = list(parametric_pairs(parametric, kinds=chosen, split_seed=seed))
    else:
        from omni123_hf.data.editing.readers import PairSetInfo, read_mesh_pairs, read_table

        missing = [
            option
            for option, value in (
                ("--licence", licence or allow_unknown_licence), ("--attribution", attribution), ("--made-with", chain),
            )
            if not value
        ]  # fmt: skip
        if missing:
            raise Omni123Error(f"{given[0]}: say what the files do not, with {' and '.join(missing)}")
        info = PairSetInfo(
            name or given[0].name.split(".")[0],
            licence,
            attribution,
            tuple(chain or ()),
            seed,
            allow_restricted,
            allow_unknown_licence=allow_unknown_licence,
        )
        specs = listed(read_table(given[0], info) if table is not None else read_mesh_pairs(given[0], info), given[0])
    store = prepare_pairs(
        specs, out, workers, replace(PAIR_CONFIG, seed=seed), engine="ray" if engine == "ray" else "local"
    )
    typer.echo(f"{out}: {len(store)} pairs prepared, {len(specs) - len(store)} rejected")
    for kind, count in Counter(pair.edit_type for pair in store.pairs).items():
        typer.echo(f"  {kind:<32} {count:>7}")


def images(
    source: Annotated[str, typer.Argument(help="fluent-emoji.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the pictures.")],
    raw: Annotated[Path, typer.Option("--raw", help="Folder that holds what `fetch` wrote.")] = Path("data/raw"),
    size: Annotated[int, typer.Option("--size", min=1, max=256, help="Pixels a side.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the splits.")] = 0,
) -> None:
    """Prepare pictures with captions and without shapes, for the image side of training."""
    from omni123_hf.data.image_store import prepare_images
    from omni123_hf.data.sources import iter_images

    store = prepare_images(iter_images(source, raw / source), out, size, seed)
    typer.echo(f"{out}: {len(store)} pictures of {size} x {size}, content hash {store.content_hash[:16]}")


def listed(found: ReadPairs, path: Path) -> list[Any]:
    """The pairs of a reader; prints what was left out. No pair left raises `Omni123Error`."""
    skipped = Counter(skip["reason"] for skip in found.skipped)
    if not found.specs:
        raise Omni123Error(
            f"{path} holds no usable pair; the first of {len(found.skipped)}: {found.skipped[0]['detail']}"
        )
    typer.echo(f"{path}: {len(found.specs)} pairs, {len(found.skipped)} left out")
    for reason, count in skipped.items():
        typer.echo(f"    {reason:<30} {count:>7}")
    return list(found.specs)
