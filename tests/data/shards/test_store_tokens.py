"""From a prepared data set and a checkpoint to shards: the tokens of the tokenizers, and what training makes of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_store import write_tiny_store

from omni123_hf.data.shards.reader import TokenShards
from omni123_hf.data.shards.store_tokens import tokenize_store
from omni123_hf.data.shards.text import CheckpointTextEncoders
from omni123_hf.data.shards.tokenizers import TOKENIZERS, StoreTokenizers
from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.data.shards.writer import WriterOptions
from omni123_hf.data.store import AssetStore
from omni123_hf.data.tokens import TokenStore
from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.training import tokenize
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.record_pools import StoreTokenPool


OPTIONS = WriterOptions(shards=3, batch_size=4, progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> AssetStore:
    return write_tiny_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def tokenizers(tiny_pipeline_folder) -> StoreTokenizers:
    return StoreTokenizers.load({name: tiny_pipeline_folder / name for name in TOKENIZERS})


@pytest.fixture(scope="module")
def shards(store, tokenizers, tiny_pipeline_folder, tmp_path_factory) -> TokenShards:
    """The pools pairs (with text embeddings) and images, read only."""
    out = tmp_path_factory.mktemp("shards")
    texts = CheckpointTextEncoders(tiny_pipeline_folder)
    tokenize_store(store, tokenizers, out, checkpoint="tiny", options=OPTIONS, text_encoder=texts)
    tokenize_store(store, tokenizers, out, "images", ["top", "three_quarter"], options=OPTIONS)
    return TokenShards.open(out, verify=True)


@pytest.fixture(scope="module")
def stage_tokens(store, tiny_pipeline_folder, tmp_path_factory) -> Path:
    """What the stage `tokenize` writes for the same data set and tokenizers."""
    out = tmp_path_factory.mktemp("tokens")
    model = {name: str(tiny_pipeline_folder / name) for name in TOKENIZERS}
    options = {"batch_size": 8}
    tokenize.train(Recipe("tokenize", out, data={"root": str(store.folder)}, model=model, options=options))
    return out


def test_pairs_hold_the_tokenizers_codes(store, shards, tiny_pipeline):
    pool = shards["pairs"]
    assert len(pool) == 16 and pool.layout.record_length == 8 + 7 * 16
    assert pool.info.splits == {"train": 12, "validation": 4} and len(pool.shards_of("train")) == 3
    for number in (0, 7, 15):
        record = pool.record(number)
        row = record.source_row
        assert record.captions == store.records[row].captions and record.views == ALL_VIEWS
        surface = torch.from_numpy(store.surface(np.array([row])))
        codes = tiny_pipeline.shape_tokenizer.encode(surface[..., :3].clamp(-1.05, 1.05), surface[..., 3:])
        assert np.array_equal(pool[number]["shape_tokens"], codes[0].numpy())
        pixels = pixels_from_views(store.views(row))
        images = tiny_pipeline.image_tokenizer.encode(tiny_pipeline.image_vae.encode(pixels)).numpy()
        for view, wanted in zip(ALL_VIEWS, images, strict=True):
            assert np.array_equal(pool[number][f"image_tokens_{view}"], wanted)


def test_images_are_one_record_a_view(store, shards):
    pool, pairs = shards["images"], shards["pairs"]
    assert len(pool) == 32 and pool.layout.record_length == 16
    place = {pairs.record(number).source_row: number for number in range(16)}
    views = set()
    for number in range(32):
        record = pool.record(number)
        (view,) = record.views
        views.add((record.id, view))
        assert np.array_equal(pool[number]["image_tokens"], pairs[place[record.source_row]][f"image_tokens_{view}"])
    assert len(views) == 32 and {view for _, view in views} == {"top", "three_quarter"}
    assert shards["images"].info.origin["tokenizers"].keys() == {"image_vae", "image_tokenizer"}


def test_text_embeddings_are_those_of_the_pipeline(shards, tiny_pipeline):
    pool = shards["pairs"]
    for number in (0, 5, 15):
        texts = pool.record(number).texts
        with torch.no_grad():
            wanted = tiny_pipeline.encode_prompt(texts)
        found = pool.text_embeddings(number)
        assert found["text_encoder"][0].shape == (len(texts), 16, 16)
        assert np.allclose(found["text_encoder"][0], wanted.text_embeds.numpy(), atol=5e-3)
        embeddings, mask = found["text_encoder_2"]
        assert np.array_equal(mask, wanted.text_attention_mask_2.bool().numpy())
        assert np.allclose(embeddings[mask], wanted.text_embeds_2.numpy()[mask], atol=5e-3)
    assert set(pool.info.embeddings["text_encoder"]) == {"shape", "weights", "tokenizer"}


def pools_of(store, shards, stage_tokens) -> tuple[StoreTokenPool, TrainingPool]:
    """The same tokens as a token folder of one process and as token shards."""
    return StoreTokenPool(store, TokenStore.open(stage_tokens), {"shape": 32, "image": 32}), TrainingPool(
        shards["pairs"]
    )


def test_the_stage_and_the_shards_hold_the_same_tokens(store, shards, stage_tokens):
    old, new = pools_of(store, shards, stage_tokens)
    assert old.fields == new.fields and old.tokenizers == new.tokenizers and len(old) == len(new)
    places = new.pool.column("source_row").to_numpy()
    for row in (3, 0, 11):
        for field in new.fields:
            assert np.array_equal(new.codes(row, field), old.codes(int(places[row]), field))
        assert new.texts(row) == old.texts(int(places[row]))
        assert new.sources[row] == old.sources[places[row]]


def test_a_checkpoint_with_one_tokenizer_fills_the_pool_of_its_kind(store, tiny_pipeline_folder, tmp_path):
    only_shape = StoreTokenizers.load({"shape_tokenizer": tiny_pipeline_folder / "shape_tokenizer"})
    info = tokenize_store(store, only_shape, tmp_path / "out", options=OPTIONS)
    assert info.layout.name == "shapes" and info.layout.record_length == 8
    with pytest.raises(Omni123Error, match="no image_vae and no image_tokenizer, which the pool 'pairs' needs"):
        tokenize_store(store, only_shape, tmp_path / "out", "pairs", options=OPTIONS)
    with pytest.raises(Omni123Error, match="no pool 'edits'"):
        tokenize_store(store, only_shape, tmp_path / "out", "edits", options=OPTIONS)
    with pytest.raises(Omni123Error, match="lacks tokenizers for assets: it needs shape_tokenizer and image_vae"):
        tokenize_store(store, StoreTokenizers.load({}), tmp_path / "out", options=OPTIONS)
    with pytest.raises(Omni123Error, match="no pool 'pairs'; it has shapes"):
        TrainingPool.open(tmp_path / "out", "pairs")


def test_views_that_do_not_fit_are_refused(store, tokenizers, tmp_path, monkeypatch):
    with pytest.raises(Omni123Error, match="no view 'below'"):
        tokenize_store(store, tokenizers, tmp_path / "out", views=["below"], options=OPTIONS)
    with pytest.raises(Omni123Error, match="each view once"):
        tokenize_store(store, tokenizers, tmp_path / "out", views=["top", "top"], options=OPTIONS)
    monkeypatch.setattr(tokenizers.image_vae.config, "image_size", 64)
    with pytest.raises(Omni123Error, match="views of 16 pixels and the checkpoint's image_vae reads 64"):
        tokenize_store(store, tokenizers, tmp_path / "out", options=OPTIONS)
    assert not (tmp_path / "out").exists()


def test_tokenizers_that_are_not_whole_are_refused(tiny_pipeline_folder, tmp_path):
    folder = tmp_path / "shape_tokenizer"
    shutil.copytree(tiny_pipeline_folder / "image_tokenizer", folder)
    shutil.copy(tiny_pipeline_folder / "shape_tokenizer/config.json", folder)
    with pytest.raises(Omni123Error, match=r"shape_tokenizer lacks \d+ tensor"):
        StoreTokenizers.load({"shape_tokenizer": folder})
    (folder / "model.safetensors").write_bytes(b"xx")
    with pytest.raises(Omni123Error, match="cannot load shape_tokenizer"):
        StoreTokenizers.load({"shape_tokenizer": folder})
    with pytest.raises(Omni123Error, match="no text encoder"):
        CheckpointTextEncoders(tmp_path)
