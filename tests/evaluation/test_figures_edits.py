"""Edit figures of outputs that are known to be right or wrong, and of a tiny random pipeline."""

import numpy as np
import pytest
import torch
from conftest import boxes_mesh, edit_sides

from omni123_hf.evaluation.edit_metrics import edit_scores, summarize_edits
from omni123_hf.evaluation.edit_set import EditSet
from omni123_hf.evaluation.figures_edits import EditOutputs, edit_figures, edit_tokens, judge_pair, run_edits
from omni123_hf.evaluation.samples_tasks import CELL, edit_sheet


@pytest.fixture(scope="module")
def edit_set(edit_store):
    return EditSet.from_store(edit_store, count=6)


@pytest.fixture(autouse=True)
def fewer_points(monkeypatch):
    monkeypatch.setattr("omni123_hf.evaluation.figures_edits.SURFACE_POINTS", 1500)


def outputs_of(edit_set: EditSet, **meshes: str) -> EditOutputs:
    """Outputs that are the true source or target, or nothing; the codes say which."""
    codes = {"source": 1, "target": 2, "none": 3}
    sides = []
    for pair in edit_set.pairs:
        source, target = edit_sides(int(pair.object_id.split("/")[1]), pair.edit_type)
        sides.append({"source": boxes_mesh(source), "target": boxes_mesh(target), "none": None})
    what = {"copy": "source", "ceiling": "target", "shuffled": "source", "model": "target"} | meshes
    return EditOutputs(
        {who: torch.full((len(edit_set), 8), codes[side]) for who, side in what.items()},
        {who: [side[name] for side in sides] for who, name in what.items()},
        {who: ["nothing inside" if name == "none" else None] * len(edit_set) for who, name in what.items()},
        0.0,
    )


def rows_of(edit_set: EditSet, **meshes: str) -> list[dict]:
    outputs = outputs_of(edit_set, **meshes)
    place = {1: 0, 2: 1}
    occupancy = {
        who: edit_set.occupancy[:, place[int(codes[0, 0])]]
        if int(codes[0, 0]) in place
        else edit_set.occupancy[:, 0] & False
        for who, codes in outputs.tokens.items()
    }
    return [judge_pair(outputs, edit_set, number, occupancy) for number in range(len(edit_set))]


def test_the_right_answer_wins_everywhere_and_copy_nowhere(edit_set):
    figures = summarize_edits(rows_of(edit_set))
    wins = figures["better_than_copy"]
    assert wins["decoded"] == wins["decoded_f1_0.02"] == wins["true"] == wins["true_undecoded"] == 1.0
    assert wins["shuffled"] == wins["shuffled_true"] == 0.0 and figures["unchanged"] == 0.0
    assert figures["to_decoded_target"]["model"] == {"chamfer": 0.0, "f1_0.02": 1.0, "f1_0.05": 1.0}
    assert figures["to_decoded_target"]["copy"]["chamfer"] > 0.05
    assert figures["volume_iou"]["model"] == 1.0 > figures["volume_iou"]["copy"]
    assert figures["changed_points_right"] == {"model": 1.0, "copy": 0.0, "shuffled": 0.0, "ceiling": 1.0}
    assert figures["token_agreement"] == {"model": 1.0, "copy": 0.0, "shuffled": 0.0}
    assert figures["interval"] == pytest.approx([0.6097, 1.0], abs=1e-4)


def test_doing_nothing_wins_nothing_and_moves_nothing(edit_set):
    figures = summarize_edits(rows_of(edit_set, model="source"))
    assert figures["better_than_copy"]["decoded"] == figures["better_than_copy"]["true"] == 0.0
    assert figures["unchanged"] == 1.0 and figures["chamfer_outside"]["model"] == 0.0
    assert figures["chamfer_outside"]["ceiling"] > 0.0


def test_no_surface_is_the_worst_and_counted(edit_set):
    figures = summarize_edits(rows_of(edit_set, model="none"))
    assert figures["failed"] == len(edit_set) and figures["better_than_copy"]["decoded"] == 0.0
    assert figures["to_decoded_target"]["model"] == pytest.approx(edit_scores(None, None))
    lost = summarize_edits(rows_of(edit_set, ceiling="none"))
    assert lost["target_without_surface"] == len(edit_set) and lost["better_than_copy"]["decoded"] == 0.0


def test_a_target_with_the_tokens_of_its_source_makes_copy_perfect_and_cannot_be_won(edit_set):
    figures = summarize_edits(rows_of(edit_set, ceiling="source", model="target"))
    assert figures["target_equals_source"] == 1.0 and figures["better_than_copy"]["decoded"] == 0.0
    assert figures["to_decoded_target"]["copy"]["chamfer"] == 0.0


def test_a_random_pipeline_gives_the_same_figures_twice_and_batches_change_nothing(
    tiny_pipeline, edit_set, monkeypatch
):
    outputs = run_edits(tiny_pipeline, edit_set, 16)
    figures = edit_figures(tiny_pipeline, outputs, edit_set)
    monkeypatch.setattr("omni123_hf.evaluation.figures_edits.BATCH", 4)
    again = edit_tokens(tiny_pipeline, outputs.tokens["copy"], edit_set.instructions)
    assert (again == outputs.tokens["model"]).all()
    assert edit_figures(tiny_pipeline, outputs, edit_set) == figures
    assert (
        figures["all"]["pairs"] == 6 == figures["add"]["pairs"] + figures["remove"]["pairs"] == len(figures["pairs"])
    )
    assert np.asarray(edit_sheet(outputs, edit_set)).shape[1] > 10 * CELL
