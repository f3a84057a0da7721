from __future__ import annotations

import json

import numpy as np
import pytest

from omni123_hf.data.merge import merge_stores
from omni123_hf.data.records import AssetRecord, read_records, write_records
from omni123_hf.data.splits import split_of
from omni123_hf.data.store import AssetStore, StoreSizes, StoreWriter, write_json
from omni123_hf.errors import Omni123Error


SIZES = StoreSizes(surface_points=8, queries=16, view_size=4)


def record(name: str, split: str = "train", source: str = "fake") -> AssetRecord:
    captions = {"short": ["ein Stück"], "medium": [], "long": []}
    return AssetRecord(name, source, "CC0-1.0", "nobody", "thing", captions, split, content_hash=name)


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "surface": rng.standard_normal((8, 6)).astype(np.float16),
        "queries": rng.standard_normal((16, 3)).astype(np.float16),
        "occupancy": rng.integers(0, 256, 2, dtype=np.uint8),
        "views": rng.integers(0, 256, (7, 4, 4, 4), dtype=np.uint8),
    }


def write(folder, count: int = 3) -> AssetStore:
    writer = StoreWriter(folder, count, SIZES, {"seed": 0})
    for i in range(count):
        writer.append(record(f"a{i}", ("train", "heldout")[i % 2], ("x", "y")[i // 2]), arrays(i))
    return writer.close()


def test_what_is_written_is_read_back(tmp_path):
    store = write(tmp_path)
    want = arrays(1)
    assert len(store) == 3 and store.surface(1).dtype == np.float32
    np.testing.assert_array_equal(store.surface(1), want["surface"].astype(np.float32))
    np.testing.assert_array_equal(store.queries(1), want["queries"].astype(np.float32))
    np.testing.assert_array_equal(store.occupancy(1), np.unpackbits(want["occupancy"]).astype(bool))
    np.testing.assert_array_equal(store.views(1), want["views"])
    assert store.occupancy(np.array([0, 2])).shape == (2, 16)


def test_indices_by_split_and_source(tmp_path):
    store = write(tmp_path)
    assert store.indices("train").tolist() == [0, 2] and store.indices("train", "y").tolist() == [2]
    assert store.indices("validation").tolist() == []
    with pytest.raises(Omni123Error, match="unknown split"):
        store.indices("test")


def test_the_content_hash_depends_on_content_only(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert one.content_hash == two.content_hash != write(tmp_path / "three", 2).content_hash


def test_an_unfinished_or_altered_store_is_refused(tmp_path):
    with pytest.raises(Omni123Error, match="no finished data set"):
        AssetStore.open(tmp_path)
    with pytest.raises(Omni123Error, match="opened for 2 assets"):
        with StoreWriter(tmp_path, 2, SIZES) as writer:
            writer.append(record("a"), arrays(0))
    with pytest.raises(Omni123Error, match="no finished data set"):
        AssetStore.open(tmp_path)
    write(tmp_path)
    np.save(tmp_path / "queries.npy", np.zeros((3, 8, 3), np.float16))
    with pytest.raises(Omni123Error, match="queries.npy"):
        AssetStore.open(tmp_path)


def test_wrong_rows_are_refused(tmp_path):
    writer = StoreWriter(tmp_path, 1, SIZES)
    with pytest.raises(Omni123Error, match="surface"):
        writer.append(record("a"), {**arrays(0), "surface": np.zeros((8, 3), np.float16)})
    writer.append(record("a"), arrays(0))
    with pytest.raises(Omni123Error, match="full"):
        writer.append(record("b"), arrays(1))


def test_records_round_trip_and_bad_ones_are_named(tmp_path):
    path = tmp_path / "m.jsonl"
    write_records(path, [record("a"), record("b", "heldout_combination")])
    assert [r.to_dict() for r in read_records(path)] == [
        record("a").to_dict(), record("b", "heldout_combination").to_dict()
    ]  # fmt: skip
    path.write_text(json.dumps(record("a").to_dict()) + "\nnot json\n")
    with pytest.raises(Omni123Error, match="line 2"):
        read_records(path)
    with pytest.raises(Omni123Error, match="unknown split"):
        record("a", "test")
    with pytest.raises(Omni123Error, match="levels"):
        AssetRecord("a", "s", "l", "n", "c", {"short": ["x"]}, "train")
    with pytest.raises(Omni123Error, match="unknown fields"):
        AssetRecord.from_dict({**record("a").to_dict(), "extra": 1})


def test_splits_have_their_shares_and_are_stable():
    names = [split_of(f"asset/{i}") for i in range(20_000)]
    shares = {name: names.count(name) / len(names) for name in set(names)}
    assert set(shares) == {"train", "validation", "heldout"}
    assert abs(shares["validation"] - 0.02) < 0.005 and abs(shares["heldout"] - 0.04) < 0.006
    assert split_of("asset/7") == split_of("asset/7") and any(
        split_of(f"{i}") != split_of(f"{i}", 1) for i in range(99)
    )


def test_a_truncated_array_is_one_clear_line(tmp_path):
    write(tmp_path)
    file = tmp_path / "surface.npy"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Omni123Error, match="surface.npy is missing, broken or truncated"):
        AssetStore.open(tmp_path)


def test_merging_never_overwrites_what_it_reads(tmp_path):
    write(tmp_path / "a")
    before = (tmp_path / "a" / "surface.npy").read_bytes()
    with pytest.raises(Omni123Error, match="another --out"):
        merge_stores([tmp_path / "a"], tmp_path / "." / "a")
    assert (tmp_path / "a" / "surface.npy").read_bytes() == before
    assert len(merge_stores([tmp_path / "a"], tmp_path / "b")) == len(AssetStore.open(tmp_path / "a"))


WITH_ALL = StoreSizes(8, 16, 4, sharp_points=8, signed_distance=True, random_views=2, view_geometry=True)


def write_with_all(folder, prefix: str = "a") -> AssetStore:
    writer = StoreWriter(folder, 2, WITH_ALL)
    for i in range(2):
        rng = np.random.default_rng(i)
        more = {
            "sharp": rng.standard_normal((8, 6)).astype(np.float16),
            "sharp_flags": np.packbits(np.arange(8) < 4 * i),
            "signed_distance": rng.standard_normal(16).astype(np.float16),
            "random_views": rng.integers(0, 256, (2, 4, 4, 4), dtype=np.uint8),
            "view_depth": np.where(rng.random((7, 4, 4)) < 0.5, np.inf, 2.0).astype(np.float16),
            "view_normals": np.tile(np.array([255, 128, 128], dtype=np.uint8), (7, 4, 4, 1)),
            "random_view_depth": np.full((2, 4, 4), 1.5, dtype=np.float16),
            "random_view_normals": np.zeros((2, 4, 4, 3), dtype=np.uint8),
        }
        writer.append(record(f"{prefix}{i}"), arrays(i) | more)
    return writer.close()


def test_optional_arrays_are_written_read_and_merged(tmp_path):
    store = write_with_all(tmp_path / "one")
    write_with_all(tmp_path / "two", "b")
    merged = merge_stores([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    for row, each in ((1, store), (3, merged)):
        points, flags = each.sharp(row)
        assert points.dtype == np.float32 and points.shape == (8, 6) and flags.tolist() == [True] * 4 + [False] * 4
        assert each.signed_distance(row).shape == (16,) and each.random_views(np.array([0, row])).shape == (
            2,
            2,
            4,
            4,
            4,
        )
        depth, normals = each.view_geometry(row)
        assert depth.dtype == normals.dtype == np.float32 and set(np.unique(depth)) == {2.0, np.inf}
        np.testing.assert_allclose(normals, np.broadcast_to([1.0, 0.0, 0.0], (7, 4, 4, 3)), atol=0.005)
        depth, normals = each.random_view_geometry(np.array([0, row]))
        assert depth.shape == (2, 2, 4, 4) and (depth == 1.5).all() and not normals.any()
    np.testing.assert_array_equal(merged.raw("signed_distance")[2], store.raw("signed_distance")[0])


def test_a_store_without_optional_arrays_stays_as_it_was(tmp_path):
    store = write(tmp_path / "plain")
    assert "optional" not in store.summary and len(list((tmp_path / "plain").glob("*.npy"))) == 4
    with pytest.raises(Omni123Error, match="prepared without signed_distance"):
        store.signed_distance(0)
    with pytest.raises(Omni123Error, match="prepared without view_depth"):
        store.view_geometry(0)
    write_with_all(tmp_path / "all")
    with pytest.raises(Omni123Error, match="different sizes or optional arrays"):
        merge_stores([tmp_path / "plain", tmp_path / "all"], tmp_path / "both")
    summary = json.loads((tmp_path / "all" / "dataset.json").read_text())
    summary["optional"]["smell"] = 3
    (tmp_path / "all" / "dataset.json").write_text(json.dumps(summary))
    with pytest.raises(Omni123Error, match="does not know"):
        AssetStore.open(tmp_path / "all")
    with pytest.raises(Omni123Error, match="multiple of 8"):
        StoreSizes(sharp_points=3)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("dataset.json", b"{broken", "not readable JSON"),
        ("dataset.json", b"\xff", "not readable JSON"),
        ("dataset.json", b"[]", "must hold a JSON object"),
        ("dataset.json", b'{"format": 1, "count": 3}', "lacks content_hash, sizes"),
        ("manifest.jsonl", b"\xff\n", "not readable"),
        ("manifest.jsonl", b"5\n", "must be a JSON object"),
        ("surface.npy", None, "surface.npy is missing"),
        ("manifest.jsonl", None, "not readable"),
    ],
)
def test_a_broken_store_is_one_clear_line(tmp_path, name, content, message):
    write(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(Omni123Error, match=message):
        AssetStore.open(tmp_path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_json(tmp_path / "x.json", {"name": "\ud800"})
    assert not list(tmp_path.iterdir())
