"""How fast token shards are written, read at random and walked through, in one process.

    python benchmarks/data_tokens.py --out benchmarks/results/data_tokens.json

Records have the paper's length for shapes, 1,024 codes, and are synthetic; manifests are real. "Cold" reads follow a request to
the system to drop the files from its page cache, which it may refuse. The figure of the project: at least 100,000 records
a second read at random.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from omni123_hf.data.shards.format import Field, PoolLayout
from omni123_hf.data.shards.manifest import ShardRecord
from omni123_hf.data.shards.order import ShuffledOrder
from omni123_hf.data.shards.reader import Pool, TokenShards
from omni123_hf.data.shards.streaming import ShuffledRecords, ShuffledStream, tokens_and_text, tokens_only
from omni123_hf.data.shards.writer import WriterOptions, write_pool


def write(folder: Path, records: int, length: int, shards: int) -> dict[str, float]:
    """A pool of random codes: records a second, hashing of the files included, and megabytes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16_384, (records, length))
    rows = [
        ShardRecord(
            id=f"thing/{i}",
            source="synthetic",
            split="train",
            licence="CC0-1.0",
            attribution="nobody",
            category="thing",
            captions={
                "short": [f"thing {i}"],
                "medium": [f"a plain thing, number {i}, made of wood, with three round legs"],
                "long": [" ".join(["a plain wooden thing with three round legs"] * 6)],
            },
            content_hash=f"{i:064x}",
            source_row=i,
        )
        for i in range(records)
    ]
    start = time.perf_counter()
    write_pool(
        folder,
        PoolLayout("shapes", (Field("shape_tokens", "shape", length, 16_384),)),
        rows,
        lambda batch: codes[[record.source_row for record in batch]],
        {"tokenizers": {}},
        WriterOptions(shards=shards, batch_size=256, progress=False),
    )
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"records_per_second": records / seconds, "megabytes": size / 1e6}


def rate(read: Callable[[], Iterable[object]], repeats: int = 3) -> float:
    """Records a second of the best of some runs; `read` yields one item a record."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        count = sum(1 for _ in read())
        best = max(best, count / (time.perf_counter() - start))
    return best


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the files."""
    for path in folder.rglob("*.bin"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_figures(folder: Path, reads: int) -> dict[str, float]:
    """Records a second of every way of reading."""
    pool: Pool = TokenShards.open(folder)["shapes"]
    rng = np.random.default_rng(1)
    places = rng.integers(0, len(pool), reads)
    numbers = places.tolist()
    drop_from_cache(folder)
    start = time.perf_counter()
    for number in numbers:
        pool.row(number)
    cold = reads / (time.perf_counter() - start)
    batches = places[: reads // 256 * 256].reshape(-1, 256)
    start = time.perf_counter()
    pool.manifest  # noqa: B018
    manifest_seconds = time.perf_counter() - start
    walk = ShuffledRecords(pool, length=2 * len(pool), load=tokens_only)
    order = ShuffledOrder(100_000_000, 0)
    return {
        "random_records_per_second_cold": cold,
        "random_records_per_second": rate(lambda: map(pool.row, numbers)),
        "random_fields_per_second": rate(lambda: map(pool.__getitem__, numbers)),
        "random_batched_256": rate(lambda: (row for batch in batches for row in pool.rows(batch))),
        "sequential_by_shard": rate(
            lambda: (row for shard in range(len(pool.info.shards)) for row in pool.tokens(shard).copy())
        ),
        "stream_tokens_only": rate(lambda: ShuffledStream(pool, load=tokens_only)),
        "stream_tokens_and_text": rate(lambda: ShuffledStream(pool, load=tokens_and_text), repeats=1),
        "map_style_tokens_only": rate(lambda: map(walk.__getitem__, range(10_000))),
        "order_of_100_million_places_per_second": rate(lambda: order(np.arange(10**9, 10**9 + 200_000)), repeats=2),
        "manifest_load_seconds": manifest_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--shards", type=int, default=256)
    parser.add_argument("--reads", type=int, default=200_000)
    parser.add_argument(
        "--folder", type=Path, help="where the shards go meanwhile; the system's temporary folder if not given"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        written = write(Path(folder), options.records, options.length, options.shards)
        start = time.perf_counter()
        TokenShards.open(folder, verify=True)
        verified = time.perf_counter() - start
        read = read_figures(Path(folder), options.reads)
    result = {
        "records": options.records,
        "codes_per_record": options.length,
        "shards": options.shards,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "write": written,
        "verify_seconds": verified,
        "read": read,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
