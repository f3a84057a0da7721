"""`shards.json` comes from anyone: no path in it is followed, and what does not fit is one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_shards import tiny_shards_with_embeddings, write_tiny_shards

from omni123_hf.data.shards.hub import build_shards, export_hub_folder
from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.statistics import code_use
from omni123_hf.errors import Omni123Error


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the pool `pairs` in the index of `folder`."""
    index = folder / "shards.json"
    content = json.loads(index.read_text())
    edit(content["pools"]["pairs"])
    index.write_text(json.dumps(content))


def set_file(kind: str, path: str) -> Callable[[dict[str, Any]], object]:
    return lambda pool: pool["shards"][0]["files"][kind].update(file=path)


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", ["ABSOLUTE", "../../victim.bin", "pairs/../../../victim.bin", "shards.json", ""])
def test_shards_of_the_hub_write_nothing_outside_their_folder(tmp_path, path):
    shards = write_tiny_shards(tmp_path / "shards")
    hub = export_hub_folder(shards, tmp_path / "hub")
    build = tmp_path / "cache/build"
    build.mkdir(parents=True)
    (tmp_path / "victim.bin").write_bytes(b"mine")
    change(hub, set_file("tokens", path.replace("ABSOLUTE", str(tmp_path / "victim.bin"))))
    before = everything_below(tmp_path)
    with pytest.raises(Omni123Error, match="shards.json: .*is not pairs/train-00000.bin"):
        build_shards(hub, build)
    assert everything_below(tmp_path) == before and not list(build.iterdir())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda pool: pool["shards"][0].update(split="../../x"), "split '../../x' is none of train"),
        (lambda pool: pool["shards"][0].update(name="../../x"), "name '../../x' is not train-00000"),
    ],
)
def test_names_and_splits_are_no_paths(tmp_path, edit, message):
    hub = export_hub_folder(write_tiny_shards(tmp_path / "shards"), tmp_path / "hub")
    for folder in (tmp_path / "shards", hub):
        change(folder, edit)
    with pytest.raises(Omni123Error, match=message):
        TokenShards.open(tmp_path / "shards")
    (tmp_path / "build").mkdir()
    with pytest.raises(Omni123Error, match=message):
        build_shards(hub, tmp_path / "build")
    assert not list((tmp_path / "build").iterdir())


def test_a_local_index_reads_no_other_file(tmp_path):
    write_tiny_shards(tmp_path / "shards")
    (tmp_path / "shards/pairs/train-00000.parquet").rename(tmp_path / "secret")
    change(tmp_path / "shards", set_file("manifest", "../secret"))
    with pytest.raises(Omni123Error, match="'../secret' is not pairs/train-00000.parquet"):
        TokenShards.open(tmp_path / "shards")


def test_tokens_of_another_hash_are_never_written(tmp_path):
    hub = export_hub_folder(write_tiny_shards(tmp_path / "shards"), tmp_path / "hub")
    change(hub, lambda pool: pool["shards"][0]["files"]["tokens"].update(sha256="0" * 64))
    (tmp_path / "build").mkdir()
    with pytest.raises(Omni123Error, match="train-00000-of-00004.parquet is not the file"):
        build_shards(hub, tmp_path / "build")
    assert not everything_below(tmp_path / "build")


MALFORMED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda pool: pool["shards"][0].update(records="11"), r"pairs.shards\[0\].records must be a whole number"),
    (lambda pool: pool["shards"][0].update(records=True), "records must be a whole number"),
    (lambda pool: pool["shards"][0].update(records=10**30), "records must be a whole number"),
    (lambda pool: pool["shards"][0].update(captions=-1), "captions must be a whole number"),
    (lambda pool: pool["shards"][0].update(split=None), "split must be a text"),
    (lambda pool: pool["shards"][0].update(files=[]), "files must be an object"),
    (lambda pool: pool["shards"][0]["files"].pop("tokens"), "no 'tokens'"),
    (lambda pool: pool["shards"][0]["files"].pop("manifest"), "pairs/train-00000 .*no manifest"),
    (lambda pool: pool["shards"][0]["files"]["tokens"].update(sha256="x"), "SHA-256"),
    (lambda pool: pool["shards"][0]["files"]["tokens"].update(bytes=1.5), "bytes must be a whole number"),
    (lambda pool: pool["shards"][0]["files"].update(other=pool["shards"][0]["files"]["tokens"]), "unknown file"),
    (lambda pool: pool["shards"].reverse(), "name 'train-00003' is not train-00000"),
    (lambda pool: pool["shards"].insert(0, pool["shards"].pop()), "splits .* in the order"),
    (lambda pool: pool.update(shards=[]), "shards must be a list with something in it"),
    (lambda pool: pool.update(shards=[None]), r"shards\[0\] must be an object"),
    (lambda pool: pool.update(embeddings=None), "embeddings must be an object"),
    (lambda pool: pool.update(embeddings={"../x": {"shape": [1, 1]}}), "text encoder '../x'"),
    (lambda pool: pool.update(embeddings={"tokens": {"shape": [1, 1]}}), "text encoder 'tokens'"),
    (lambda pool: pool.update(embeddings={"clip": {"shape": [1]}}), "shape must be two whole numbers"),
    (lambda pool: pool.update(embeddings={"clip": {"shape": [1, 1]}}), "wrong clip file"),
    (lambda pool: pool.update(origin={}), "origin is incomplete: no 'tokenizers'"),
    (lambda pool: pool["origin"].update(tokenizers={"shape_tokenizer": 1}), "shape_tokenizer must be a text"),
    (lambda pool: pool["origin"].update(checkpoint=["x"]), "checkpoint must be a text"),
    (lambda pool: pool["origin"].update(data_hash=None), "data_hash must be a text"),
    (lambda pool: pool["origin"].update(checkpoint="\ud800"), "no JSON"),
    (lambda pool: pool.update(fields=[]), "fields must be a list with something in it"),
    (lambda pool: pool["fields"].append(pool["fields"][0]), "'shape_tokens' stands twice"),
    (lambda pool: pool["fields"][0].update(kind="sound"), "kind 'sound'"),
    (lambda pool: pool["fields"][0].update(codes=70_000), "70000 codes: token shards hold"),
    (lambda pool: pool.update(record_length=13), "13 codes a record, its fields 14"),
    (lambda pool: pool.update(splits={"train": 40}), "splits .* do not count its records"),
    (lambda pool: pool.update(splits=[]), "splits must be an object"),
    (lambda pool: pool.update(licences={"CC0-1.0": 39}), "licences .* do not count its records"),
    (lambda pool: pool.update(licences={"CC0-1.0": "40"}), "CC0-1.0 must be a whole number"),
    (lambda pool: pool.update(sources=[]), "sources must be a list with something in it"),
    (lambda pool: pool["sources"][0].update(records=3), "sources do not count its records"),
    (lambda pool: pool["sources"][0].pop("attributions"), "no 'attributions'"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write_tiny_shards(tmp_path_factory.mktemp("index")).folder


@pytest.mark.parametrize(("edit", "message"), MALFORMED, ids=[message for _, message in MALFORMED])
def test_a_malformed_index_is_one_clear_error(good, tmp_path, edit, message):
    copied = tmp_path / "shards"
    copied.mkdir()
    (copied / "pairs").symlink_to(good / "pairs")
    (copied / "shards.json").write_text((good / "shards.json").read_text())
    TokenShards.open(copied)
    change(copied, edit)
    with pytest.raises(Omni123Error, match=message) as caught:
        TokenShards.open(copied)
    assert "shards.json" in str(caught.value) and "copy" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1}', "no 'pools'"),
        ('{"format": 1, "pools": []}', "pools must be an object"),
        ('{"format": 1, "pools": {}}', "holds no pool"),
        ('{"format": 1, "pools": {"../x": {}}}', "unknown pool '../x'"),
        ('{"format": 1, "pools": {"pairs": 3}}', "pairs must be an object"),
        ('{"format": true, "pools": {}}', "shard format True"),
        ("[" * 100_000, "no JSON"),
        ("[]", "shard format None"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, text, message):
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(Omni123Error, match=message):
        TokenShards.open(tmp_path)


def test_shards_with_embeddings_open(tmp_path):
    pool = tiny_shards_with_embeddings(tmp_path)["pairs"]
    embeddings, mask = pool.text_embeddings(0)["clip"]
    assert embeddings.shape == (len(pool.record(0).texts), 3, 2) and mask.all()
    change(tmp_path, set_file("clip.mask", "pairs/train-00001.clip.mask.bin"))
    with pytest.raises(Omni123Error, match="is not pairs/train-00000.clip.mask.bin"):
        TokenShards.open(tmp_path)


def test_the_writer_refuses_an_encoder_whose_name_is_a_path(tmp_path):
    with pytest.raises(Omni123Error, match="text encoder '../clip'"):
        tiny_shards_with_embeddings(tmp_path / "shards", "../clip")
    assert not (tmp_path / "shards").exists()


def test_codes_outside_their_vocabulary_are_named_by_the_statistics(tmp_path):
    write_tiny_shards(tmp_path)
    change(tmp_path, lambda pool: pool["fields"][0].update(codes=400))
    with pytest.raises(Omni123Error, match="shape_tokens, outside"):
        code_use(TokenShards.open(tmp_path)["pairs"])
