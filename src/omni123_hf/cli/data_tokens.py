"""`omni123 data tokenize`, `token-stats` and `push-tokens`: prepared data sets to token shards, and shards to the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.shards.format import PoolInfo


def register(app: typer.Typer) -> None:
    """Add the commands to `omni123 data`."""
    app.command()(tokenize)
    app.command("token-stats")(token_stats)
    app.command("push-tokens")(push_tokens)


def tokenize(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Prepared assets, pictures, editing pairs or token pairs; several fill one pool together.",
            metavar="DIR...",
        ),
    ],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="Bundled name, folder or Hub id of a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the shards; a stopped run goes on there.")],
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            help="Assets: pairs, shapes or images, all that the checkpoint has tokenizers for if not given. Pictures fill "
            "images, editing and token pairs edits.",
        ),
    ] = None,
    views: Annotated[
        list[str] | None,
        typer.Option("--view", help="A view of assets to tokenize, more than once for several; all if not given."),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="Shards of the split train: at least one a rank that streams them."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Assets encoded at once.")] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of the records.")] = 0,
    text_embeddings: Annotated[
        bool, typer.Option("--text-embeddings", help="Keep what the checkpoint's text encoders make of every caption.")
    ] = False,
    allow_unknown_licence: Annotated[
        bool, typer.Option("--allow-unknown-licence", help="Take records that name no licence.")
    ] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda; cuda where there is one.")] = None,
) -> None:
    """Turn prepared data into one pool of token shards with a checkpoint's tokenizers; call again for other pools."""
    need_extras()
    import torch
    from transformers.utils import logging as transformers_logging

    from omni123_hf.data.prepared import open_prepared
    from omni123_hf.data.shards.pool_parts import common_pool
    from omni123_hf.data.shards.store_tokens import tokenize_stores
    from omni123_hf.data.shards.text import CheckpointTextEncoders
    from omni123_hf.data.shards.tokenizers import NEEDED, TOKENIZERS, StoreTokenizers
    from omni123_hf.data.shards.writer import WriterOptions

    transformers_logging.disable_progress_bar()
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if where.startswith("cuda") and not torch.cuda.is_available():
        raise Omni123Error("there is no CUDA device here; leave out --device, or give cpu")
    stores = [open_prepared(path) for path in data]
    folder = checkpoint_folder(checkpoint)
    present = {name: folder / name for name in TOKENIZERS if (folder / name).is_dir()}
    pool = common_pool(stores, list(present), pool)
    tokenizers = StoreTokenizers.load({name: present[name] for name in NEEDED[pool] if name in present}, where)
    info = tokenize_stores(
        stores,
        tokenizers,
        out,
        pool,
        views,
        checkpoint_name(checkpoint, folder),
        WriterOptions(shards, seed, batch_size, allow_unknown_licence),
        CheckpointTextEncoders(folder, where) if text_embeddings else None,
    )
    describe(out, info)


def token_stats(
    folder: Annotated[str, typer.Argument(help="A folder of token shards, or a Hub id.", metavar="SHARDS")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its SHA-256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Counts, sizes and lineage of token shards, and how much of each vocabulary they use."""
    need_extras()
    from omni123_hf.data.shards.reader import TokenShards
    from omni123_hf.data.shards.statistics import code_use

    shards = TokenShards.open(folder, verify=verify)
    use = {name: code_use(pool) for name, pool in shards.pools.items()}
    if as_json:
        facts: dict[str, Any] = {
            name: {**pool.info.to_dict(), "shards": len(pool.info.shards), "code_use": use[name]}
            for name, pool in shards.pools.items()
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, pool in shards.pools.items():
        describe(shards.folder, pool.info)
        for field, share in use[name].items():
            typer.echo(f"  {field:<32} {share:>7.1%} of its codes used")


def push_tokens(
    folder: Annotated[Path, typer.Argument(help="A folder of token shards.", metavar="SHARDS")],
    repo_id: Annotated[str, typer.Argument(help="Data set on the Hub, 'org/name'.", metavar="REPO")],
    private: Annotated[bool, typer.Option("--private", help="Make a new data set private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to upload to.")] = None,
) -> None:
    """Upload token shards to the Hub as a data set that `datasets.load_dataset` reads."""
    need_extras()
    from omni123_hf.data.shards.hub import push_to_hub

    typer.echo(push_to_hub(folder, repo_id, private=private or None, revision=revision))


def need_extras() -> None:
    """Raises `Omni123Error` when pyarrow is not installed: manifests are Parquet."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise Omni123Error("token shards need pyarrow; install it with: pip install 'omni123-hf[data]'") from error


def checkpoint_folder(name: str) -> Path:
    """The checked folder of a checkpoint, downloaded when `name` is a Hub id."""
    from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase
    from omni123_hf.pipelines.registry import check_checkpoint, resolve_checkpoint

    folder = resolve_checkpoint(name)
    if folder is None:
        folder = Path(Omni123PipelineBase.download(name))
    check_checkpoint(folder)
    return folder


def checkpoint_name(name: str, folder: Path) -> str:
    """A name for the lineage that does not tell where on this machine the checkpoint lies: last part and revision."""
    from omni123_hf.pipelines.registry import bundled_checkpoints, checkpoint_revision

    is_hub_id = not Path(name).exists() and name not in bundled_checkpoints()
    return f"{name if is_hub_id else folder.resolve().name} (revision {checkpoint_revision(folder)})"


def describe(folder: Path, info: PoolInfo) -> None:
    """Print one pool."""
    layout = info.layout
    typer.echo(f"{folder}/{layout.name}: {sum(info.splits.values())} records of {layout.record_length} codes")
    typer.echo(f"  written by {info.origin.get('checkpoint') or 'unnamed tokenizers'}")
    for split, count in info.splits.items():
        shards = sum(shard.split == split for shard in info.shards)
        typer.echo(f"  {split:<32} {count:>7} records in {shards} shards")
    for data_set in info.origin.get("data_sets", []):
        typer.echo(f"  of {data_set['kind']:<29} {data_set['rows']:>7} rows {data_set['content_hash'][:16]}")
    for warning in info.origin.get("licence_warnings", []):
        typer.echo(f"  warning: {warning}")
    for licence, count in info.licences.items():
        typer.echo(f"  {licence or 'no licence':<32} {count:>7} records")
    for name, facts in info.embeddings.items():
        typer.echo(f"  {name:<32} {' x '.join(map(str, facts['shape']))} float16 a caption")
