"""`omni123 data pairs`: editing pairs as a prepared folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.editing.readers import PairSetInfo, ReadPairs
    from omni123_hf.data.editing.records import EditPair


def register(app: typer.Typer) -> None:
    """Add the command to `omni123 data`."""
    app.command()(pairs)


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
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="Read a folder or tar of pairs that are shape tokens already (.npy)."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Of --tokens: the checkpoint whose shape tokenizer wrote them.")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option("--kinds", help="Of --parametric: some of add,remove,replace,resize, with commas.")
    ] = None,
    first: Annotated[
        int,
        typer.Option("--first", min=0, help="Of --parametric: pass over this many pairs; a second set goes on there."),
    ] = 0,
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
    """Prepare editing pairs: two shapes of one object in one frame, an instruction, and where they differ; or take pairs
    that are tokens already."""
    if engine not in ("local", "ray"):
        raise Omni123Error(f"--engine must be local or ray, got {engine!r}")
    given = [path for path in (table, folder, tokens) if path is not None]
    if len(given) + (parametric is not None) != 1:
        raise Omni123Error("give one of --parametric, --table, --folder and --tokens")
    if (tokens is None) != (checkpoint is None):
        raise Omni123Error("--tokens and --checkpoint belong together: tokens mean nothing without their tokenizer")
    if tokens is not None and (workers != 1 or engine != "local"):
        raise Omni123Error("--workers and --engine are for shapes; tokens are only checked")
    if parametric is None and (kinds is not None or first):
        raise Omni123Error("--kinds and --first are for --parametric; the pairs of others are what they are")
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
        specs = list(parametric_pairs(parametric, kinds=chosen, split_seed=seed, first=first))
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
        if tokens is not None and checkpoint is not None:
            prepare_tokens(tokens, info, checkpoint, out)
            return
        specs = listed(read_table(given[0], info) if table is not None else read_mesh_pairs(given[0], info), given[0])
    store = prepare_pairs(
        specs, out, workers, replace(PAIR_CONFIG, seed=seed), engine="ray" if engine == "ray" else "local"
    )
    typer.echo(f"{out}: {len(store)} pairs prepared, {len(specs) - len(store)} rejected")
    echo_types(store.pairs)


def prepare_tokens(path: Path, info: PairSetInfo, checkpoint: str, out: Path) -> None:
    """Read, check and write pairs of tokens; prints what was left out."""
    from omni123_hf.cli.data_tokens import checkpoint_folder
    from omni123_hf.data.editing.token_pairs import TokenSpace, read_token_pairs, write_token_pairs
    from omni123_hf.data.tokens import weights_hash
    from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig

    component = checkpoint_folder(checkpoint) / "shape_tokenizer"
    if not component.is_dir():
        raise Omni123Error(f"the checkpoint {checkpoint!r} has no shape_tokenizer; give the one that wrote the tokens")
    config = Omni123ShapeTokenizerConfig.from_pretrained(component)
    skipped: list[dict[str, str]] = []
    space = TokenSpace(weights_hash(component), config.num_latents, config.num_codes)
    store = write_token_pairs(read_token_pairs(path, info, space, skipped), out, space, skipped)
    typer.echo(f"{out}: {len(store)} pairs of {space.length} tokens, {len(skipped)} left out")
    for reason, count in Counter(skip["reason"] for skip in skipped).items():
        typer.echo(f"    {reason:<30} {count:>7}")
    echo_types(store.pairs)
    for warning in sorted({pair.licence_warning for pair in store.pairs if pair.licence_warning}):
        typer.echo(f"  warning: {warning}")


def echo_types(pairs: list[EditPair]) -> None:
    """Print the number of pairs of each type."""
    for kind, count in Counter(pair.edit_type for pair in pairs).items():
        typer.echo(f"  {kind:<32} {count:>7}")


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
