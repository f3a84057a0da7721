import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from omni123_hf.cli.evaluate import evaluate_app
from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.edit_set import PICTURES, QUERIES_PER_HALF, EditSet, select_pairs
from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.protocol_mini import load_edit_set


@pytest.fixture(scope="module")
def edit_set(edit_store):
    return EditSet.from_store(edit_store, count=8)


def test_half_of_the_edits_add_categories_take_turns_and_order_means_nothing(edit_store):
    categories = [record.category for record in edit_store.source.records]
    rows = select_pairs(edit_store.pairs, categories, 6)
    chosen = [edit_store.pairs[row] for row in rows]
    assert sum(pair.edit_type == "add" for pair in chosen) == 3
    assert all(pair.split in ("heldout", "heldout_combination") for pair in chosen)
    for kind in ("add", "remove"):
        named = [categories[row] for row, pair in zip(rows, chosen, strict=True) if pair.edit_type == kind]
        assert sorted(named) == ["box0", "box1", "box2"]
    backward = select_pairs(edit_store.pairs[::-1], categories[::-1], 6)
    assert [edit_store.pairs[::-1][row].id for row in backward] == [pair.id for pair in chosen]
    assert select_pairs(edit_store.pairs, categories, 6, seed=1) != rows


def test_too_few_held_out_pairs_are_named(edit_store):
    categories = [record.category for record in edit_store.source.records]
    with pytest.raises(Omni123Error, match="6 held-out edits of type 'add', 80 edits need 40"):
        select_pairs(edit_store.pairs, categories)
    with pytest.raises(Omni123Error, match="even number"):
        select_pairs(edit_store.pairs, categories, 7)


def test_the_arrays_are_those_of_the_pairs(edit_store, edit_set):
    row = next(pair.index for pair in edit_store.pairs if pair.id == edit_set.pairs[0].id)
    assert (edit_set.surfaces[0, 1] == edit_store.target.surface(row).astype(np.float16)).all()
    assert edit_set.queries.shape == (8, 2 * QUERIES_PER_HALF, 3)
    changed = edit_set.occupancy[0, 0] != edit_set.occupancy[0, 1]
    assert changed.any() and edit_set.pairs[0].region.contains(edit_set.queries[0][changed]).all()
    assert edit_set.pictures.shape == (PICTURES, 2, 16, 16, 3)
    assert [pair.index for pair in edit_set.pairs] == list(range(8))
    assert edit_set.instructions[0] == edit_set.pairs[0].texts[0]


def test_an_export_is_read_back_and_made_again_byte_by_byte(edit_store, edit_set, tmp_path):
    for name in ("one", "two"):
        EditSet.from_store(edit_store, 8).save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["edits.json", "edits.jsonl", "edits.npz"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = EditSet.load(tmp_path / "one")
    assert loaded.set_hash() == edit_set.set_hash() and (loaded.occupancy == edit_set.occupancy).all()


def test_damaged_and_missing_edits_are_named(edit_set, tmp_path):
    with pytest.raises(Omni123Error, match="No held-out edits.*export-subset --edits"):
        EditSet.load(tmp_path)
    assert load_edit_set(tmp_path, None) is None
    edit_set.save(tmp_path)
    lines = (tmp_path / "edits.jsonl").read_text()
    (tmp_path / "edits.jsonl").write_text(lines.replace("add lid", "add hat"))
    with pytest.raises(Omni123Error, match="recorded hash"):
        load_edit_set(tmp_path, None)
    (tmp_path / "edits.jsonl").unlink()
    with pytest.raises(Omni123Error, match=r"missing edits\.jsonl"):
        load_edit_set(tmp_path, None)
    (tmp_path / "edits.jsonl").write_text(lines)
    arrays = (tmp_path / "edits.npz").read_bytes()
    (tmp_path / "edits.npz").write_bytes(arrays[: len(arrays) // 2])
    with pytest.raises(Omni123Error, match="cannot be read"):
        load_edit_set(None, tmp_path)
    (tmp_path / "edits.npz").write_bytes(arrays)
    info = json.loads((tmp_path / "edits.json").read_text())
    del info["set_hash"]
    (tmp_path / "edits.json").write_text(json.dumps(info))
    with pytest.raises(Omni123Error, match="cannot be read"):
        load_edit_set(None, tmp_path)


def test_edits_are_added_to_a_set_of_objects_and_leave_it_as_it_was(box_store, edit_store, tmp_path):
    objects = EvaluationSet.from_store(box_store, count=5)
    objects.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run = CliRunner().invoke
    arguments = ["export-subset", "--edits", str(edit_store.folder), "--out", str(tmp_path)]
    added = run(evaluate_app, [*arguments, "--edit-count", "8"])
    assert added.exit_code == 0 and "8 edits, set " in added.output
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    assert EvaluationSet.load(tmp_path).set_hash() == objects.set_hash()
    assert len(load_edit_set(tmp_path, None)) == 8
    refused = run(evaluate_app, [*arguments, "--edit-count", "80"])
    assert isinstance(refused.exception, Omni123Error) and len(load_edit_set(tmp_path, None)) == 8
    assert "--edits" in str(run(evaluate_app, ["export-subset", "--out", str(Path(tmp_path))]).exception)
