"""The writer: what it refuses, and that a stopped run ends in the same bytes as an undisturbed one."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_shards import LAYOUT, ORIGIN, QUIET, codes_of, encode, tiny_records, write_tiny_shards

from omni123_hf.data.shards.format import Field, PoolLayout
from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.writer import WriterOptions, default_shards, plan_shards, write_pool
from omni123_hf.errors import Omni123Error


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_flat_uint16_and_shards_json_comes_last(tmp_path):
    shards = write_tiny_shards(tmp_path)
    info = shards["pairs"].info
    assert sorted(shard.name for shard in info.shards) == [
        *(f"train-{i:05d}" for i in range(4)), "validation-00000"
    ]  # fmt: skip
    first = info.shards[0]
    flat = np.fromfile(tmp_path / "pairs/train-00000.bin", dtype="<u2").reshape(first.records, 14)
    assert np.array_equal(flat[0], codes_of(shards["pairs"].record(0)))
    assert info.splits == {"train": 36, "validation": 4} and info.licences == {"CC-BY-4.0": 20, "CC0-1.0": 20}
    assert not list(tmp_path.rglob(".*"))


def test_the_order_depends_on_seed_and_records_only(tmp_path):
    records = tiny_records()
    plans = [
        [[record.id for record in shard.records] for shard in plan_shards(order, 14, 4, seed)]
        for order, seed in ((records, 0), (records[::-1], 0), (records, 1))
    ]
    assert plans[0] == plans[1] != plans[2]
    assert sorted(sum(plans[0], [])) == sorted(record.id for record in records)
    assert [len(shard) for shard in plans[0]] == [9, 9, 9, 9, 4]
    assert plans[0][0] != [record.id for record in records[:9]]


def test_the_number_of_shards_follows_count_then_size():
    assert [default_shards(count, 1024) for count in (1, 1023, 10_000, 10_000_000)] == [1, 1, 9, 256]
    assert default_shards(100_000_000, 1024) > 1000


@pytest.mark.parametrize("stop_at", [0, 3, 7, 13])
def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(tmp_path, stop_at):
    write_tiny_shards(tmp_path / "whole")
    pid = os.fork()
    if pid == 0:
        calls = iter(range(100))

        def encode_until_killed(records):
            if next(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(records)

        write_pool(tmp_path / "killed", LAYOUT, tiny_records(), encode_until_killed, ORIGIN, QUIET)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with pytest.raises(Omni123Error, match="no finished token shards"):
        TokenShards.open(tmp_path / "killed")
    done = {path.name for path in (tmp_path / "killed/pairs").glob("*.bin")}
    encoded = []

    def encode_and_count(records):
        encoded.extend(records)
        return encode(records)

    write_pool(tmp_path / "killed", LAYOUT, tiny_records(), encode_and_count, ORIGIN, QUIET)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert len(done) == stop_at // 3 and len(encoded) == 40 - 9 * len(done)


def test_a_finished_pool_is_not_written_again_and_another_one_goes_beside_it(tmp_path):
    write_tiny_shards(tmp_path)
    before = content(tmp_path)

    def fail(records):
        raise AssertionError

    write_pool(tmp_path, LAYOUT, tiny_records(), fail, ORIGIN, QUIET)
    assert content(tmp_path) == before
    shapes = PoolLayout("shapes", LAYOUT.fields[:1])
    write_pool(tmp_path, shapes, tiny_records(), lambda records: encode(records)[:, :6], ORIGIN, QUIET)
    shards = TokenShards.open(tmp_path, verify=True)
    assert list(shards.pools) == ["shapes", "pairs"]
    assert {name: data for name, data in content(tmp_path).items() if name in before and name != "shards.json"} == {
        name: data for name, data in before.items() if name != "shards.json"
    }


@pytest.mark.parametrize("finished", [True, False])
def test_another_run_never_mixes_with_what_is_there(tmp_path, finished):
    def interrupted(records):
        raise KeyboardInterrupt

    if finished:
        write_tiny_shards(tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            write_pool(tmp_path, LAYOUT, tiny_records(), interrupted, ORIGIN, QUIET)
        assert not list(tmp_path.rglob("*.tmp"))
    other = {**ORIGIN, "tokenizers": {"shape_tokenizer": "b" * 64}}
    with pytest.raises(Omni123Error, match='tokenizers was .*"aaaaaaaaaaaa….*is .*"bbbbbbbbbbbb….*another --out'):
        write_pool(tmp_path, LAYOUT, tiny_records(), encode, other, QUIET)
    with pytest.raises(Omni123Error, match="batch_size was 3 and is 5"):
        write_pool(tmp_path, LAYOUT, tiny_records(), encode, ORIGIN, replace(QUIET, batch_size=5))
    with pytest.raises(Omni123Error, match="splits was|records_hash was"):
        write_pool(tmp_path, LAYOUT, tiny_records(39), encode, ORIGIN, QUIET)


@pytest.mark.parametrize(("value", "place"), [(-1, 0), (500, 5), (65_536, 13)])
def test_a_code_outside_its_vocabulary_stops_the_run_by_name(tmp_path, value, place):
    def encode_one_wrong(records):
        codes = encode(records)
        for row, record in enumerate(records):
            if record.id == "thing/3":
                codes[row, place] = value
        return codes

    with pytest.raises(Omni123Error, match=r"thing/3: (shape|image)_tokens.*outside \[0, "):
        write_pool(tmp_path, LAYOUT, tiny_records(), encode_one_wrong, ORIGIN, QUIET)
    assert not (tmp_path / "shards.json").exists() and not list(tmp_path.rglob("*.tmp"))


def test_bad_input_is_named(tmp_path):
    records = tiny_records()
    with pytest.raises(Omni123Error, match="65,536"):
        Field("image_tokens", "image", 4, 65_537)
    with pytest.raises(Omni123Error, match="unknown pool 'meshes'"):
        PoolLayout("meshes", LAYOUT.fields)
    with pytest.raises(Omni123Error, match="36 records cannot fill 37 shards"):
        write_pool(tmp_path, LAYOUT, records, encode, ORIGIN, WriterOptions(shards=37, progress=False))
    with pytest.raises(Omni123Error, match="'thing/3' stands twice"):
        write_pool(tmp_path, LAYOUT, [*records, records[3]], encode, ORIGIN, QUIET)
    with pytest.raises(Omni123Error, match="no records"):
        write_pool(tmp_path, LAYOUT, [], encode, ORIGIN, QUIET)
    with pytest.raises(Omni123Error, match="at least 1"):
        WriterOptions(shards=0)
    with pytest.raises(Omni123Error, match=r"gave int64\(3, 13\)"):
        write_pool(tmp_path, LAYOUT, records, lambda batch: encode(batch)[:, 1:], ORIGIN, QUIET)


def test_records_without_a_licence_are_refused_unless_allowed(tmp_path):
    records = [
        replace(record, licence="Unknown" if i < 2 else record.licence) for i, record in enumerate(tiny_records())
    ]
    with pytest.raises(
        Omni123Error, match="2 records have no known licence .*thing/0, thing/1.*--allow-unknown-licence"
    ):
        write_pool(tmp_path / "a", LAYOUT, records, encode, ORIGIN, QUIET)
    assert not (tmp_path / "a").exists()
    info = write_pool(tmp_path / "a", LAYOUT, records, encode, ORIGIN, replace(QUIET, allow_unknown_licence=True))
    assert info.licences["Unknown"] == 2


def test_an_evaluation_set_without_training_records_is_cut_too(tmp_path):
    records = [replace(record, split="heldout") for record in tiny_records()]
    write_pool(tmp_path, LAYOUT, records, encode, ORIGIN, QUIET)
    assert len(TokenShards.open(tmp_path)["pairs"].shards_of("heldout")) == 4


def test_one_pool_has_one_writer_and_pools_written_at_once_are_all_kept(tmp_path):
    shapes = PoolLayout("shapes", LAYOUT.fields[:1])

    def encode_while_another_pool_is_written(records):
        with pytest.raises(Omni123Error, match=r"another run is writing .*\.pairs\.lock"):
            write_pool(tmp_path, LAYOUT, tiny_records(), encode, ORIGIN, QUIET)
        write_pool(tmp_path, shapes, tiny_records(), lambda batch: encode(batch)[:, :6], ORIGIN, QUIET)
        return encode(records)

    write_pool(tmp_path, LAYOUT, tiny_records(), encode_while_another_pool_is_written, ORIGIN, QUIET)
    assert list(TokenShards.open(tmp_path, verify=True).pools) == ["shapes", "pairs"]
    assert not list(tmp_path.rglob(".*"))
