"""What a trainer reads: equal to what the reader gives, fast to open, light to send to workers, the same from the Hub."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from tiny_shards import LAYOUT, ORIGIN, QUIET, codes_of, encode, tiny_pairs, tiny_records, write_tiny_shards

from omni123_hf.data.shards import TokenShards, TrainingPool, export_hub_folder
from omni123_hf.data.shards.edits import write_edits
from omni123_hf.data.shards.format import Field, PoolLayout
from omni123_hf.data.shards.hub import build_shards
from omni123_hf.data.shards.writer import write_pool
from omni123_hf.errors import Omni123Error


VIEWS = ("front", "three_quarter", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pools pairs, images (of two views, and pictures of none) and edits, read only."""
    folder = tmp_path_factory.mktemp("shards")
    write_tiny_shards(folder)
    records = [replace(r, views=(view,) if view else ()) for r in tiny_records() for view in VIEWS]
    layout = PoolLayout("images", (Field("image_tokens", "image", 8, 65_536),))
    write_pool(folder, layout, records, lambda batch: encode(batch)[:, 6:], ORIGIN, QUIET)
    write_edits(folder, tiny_pairs(), 32, ORIGIN["tokenizers"], data_hash="e" * 64, options=QUIET)
    return folder


def test_records_of_every_pool_are_those_of_the_reader(folder):
    for name in ("pairs", "images", "edits"):
        pool = TrainingPool.open(folder, name, verify=True)
        assert len(pool) == len(pool.ids) == len(pool.sources) == sum(pool.splits.values())
        for row in range(len(pool)):
            record, parts = pool.record(row), pool.pool[row]
            assert (pool.ids[row], pool.sources[row], pool.split(row)) == (record.id, record.source, record.split)
            assert row in pool.indices(record.split) and row in pool.indices(record.split, record.source)
            assert sum(pool.texts(row).values(), []) == record.texts
            assert list(pool.fields) == list(parts)
            for field, codes in parts.items():
                assert np.array_equal(pool.codes(row, field), codes) and pool.codes(row, field).dtype == np.uint16
                assert len(codes) == pool.fields[field].length
        rows = np.array([3, 0, 3])
        assert np.array_equal(pool.codes(rows, field), np.stack([pool.pool[row][field] for row in rows.tolist()]))


def test_levels_views_and_lineage(folder):
    pairs_pool, images, edits = (TrainingPool.open(folder, name) for name in ("pairs", "images", "edits"))
    assert pairs_pool.views() == list(VIEWS[:2]) == images.views() and edits.views() == []
    assert set(pairs_pool.texts(0)) == {"short", "medium", "long"} and pairs_pool.view(0) == ""
    assert edits.texts(0)["instruction"][0] == "make it taller" and len(edits.texts(0)["instruction"]) == 2
    assert edits.record(0).edit["chain"] == ["generator"]
    front = images.indices("train", view="front")
    assert len(front) == 36 and {images.view(row) for row in front} == {"front"}
    assert len(images.indices("train", "found", "")) == 16
    assert pairs_pool.tokenizers == edits.tokenizers == ORIGIN["tokenizers"]
    assert (pairs_pool.data_hash, edits.data_hash) == ("d" * 64, "e" * 64)


def test_the_content_hash_follows_what_training_reads(folder, tmp_path):
    original = TrainingPool.open(folder, "pairs").content_hash
    records = tiny_records()
    changed = {
        "same": records,
        "text": [replace(records[0], captions={**records[0].captions, "short": ["other"]}), *records[1:]],
        "split": [replace(records[0], split="heldout"), *records[1:]],
        "source": [replace(records[0], source="else"), *records[1:]],
    }
    hashes = {}
    for name, each in changed.items():
        write_pool(tmp_path / name, LAYOUT, each, encode, ORIGIN, QUIET)
        hashes[name] = TrainingPool.open(tmp_path / name, "pairs").content_hash
    write_pool(tmp_path / "codes", LAYOUT, records, lambda batch: encode(batch) ^ 1, ORIGIN, QUIET)
    hashes["codes"] = TrainingPool.open(tmp_path / "codes", "pairs").content_hash
    assert hashes["same"] == original and len(set(hashes.values())) == 5


def test_a_pool_that_went_over_the_hub_is_the_same_pool(folder, tmp_path):
    (tmp_path / "there").mkdir()
    build_shards(export_hub_folder(TokenShards.open(folder), tmp_path / "hub"), tmp_path / "there")
    for name in ("pairs", "images", "edits"):
        here, there = TrainingPool.open(folder, name), TrainingPool.open(tmp_path / "there", name)
        assert here.content_hash == there.content_hash
        assert [here.texts(row) for row in range(len(here))] == [there.texts(row) for row in range(len(there))]


def test_a_pool_travels_to_workers_as_its_index(folder):
    pool = TrainingPool.open(folder, "pairs")
    light = len(pickle.dumps(pool))
    texts = [pool.texts(row) for row in range(len(pool))]
    assert pool.sources[0] and pool.ids[0] and pool.codes(0, "shape_tokens").any() and pool.views()
    assert len(pickle.dumps(pool)) == light
    there = pickle.loads(pickle.dumps(pool))
    assert [there.texts(row) for row in range(len(there))] == texts
    assert np.array_equal(there.codes(3, "shape_tokens"), codes_of(pool.record(3))[:6])
    assert (there.sources == pool.sources).all() and there.content_hash == pool.content_hash


def test_what_is_not_there_is_named(folder):
    with pytest.raises(Omni123Error, match="no pool 'shapes'; it has images, pairs, edits"):
        TrainingPool.open(folder, "shapes")
    pool = TrainingPool.open(folder, "pairs")
    for read in (pool.texts, pool.split, pool.view, lambda row: pool.codes(row, "shape_tokens")):
        with pytest.raises(Omni123Error, match="records 0..39"):
            read(40)
    with pytest.raises(Omni123Error, match="no 'tokens'"):
        pool.codes(0, "tokens")
    with pytest.raises(Omni123Error, match="no records of 'heldout'"):
        pool.indices("heldout")
    with pytest.raises(Omni123Error, match="no records of the view 'front'; it has front, three_quarter"):
        pool.indices("train", view="front")
    with pytest.raises(Omni123Error, match="no records of the view 'top'"):
        TrainingPool.open(folder, "images").indices("train", view="top")
