"""The whole protocol on a tiny random pipeline, and on answers that are known to be right or wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from typer.testing import CliRunner

from omni123_hf.cli.evaluate import evaluate_app
from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.card import write_card
from omni123_hf.evaluation.evaluation_set import EvaluationSet
from omni123_hf.evaluation.figures_generation import (
    Generation,
    decode_shape,
    health_figures,
    joint_figures,
    retrieval_figures,
)
from omni123_hf.evaluation.figures_tokenizers import image_tokenizer_figures, shape_tokenizer_figures
from omni123_hf.evaluation.protocol_mini import load_evaluation_set, run_mini
from omni123_hf.evaluation.report import figure_rows, markdown_table, read_json, terminal_table, write_json
from omni123_hf.evaluation.samples import sample_sheet, save_sample_sheet


@pytest.fixture(scope="module")
def evaluation_set(box_store) -> EvaluationSet:
    return EvaluationSet.from_store(box_store, count=10, seed=0)


@pytest.fixture(scope="module")
def result_and_outputs(tiny_pipeline, evaluation_set):
    return run_mini(tiny_pipeline, evaluation_set, "tiny", resolution=16, trained={"text-to-3d"})


def true_outputs(evaluation_set: EvaluationSet) -> Generation:
    """Generations that are the true boxes, with their true pictures."""
    meshes = []
    for surface in evaluation_set.surface[..., :3].astype(np.float64):
        meshes.append(trimesh.creation.box(bounds=np.stack([surface.min(axis=0), surface.max(axis=0)])))
    images = [Image.fromarray(np.ascontiguousarray(views[-1, ..., :3])) for views in evaluation_set.views]
    return Generation(images, list(meshes), [None] * len(meshes), 0.0)


def failed_outputs(evaluation_set: EvaluationSet) -> Generation:
    count = len(evaluation_set)
    return Generation([Image.new("RGB", (16, 16), "white")] * count, [None] * count, ["nothing inside"] * count, 0.0)


def test_true_shapes_win_and_beat_every_baseline(evaluation_set):
    figures = retrieval_figures(true_outputs(evaluation_set), evaluation_set)
    assert (figures["group_size"], figures["objects"], figures["tests"]) == (4, 8, 40)
    assert figures["model"]["rank1"] == 1.0 and figures["real"]["rank1"] == 1.0
    assert figures["combination"] == {"rank1": 1.0, "within4": 1.0, "mean_rank": 1.0, "objects": 2}
    assert figures["category_mean"]["rank1"] > figures["text_blind"]["rank1"]  # distinct boxes: the category is enough
    assert figures["text_blind"]["rank1"] < 0.6 and figures["shuffled"]["rank1"] < 0.6
    assert figures["chance"]["rank1"] == 0.25


def test_failed_generations_rank_last_and_agree_with_nothing(evaluation_set):
    generation = failed_outputs(evaluation_set)
    figures = retrieval_figures(generation, evaluation_set)
    assert figures["model"]["rank1"] == 0.0 and figures["model"]["mean_rank"] == figures["group_size"]
    assert figures["failed"] == figures["objects"] and figures["model"]["median_chamfer_own"] is None
    joint = joint_figures(generation, evaluation_set)
    assert joint["silhouette_iou"]["model"] == 0.0 and joint["failed"] == len(evaluation_set)
    health = health_figures({"task": generation})
    assert health["watertight_or_reported"] == 1.0 and health["tasks"]["task"]["watertight"] == 0


def test_an_open_mesh_that_nobody_reported_lowers_the_health_figure(evaluation_set):
    generation = true_outputs(evaluation_set)
    generation.meshes[0] = trimesh.Trimesh(np.eye(3), [[0, 1, 2]])
    assert health_figures({"task": generation})["watertight_or_reported"] == pytest.approx(0.9)


def test_joint_agreement_of_true_pairs_beats_random_pairs(evaluation_set):
    iou = joint_figures(true_outputs(evaluation_set), evaluation_set)["silhouette_iou"]
    assert iou["model"] > 0.8 > iou["chance"] + 0.1
    assert iou["chance"] < iou["category_mean"]


def test_a_perfect_shape_tokenizer_scores_one_and_chance_far_less(evaluation_set):
    class Oracle:
        """A tokenizer whose tokens are the half sizes of the box, in thousandths."""

        device = torch.device("cpu")

        def encode(self, points, normals):
            return (points.abs().amax(dim=1) * 1000).round().long()

        def decode_latents(self, indices):
            return indices

        def project_latents(self, latents):
            return latents

        def query(self, memory, queries):
            return (memory[:, None] / 1000 + 2e-3 - queries.abs()).amin(dim=-1)

    figures = shape_tokenizer_figures(Oracle(), evaluation_set)
    volume = figures["volume_iou"]
    assert volume["model"]["parametric"] > 0.97 and volume["model"]["real"] > 0.97
    assert volume["chance"]["all"] < 0.6
    assert volume["category_mean"]["all"] < volume["model"]["all"]
    assert figures["near_surface_iou"]["model"]["all"] > 0.9


def test_image_figures_of_a_random_pipeline_stand_beside_the_white_picture(tiny_pipeline, evaluation_set):
    figures, codes = image_tokenizer_figures(tiny_pipeline, evaluation_set)
    assert codes.shape == (70, 16) and figures["images"] == 70
    assert figures["psnr"]["category_mean"] > figures["psnr"]["chance"] > figures["psnr_foreground"]["chance"]
    assert set(figures["psnr"]) == {"model", "vae", "category_mean", "chance"}


def test_the_whole_protocol_gives_json_tables_and_provenance(result_and_outputs, tiny_pipeline, tmp_path):
    result, outputs, _ = result_and_outputs
    assert result["model"]["revision"] == tiny_pipeline.revision
    assert sum(result["data"]["objects"].values()) == 10
    assert result["figures"]["outputs"]["outputs"] == 20
    assert result["figures"]["outputs"]["watertight_or_reported"] == 1.0
    assert result["figures"]["codes"]["shape"]["tokens"] > 8 * 10
    write_json(result, tmp_path / "result.json")
    assert read_json(tmp_path / "result.json") == json.loads(json.dumps(result))
    rows = figure_rows(result)
    assert {row.name for row in rows if row.bar_cpu is not None} >= {
        "Shape tokenizer, volume IoU, parametric",
        "Shape tokenizer, volume IoU, real",
        "Image tokenizer, PSNR (mean of images)",
        "Code use, shape tokenizer",
        "Code use, image tokenizer",
        "Joint, silhouette IoU of image and mesh",
        "Outputs watertight or reported as failed",
    }
    assert terminal_table(result).row_count == len(rows)
    assert result["data"]["set_hash"] in terminal_table(result).caption
    assert len(markdown_table(result).splitlines()) == len(rows) + 2
    with pytest.raises(Omni123Error, match="lacks"):
        (tmp_path / "other.json").write_text("{}")
        read_json(tmp_path / "other.json")


def test_the_same_run_twice_gives_the_same_figures(result_and_outputs, tiny_pipeline, evaluation_set):
    again, _, _ = run_mini(tiny_pipeline, evaluation_set, "tiny", resolution=16, trained={"text-to-3d"})
    assert again["figures"] == result_and_outputs[0]["figures"]


def test_card_states_figures_licences_prompts_and_curves(result_and_outputs, evaluation_set, tmp_path):
    result, outputs, _ = result_and_outputs
    logs, card = tmp_path / "logs", tmp_path / "cards" / "tiny.md"
    logs.mkdir()
    with pytest.raises(Omni123Error, match="samples.png"):
        write_card(result, logs, card)
    save_sample_sheet(outputs["text-to-image-to-3d"], evaluation_set, card.parent / "images" / "samples.png")
    with pytest.raises(Omni123Error, match="No training logs"):
        write_card(result, logs, card)
    lines = [{"step": 10 * i, "seconds": 60.0 * i, "loss": 1 / i, "eval_volume_iou": 0.1 * i} for i in range(1, 7)]
    (logs / "shape_tokenizer.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = write_card(result, logs, card)
    text = card.read_text()
    assert text.startswith("---\nlicense: apache-2.0\n") and "pipeline_tag: text-to-3d" in text
    assert markdown_table(result) in text
    assert "7 assets, by author 0 of library, author 1 of library." in text and "CC-BY-4.0" in text
    assert evaluation_set.prompts[0] in text
    assert "| volume_iou | 0.2 | 0.4 | 0.6 |" in text and "60 steps, 6 minutes" in text
    assert files[1].name == "curve_shape_tokenizer.png" and Image.open(files[1]).width == 900


def test_sample_sheet_shows_a_failure_as_one(evaluation_set):
    good = np.asarray(sample_sheet(true_outputs(evaluation_set), evaluation_set))
    bad = np.asarray(sample_sheet(failed_outputs(evaluation_set), evaluation_set))
    assert good.shape == bad.shape
    red = (bad[..., 0].astype(int) - bad[..., 1] > 100).sum()
    assert red > 50 > (good[..., 0].astype(int) - good[..., 1] > 100).sum()


def test_exported_sets_are_fixed(evaluation_set, box_store, tmp_path):
    evaluation_set.save(tmp_path)
    assert load_evaluation_set(tmp_path, 10, 0).set_hash() == evaluation_set.set_hash()
    assert load_evaluation_set(Path(box_store.folder), 10, 0).set_hash() == evaluation_set.set_hash()
    with pytest.raises(Omni123Error, match="--count 10 --seed 0"):
        load_evaluation_set(tmp_path, 100, 0)


def test_command_line(tiny_pipeline_folder, box_store, tmp_path):
    runner = CliRunner()
    exported = runner.invoke(
        evaluate_app,
        ["export-subset", "--data", str(box_store.folder), "--out", str(tmp_path / "set"), "--count", "5"],
    )
    assert exported.exit_code == 0 and "5 objects" in exported.output
    arguments = ["mini", "--data", str(tmp_path / "set"), "--count", "5", "--model", str(tiny_pipeline_folder)]
    arguments += [
        "--resolution",
        "16",
        "--out",
        str(tmp_path / "r.json"),
        "--samples",
        str(tmp_path / "s.png"),
        "--quiet",
    ]
    measured = runner.invoke(evaluate_app, arguments)
    assert measured.exit_code == 0, measured.output
    assert "Held-out figures" in measured.output
    assert read_json(tmp_path / "r.json")["data"]["objects"] == {"parametric": 3, "combination": 1, "real": 1}
    assert Image.open(tmp_path / "s.png").width > 900
    refused = runner.invoke(evaluate_app, [*arguments, "--split", "train"])
    assert isinstance(refused.exception, Omni123Error)


def test_a_surface_that_cannot_be_closed_is_a_failure_of_one_object():
    class Broken:
        """A decoder whose field is not finite."""

        def decode_latents(self, indices):
            return indices

        def project_latents(self, latents):
            return latents

        def query(self, memory, queries):
            return torch.full(queries.shape[:2], torch.nan)

    mesh, failure = decode_shape(Broken(), torch.zeros(8, dtype=torch.long), 16)
    assert mesh is None and "not finite" in failure


def test_a_result_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("here")
    for option, path in (
        ("--out", tmp_path / "file" / "r.json"),
        ("--samples", tmp_path),
        ("--edit-samples", tmp_path),
        ("--view-samples", tmp_path),
    ):
        refused = CliRunner().invoke(evaluate_app, ["mini", "--model", "no-such-model", option, str(path)])
        assert isinstance(refused.exception, Omni123Error) and "cannot write" in str(refused.exception)
