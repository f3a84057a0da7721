"""Token shards on the Hub: a data set of Parquet files that `datasets.load_dataset` reads, and the way back to shards.

| file | content |
|---|---|
| `data/POOL/SPLIT-00000-of-00256.parquet` | one file a shard: the manifest's columns and, a field, codes as list<uint16> |
| `shards.json` | as in the shard folder: the SHA-256 of the flat tokens tells whether the way back gave the same bytes |
| `README.md` | the card: licences, counts, lineage, how to load |

Text embeddings stay behind: they are large, and the checkpoint makes them again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from omni123_hf.data.shards.card import write_card
from omni123_hf.data.shards.format import (
    INDEX_FILE,
    TOKEN_DTYPE,
    FileEntry,
    PoolInfo,
    PoolLayout,
    Shard,
    file_entry,
    file_names,
    write_bytes,
)
from omni123_hf.data.shards.index import read_index, write_index
from omni123_hf.data.shards.manifest import ShardRecord, manifest_table, schema, write_manifest
from omni123_hf.data.shards.reader import Pool, TokenShards
from omni123_hf.errors import Omni123Error


# Where a record lies in the shards; the files of the Hub are in the same order.
PLACE_COLUMNS = ("shard", "row", "caption_row")
CODES = pa.list_(pa.uint16())
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def hub_schema(layout: PoolLayout) -> pa.Schema:
    """Columns of a pool on the Hub."""
    columns = [column for column in schema(layout.name) if column.name not in PLACE_COLUMNS]
    return pa.schema([*columns, *(pa.field(part.name, CODES) for part in layout.fields)])


def hub_table(pool: Pool, shard: int) -> pa.Table:
    """One shard as the table that goes to the Hub."""
    path = pool.folder / pool.info.shards[shard].files["manifest"].file
    table = pq.read_table(path).drop_columns(list(PLACE_COLUMNS))
    tokens = pool.tokens(shard)
    for part in pool.layout.fields:
        values = np.ascontiguousarray(tokens[:, pool.layout.place(part.name)]).reshape(-1)
        offsets = np.arange(len(tokens) + 1, dtype=np.int32) * part.length
        table = table.append_column(pa.field(part.name, CODES), pa.ListArray.from_arrays(offsets, values, type=CODES))
    return table


def hub_files(info: PoolInfo) -> list[str]:
    """Path on the Hub of every shard of a pool."""
    numbers: dict[str, int] = {}
    paths = []
    for shard in info.shards:
        number = numbers.get(shard.split, 0)
        total = sum(other.split == shard.split for other in info.shards)
        paths.append(f"data/{info.layout.name}/{shard.split}-{number:05d}-of-{total:05d}.parquet")
        numbers[shard.split] = number + 1
    return paths


def export_hub_folder(shards: TokenShards, folder: str | Path, name: str = "") -> Path:
    """Write the files of the Hub's data set into `folder`; `name` is its Hub id for the card. Reading needs no network."""
    folder = Path(folder)
    published = {}
    for pool_name, pool in shards.pools.items():
        for number, file in enumerate(hub_files(pool.info)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_manifest(folder / file, hub_table(pool, number))
        kept = [replace(shard, files={"tokens": shard.files["tokens"]}) for shard in pool.info.shards]
        published[pool_name] = replace(pool.info, embeddings={}, shards=kept)
    write_index(folder, published)
    write_card(folder / "README.md", published, name)
    return folder


def push_to_hub(
    shards: TokenShards | str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload verified shards as the data set `repo_id`, made if it is not there; returns the address of the commit.

    Files of an earlier upload that the new one lacks are removed in the same commit. Needs disk space for the Parquet files
    beside the shards while it runs. Raises `Omni123Error` for damaged shards, for what the Hub refuses and without a
    network.
    """
    if not isinstance(shards, TokenShards):
        shards = TokenShards.open(shards, verify=True)
    api = HfApi(token=token)
    with refusals(f"cannot upload to {repo_id!r}"):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hub-", dir=shards.folder) as staging:
        export_hub_folder(shards, staging, repo_id)
        with refusals(f"cannot upload to {repo_id!r}"):
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=staging,
                revision=revision,
                commit_message="Token shards",
                delete_patterns="data/**",
            )
    return str(commit.commit_url)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turns what the Hub refuses, and a network that is not there, into `Omni123Error`."""
    try:
        yield
    except Exception as error:  # the network errors are those of an HTTP library that changes with the version
        raise Omni123Error(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The text of an error, shortened; some network errors have none but their name."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def fetch_shards(repo_id: str, revision: str | None = None) -> Path:
    """The folder of flat shards of a data set on the Hub, fetched and built unless it is there already.

    Raises `Omni123Error` for an id that leads nowhere, for another kind of data set, and for tokens that are not those
    that were uploaded.
    """
    if not _HUB_ID.fullmatch(repo_id):
        raise Omni123Error(f"{repo_id!r} is neither a folder of token shards nor a Hub id 'org/name'")
    try:
        snapshot = Path(
            snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=[INDEX_FILE, "data/**"])
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Omni123Error(f"no data set {repo_id!r} on the Hub, or no access to it") from error
    except Exception as error:  # as in `refusals`
        raise Omni123Error(f"cannot download {repo_id!r}: {one_line(error)}") from error
    if not (snapshot / INDEX_FILE).is_file():
        raise Omni123Error(f"the data set {repo_id!r} has no {INDEX_FILE}; it was not written by push_to_hub")
    # A snapshot's folder is named by its commit, so this one never goes stale.
    home = Path(constants.HF_HOME) / "omni123_hf" / "shards" / repo_id.replace("/", "--")
    folder = home / snapshot.name
    if not (folder / INDEX_FILE).is_file():
        home.mkdir(parents=True, exist_ok=True)
        build = Path(tempfile.mkdtemp(prefix=".build-", dir=home))
        try:
            build_shards(snapshot, build)
            os.rename(build, folder)
        except OSError:
            # Several processes of one machine may build at once; the first one to finish wins.
            if not (folder / INDEX_FILE).is_file():
                raise
        finally:
            shutil.rmtree(build, ignore_errors=True)
    return folder


def build_shards(snapshot: Path, folder: Path) -> None:
    """Turn the Hub's Parquet files in `snapshot` back into shards in the empty `folder`.

    The snapshot is anyone's: names of files come from `file_names`, and tokens are compared before they are written.
    Raises `Omni123Error` for an index that is malformed, and for a Parquet file that is not the one it tells of.
    """
    pools = read_index(snapshot)
    built = {}
    for name, info in pools.items():
        (folder / name).mkdir()
        files = hub_files(info)
        shards = [
            build_shard(snapshot / file, folder, info, shard, number)
            for number, (file, shard) in enumerate(zip(files, info.shards, strict=True))
        ]
        built[name] = replace(info, embeddings={}, shards=shards)
    write_index(folder, built)


def build_shard(parquet: Path, folder: Path, info: PoolInfo, shard: Shard, number: int) -> Shard:
    """One shard from its Parquet file. Raises `Omni123Error`, before anything is written, when it is not the original."""
    names = file_names(info.layout.name, shard.name, ())
    try:
        tokens, records = read_hub_file(parquet, info.layout, shard)
    except (OSError, KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise not_the_original(parquet) from error
    data = tokens.tobytes()
    entry = FileEntry(names["tokens"], len(data), hashlib.sha256(data).hexdigest())
    if entry != shard.files["tokens"]:
        raise not_the_original(parquet)
    write_bytes(folder / names["tokens"], data)
    manifest = folder / names["manifest"]
    write_manifest(manifest, manifest_table(info.layout.name, records, number))
    return replace(shard, files={"manifest": file_entry(folder, manifest), "tokens": entry})


def read_hub_file(parquet: Path, layout: PoolLayout, shard: Shard) -> tuple[np.ndarray, list[ShardRecord]]:
    """Codes (records, record length) as stored, and what is known about the records.

    Raises `ValueError`, or what Arrow and Python raise, for another table than `hub_schema`, other counts than the shard's
    and codes outside their vocabulary.
    """
    columns = hub_schema(layout)
    table = pq.read_table(parquet).select(columns.names).cast(columns)
    if table.num_rows != shard.records or any(column.null_count for column in table.columns):
        raise ValueError("other records")
    parts = []
    for part in layout.fields:
        codes = table[part.name].combine_chunks().flatten().to_numpy().reshape(shard.records, part.length)
        if codes.max() >= part.codes:
            raise ValueError(f"{part.name} holds the code {codes.max()}")
        parts.append(codes)
    names = [part.name for part in layout.fields]
    records = [ShardRecord.from_row(row) for row in table.drop_columns(names).to_pylist()]
    if any(record.split != shard.split for record in records):
        raise ValueError("records of another split")
    if sum(len(record.texts) for record in records) != shard.captions:
        raise ValueError("other captions")
    return np.concatenate(parts, axis=1).astype(TOKEN_DTYPE), records


def not_the_original(parquet: Path) -> Omni123Error:
    return Omni123Error(
        f"{parquet.name} is not the file that was uploaded with {INDEX_FILE}; upload the data set again"
    )
