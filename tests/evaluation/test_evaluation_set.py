import json

import numpy as np
import pytest

from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.baselines import ALL, GRID, best_threshold, mean_occupancy_grid, medoid
from omni123_hf.evaluation.evaluation_set import EvaluationSet, attribution_list, corpus_counts, select_assets


@pytest.fixture(scope="module")
def evaluation_set(box_store):
    return EvaluationSet.from_store(box_store, count=15, seed=0)


def test_selection_has_the_shares_of_the_protocol_and_needs_no_order(box_store):
    chosen = select_assets(box_store.records, count=15, seed=0)
    assert len({record.id for record in chosen}) == 15
    assert sum(record.source != "parametric" for record in chosen) == 3
    assert {record.source for record in chosen if record.source != "parametric"} == {"library", "bricks"}
    assert sum(record.split == "heldout_combination" for record in chosen) == 3
    parametric = [r.category for r in chosen if r.source == "parametric" and r.split == "heldout"]
    assert {parametric.count(category) for category in set(parametric)} <= {2, 3}  # categories take turns
    assert [r.id for r in select_assets(box_store.records[::-1], 15, 0)] == [r.id for r in chosen]
    assert [r.id for r in select_assets(box_store.records, 15, 1)] != [r.id for r in chosen]
    assert all(record.split.startswith("heldout") for record in chosen)


def test_selection_says_what_is_missing(box_store):
    with pytest.raises(Omni123Error, match="6 held-out objects of kind 'real', 100 objects need 20"):
        select_assets([r for r in box_store.records if r.source != "parametric"] + _many(box_store), 100)
    with pytest.raises(Omni123Error, match="too small"):
        select_assets(box_store.records, 4)


def test_an_asset_without_a_prompt_is_not_chosen(box_store):
    from dataclasses import replace

    silent = {"short": ["thing"], "medium": [], "long": []}
    lost = select_assets(box_store.records, 15, 0)[0].id
    records = [replace(r, captions=silent) if r.id == lost else r for r in box_store.records]
    chosen = select_assets(records, 15, 0)
    assert len(chosen) == 15 and lost not in {record.id for record in chosen}


def _many(store):
    from dataclasses import replace

    held_out = [r for r in store.records if r.source == "parametric" and r.split != "train"]
    return [replace(record, id=f"{record.id}/{copy}") for record in held_out for copy in range(20)]


def test_queries_take_both_noise_levels_and_keep_their_labels(box_store, evaluation_set):
    row = next(r for r in box_store.records if r.id == evaluation_set.records[0].id).index
    assert (evaluation_set.queries[0] == box_store.queries(row).astype(np.float16)).all()
    assert (evaluation_set.occupancy[0] == box_store.occupancy(row)).all()


def test_export_and_load_give_the_same_set(evaluation_set, tmp_path):
    evaluation_set.save(tmp_path / "set")
    loaded = EvaluationSet.load(tmp_path / "set")
    assert loaded.set_hash() == evaluation_set.set_hash()
    assert loaded.prompts == evaluation_set.prompts and loaded.kinds == evaluation_set.kinds
    assert (loaded.occupancy == evaluation_set.occupancy).all()
    for name, array in evaluation_set.baselines.to_arrays().items():
        assert (loaded.baselines.to_arrays()[name] == array).all()
    assert loaded.records[0].attribution == evaluation_set.records[0].attribution


def test_damaged_or_missing_sets_are_named(evaluation_set, tmp_path):
    with pytest.raises(Omni123Error, match="export-subset"):
        EvaluationSet.load(tmp_path)
    evaluation_set.save(tmp_path)
    info = json.loads((tmp_path / "evaluation_set.json").read_text())
    (tmp_path / "evaluation_set.json").write_text(json.dumps(info | {"set_hash": "0"}))
    with pytest.raises(Omni123Error, match="recorded hash"):
        EvaluationSet.load(tmp_path)
    (tmp_path / "evaluation_set.json").write_text("{")
    with pytest.raises(Omni123Error, match="cannot be read"):
        EvaluationSet.load(tmp_path)
    (tmp_path / "evaluation_set.json").write_text(json.dumps(info))
    arrays = (tmp_path / "arrays.npz").read_bytes()
    (tmp_path / "arrays.npz").write_bytes(arrays[: len(arrays) // 2])
    with pytest.raises(Omni123Error, match="cannot be read"):
        EvaluationSet.load(tmp_path)
    np.savez_compressed(tmp_path / "arrays.npz", surface=evaluation_set.surface)
    with pytest.raises(Omni123Error, match="cannot be read"):
        EvaluationSet.load(tmp_path)


def test_corpus_counts_and_attribution(box_store):
    counts = {row["source"]: row for row in corpus_counts(box_store.records)}
    assert counts["parametric"]["train"] == 32 and counts["parametric"]["heldout_combination"] == 8
    assert counts["library"]["licence"] == "CC-BY-4.0"
    assert attribution_list(box_store.records) == [
        {
            "library": f"{source}/part",
            "licence": "CC-BY-4.0",
            "assets": 7,
            "authors": [f"author 0 of {source}", f"author 1 of {source}"],
        }
        for source in ("bricks", "library")
    ]


def test_mean_occupancy_predicts_a_category_of_like_objects(evaluation_set):
    from omni123_hf.evaluation.shape_metrics import occupancy_iou

    baselines = evaluation_set.baselines
    assert baselines.keys[-1] == ALL
    scores = {"own": [], "other": []}
    for record, queries, labels in zip(
        evaluation_set.records, evaluation_set.queries, evaluation_set.occupancy, strict=True
    ):
        if record.source != "parametric":
            continue
        for category in ("plate", "pole", "wall", "cube"):
            kind = "own" if category == record.category else "other"
            predicted = baselines.mean_occupancy(f"parametric/{category}", queries[:2048])
            scores[kind].append(occupancy_iou(predicted, labels[:2048]))
    assert np.mean(scores["own"]) > 0.6 > 0.3 > np.mean(scores["other"])


def test_grid_threshold_and_medoid_of_known_data():
    rng = np.random.default_rng(0)
    queries = rng.uniform(-1.05, 1.05, (200_000, 3))
    grid = mean_occupancy_grid(queries, queries[:, 0] > 0)
    assert grid.shape == (GRID,) * 3
    assert (grid[: GRID // 2 - 2] < 1e-3).all() and (grid[GRID // 2 + 2 :] > 0.999).all()
    assert 0.1 <= best_threshold(grid) <= 0.9
    mixed = np.full((GRID,) * 3, 0.0, np.float32)
    mixed[0], mixed[1] = 0.9, 0.2
    assert 0.2 < best_threshold(mixed) <= 0.9
    points = rng.normal(size=(1, 50, 3))
    assert medoid(np.concatenate([points - 1, points, points + 1.5])) == 1
