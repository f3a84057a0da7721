"""Editing pairs as a pool: tokens, instructions, region and origin come back; what is no pair is refused."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_shards import ORIGIN, tiny_pairs

from omni123_hf.data.shards.edits import write_edits
from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.writer import WriterOptions
from omni123_hf.errors import Omni123Error


TOKENIZERS = ORIGIN["tokenizers"]
OPTIONS = WriterOptions(shards=2, batch_size=3, progress=False)


def test_pairs_come_back_as_they_were_written(tmp_path):
    write_edits(tmp_path, tiny_pairs(), 32, TOKENIZERS, data_hash="d", options=OPTIONS)
    pool = TokenShards.open(tmp_path, verify=True)["edits"]
    by_id = {pair.id: pair for pair in tiny_pairs()}
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
    one = tiny_pairs()[1]
    hashes = {
        one.record(0).content_hash,
        replace(one, source_tokens=one.target_tokens, target_tokens=one.source_tokens).record(0).content_hash,
        replace(one, instructions=("make it smaller",)).record(0).content_hash,
    }
    assert len(hashes) == 3 and one.record(0).content_hash == one.record(5).content_hash


def test_what_is_no_pair_is_refused(tmp_path):
    one = tiny_pairs()[0]
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
        write_edits(
            tmp_path, tiny_pairs(), 14, TOKENIZERS, options=WriterOptions(shards=1, batch_size=20, progress=False)
        )
