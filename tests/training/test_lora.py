"""Stage `lora` on a tiny base: data, splits, what is trained and saved, resuming, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_store import write_tiny_store

from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ForConditionalGeneration
from omni123_hf.modeling.fingerprint import weights_fingerprint
from omni123_hf.pipelines.registry import checkpoint_revision
from omni123_hf.training import lora
from omni123_hf.training.lora_data import (
    BaseCheckpoint,
    Domain,
    data_options,
    look_alikes,
    old_domain,
    old_objects,
    prepare_meshes,
    split_meshes,
    tokenize,
)
from omni123_hf.training.lora_preflight import preflight, report_lines
from omni123_hf.training.recipe import Recipe


TRAINING = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 2,
    "save_steps": 3,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def base(tiny_pipeline_folder) -> BaseCheckpoint:
    return BaseCheckpoint("tiny", tiny_pipeline_folder, checkpoint_revision(tiny_pipeline_folder), "Apache-2.0")


@pytest.fixture(scope="module")
def domains(base, tmp_path_factory) -> tuple[Domain, Domain]:
    """Two stores of boxes as the new and the old domain."""
    folder = tmp_path_factory.mktemp("domains")
    new, old = write_tiny_store(folder / "new", 16), write_tiny_store(folder / "old", 12)
    split_meshes(new, 0.25, seed=0)
    options = data_options(recipe(folder, meshes=str(folder / "new")))
    pool = tokenize(new, base, folder / "shards", options, "cpu")
    old = old_domain({**options, "regularization": str(folder / "old")}, base, folder / "work", "cpu")
    return Domain(pool, "heldout", new), old


def recipe(out: Path, options: dict | None = None, training: dict | None = None, **data) -> Recipe:
    return Recipe("lora", out, 0, data, {}, options or {}, {**TRAINING, **(training or {})})


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_a_short_run_lowers_the_loss_and_writes_what_peft_reads(base, domains, tmp_path):
    new, old = domains
    options = {"rank": 4, "alpha": 8, "regularization_share": 0.5}
    adapter = lora.train(recipe(tmp_path, options, {"max_steps": 30}), base, new, old)
    assert set(adapter.losses) == {"new", "old"} and set(adapter.losses["new"]["before"]) == set(lora.TASKS)
    assert np.mean(list(adapter.losses["new"]["after"].values())) < np.mean(
        list(adapter.losses["new"]["before"].values())
    )
    model = Omni123ForConditionalGeneration.from_pretrained(base.folder / "transformer")
    assert adapter.base_fingerprint == weights_fingerprint(model)
    weights = adapter_of(adapter.folder)
    assert adapter.trainable == sum(value.numel() for value in weights.values())
    # Both streams, in single blocks and in the last dual block, and no head.
    modules = {name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for name in weights}
    linears = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "blocks." in name
    }
    assert modules == linears
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert (
        config["base_model_name_or_path"] == "tiny" and config["r"] == 4 and str(base.folder) not in json.dumps(config)
    )
    # A checkpoint holds the adapter alone.
    checkpoint = load_file(tmp_path / "checkpoint-30" / "model.safetensors")
    assert len(checkpoint) == len(weights) and all("lora_" in name for name in checkpoint)


def test_the_losses_before_are_those_of_the_base(base, domains, tmp_path):
    """Rank and learning rate make no difference to them, and an adapter that has not moved changes nothing."""
    new, old = domains
    still = lora.train(recipe(tmp_path / "a", {"rank": 2}, {"max_steps": 1, "learning_rate": 0.0}), base, new, old)
    moved = lora.train(recipe(tmp_path / "b", {"rank": 8}, {"max_steps": 2}), base, new, old)
    for domain in ("new", "old"):
        assert still.losses[domain]["before"] == still.losses[domain]["after"] == moved.losses[domain]["before"]
        assert moved.losses[domain]["after"] != moved.losses[domain]["before"]


def test_a_stopped_run_ends_in_the_same_adapter(base, domains, tmp_path, monkeypatch):
    new, old = domains
    whole = lora.train(recipe(tmp_path / "whole"), base, new, old)

    class Stopped(Exception):
        pass

    def stop_at_four(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise Stopped
        return plain(self, *args, **kwargs)

    plain = lora.LoraTrainer.training_step
    monkeypatch.setattr(lora.LoraTrainer, "training_step", stop_at_four)
    with pytest.raises(Stopped):
        lora.train(recipe(tmp_path / "stopped"), base, new, old)
    monkeypatch.setattr(lora.LoraTrainer, "training_step", plain)
    assert not (tmp_path / "stopped" / "final").exists()
    resumed = lora.train(recipe(tmp_path / "stopped"), base, new, old)
    first, second = adapter_of(whole.folder), adapter_of(resumed.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.losses == resumed.losses
    with pytest.raises(Omni123Error, match="begun with other options"):
        lora.train(recipe(tmp_path / "stopped", {"rank": 2}), base, new, old)


def test_heads_are_trained_only_when_asked(base, domains, tmp_path):
    adapter = lora.train(recipe(tmp_path, {"train_heads": True}, {"max_steps": 2}), base, *domains)
    saved = {name for name in adapter_of(adapter.folder) if "lora_" not in name}
    assert saved == {"base_model.model.shape_head.weight", "base_model.model.image_head.weight"}


def test_without_an_old_domain_nothing_is_rehearsed(base, domains, tmp_path):
    adapter = lora.train(recipe(tmp_path, training={"max_steps": 1}), base, domains[0], None)
    assert adapter.rehearsal == 0 and set(adapter.losses) == {"new"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"alpha": -1}, "alpha is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"regularization_share": 1.0}, "must lie in"),
        ({"targets": ["shape_head"]}, "name some of"),
        ({"ranks": 4}, "no option ranks"),
        ({"tasks": {"text-to-3d": 0.5}}, "sum to 0.5"),
        ({"tasks": {"edit-3d": 1.0}}, "cannot be trained on pool"),
    ],
)
def test_options_that_cannot_be(base, domains, tmp_path, options, message):
    with pytest.raises(Omni123Error, match=message):
        lora.train(recipe(tmp_path / "x", options), base, *domains)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "there is no data"),
        ({"meshes": "x", "heldout_share": 0}, "heldout_share"),
        ({"meshes": "x", "up": "x"}, "up is 'x'"),
        ({"meshes": "x", "holdout": 1}, "no 'holdout'"),
    ],
)
def test_data_that_cannot_be(tmp_path, data, message):
    with pytest.raises(Omni123Error, match=message):
        data_options(recipe(tmp_path, **data))


def test_look_alikes_stay_in_one_split_and_every_category_is_measured(tmp_path):
    store = write_tiny_store(tmp_path / "s", 16)
    views = np.load(tmp_path / "s" / "views.npy", mmap_mode="r+")
    for twin in (5, 9):
        views[twin] = views[0]
    views.flush()
    for row, record in enumerate(store.records):
        record.category = "abcd"[row % 4]
    groups = split_meshes(AssetStore.open(tmp_path / "s"), 0.25, 0)
    assert [0, 5, 9] in groups and len(groups) == 14 == len(look_alikes(store))
    for seed in range(8):
        store = AssetStore.open(tmp_path / "s")
        for row, record in enumerate(store.records):
            record.category = "abcd"[row % 4]
        split_meshes(store, 0.25, seed)
        splits = [record.split for record in store.records]
        assert len({splits[row] for row in (0, 5, 9)}) == 1
        assert splits.count("heldout") in (4, 5, 6) and set(splits) == {"train", "heldout"}
        held = {record.category for record in store.records if record.split == "heldout"}
        assert len(held) >= 3


def test_too_few_meshes_and_unstated_licences_are_refused(base, tmp_path):
    with pytest.raises(Omni123Error, match="give at least 10 different meshes"):
        split_meshes(write_tiny_store(tmp_path / "few", 9), 0.2, 0)
    store = write_tiny_store(tmp_path / "unknown", 12)
    lines = (tmp_path / "unknown" / "manifest.jsonl").read_text()
    (tmp_path / "unknown" / "manifest.jsonl").write_text(lines.replace('"CC0-1.0"', '"unknown"', 1))
    options = data_options(recipe(tmp_path, meshes=str(tmp_path / "unknown")))
    with pytest.raises(Omni123Error, match="1 of 12 meshes have no stated licence, for example box/0"):
        prepare_meshes(options, base, tmp_path / "work", 0)
    assert len(prepare_meshes({**options, "allow_unknown_licence": True}, base, tmp_path / "work", 0)) == len(store)


def test_the_preflight_says_what_is_there(base, domains):
    new, old = domains
    groups = look_alikes(new.store)
    report = preflight(new.store, groups, base, old, "cpu")
    assert report["split"] == {"train": 12, "heldout": 4} and report["captions"]["given"] == 16
    assert 0 <= report["tokenizer_volume_iou"]["min"] <= report["tokenizer_volume_iou"]["mean"] <= 1
    assert report["old_domain"]["measured"] == 3 and report["licences"] == {"CC0-1.0": 16}
    lines = "\n".join(report_lines(report))
    assert "only 12 meshes" in lines and "captions are repeated" in lines and "cannot mend that" in lines
    alone = preflight(new.store, groups, base, None, "cpu")
    assert "may be lost unseen" in alone["warnings"][-1]


def test_objects_of_the_old_domain_are_fixed_and_held_out_by_their_programs():
    from omni123_hf.data.assets import asset_rng
    from omni123_hf.data.parametric.registry import CATEGORIES, sample_program
    from omni123_hf.data.splits import split_of

    specs = old_objects()
    assert specs == old_objects() and len(specs) == len(set(specs))
    splits = [split_of(sample_program(spec.category, asset_rng("program", spec.id)).to_json()) for spec in specs]
    assert set(splits) == {"train", "heldout"}
    assert {spec.category for spec, split in zip(specs, splits, strict=True) if split == "train"} == set(CATEGORIES)
    assert splits.count("heldout") > 0.8 * len(CATEGORIES)


def test_a_base_that_was_never_trained_on_the_generator_has_no_old_domain(base, tmp_path):
    options = data_options(recipe(tmp_path, meshes="x"))
    assert base.sources == set() and old_domain(options, base, tmp_path, "cpu") is None
