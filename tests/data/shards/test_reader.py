"""Reading: the same codes by every way, damage is found, tokens of other tokenizers are refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_shards import LAYOUT, ORIGIN, QUIET, codes_of, encode, tiny_records, write_tiny_shards

from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.writer import write_pool
from omni123_hf.data.tokens import weights_hash
from omni123_hf.errors import Omni123Error


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny shards, read only."""
    return write_tiny_shards(tmp_path_factory.mktemp("shards") / "tiny").folder


def test_every_way_of_reading_gives_the_codes_of_the_record(folder):
    pool = TokenShards.open(folder, verify=True)["pairs"]
    assert len(pool) == 40
    whole = pool.rows(np.arange(40))
    for number in range(40):
        wanted = codes_of(pool.record(number))
        assert np.array_equal(pool.row(number), wanted) and np.array_equal(whole[number], wanted)
        fields = pool[number]
        assert list(fields) == ["shape_tokens", "image_tokens_front", "image_tokens_three_quarter"]
        assert np.array_equal(np.concatenate(list(fields.values())), wanted)
    mixed = np.array([39, 0, 17, 17, 3])
    assert np.array_equal(pool.rows(mixed), whole[mixed])
    assert np.array_equal(pool.rows(mixed, "image_tokens_front"), whole[mixed, 6:10])
    assert pool.rows(np.array([], dtype=int)).shape == (0, 14)
    pool.row(3)[:] = 0
    assert np.array_equal(pool.row(3), whole[3])


def test_records_come_back_as_they_were_written(folder):
    pool = TokenShards.open(folder)["pairs"]
    read = {record.id: record for record in map(pool.record, range(40))}
    assert read == {record.id: record for record in tiny_records()}
    assert pool.record(0).texts[0].startswith("thing ")


def test_indices_by_split_and_source(folder):
    pool = TokenShards.open(folder)["pairs"]
    train, found = pool.indices("train"), pool.indices("train", "found")
    assert len(train) == 36 and len(found) == 16 and set(found) < set(train)
    assert {pool.record(int(i)).source for i in found} == {"found"}
    assert {pool.record(int(i)).split for i in pool.indices("validation")} == {"validation"}
    with pytest.raises(Omni123Error, match="unknown split 'test'"):
        pool.indices("test")
    with pytest.raises(Omni123Error, match="no records of 'heldout'"):
        pool.indices("heldout")


def test_what_is_not_there_is_named(folder, tmp_path):
    shards = TokenShards.open(folder)
    with pytest.raises(Omni123Error, match="no pool 'edits'; it has pairs"):
        shards["edits"]
    for number in (-1, 40):
        with pytest.raises(Omni123Error, match="records 0..39"):
            shards["pairs"].row(number)
        with pytest.raises(Omni123Error, match="records 0..39"):
            shards["pairs"].rows(np.array([0, number]))
    with pytest.raises(Omni123Error, match="no 'image_tokens_back'"):
        shards["pairs"].rows(np.array([0]), "image_tokens_back")
    with pytest.raises(Omni123Error, match="--text-embeddings"):
        shards["pairs"].text_embeddings(0)
    with pytest.raises(Omni123Error, match="no finished token shards"):
        TokenShards.open(tmp_path)
    with pytest.raises(Omni123Error, match="neither a folder .* nor a Hub id"):
        TokenShards.open(tmp_path / "nothing here")


def test_damage_is_found(tmp_path):
    write_tiny_shards(tmp_path)
    tokens = tmp_path / "pairs/train-00001.bin"
    whole = tokens.read_bytes()
    tokens.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    TokenShards.open(tmp_path)
    with pytest.raises(Omni123Error, match="pairs/train-00001.bin .* damaged"):
        TokenShards.open(tmp_path, verify=True)
    tokens.write_bytes(whole[:-2])
    with pytest.raises(Omni123Error, match="pairs/train-00001.bin .* damaged"):
        TokenShards.open(tmp_path)
    tokens.unlink()
    with pytest.raises(Omni123Error, match="lacks pairs/train-00001.bin"):
        TokenShards.open(tmp_path)


def test_an_index_of_another_version_or_with_wrong_sizes_is_refused(tmp_path):
    write_tiny_shards(tmp_path)
    index = tmp_path / "shards.json"
    content = json.loads(index.read_text())
    content["pools"]["pairs"]["fields"][0]["length"] = 7
    index.write_text(json.dumps(content))
    with pytest.raises(Omni123Error, match="wrong tokens file"):
        TokenShards.open(tmp_path)
    del content["pools"]["pairs"]["splits"]
    index.write_text(json.dumps(content))
    with pytest.raises(Omni123Error, match="incomplete"):
        TokenShards.open(tmp_path)
    index.write_text(json.dumps({"format": 2}))
    with pytest.raises(Omni123Error, match="shard format 2, this version reads 1"):
        TokenShards.open(tmp_path)
    index.write_text("{")
    with pytest.raises(Omni123Error, match="no JSON"):
        TokenShards.open(tmp_path)


def test_a_pool_travels_to_a_worker_without_its_maps(folder):
    pool = TokenShards.open(folder)["pairs"]
    before = len(pickle.dumps(pool))
    pool.rows(np.arange(40))
    assert pool.manifest.num_rows == 40 and len(pickle.dumps(pool)) == before
    assert np.array_equal(pickle.loads(pickle.dumps(pool)).row(7), pool.row(7))


def test_tokens_of_another_tokenizer_are_refused_with_both_named(tmp_path):
    for name, value in (("right", 0.0), ("wrong", 1.0)):
        (tmp_path / name / "shape_tokenizer").mkdir(parents=True)
        save_file({"x": np.full(3, value)}, tmp_path / name / "shape_tokenizer" / "model.safetensors")
    hashes = {name: weights_hash(tmp_path / name / "shape_tokenizer") for name in ("right", "wrong")}
    origin = {**ORIGIN, "tokenizers": {"shape_tokenizer": hashes["right"]}}
    write_pool(tmp_path / "shards", LAYOUT, tiny_records(), encode, origin, QUIET)
    shards = TokenShards.open(tmp_path / "shards")
    shards.check_checkpoint(tmp_path / "right")
    with pytest.raises(
        Omni123Error, match=f"shape_tokenizer {hashes['right'][:12]} of tiny, .*{hashes['wrong'][:12]}"
    ):
        shards.check_checkpoint(tmp_path / "wrong")
    with pytest.raises(Omni123Error, match="shape_tokenizer, which the checkpoint does not have"):
        shards.check_checkpoint(tmp_path)
