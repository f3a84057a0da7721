"""Ways to walk through a pool in training: by running number, as a stream of one rank, or through `datasets`.

The map-style `ShuffledRecords` resumes exactly at no cost: sample k is a function of the seed and of k. The iterable ones
are for loaders that want streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from omni123_hf.data.shards.order import ShuffledOrder
from omni123_hf.data.shards.reader import Pool
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    import datasets

# Running numbers that are put in order at once.
CHUNK = 1024


def tokens_and_text(pool: Pool, number: int) -> dict[str, Any]:
    """A sample: `number`, the codes of every field, `id` and `texts` (captions from short to long, or instructions)."""
    record = pool.record(number)
    return {"number": number, **pool[number], "id": record.id, "texts": record.texts}


def tokens_only(pool: Pool, number: int) -> dict[str, Any]:
    """A sample without text: `number` and the codes of every field."""
    return {"number": number, **pool[number]}


class ShuffledRecords(Dataset):
    """Sample k of an endless walk: epoch after epoch, each in another order. `length` ends it, by default after one epoch."""

    def __init__(
        self,
        pool: Pool,
        split: str = "train",
        seed: int = 0,
        length: int | None = None,
        load: Callable[[Pool, int], dict[str, Any]] = tokens_and_text,
    ):
        self.pool, self.load = pool, load
        self.numbers = pool.indices(split)
        self.order = ShuffledOrder(len(self.numbers), seed)
        self.length = len(self.numbers) if length is None else length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> dict[str, Any]:
        if not 0 <= k < self.length:
            raise IndexError(k)
        return self.load(self.pool, int(self.numbers[self.order(np.array([k]))[0]]))


class ShuffledStream(IterableDataset):
    """What one of `world` ranks reads: samples rank, rank + world, rank + 2·world, … of the walk of `ShuffledRecords`.

    All ranks together visit every record once an epoch. start: samples that this rank has seen already; the stream goes on
    exactly there, at no cost. epochs: None is endless. block: batch size of the loader; with it, the workers of a loader
    take whole batches in turn, so that the order does not depend on how many there are.
    """

    def __init__(
        self,
        pool: Pool,
        split: str = "train",
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        start: int = 0,
        epochs: int | None = 1,
        block: int = 1,
        load: Callable[[Pool, int], dict[str, Any]] = tokens_and_text,
    ):
        if not 0 <= rank < world or start < 0 or block < 1:
            raise Omni123Error(
                f"give 0 <= rank < world, start >= 0 and block >= 1; got {rank}, {world}, {start}, {block}"
            )
        self.pool, self.rank, self.world, self.start, self.block, self.load = pool, rank, world, start, block, load
        self.numbers = pool.indices(split)
        self.order = ShuffledOrder(len(self.numbers), seed)
        self.end = None if epochs is None else epochs * len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, own = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        first = self.start
        while True:
            seen = np.arange(first, first + CHUNK)
            samples = seen * self.world + self.rank
            if self.end is not None:
                seen, samples = seen[samples < self.end], samples[samples < self.end]
            mine = samples[(seen - self.start) // self.block % workers == own]
            for number in self.numbers[self.order(mine)]:
                yield self.load(self.pool, int(number))
            if len(seen) < CHUNK:
                return
            first += CHUNK


def as_hf_stream(pool: Pool, split: str = "train") -> datasets.IterableDataset:
    """The records of a split as a `datasets.IterableDataset` with one of its shards a token shard, columns as on the Hub.

    accelerate gives each process whole shards of such a set (`dispatch_batches=False`), so there must be as many as
    processes; `shuffle` and `state_dict` are those of `datasets`.
    """
    import datasets

    from omni123_hf.data.shards.hub import hub_schema

    features = datasets.Features.from_arrow_schema(hub_schema(pool.layout))
    return datasets.IterableDataset.from_generator(
        _read_shards, features=features, gen_kwargs={"pool": pool, "shards": pool.shards_of(split)}
    )


def _read_shards(pool: Pool, shards: list[int]) -> Iterator[dict[str, Any]]:
    from omni123_hf.data.shards.hub import hub_table

    for shard in shards:
        for batch in hub_table(pool, shard).to_batches(max_chunksize=CHUNK):
            yield from batch.to_pylist()


def stream_from_hub(
    repo_id: str,
    pool: str,
    split: str = "train",
    rank: int = 0,
    world: int = 1,
    columns: list[str] | None = None,
    revision: str | None = None,
) -> datasets.IterableDataset:
    """Stream a pool from the Hub without keeping it. With `world` > 1, rank reads only its own files.

    Leave `rank` and `world` alone when the training loop divides the stream itself (accelerate does): dividing twice would
    drop records. Raises `Omni123Error` for a pool that the Hub does not give, without a network, and when there are fewer
    files than ranks: every rank would read all of them.
    """
    import datasets
    from datasets.distributed import split_dataset_by_node

    from omni123_hf.data.shards.hub import refusals

    with refusals(f"cannot stream {pool}/{split} of {repo_id!r}"):
        stream = datasets.load_dataset(repo_id, pool, split=split, streaming=True, columns=columns, revision=revision)
    if world == 1:
        return stream
    if stream.n_shards < world:
        raise Omni123Error(
            f"{repo_id} has {stream.n_shards} files of {pool}/{split} for {world} ranks; tokenize with --shards {world} or more"
        )
    return split_dataset_by_node(stream, rank=rank, world_size=world)
