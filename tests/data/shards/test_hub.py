"""The Hub's form of token shards: what `datasets` reads from a folder and from a server, and the way back to the same bytes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from local_hub import LocalHub
from tiny_shards import (
    LAYOUT,
    ORIGIN,
    QUIET,
    encode,
    tiny_records,
    tiny_shards_with_embeddings,
    write_tiny_shards,
)

from omni123_hf.data.shards.edits import EditTokens, write_edits
from omni123_hf.data.shards.hub import build_shards, export_hub_folder, push_to_hub
from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.writer import write_pool
from omni123_hf.errors import Omni123Error


REPO = "someone/tiny-shards"
# The endpoint is read when the library is imported, so each user of the server is a process of its own.
CLIENT = """
import itertools, json, sys
from pathlib import Path
from omni123_hf.data.shards import TokenShards, push_to_hub, stream_from_hub
from omni123_hf.errors import Omni123Error

folder, repo = sys.argv[1:]
facts = {}
facts["url"] = push_to_hub(folder, repo)
facts["url"] = push_to_hub(folder, repo)

import datasets
loaded = datasets.load_dataset(repo, "pairs")
facts["loaded"] = {split: list(rows["id"]) for split, rows in loaded.items()}
facts["features"] = {name: str(feature) for name, feature in loaded["train"].features.items()}
stream = stream_from_hub(repo, "pairs")
facts["files"] = stream.n_shards
facts["streamed"] = [[row["id"], row["shape_tokens"]] for row in stream]
facts["ranks"] = [[row["id"] for row in stream_from_hub(repo, "pairs", rank=rank, world=2)] for rank in range(2)]
facts["columns"] = next(iter(stream_from_hub(repo, "pairs", columns=["id", "shape_tokens"])))
opened = TokenShards.open(repo, verify=True)
facts["folder"] = str(opened.folder)
facts["again"] = str(TokenShards.open(repo).folder)
facts["errors"] = []
for action in (
    lambda: stream_from_hub(repo, "pairs", rank=0, world=5),
    lambda: TokenShards.open("someone/nothing"),
    lambda: push_to_hub(folder, "refused/tiny"),
):
    try:
        action()
        facts["errors"].append("none")
    except Omni123Error as error:
        facts["errors"].append(str(error))
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> TokenShards:
    """Two pools, read only."""
    folder = tmp_path_factory.mktemp("hub") / "shards"
    write_tiny_shards(folder)
    pair = EditTokens(
        "edit/0", "ours", "train", "CC0-1.0", "us", "table", np.arange(5), np.arange(5) + 1, ("add a leg",), "add"
    )
    write_edits(folder, [pair], 500, {"shape_tokenizer": "a" * 64}, options=replace(QUIET, shards=1))
    return TokenShards.open(folder)


def test_a_local_folder_loads_with_datasets(shards, tmp_path):
    folder = export_hub_folder(shards, tmp_path / "hub", REPO)
    loaded = datasets.load_dataset(str(folder), "pairs", cache_dir=str(tmp_path / "cache"))
    pool = shards["pairs"]
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 36, "validation": 4}
    assert loaded["train"].features["shape_tokens"] == datasets.List(datasets.Value("uint16"))
    for number in (0, 17, 35):
        row = loaded["train"][number]
        assert row["id"] == pool.record(number).id and row["licence"] == pool.record(number).licence
        assert row["image_tokens_three_quarter"] == pool[number]["image_tokens_three_quarter"].tolist()
    edits = datasets.load_dataset(str(folder), "edits", split="train", cache_dir=str(tmp_path / "cache"))
    assert edits[0]["instructions"] == ["add a leg"] and edits[0]["target_tokens"] == [1, 2, 3, 4, 5]
    default = datasets.load_dataset(str(folder), split="train", streaming=True)
    assert default.n_shards == 4 and next(iter(default))["id"] == pool.record(0).id


def test_the_card_names_licences_counts_and_lineage(shards, tmp_path):
    text = (export_hub_folder(shards, tmp_path, REPO) / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other" and head["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in head["configs"]] == ["pairs", "edits"]
    for part in (
        "| pairs | found | CC-BY-4.0 | 20 | 20 |",
        "| `train` | 36 |",
        "65,536 image codes",
        f"shape_tokenizer: weights `{'a' * 64}`",
        f'load_dataset("{REPO}", "pairs"',
        f"content hash `{'d' * 64}`",
    ):
        assert part in text


def test_one_licence_stands_in_the_head_of_the_card(tmp_path):
    records = [replace(record, licence="CC0-1.0") for record in tiny_records()]
    write_pool(tmp_path / "shards", LAYOUT, records, encode, ORIGIN, QUIET)
    export_hub_folder(TokenShards.open(tmp_path / "shards"), tmp_path / "hub")
    assert yaml.safe_load((tmp_path / "hub/README.md").read_text().split("---")[1])["license"] == "cc0-1.0"


def test_the_way_back_gives_the_same_tokens_and_finds_others(shards, tmp_path):
    hub = export_hub_folder(shards, tmp_path / "hub")
    (tmp_path / "back").mkdir()
    build_shards(hub, tmp_path / "back")
    assert_same(TokenShards.open(tmp_path / "back", verify=True), shards)
    swapped = hub / "data/pairs/train-00001-of-00004.parquet"
    swapped.write_bytes((hub / "data/pairs/train-00002-of-00004.parquet").read_bytes())
    (tmp_path / "wrong").mkdir()
    with pytest.raises(Omni123Error, match="train-00001-of-00004.parquet is not the file"):
        build_shards(hub, tmp_path / "wrong")
    swapped.write_bytes(b"PAR1")
    (tmp_path / "broken").mkdir()
    with pytest.raises(Omni123Error, match="train-00001-of-00004.parquet is not the file"):
        build_shards(hub, tmp_path / "broken")


def test_an_upload_comes_back_from_the_server(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with LocalHub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        url = push_to_hub(shards, REPO)
        assert url.endswith(hub.commit_of(REPO)) and json.loads(hub.files(REPO)["shards.json"])["format"] == 1
        fetched = TokenShards.open(REPO)
        assert_same(fetched, shards)
        fewer = tmp_path / "fewer"
        write_pool(fewer, LAYOUT, tiny_records(), encode, ORIGIN, replace(QUIET, shards=2))
        push_to_hub(fewer, REPO)
        assert len([path for path in hub.files(REPO) if path.startswith("data/pairs/train")]) == 2
        assert len(TokenShards.open(REPO)["pairs"].info.shards) == 3
        assert_same(TokenShards.open(REPO, revision=url.split("/")[-1]), shards)
        hub.repos["someone/other"] = []
        hub.commit("someone/other", {"README.md": b"no shards"})
        with pytest.raises(Omni123Error, match="has no shards.json"):
            TokenShards.open("someone/other")


def test_damaged_shards_are_not_uploaded(tmp_path):
    write_tiny_shards(tmp_path)
    (tmp_path / "pairs/train-00000.parquet").write_bytes(b"x")
    with pytest.raises(Omni123Error, match="train-00000.parquet .* damaged"):
        push_to_hub(tmp_path, REPO)


@pytest.mark.slow
def test_upload_streaming_and_fetching_through_a_server(shards, tmp_path):
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_nobody",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    with LocalHub() as hub:
        hub.refused.add("refused/tiny")
        hub.repos[REPO] = []
        hub.commit(REPO, {"data/pairs/train-00000-of-00009.parquet": b"old", "notes.txt": b"kept"})
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, str(shards.folder), REPO],
            env={**environment, "HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:] + str(hub.requests[-20:])
        uploaded = hub.files(REPO)
        requests = hub.requests
    facts = json.loads(done.stdout.splitlines()[-1])
    pool = shards["pairs"]
    names = [pool.record(number).id for number in range(40)]
    assert f"/datasets/{REPO}/commit/" in facts["url"] and "notes.txt" in uploaded
    assert sorted(path for path in uploaded if path.startswith("data/pairs/train")) == [
        f"data/pairs/train-{i:05d}-of-00004.parquet" for i in range(4)
    ]
    assert facts["loaded"] == {"train": names[:36], "validation": names[36:]}
    assert facts["features"]["shape_tokens"] == "List(Value('uint16'))"
    assert facts["streamed"] == [[names[i], pool[i]["shape_tokens"].tolist()] for i in range(36)]
    assert facts["files"] == 4 and sorted(sum(facts["ranks"], [])) == sorted(names[:36])
    assert min(map(len, facts["ranks"])) == 18 and set(facts["columns"]) == {"id", "shape_tokens"}
    assert facts["folder"] == facts["again"] and Path(facts["folder"]).is_relative_to(tmp_path / "home")
    assert_same(TokenShards.open(facts["folder"], verify=True), shards)
    assert "4 files of pairs/train for 5 ranks" in facts["errors"][0] and "--shards 5" in facts["errors"][0]
    assert "no data set 'someone/nothing'" in facts["errors"][1]
    assert "cannot upload to 'refused/tiny'" in facts["errors"][2]
    assert not list(shards.folder.glob(".hub-*"))
    assert any(request.startswith("PUT /objects/") for request in requests)


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table.set_column(2, "split", pa.array(["heldout"] * table.num_rows)),
        lambda table: table.set_column(6, "captions_short", pa.array([[]] * table.num_rows, pa.list_(pa.string()))),
        lambda table: table.set_column(6, "captions_short", pa.nulls(table.num_rows, pa.list_(pa.string()))),
        lambda table: table.drop_columns(["licence"]),
        lambda table: table.drop_columns(["shape_tokens"]),
        lambda table: table.set_column(0, "shape_tokens", pa.array(["x"] * table.num_rows)),
        lambda table: table.slice(1),
    ],
)
def test_a_table_that_is_not_the_uploaded_one_leaves_nothing(shards, tmp_path, edit):
    hub = export_hub_folder(shards, tmp_path / "hub")
    path = hub / "data/pairs/train-00000-of-00004.parquet"
    pq.write_table(edit(pq.read_table(path)), path)
    (tmp_path / "back").mkdir()
    with pytest.raises(Omni123Error, match="train-00000-of-00004.parquet is not the file"):
        build_shards(hub, tmp_path / "back")
    assert not [file for file in tmp_path.joinpath("back").rglob("*") if file.is_file()]


def test_codes_outside_their_vocabulary_are_refused_on_the_way_back(shards, tmp_path):
    hub = export_hub_folder(shards, tmp_path / "hub")
    index = json.loads((hub / "shards.json").read_text())
    index["pools"]["pairs"]["fields"][0]["codes"] = 400
    (hub / "shards.json").write_text(json.dumps(index))
    (tmp_path / "back").mkdir()
    with pytest.raises(Omni123Error, match="is not the file"):
        build_shards(hub, tmp_path / "back")


def test_embeddings_that_a_hub_index_tells_of_are_dropped(tmp_path):
    local = tiny_shards_with_embeddings(tmp_path / "shards")
    hub = export_hub_folder(local, tmp_path / "hub")
    (hub / "shards.json").write_bytes((tmp_path / "shards/shards.json").read_bytes())
    (tmp_path / "back").mkdir()
    build_shards(hub, tmp_path / "back")
    back = TokenShards.open(tmp_path / "back", verify=True)
    assert_same(back, local)
    assert back["pairs"].info.embeddings == {}


def assert_same(one: TokenShards, other: TokenShards) -> None:
    """The same records in the same places."""
    assert list(one.pools) == list(other.pools)
    for name, pool in one.pools.items():
        everything = np.arange(len(pool))
        assert np.array_equal(pool.rows(everything), other[name].rows(everything))
        assert pool.manifest.equals(other[name].manifest)
        assert pool.info.origin == other[name].info.origin
