"""The card of a data set of token shards: licences by source, counts, lineage, tokenizers, how to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omni123_hf.data.shards.format import PoolInfo, write_bytes


SIZE_CATEGORIES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
}
PURPOSES = {
    "shapes": "shape tokens with captions",
    "images": "image tokens of one picture a record, a view of an object or a picture of its own, with captions",
    "pairs": "shape tokens and image tokens of the same object, with captions",
    "edits": "two token sequences and the instruction that turns the first into the second",
}


def write_card(path: Path, pools: Mapping[str, PoolInfo], name: str = "") -> None:
    """Write `README.md`; `name` is the Hub id."""
    text = card_text(pools, name or "FOLDER")
    write_bytes(path, text.encode())


def card_text(pools: Mapping[str, PoolInfo], name: str) -> str:
    """The card in Markdown with its YAML head."""
    front = yaml.safe_dump(card_facts(pools), sort_keys=False, allow_unicode=True)
    first = next(iter(pools))
    sections = [f"---\n{front}---\n\n# {name.split('/')[-1]}\n", INTRODUCTION, how_to_load(name, first)]
    sections += [pool_section(info) for info in pools.values()]
    sections.append(LICENCES)
    sections.append(
        table(
            ("pool", "source", "licence", "records", "different credits"),
            [
                (info.layout.name, row["source"], row["licence"] or "unknown", row["records"], row["attributions"])
                for info in pools.values()
                for row in info.sources
            ],
        )
    )
    return "\n".join(sections)


def card_facts(pools: Mapping[str, PoolInfo]) -> dict[str, Any]:
    """The YAML head: licence, size, and one configuration a pool."""
    licences = sorted({licence for info in pools.values() for licence in info.licences})
    records = sum(sum(info.splits.values()) for info in pools.values())
    size = next((label for limit, label in SIZE_CATEGORIES.items() if records < limit), "1B<n<10B")
    single = licences[0].lower() if len(licences) == 1 and licences[0] else "other"
    return {
        "license": single,
        **({"license_name": "see-card"} if single == "other" else {}),
        "tags": ["omni123", "3d", "tokens"],
        "task_categories": ["text-to-3d", "text-to-image", "image-to-3d"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": pool,
                **({"default": True} if number == 0 else {}),
                "data_files": [{"split": split, "path": f"data/{pool}/{split}-*.parquet"} for split in info.splits],
            }
            for number, (pool, info) in enumerate(pools.items())
        ],
    }


INTRODUCTION = """
Discrete tokens of 3D shapes and pictures for training Omni123 models with omni123-hf (paper: arXiv 2604.02289). Every record
holds code ids of fixed length, its captions, its source, its licence and whom to credit. Code ids start at 0 in each
vocabulary; start, view and padding ids are not part of the data.
"""

LICENCES = """
## Licences

Every record names its own licence and attribution in the columns `licence` and `attribution`. Tokens decode to an
approximation of the original, so the licence of the original holds for them, too.
"""


def how_to_load(name: str, pool: str) -> str:
    """Commands for `datasets` and for memory-mapped shards."""
    return f"""## Loading

```python
from datasets import load_dataset

records = load_dataset("{name}", "{pool}", split="train", streaming=True)
```

For training, as memory-mapped shards, checked against their hashes:

```python
from omni123_hf.data.shards import TokenShards

pool = TokenShards.open("{name}")["{pool}"]
print(len(pool), pool[0], pool.record(0))
```
"""


def pool_section(info: PoolInfo) -> str:
    """Sizes and lineage of one pool."""
    layout, origin = info.layout, info.origin
    fields = table(
        ("column", "codes a record", "vocabulary"),
        [(f"`{part.name}`", part.length, f"{part.codes:,} {part.kind} codes") for part in layout.fields],
    )
    counts = table(("split", "records"), [(f"`{split}`", count) for split, count in info.splits.items()])
    lineage = "\n".join(f"- {name}: weights `{value}`" for name, value in origin["tokenizers"].items())
    checkpoint = f"- checkpoint: {origin['checkpoint']}\n" if origin.get("checkpoint") else ""
    data = f"- prepared data: content hash `{origin['data_hash']}`\n" if origin.get("data_hash") else ""
    for part in origin.get("data_sets", []):
        data += f"  - of it {part['rows']:,} rows of {part['kind']}: content hash `{part['content_hash']}`\n"
    warnings = "".join(f"\n**Warning:** {text}.\n" for text in origin.get("licence_warnings", []))
    title = f"## `{layout.name}`: {PURPOSES[layout.name]}"
    return f"{title}\n\n{fields}\n{counts}\nWritten by:\n\n{checkpoint}{data}{lineage}\n{warnings}"


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    lines = [head, ("---",) * len(head), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
