"""The report of stage `edit`: a model that knows the edits beats the untouched source on every pair, a new one on none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_pools import KS, LS, QUIET, WORDS, codes_of, save_tokenizers, tiny_recipe, write_pools

from omni123_hf.data.shards.edits import EditTokens, write_edits
from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.data.tokens import weights_hash
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import generation_plan
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.edit_report import (
    DEFAULTS,
    EditReport,
    beats_copy,
    read_edit_report,
    summarize,
    validation_pairs,
)
from omni123_hf.training.initial_model import load_initial
from omni123_hf.training.mixture import Subset, TaskTable
from omni123_hf.training.stages import get_stage
from omni123_hf.training.task_samples import TaskSampler


EDITS, CHANGED = 4, 3


def edit(place: int) -> EditTokens:
    """Pairs of the two splits are the same four edits, so that what is learned can be seen on validation pairs."""
    number = place % EDITS
    source = codes_of(number, 0, LS, KS)
    target = source.copy()
    target[:CHANGED] = (target[:CHANGED] + 1 + number) % KS
    return EditTokens(
        id=f"edit/{place}",
        source="ours",
        split="validation" if place >= EDITS else "train",
        licence="Apache-2.0",
        attribution="generated",
        category="box",
        source_tokens=source,
        target_tokens=target,
        instructions=(f"make it {WORDS[number]}",),
        edit_type="add" if number % 2 else "remove",
        chain=("generator",),
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit_report")
    tokenizers = save_tokenizers(folder)
    write_pools(folder / "shards", tokenizers)
    hashes = {"shape_tokenizer": weights_hash(tokenizers["shape_tokenizer"])}
    write_edits(folder / "edits", [edit(place) for place in range(2 * EDITS)], KS, hashes, options=QUIET)
    return folder


@pytest.fixture(scope="module")
def initial(workspace, tmp_path_factory):
    recipe = tiny_recipe(workspace, tmp_path_factory.mktemp("initial"), steps=1, tasks={"text-to-3d": 1.0})
    recipe.model["hidden_size"] = 64
    get_stage("pretrain")(recipe)
    return recipe.output_dir / "final"


def train_edits(workspace, initial, out, steps, edit_report=None, **training):
    recipe = tiny_recipe(
        workspace,
        out,
        "edit",
        steps,
        {"from_pretrained": str(initial)},
        mixture={"edits": {"tasks": ["edit-3d"]}},
        text_dropout=0.0,
        prefix_dropout=0.0,
        validation_batches=1,
        edit_report=edit_report,
    )
    recipe.data["pools"] = {"edits": {"shards": str(workspace / "edits")}}
    recipe.training |= {"per_device_train_batch_size": 8, "learning_rate": 8e-3, "adam_beta2": 0.95, **training}
    return get_stage("edit")(recipe)


def test_a_model_that_knows_the_edits_beats_copy_on_every_pair(workspace, initial, tmp_path):
    schedule = {"eval_strategy": "steps", "eval_steps": 25}
    metrics = train_edits(workspace, initial, tmp_path, 50, {"pairs": EDITS, "resolution": 20}, **schedule)
    report = json.loads((tmp_path / "edit_report.json").read_text())
    assert report["step"] == 50 and len(report["pairs"]) == EDITS
    for figure, exact in (("token_agreement", 1.0), ("volume_iou", 1.0), ("chamfer", 0.0)):
        assert metrics[f"eval_edit_{figure}"] == pytest.approx(exact, abs=1e-9)
        assert metrics[f"eval_edit_{figure}_beats_copy"] == 1.0
        assert report["all"][figure]["beats_copy"] == 1.0
    assert metrics["eval_edit_token_agreement_copy"] == (LS - CHANGED) / LS
    assert metrics["eval_edit_chamfer_copy"] > 0 and metrics["eval_edit_volume_iou_copy"] < 1
    assert metrics["eval_edit_unchanged"] == 0.0
    assert set(report["edit_types"]) == {"add", "remove"}
    assert all(part["pairs"] == 2 for part in report["edit_types"].values())
    assert report["shape_tokenizer"] == weights_hash(workspace / "shape_tokenizer")
    assert report["pools"] == {"edits": TrainingPool.open(workspace / "edits", "edits").content_hash}
    # Every evaluation reports, and the end of the run.
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines if "eval_edit_unchanged" in line} == {25, 50}


def test_an_untrained_model_does_not_beat_copy(workspace, initial, tmp_path):
    metrics = train_edits(workspace, initial, tmp_path, 1, {"pairs": 2, "resolution": 16}, learning_rate=1e-6)
    assert metrics["eval_edit_token_agreement_beats_copy"] == 0.0
    assert metrics["eval_edit_token_agreement"] < metrics["eval_edit_token_agreement_copy"]
    assert metrics["eval_edit_volume_iou_beats_copy"] < 1.0


def test_no_pairs_means_no_report_and_wrong_options_stop_before_the_first_step(workspace, initial, tmp_path):
    assert "eval_edit_unchanged" not in train_edits(workspace, initial, tmp_path / "none", 1, {"pairs": 0})
    assert not (tmp_path / "none" / "edit_report.json").exists()
    for given, message in (
        ({"pair": 4}, "unknown keys \\['pair'\\]"),
        ({"pairs": -1}, "whole number of at least 0"),
        ({"resolution": 3}, "whole number of at least 4"),
        ({"guidance_scale": "high"}, "number of 0 or more"),
    ):
        with pytest.raises(Omni123Error, match=message):
            train_edits(workspace, initial, tmp_path / "wrong", 1, given)
    with pytest.raises(Omni123Error, match="belongs to stage edit"):
        read_edit_report({"pairs": 1}, "sft", False)
    other = tiny_recipe(workspace, tmp_path / "wrong", "edit", 1, {"from_pretrained": str(initial)})
    with pytest.raises(Omni123Error, match="reports on the task edit-3d"):
        get_stage("edit")(other)
    assert not (tmp_path / "wrong").exists()


def make_report(workspace, config, tokenizers, out, **values):
    pool = TrainingPool.open(workspace / "edits", "edits")
    sampler = TaskSampler(
        {"edits": pool},
        [Subset("edits", "edits", {"edit-3d": 1.0}, 1.0)],
        TaskTable(),
        {"medium": 1.0},
        1,
        0,
        split="validation",
        dropout=False,
    )
    values = {**DEFAULTS, "pairs": 3, "resolution": 12, "surface_points": 200, **values}
    collator = TaskCollator(config, *tokenizers)
    return EditReport(values, sampler, collator, workspace / "shape_tokenizer", out, 2), sampler


def test_pairs_are_fixed_and_spread_over_the_split(workspace, initial, tmp_path):
    model, *tokenizers = load_initial(initial, {}, True)
    report, sampler = make_report(workspace, model.transformer.config, tokenizers, tmp_path)
    pool = sampler.pools["edits"]
    ids = pool.ids[pool.indices("validation")].tolist()
    assert sorted(ids) == [f"edit/{place}" for place in range(EDITS, 2 * EDITS)]
    assert [pair.id for pair in report.pairs] == [ids[0], ids[2], ids[3]]
    assert [pair.id for pair in validation_pairs(sampler, 100)] == ids


def test_ranks_share_the_pairs_and_the_generated_codes_are_those_of_the_plan(workspace, initial, tmp_path):
    model, *tokenizers = load_initial(initial, {}, True)
    model.eval()
    report, _ = make_report(workspace, model.transformer.config, tokenizers, tmp_path, guidance_scale=3.0)
    whole = report(model, 1) and json.loads(report.path.read_text())["pairs"]
    shares = []
    for rank in range(2):
        part, _ = make_report(workspace, model.transformer.config, tokenizers, tmp_path, guidance_scale=3.0)
        part(model, 1, rank, 2)
        shares.append(part.references)
    assert [sorted(share) for share in shares] == [[0, 2], [1]]
    first = report.pairs[0].sample
    text = report.collator.text([first])
    text.pop("null_text")
    codes = model.transformer.generate_plan(
        generation_plan(first.task, model.transformer.config, {"source_shape": first.parts["source_shape"]}),
        **model.encode_text(**text),
        guidance_scale=3.0,
    )["shape"]
    assert whole[0]["model"]["token_agreement"] == float((codes[0].numpy() == first.parts["shape"]).mean())


def test_guidance_of_a_model_without_a_null_embedding_reads_the_empty_prompt(workspace, initial, tmp_path):
    model, *tokenizers = load_initial(initial, {"null_condition": "empty_prompt"}, True)
    model.eval()
    report, _ = make_report(workspace, model.transformer.config, tokenizers, tmp_path, guidance_scale=2.0)
    samples = [pair.sample for pair in report.pairs[:2]]
    text = model.encode_text(**report.collator.text([*samples, replace(samples[0], text="")]))
    codes = model.transformer.generate_plan(
        generation_plan(
            samples[0].task,
            model.transformer.config,
            {"source_shape": np.stack([sample.parts["source_shape"] for sample in samples])},
        ),
        **{name: value[:2] for name, value in text.items()},
        **{f"negative_{name}": value[2:] for name, value in text.items()},
        guidance_scale=2.0,
    )["shape"]
    assert np.array_equal(report.generate(model, samples), codes.numpy())


def test_unchanged_shapes_and_shapes_without_surface_are_counted(workspace, initial, tmp_path):
    model, *tokenizers = load_initial(initial, {}, True)
    report, _ = make_report(workspace, model.transformer.config, tokenizers, tmp_path)
    parts = report.pairs[0].sample.parts
    copied = report.judge(0, parts["source_shape"], model)
    assert copied["unchanged"] and copied["model"] == copied["copy"]
    assert not any(beats_copy(copied, figure) for figure in ("token_agreement", "volume_iou", "chamfer"))
    exact = report.judge(0, parts["shape"], model)
    assert exact["model"] == {"token_agreement": 1.0, "volume_iou": 1.0, "chamfer": 0.0} and not exact["unchanged"]
    # A shape tokenizer whose field is nowhere positive: no surface, no Chamfer, and no pair of it in the shares.
    with torch.no_grad():
        report.shape_tokenizer.occupancy_head.classifier.bias -= 100
    empty = report.judge(0, parts["source_shape"], model)
    assert empty["model"]["chamfer"] is None and empty["model"]["volume_iou"] == 0.0
    summary = summarize([copied, exact, empty])
    assert summary["no_surface"] == pytest.approx(1 / 3) and summary["unchanged"] == pytest.approx(2 / 3)
    assert summary["chamfer"]["pairs"] == 2 and summary["chamfer"]["beats_copy"] == pytest.approx(1 / 3)
    # Lost against a source that has a surface, won against one that has none.
    assert not beats_copy(empty, "chamfer")
    assert beats_copy({"model": {"chamfer": 9.0}, "copy": {"chamfer": None}}, "chamfer")
    without = summarize([{**empty, "target_has_surface": False}])
    assert without["chamfer"] == {"model": None, "copy": None, "beats_copy": None, "pairs": 0}
