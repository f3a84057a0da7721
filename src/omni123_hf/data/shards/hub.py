"""Token shards on the Hub: a data set of Parquet files that `datasets.load_dataset` reads, and the way back to shards.

| file | content |
|---|---|
| `data/POOL/SPLIT-00000-of-00256.parquet` | one file a shard: the manifest's columns and, a field, codes as list<uint16> |
| `shards.json` | as in the shard folder: the SHA-256 of the flat tokens tells whether the way back gave the same bytes |
| `README.md` | the card: licences, counts, lineage, how to load |

Text embeddings stay behind: they are large, and the checkpoint makes them again.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from omni123_hf.data.shards.card import write_card
from omni123_hf.data.shards.format import (
    INDEX_FILE,
    TOKEN_DTYPE,
    PoolInfo,
    Shard,
    file_entry,
    read_index,
    write_bytes,
    write_index,
)
from omni123_hf.data.shards.manifest import ShardRecord, manifest_table, schema, write_manifest
from omni123_hf.data.shards.reader import Pool, TokenShards
from omni123_hf.errors import Omni123Error


# Where a record lies in the shards; the files of the Hub are in the same order.
PLACE_COLUMNS = ("shard", "row", "caption_row")
CODES = pa.list_(pa.uint16())
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def hub_schema(pool: Pool) -> pa.Schema:
    """Columns of a pool on the Hub."""
    columns = [column for column in schema(pool.name) if column.name not in PLACE_COLUMNS]
    return pa.schema([*columns, *(pa.field(part.name, CODES) for part in pool.layout.fields)])


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
    beside the shards while it runs. Raises `Omni123Error` for damaged shards and for what the Hub refuses.
    """
    if not isinstance(shards, TokenShards):
        shards = TokenShards.open(shards, verify=True)
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hub-", dir=shards.folder) as staging:
            export_hub_folder(shards, staging, repo_id)
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=staging,
                revision=revision,
                commit_message="Token shards",
                delete_patterns="data/**",
            )
    except (HFValidationError, HfHubHTTPError) as error:
        raise Omni123Error(f"cannot upload to {repo_id!r}: {' '.join(str(error).split())[:300]}") from error
    return str(commit.commit_url)


def fetch_shards(repo_id: str, revision: str | None = None) -> Path:
    """The folder of flat shards of a data set on the Hub, fetched and built unless it is there already.

    Raises `Omni123Error` for an id that leads nowhere, for another kind of data set, and for tokens that are not those
    that were uploaded.
    """
    if not _HUB_ID.match(repo_id):
        raise Omni123Error(f"{repo_id!r} is neither a folder of token shards nor a Hub id 'org/name'")
    try:
        snapshot = Path(
            snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=[INDEX_FILE, "data/**"])
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Omni123Error(f"no data set {repo_id!r} on the Hub, or no access to it") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise Omni123Error(f"cannot download {repo_id!r}: {' '.join(str(error).split())[:300]}") from error
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
    """Turn the Hub's Parquet files in `snapshot` back into a shard folder."""
    pools = read_index(snapshot)
    built = {}
    for name, info in pools.items():
        (folder / name).mkdir()
        files = hub_files(info)
        shards = [
            build_shard(snapshot / file, folder, info, shard, number)
            for number, (file, shard) in enumerate(zip(files, info.shards, strict=True))
        ]
        built[name] = replace(info, shards=shards)
    write_index(folder, built)


def build_shard(parquet: Path, folder: Path, info: PoolInfo, shard: Shard, number: int) -> Shard:
    """One shard from its Parquet file. Raises `Omni123Error` when the tokens are not those of the original."""
    wrong = f"{parquet.name} is not the file that was uploaded with {INDEX_FILE}; upload the data set again"
    try:
        table = pq.read_table(parquet)
        columns = [
            table[part.name].combine_chunks().flatten().to_numpy().reshape(shard.records, part.length)
            for part in info.layout.fields
        ]
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise Omni123Error(wrong) from error
    tokens = folder / shard.files["tokens"].file
    data = np.concatenate(columns, axis=1).astype(TOKEN_DTYPE).tobytes()
    write_bytes(tokens, data)
    entry = file_entry(folder, tokens)
    if entry != shard.files["tokens"]:
        raise Omni123Error(wrong)
    records = [
        ShardRecord.from_row(row) for row in table.drop_columns([part.name for part in info.layout.fields]).to_pylist()
    ]
    manifest = tokens.with_suffix(".parquet")
    write_manifest(manifest, manifest_table(info.layout.name, records, number))
    return replace(shard, files={"manifest": file_entry(folder, manifest), "tokens": entry})
