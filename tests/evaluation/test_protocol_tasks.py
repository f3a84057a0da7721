"""The further tasks of the protocol on a tiny random pipeline: figures, what is left out, rows, sheets and the card."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from omni123_hf.cli.evaluate import evaluate_app
from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.card import sample_pictures, write_card
from omni123_hf.evaluation.edit_set import EditSet
from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.figure_row import FigureRow
from omni123_hf.evaluation.figures_views import CHAIN_TASK, TEXT_TASK
from omni123_hf.evaluation.protocol_mini import run_mini
from omni123_hf.evaluation.protocol_tasks import PARTS, run_further_tasks
from omni123_hf.evaluation.report import figure_rows, provenance_line, read_json, terminal_table
from omni123_hf.evaluation.report_tasks import further_rows
from omni123_hf.evaluation.samples_tasks import view_sheet
from omni123_hf.pipelines.registry import trained_image_count, trained_tasks


@pytest.fixture(scope="module")
def sets(box_store, edit_store):
    return EvaluationSet.from_store(box_store, count=5), EditSet.from_store(edit_store, 4)


@pytest.fixture(scope="module")
def measured(tiny_pipeline, sets):
    return run_mini(tiny_pipeline, sets[0], "tiny", resolution=16, edit_set=sets[1], num_images=2)


def test_every_part_is_measured_and_named(measured, sets):
    result, _, further = measured
    figures = result["figures"]
    assert set(PARTS) <= set(figures) and result["left_out"] == {}
    assert figures["posed_views"]["views"] == ["front", "back", "left", "right", "top", "bottom"]
    assert figures["text_to_views"]["views"] == figures["shape_to_views"]["views"] == ["front", "left"]
    assert figures["further_outputs"]["outputs"] == 9 and figures["outputs"]["outputs"] == 10
    assert f"edits {sets[1].set_hash()} (4 of data " in provenance_line(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert np.asarray(view_sheet(further.views, sets[0])).shape[2] == 3


def test_rows_have_their_bars(measured):
    rows = {row.name: row for row in figure_rows(measured[0])}
    edit = rows["Edit better than copy-source in Chamfer and F1"]
    assert (edit.bar_cpu, edit.bar_gpu) == (0.7, None) and edit.chance is not None
    assert edit.verdict == ("yes" if edit.value >= 0.7 else "below")
    (chain,) = (
        row for name, row in rows.items() if name.startswith("Multi-view, text → images → 3D, 2 views (front, left)")
    )
    assert chain.bars == "0.500" and chain.chance is not None and chain.baseline is not None
    novel = rows["Novel view, PSNR (mean of images)"]
    assert novel.bar_cpu == measured[0]["figures"]["novel_view"]["psnr"]["copy"] and novel.bars.startswith("> ")
    assert any("six views" in name for name in rows)


def test_a_single_bar_is_reached_or_not():
    assert FigureRow("edit", 0.7, "%", 0.7).verdict == "yes" and FigureRow("edit", 0.69, "%", 0.7).verdict == "below"
    assert FigureRow("view", 12.0, "dB", 12.0, must_exceed=True).verdict == "below"
    assert FigureRow("view", 12.1, "dB", 12.0, must_exceed=True).verdict == "yes"
    assert FigureRow("view", 12.1).verdict == "" and FigureRow("view", 12.1).bars == "–"


def test_an_untrained_task_is_left_out_with_a_line(tiny_pipeline, sets):
    result, _, further = run_mini(
        tiny_pipeline, sets[0], "tiny", resolution=16, trained={"text-to-3d", "image-to-posed-image"}
    )
    assert "novel_view" in result["figures"] and not set(PARTS) - {"novel_view"} & set(result["figures"])
    assert result["left_out"]["edits"] == "the checkpoint was not trained on edit-3d"
    assert further.edits is None and further.views is None
    caption = terminal_table(result).caption
    assert f"Not measured, text → images → 3D: the checkpoint was not trained on {TEXT_TASK}." in caption
    assert further_rows({}) == []
    nothing = run_further_tasks(tiny_pipeline, sets[0], None, 0, 16, trained={"edit-3d"})
    assert "holds no held-out edits" in nothing.left_out["edits"] and nothing.figures == {}


def test_a_checkpoint_says_on_how_many_images_it_was_trained(tmp_path):
    (tmp_path / "recipes").mkdir()
    assert trained_image_count(tmp_path, TEXT_TASK) is None and trained_tasks(tmp_path) is None
    for name, options in {
        "omni123": {"tasks": {"text-to-3d": 1.0}, "num_images": 4},
        "omni123_sft": {"tasks": {TEXT_TASK: 0.5}, "num_images": [1, 3, 2]},
        "omni123_mix": {"mixture": {"pairs": {"tasks": [CHAIN_TASK]}}},
    }.items():
        (tmp_path / "recipes" / f"{name}.json").write_text(json.dumps({"options": options}))
    assert trained_image_count(tmp_path, TEXT_TASK) == 3 and trained_image_count(tmp_path, CHAIN_TASK) == 4
    assert trained_tasks(tmp_path) == {"text-to-3d", TEXT_TASK, CHAIN_TASK}


def test_the_card_shows_edits_and_views_and_asks_for_their_pictures(measured, tmp_path):
    result, images, logs = measured[0], tmp_path / "images", tmp_path / "logs"
    images.mkdir()
    logs.mkdir()
    (logs / "omni123.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert list(sample_pictures(result)) == ["samples.png", "samples_edits.png", "samples_views.png"]
    for picture, option in sample_pictures(result).items():
        with pytest.raises(Omni123Error, match=option):
            write_card(result, logs, tmp_path / "tiny.md")
        Image.new("RGB", (4, 4)).save(images / picture)
    pool = {
        "content_hash": "ab" * 32,
        "records": {"train": 1200},
        "sources": [{"source": "made", "licence": "CC0-1.0", "records": 1200}],
    }
    (logs.parent / "data_lineage.json").write_text(json.dumps({"later_stages": {"tasks": {"edits": pool}}}))
    write_card(result, logs, tmp_path / "tiny.md")
    text = (tmp_path / "tiny.md").read_text()
    pair = result["figures"]["edits"]["pairs"][0]
    assert f"1. {pair['instruction']} ({pair['id']}): " in text and "samples_views.png" in text
    assert "- `edits` abababababab: 1,200 train; made (CC0-1.0)" in text
    below = text.partition("**Below the bar of CPU training:**")[2].partition("\n")[0]
    assert ("Edit better than copy-source" in below) == (
        result["figures"]["edits"]["all"]["better_than_copy"]["decoded"] < 0.7
    )


def test_command_line_with_edits(tiny_pipeline_folder, sets, tmp_path):
    for part in sets:
        part.save(tmp_path / "set")
    run = CliRunner().invoke
    arguments = [
        "mini",
        "--data",
        str(tmp_path / "set"),
        "--count",
        "5",
        "--model",
        str(tiny_pipeline_folder),
        "--quiet",
    ]
    arguments += ["--resolution", "16", "--out", str(tmp_path / "r.json"), "--edit-guidance-scale", "1"]
    arguments += ["--edit-samples", str(tmp_path / "e.png"), "--view-samples", str(tmp_path / "v.png")]
    done = run(evaluate_app, arguments)
    assert done.exit_code == 0, done.output
    result = read_json(tmp_path / "r.json")
    assert result["settings"]["edit_guidance_scale"] == 1.0 and result["data"]["edits"]["pairs"] == 4
    assert Image.open(tmp_path / "e.png").width > 1000 and Image.open(tmp_path / "v.png").width > 500
    (tmp_path / "set" / "edits.npz").unlink()
    refused = run(evaluate_app, arguments)
    assert isinstance(refused.exception, Omni123Error) and "missing edits.npz" in str(refused.exception)
    for name in ("edits.json", "edits.jsonl"):
        (tmp_path / "set" / name).unlink()
    refused = run(evaluate_app, arguments)
    assert isinstance(refused.exception, Omni123Error) and "leave out --edit-samples" in str(refused.exception)
