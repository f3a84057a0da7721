"""Streams: every record once an epoch over all ranks, exact resume, whole shards for `datasets`."""

import itertools

import numpy as np
import pytest
from tiny_shards import write_tiny_shards
from torch.utils.data import DataLoader

from omni123_hf.data.shards.streaming import ShuffledRecords, ShuffledStream, as_hf_stream, tokens_only
from omni123_hf.errors import Omni123Error


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_tiny_shards(tmp_path_factory.mktemp("stream"))["pairs"]


def numbers(samples) -> list[int]:
    return [sample["number"] for sample in samples]


@pytest.mark.parametrize("world", [1, 3, 7, 50])
def test_all_ranks_together_read_each_record_once_an_epoch(pool, world):
    streams = [numbers(ShuffledStream(pool, rank=rank, world=world, epochs=2)) for rank in range(world)]
    assert sorted(itertools.chain(*streams)) == sorted(2 * list(range(36)))
    # The first epoch is complete before the second starts.
    walk = [streams[k % world][k // world] for k in range(72)]
    assert sorted(walk[:36]) == list(range(36)) and walk[:36] != walk[36:]


def test_a_stream_goes_on_exactly_where_it_stopped(pool):
    whole = list(itertools.islice(ShuffledStream(pool, rank=1, world=3, epochs=None), 500))
    resumed = list(itertools.islice(ShuffledStream(pool, rank=1, world=3, epochs=None, start=321), 179))
    assert numbers(whole[321:]) == numbers(resumed)
    assert whole[400]["texts"] == resumed[79]["texts"] and np.array_equal(
        whole[400]["shape_tokens"], resumed[79]["shape_tokens"]
    )
    assert numbers(ShuffledStream(pool, seed=1)) != numbers(ShuffledStream(pool, seed=2))


def test_the_map_style_walk_is_the_stream_and_needs_no_state(pool):
    walk = ShuffledRecords(pool, seed=5, length=100)
    assert numbers(walk[k] for k in range(100)) == numbers(
        itertools.islice(ShuffledStream(pool, seed=5, epochs=None), 100)
    )
    again = ShuffledRecords(pool, seed=5, length=100)[77]
    assert again["number"] == walk[77]["number"] and again["id"] == pool.record(again["number"]).id
    assert len(ShuffledRecords(pool)) == 36 and len(list(ShuffledRecords(pool))) == 36


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_does_not_depend_on_the_loaders_workers(pool, workers):
    stream = ShuffledStream(pool, start=5, epochs=3, block=4, load=tokens_only)
    loader = DataLoader(stream, batch_size=4, num_workers=workers, collate_fn=numbers)
    assert list(loader)[:20] == [
        numbers(itertools.islice(stream, k, k + 4)) for k in range(0, 80, 4)
    ]  # fmt: skip


def test_datasets_sees_one_shard_a_file(pool):
    stream = as_hf_stream(pool)
    assert stream.num_shards == 4
    rows = list(stream)
    assert [row["id"] for row in rows] == [pool.record(i).id for i in range(36)]
    assert rows[3]["shape_tokens"] == pool[3]["shape_tokens"].tolist()
    assert rows[3]["captions_short"] == pool.record(3).captions["short"]
    parts = [list(stream.shard(2, index)) for index in range(2)]
    assert sorted(row["id"] for part in parts for row in part) == sorted(row["id"] for row in rows)


def test_datasets_resumes_by_its_own_state(pool):
    stream = as_hf_stream(pool)
    iterator = iter(stream)
    seen = [next(iterator)["id"] for _ in range(13)]
    state = stream.state_dict()
    fresh = as_hf_stream(pool)
    fresh.load_state_dict(state)
    assert seen + [row["id"] for row in fresh] == [row["id"] for row in stream]


def test_a_rank_outside_the_world_is_refused(pool):
    with pytest.raises(Omni123Error, match="0 <= rank < world"):
        ShuffledStream(pool, rank=2, world=2)
