"""Pictures, editing pairs and token pairs as pools, alone and several into one; what does not fit is named."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_prepared import write_tiny_edits, write_tiny_pictures, write_tiny_token_pairs
from tiny_store import write_tiny_store

from omni123_hf.data.editing.coupled_surface import couple_surface
from omni123_hf.data.prepared import open_prepared
from omni123_hf.data.shards import TokenShards, TrainingPool
from omni123_hf.data.shards.card import card_text
from omni123_hf.data.shards.store_tokens import tokenize_store, tokenize_stores
from omni123_hf.data.shards.tokenizers import TOKENIZERS, StoreTokenizers
from omni123_hf.data.shards.writer import WriterOptions
from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error


OPTIONS = WriterOptions(shards=2, batch_size=3, progress=False)


@pytest.fixture(scope="module")
def tokenizers(tiny_pipeline_folder) -> StoreTokenizers:
    return StoreTokenizers.load({name: tiny_pipeline_folder / name for name in TOKENIZERS})


@pytest.fixture(scope="module")
def stores(tokenizers, tmp_path_factory):
    """One store of each kind, and a second one of pictures; read only."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        "assets": write_tiny_store(folder / "assets", 8),
        "pictures": write_tiny_pictures(folder / "pictures"),
        "more": write_tiny_pictures(folder / "more", 5, "drawing"),
        "edits": write_tiny_edits(folder),
        "tokens": write_tiny_token_pairs(folder / "tokens", tokenizers.hashes["shape_tokenizer"]),
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folders_tell_what_they_hold(stores, tmp_path):
    for store in stores.values():
        assert type(open_prepared(store.folder)) is type(store)
    with pytest.raises(Omni123Error, match="no finished data set .none of dataset.json, images.json"):
        open_prepared(tmp_path)
    (tmp_path / "images.json").write_text("{}")
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(Omni123Error, match="two data sets in one folder"):
        open_prepared(tmp_path)


def test_pictures_become_image_tokens(stores, tokenizers, tiny_pipeline, tmp_path):
    store = stores["pictures"]
    info = tokenize_store(store, tokenizers, tmp_path, options=OPTIONS)
    assert info.layout.name == "images" and info.origin["tokenizers"].keys() == {"image_vae", "image_tokenizer"}
    pool = TrainingPool.open(tmp_path, "images", verify=True)
    assert len(pool) == 8 and pool.views() == [] and pool.data_hash == store.content_hash
    for row in range(8):
        record = store.records[pool.record(row).source_row]
        assert (pool.ids[row], pool.split(row), pool.sources[row]) == (record.id, record.split, "photo")
        assert pool.texts(row) == record.captions and pool.record(row).attribution == record.attribution
        with torch.no_grad():
            latent = tiny_pipeline.image_vae.encode(pixels_from_views(store.images(np.array([record.index]))))
            assert np.array_equal(pool.codes(row, "image_tokens"), tiny_pipeline.image_tokenizer.encode(latent)[0])


def test_pairs_become_edits_in_both_directions(stores, tokenizers, tiny_pipeline, tmp_path):
    store = stores["edits"]
    info = tokenize_store(store, tokenizers, tmp_path, options=OPTIONS)
    assert info.origin["tokenizers"] == {"shape_tokenizer": tokenizers.hashes["shape_tokenizer"]}
    assert info.origin["data_hash"] == store.content_hash and info.splits == {"train": 8, "validation": 2}
    pool = TrainingPool.open(tmp_path, "edits", verify=True)
    assert sorted(pool.ids) == sorted(
        name for i in range(6) for name in [f"edit/box/{i}"] + [f"edit/box/{i}/inverse"] * (i % 3 < 2)
    )
    for row in range(len(pool)):
        pair = next(p for p in store.pairs if p.id == pool.ids[row].removesuffix("/inverse"))
        sides = [store.source, store.target]
        if pool.ids[row].endswith("/inverse"):
            pair, sides = pair.inverse(), sides[::-1]
        assert pool.texts(row) == {"instruction": pair.texts} and pool.split(row) == pair.split
        edit = pool.record(row).edit
        assert (edit["edit_type"], edit["chain"], edit["region_parts"]) == (pair.edit_type, ["by hand"], ["lid"])
        assert edit["region_boxes"] == [[-0.5, 0.25, -0.5, 0.5, 0.75, 0.5]] and pool.record(row).category == "box"
        given, wanted = (side.surface(np.array([pair.index]))[0] for side in sides)
        coupled = couple_surface(given, wanted, pair.region)
        for field, points in (("source_tokens", given), ("target_tokens", coupled)):
            surface = torch.from_numpy(points[None])
            codes = tiny_pipeline.shape_tokenizer.encode(surface[..., :3].clamp(-1.05, 1.05), surface[..., 3:])
            assert np.array_equal(pool.codes(row, field), codes[0])


def test_token_pairs_are_taken_as_they_are(stores, tokenizers, tmp_path):
    store = stores["tokens"]
    tokenize_store(store, tokenizers, tmp_path, options=OPTIONS)
    pool = TrainingPool.open(tmp_path, "edits", verify=True)
    assert len(pool) == 7, "four pairs, three of which can be undone"
    for row in range(len(pool)):
        number = next(p.index for p in store.pairs if p.id == pool.ids[row].removesuffix("/inverse"))
        sides = [store.source_tokens[number], store.target_tokens[number]]
        wanted = sides[::-1] if pool.ids[row].endswith("/inverse") else sides
        assert np.array_equal(pool.codes(row, "source_tokens"), wanted[0])
        assert np.array_equal(pool.codes(row, "target_tokens"), wanted[1])


def test_several_folders_fill_one_pool_in_any_order(stores, tokenizers, tmp_path):
    chosen = [stores["pictures"], stores["assets"], stores["more"]]
    for name, order in (("one", chosen), ("two", chosen[::-1])):
        tokenize_stores(order, tokenizers, tmp_path / name, views=["front", "three_quarter"], options=OPTIONS)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    pool = TrainingPool.open(tmp_path / "one", "images")
    assert len(pool) == 8 + 8 * 2 + 5 and pool.views() == ["front", "three_quarter"]
    assert set(pool.sources) == {"photo", "drawing", "ldraw", "parametric"}
    for store in chosen:
        alone = tmp_path / store.folder.name
        tokenize_store(store, tokenizers, alone, "images", options=OPTIONS)
        single = TrainingPool.open(alone, "images")
        codes = {(single.ids[row], single.view(row)): single.codes(row, "image_tokens") for row in range(len(single))}
        shared = [row for row in range(len(pool)) if (pool.ids[row], pool.view(row)) in codes]
        assert len(shared) == len(store) * (2 if store is stores["assets"] else 1)
        for row in shared:
            assert np.array_equal(pool.codes(row, "image_tokens"), codes[pool.ids[row], pool.view(row)])
    data_sets = pool.pool.info.origin["data_sets"]
    assert sorted((part["kind"], part["rows"]) for part in data_sets) == [
        ("assets", 8), ("pictures", 5), ("pictures", 8)
    ]  # fmt: skip
    assert {part["content_hash"] for part in data_sets} == {store.content_hash for store in chosen}
    rows = [pool.record(row).source_row for row in range(len(pool))]
    assert sorted(set(rows)) == list(range(21)), "rows count through all three"
    assert "of it 5 rows of pictures" in card_text({"images": pool.pool.info}, "x")


def test_pairs_of_shapes_and_of_tokens_fill_one_pool(stores, tokenizers, tmp_path):
    tokenize_stores([stores["edits"], stores["tokens"]], tokenizers, tmp_path, options=OPTIONS)
    pool = TrainingPool.open(tmp_path, "edits")
    assert len(pool) == 10 + 7 and len(set(pool.ids)) == 17


def test_what_does_not_fit_is_named(stores, tokenizers, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refused(message, names, **options):
        with pytest.raises(Omni123Error, match=message):
            tokenize_stores([stores[name] for name in names.split()], tokenizers, out, options=OPTIONS, **options)
        assert not out.exists()

    refused("pictures, which fill no pool 'pairs'; choose images", "pictures", pool="pairs")
    refused("assets, which fill no pool 'edits'; choose pairs or shapes or images", "assets pictures", pool="edits")
    refused("holds pictures and .* editing pairs, which go into different pools", "pictures edits")
    refused("hold the same data; name one", "pictures pictures")
    refused("views are of assets", "pictures", views=["front"])
    refused("views are of assets", "edits", views=["front"])
    refused("has no view 'below'", "assets pictures", views=["below"])
    with pytest.raises(Omni123Error, match="nothing to tokenize"):
        tokenize_stores([], tokenizers, out)
    stores["same"] = write_tiny_pictures(tmp_path / "same", 3)
    refused("'photo/0' stands in .* and .*; prepare one of them under another LABEL", "pictures same")
    for name, hash_, codes, message in (
        ("other", "f" * 64, 32, "tokenizer ffffffffffff, but the checkpoint's shape_tokenizer is"),
        ("wider", tokenizers.hashes["shape_tokenizer"], 64, "8 codes a shape of 64, but .* 8 of 32"),
    ):
        stores[name] = write_tiny_token_pairs(tmp_path / name, hash_, codes=codes)
        refused(message, name)
    stores["large"] = write_tiny_pictures(tmp_path / "large", 2, "large", 32)
    refused("pictures of 32 pixels and the checkpoint's image_vae reads 16; prepare it again with --size 16", "large")
    monkeypatch.setattr(tokenizers.image_vae.config, "image_size", 2048)
    refused("image_vae reads 2048 pixels; pictures have 1024 at most", "pictures")
    only_shapes = StoreTokenizers(tokenizers.shape_tokenizer, None, None, {"shape_tokenizer": "a" * 64})
    with pytest.raises(Omni123Error, match="lacks tokenizers for pictures: it needs image_vae and image_tokenizer"):
        tokenize_store(stores["pictures"], only_shapes, out)


def test_warnings_of_licences_travel_with_the_pool(tokenizers, tmp_path):
    chain = {"generator_chain": ("Hunyuan3D-2-mini",), "licence_warning": "made with Hunyuan3D-2-mini: barred"}
    store = write_tiny_token_pairs(tmp_path / "tokens", tokenizers.hashes["shape_tokenizer"], **chain)
    info = tokenize_store(store, tokenizers, tmp_path / "out", options=OPTIONS)
    assert info.origin["licence_warnings"] == ["made with Hunyuan3D-2-mini: barred"]
    assert "**Warning:** made with Hunyuan3D-2-mini" in card_text({"edits": info}, "x")


def test_a_pair_that_is_called_like_an_inverse_is_refused(tokenizers, tmp_path):
    store = write_tiny_edits(tmp_path)
    lines = (store.folder / "pairs.jsonl").read_text().splitlines()
    last = json.loads(lines[2])
    for side in ("source", "target"):
        manifest = store.folder / side / "manifest.jsonl"
        manifest.write_text(manifest.read_text().replace("edit/box/2/", "edit/box/1/inverse/"))
    lines[2] = json.dumps({**last, "id": "edit/box/1/inverse"})
    (store.folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(Omni123Error, match="is that of another's inverse"):
        tokenize_store(open_prepared(store.folder), tokenizers, tmp_path / "out", options=OPTIONS)


def test_a_pool_that_is_killed_beside_another_one_goes_on(stores, tokenizers, tmp_path, monkeypatch):
    for name in ("whole", "killed"):
        tokenize_store(stores["pictures"], tokenizers, tmp_path / name, options=OPTIONS)
    pid = os.fork()
    if pid == 0:
        encode, calls = tokenizers.encode_surfaces, []

        def until_killed(surfaces):
            calls.append(1)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(surfaces)

        tokenizers.encode_surfaces = until_killed
        torch.set_num_threads(1)
        tokenize_store(stores["edits"], tokenizers, tmp_path / "killed", options=OPTIONS)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "killed/edits/.plan.json").is_file() and list((tmp_path / "killed/edits").glob("*.bin"))
    assert list(TokenShards.open(tmp_path / "killed", verify=True).pools) == ["images"], "the finished pool stays"
    for name in ("whole", "killed"):
        tokenize_store(stores["edits"], tokenizers, tmp_path / name, options=OPTIONS)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "killed")
    assert list(TokenShards.open(tmp_path / "killed", verify=True).pools) == ["images", "edits"]


def test_pictures_of_half_the_size_give_a_quarter_of_the_tokens(tokenizers, tmp_path):
    """The paper's first stage reads 256² with the tokenizer of 512²; sizes do not mix in one pool."""
    half, whole = (write_tiny_pictures(tmp_path / str(size), 3, f"of{size}", size) for size in (8, 16))
    info = tokenize_store(half, tokenizers, tmp_path / "half", options=OPTIONS)
    assert [field.length for field in info.layout.fields] == [4]
    pool = TrainingPool.open(tmp_path / "half", "images")
    places = pool.pool.column("source_row").to_numpy()
    expected = tokenizers.encode_pictures(half.images(places))
    assert np.array_equal(pool.codes(np.arange(3), "image_tokens"), expected) and expected.shape == (3, 4)
    with pytest.raises(Omni123Error, match="a pool holds one size"):
        tokenize_stores([half, whole], tokenizers, tmp_path / "both", options=OPTIONS)
