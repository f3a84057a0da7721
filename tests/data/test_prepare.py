from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trimesh

from omni123_hf.data.prepare import (
    AssetRejected,
    ParametricSpec,
    PreparationConfig,
    parametric_assets,
    prepare_asset,
    prepare_dataset,
)
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


CAPTIONS = {"short": ["a ball"], "medium": ["a plain round ball"], "long": ["a plain round ball and nothing else"]}
SMALL = PreparationConfig(surface_points=64, queries=256, view_size=16, supersample=1, shard_size=3)


@dataclass(frozen=True)
class FakeAsset:
    """A real asset as a source would give it, at module level so that worker processes can unpickle it."""

    id: str
    kind: str = "ball"
    source: str = "fake"
    category: str = "ball"
    captions: dict[str, list[str]] = field(default_factory=lambda: CAPTIONS)
    licence: str = "CC0-1.0"
    attribution: str = "nobody"
    attributes: dict[str, Any] = field(default_factory=dict)

    def load(self) -> trimesh.Trimesh:
        mesh = trimesh.creation.icosphere(2, 5.0)
        if self.kind == "nan":
            mesh.vertices[0] = np.nan
        if self.kind == "empty":
            return trimesh.Trimesh()
        if self.kind == "thin":
            return trimesh.creation.box((1.0, 0.001, 0.001))
        if self.kind == "broken":
            raise OSError("cannot read this file")
        if self.kind == "slow":
            time.sleep(5)
        return mesh


def test_prepare_asset_labels_a_sphere_at_the_stored_points():
    prepared = prepare_asset(FakeAsset("fake/ball"), PreparationConfig(queries=4096))
    radius = np.linalg.norm(prepared.arrays["queries"].astype(np.float64), axis=1)
    inside = np.unpackbits(prepared.arrays["occupancy"]).astype(bool)
    assert inside[radius < 0.93].all() and not inside[radius > 0.961].any()
    assert prepared.method == "winding"
    assert prepared.arrays["views"][:, 32, 32, 3].min() == 255
    assert prepared.record.captions == CAPTIONS


def test_an_asset_is_the_same_in_any_shard_and_differs_by_seed():
    first = prepare_asset(FakeAsset("fake/a"), SMALL).record.content_hash
    assert first == prepare_asset(FakeAsset("fake/a"), SMALL).record.content_hash
    other = PreparationConfig(surface_points=64, queries=256, view_size=16, supersample=1, seed=1)
    assert first != prepare_asset(FakeAsset("fake/a"), other).record.content_hash


@pytest.mark.parametrize("kind, reason", [("nan", "not_finite"), ("empty", "empty"), ("thin", "too_thin")])
def test_unusable_assets_are_rejected_with_a_reason(kind, reason):
    with pytest.raises(AssetRejected) as caught:
        prepare_asset(FakeAsset("fake/x", kind), SMALL)
    assert caught.value.reason == reason


def test_bad_assets_never_stop_the_run(tmp_path):
    kinds = ["ball", "nan", "ball", "broken", "slow", "thin", "ball"]
    config = PreparationConfig(**{**vars(SMALL), "seconds_per_asset": 1.0})
    store = prepare_dataset([FakeAsset(f"fake/{i}", k) for i, k in enumerate(kinds)], tmp_path, 1, config, False)
    assert [r.id for r in store.records] == ["fake/0", "fake/2", "fake/6"]
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(r["id"], r["reason"]) for r in rejected] == [
        ("fake/1", "not_finite"), ("fake/3", "error:OSError"), ("fake/4", "too_slow"), ("fake/5", "too_thin"),
    ]  # fmt: skip
    assert store.surface(2).shape == (64, 6) and store.views(0).shape == (7, 16, 16, 4)


def test_a_stopped_run_goes_on_and_other_settings_are_refused(tmp_path, monkeypatch):
    import omni123_hf.data.prepare as module

    assets = [FakeAsset(f"fake/{i}") for i in range(7)]
    whole = prepare_dataset(assets, tmp_path / "whole", 1, SMALL, False)
    real, calls = module.prepare_shard, []

    def stop_at_the_second(chunk, path, config):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(chunk, path, config)

    monkeypatch.setattr(module, "prepare_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(assets, tmp_path / "part", 1, SMALL, False)
    with pytest.raises(Omni123Error, match="no finished data set"):
        AssetStore.open(tmp_path / "part")
    with pytest.raises(Omni123Error, match="other assets or settings"):
        prepare_dataset(assets[:3], tmp_path / "part", 1, SMALL, False)
    calls.clear()
    calls += ["x", "y"]
    store = prepare_dataset(assets, tmp_path / "part", 1, SMALL, False)
    assert calls[2:] == ["00001.npz", "00002.npz"]
    assert store.content_hash == whole.content_hash


def test_worker_processes_give_the_same_data(tmp_path):
    assets = [FakeAsset(f"fake/{i}") for i in range(4)]
    one = prepare_dataset(assets, tmp_path / "one", 1, SMALL, False)
    two = prepare_dataset(assets, tmp_path / "two", 2, SMALL, False)
    assert one.content_hash == two.content_hash


def test_duplicate_ids_and_empty_lists_are_refused(tmp_path):
    with pytest.raises(Omni123Error, match="unique"):
        prepare_dataset([FakeAsset("fake/a"), FakeAsset("fake/a")], tmp_path, 1, SMALL, False)
    with pytest.raises(Omni123Error, match="no assets"):
        prepare_dataset([], tmp_path, 1, SMALL, False)
    with pytest.raises(Omni123Error, match="every asset was rejected"):
        prepare_dataset([FakeAsset("fake/a", "nan")], tmp_path, 1, SMALL, False)


def test_parametric_objects_are_prepared_from_category_and_seed():
    specs = parametric_assets(2, seed=5)
    assert specs[0].id.endswith("/000005") and len({s.id for s in specs}) == len(specs)
    prepared = prepare_asset(specs[0], SMALL)
    assert prepared.record.source == "parametric" and prepared.record.attributes["seed"] == 5
    assert prepared.method == "winding"
    with pytest.raises(Omni123Error, match="unknown categor"):
        prepare_asset(ParametricSpec("no such thing", 0), SMALL)


def test_a_data_set_that_was_not_prepared_here_is_not_overwritten(tmp_path):
    prepare_dataset([FakeAsset("fake/ball")], tmp_path, config=SMALL, show_progress=False)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(Omni123Error, match="not prepared here"):
        prepare_dataset([FakeAsset("fake/other")], tmp_path, config=SMALL, show_progress=False)
    assert AssetStore.open(tmp_path).records[0].id == "fake/ball"


def test_a_missing_labeller_is_said_before_closed_meshes_are_rejected_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Omni123Error, match="needs libigl"):
        prepare_dataset([FakeAsset("fake/ball")], tmp_path / "out", config=SMALL, show_progress=False)
    assert not (tmp_path / "out").exists()
