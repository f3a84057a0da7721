"""Editing pairs as a pool: tokens, instructions, region and origin come back; what is no pair is refused."""

from dataclasses import replace

import numpy as np
import pytest

from omni123_hf.data.shards.edits import EditTokens, write_edits
from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.writer import WriterOptions
from omni123_hf.errors import Omni123Error


OPTIONS = WriterOptions(shards=2, batch_size=3, progress=False)
TOKENIZERS = {"shape_tokenizer": "a" * 64}


def pairs(count: int = 10) -> list[EditTokens]:
    return [
        EditTokens(
            id=f"edit/{i}",
            source="ours",
            split="heldout" if i == 9 else "train",
            licence="Apache-2.0",
            attribution="generated",
            category="chair",
            source_tokens=np.arange(i, i + 6),
            target_tokens=np.arange(i, i + 6)[::-1],
            instructions=("make it taller", f"make the chair {i} taller"),
            edit_type="resize",
            region_parts=("leg",) * (i % 3),
            region_boxes=((-1.0, -1.0, -1.0, 0.0, 0.25, 1.0),) * (i % 2),
            chain=("generator",),
        )
        for i in range(count)
    ]


def test_pairs_come_back_as_they_were_written(tmp_path):
    write_edits(tmp_path, pairs(), 32, TOKENIZERS, data_hash="d", options=OPTIONS)
    pool = TokenShards.open(tmp_path, verify=True)["edits"]
    by_id = {pair.id: pair for pair in pairs()}
    assert len(pool) == 10 and pool.info.splits == {"train": 9, "heldout": 1}
    for number in range(10):
        record = pool.record(number)
        pair = by_id[record.id]
        assert np.array_equal(pool[number]["source_tokens"], pair.source_tokens)
        assert np.array_equal(pool[number]["target_tokens"], pair.target_tokens)
        assert record.texts == list(pair.instructions) and record.edit["edit_type"] == "resize"
        assert record.edit["region_parts"] == list(pair.region_parts) and record.edit["chain"] == ["generator"]
        assert record.edit["region_boxes"] == [list(box) for box in pair.region_boxes]


def test_the_content_hash_tells_edits_apart():
    one = pairs()[1]
    hashes = {
        one.record(0).content_hash,
        replace(one, source_tokens=one.target_tokens, target_tokens=one.source_tokens).record(0).content_hash,
        replace(one, instructions=("make it smaller",)).record(0).content_hash,
    }
    assert len(hashes) == 3 and one.record(0).content_hash == one.record(5).content_hash


def test_what_is_no_pair_is_refused(tmp_path):
    one = pairs()[0]
    with pytest.raises(Omni123Error, match="edit/0: an editing pair needs an instruction"):
        replace(one, instructions=())
    with pytest.raises(Omni123Error, match="edit/0: a box of the region is two corners"):
        replace(one, region_boxes=((0.0, 1.0),))
    with pytest.raises(Omni123Error, match="edit/0: source and target must be"):
        replace(one, target_tokens=np.arange(5))
    longer = replace(one, id="edit/long", source_tokens=np.arange(7), target_tokens=np.arange(7))
    with pytest.raises(Omni123Error, match="edit/long has 7 codes and edit/0 6"):
        write_edits(tmp_path, [one, longer], 32, TOKENIZERS, options=OPTIONS)
    with pytest.raises(Omni123Error, match="no editing pairs"):
        write_edits(tmp_path, [], 32, TOKENIZERS)
    with pytest.raises(Omni123Error, match="edit/9: source_tokens holds codes 9..14"):
        write_edits(tmp_path, pairs(), 14, TOKENIZERS, options=WriterOptions(shards=1, batch_size=20, progress=False))
