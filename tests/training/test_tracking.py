"""Figures of a run: counted from batches by hand, logged where they should be, and refused where they cannot be."""

import json
import math

import pytest
import torch
from tiny_pools import tiny_recipe
from tiny_tasks import sample, tiny_config

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.tasks import get_task
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.device_peaks import PEAK_VARIABLE
from omni123_hf.training.flops import backbone_flops, count_task
from omni123_hf.training.stages import get_stage
from omni123_hf.training.tracking import SPEED_FIGURES, Tracking, check_reporters, code_figures


@pytest.fixture(scope="module")
def collator():
    captions = ["a red box", "a tall box"]
    return TaskCollator(
        tiny_config(), build_clip_tokenizer(captions, 100, 10), build_qwen_tokenizer(captions, 300, 12)
    )


def test_figures_of_two_batches_by_hand(collator, monkeypatch):
    monkeypatch.setenv(PEAK_VARIABLE, "0.002")
    config = tiny_config()
    tracking = Tracking(config)
    assert tracking.figures() == {}
    samples = [sample("image-to-3d", config, seed=seed) for seed in range(3)]
    batch = collator(samples)
    for _ in range(2):
        tracking.observe(batch)
    tracking.seconds = 4.0
    figures = tracking.figures()
    assert figures["samples_per_second"] == 6 / 4
    assert figures["target_tokens_per_second"] == 6 * 8 / 4
    assert figures["tokens_per_second"] == 6 * 26 / 4
    counts = count_task(get_task("image-to-3d"), config, 10, batch["text_ids_2"].shape[1]).scaled(6)
    assert figures["mfu"] == pytest.approx(backbone_flops(config, counts)["total"] / (4.0 * 0.002e12))
    seen = {int(code) for drawn in samples for code in drawn.parts["shape"]}
    assert figures["shape_codes_used"] == len(seen) / 32
    assert 1 < figures["image_code_perplexity"] <= len({int(c) for drawn in samples for c in drawn.parts["image"]})
    assert tracking.figures() == {}, "a window begins anew"


def test_perplexity_of_known_frequencies():
    assert code_figures(torch.tensor([2, 2, 0, 0]), "shape") == {
        "shape_codes_used": 0.5,
        "shape_code_perplexity": pytest.approx(2.0),
    }
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert code_figures(torch.tensor([3, 1]), "x")["x_code_perplexity"] == pytest.approx(math.exp(entropy))
    assert code_figures(torch.zeros(4), "x") == code_figures(torch.zeros(0), "x") == {}


def test_only_time_between_steps_that_train_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("omni123_hf.training.tracking.time.perf_counter", lambda: now[0])
    tracking = Tracking(tiny_config())
    for call, moment in (
        (tracking.on_train_begin, 1.0),
        (tracking.on_step_end, 3.0),
        (tracking.on_evaluate, 10.0),
        (tracking.on_step_end, 11.0),
        (tracking.on_save, 20.0),
        (tracking.on_step_end, 22.5),
    ):
        now[0] = moment
        call(None, None, None)
    assert tracking.seconds == 2.0 + 1.0 + 2.5


def test_a_run_with_tensorboard_logs_the_figures_in_both_places(pools_workspace, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv(PEAK_VARIABLE, "0.1")
    recipe = tiny_recipe(pools_workspace, tmp_path, steps=4, batching="packed", pack_multiple=16)
    recipe.training |= {"report_to": "tensorboard", "logging_steps": 2}
    get_stage("pretrain")(recipe)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    wanted = {*SPEED_FIGURES, "shape_codes_used", "image_code_perplexity", "grad_norm", "learning_rate"}
    if not torch.cuda.is_available():
        wanted.remove("peak_memory_gib")
    assert len(logged) == 2 and all(wanted <= set(line) and 0 < line["mfu"] < 1 for line in logged)
    (folder,) = {path.parent for path in (tmp_path / "runs").rglob("events.*")}
    found = events.EventAccumulator(str(folder)).Reload()
    (first, second) = found.Scalars("train/tokens_per_second")
    assert (first.step, second.step) == (2, 4)
    assert second.value == pytest.approx(logged[1]["tokens_per_second"], rel=1e-5)


def test_without_a_tracker_figures_are_logged_on_request_only(pools_workspace, tmp_path):
    for name, options in (("off", {}), ("on", {"tracking": True})):
        recipe = tiny_recipe(pools_workspace, tmp_path / name, steps=1, **options)
        recipe.training["logging_steps"] = 1
        get_stage("pretrain")(recipe)
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert any("tokens_per_second" in line for line in lines) == (name == "on")
        assert not any("mfu" in line for line in lines) or torch.cuda.is_available()


def test_trackers_that_are_not_there_are_named_before_training(pools_workspace, tmp_path, monkeypatch):
    for fine in (None, "none", [], "tensorboard"):
        monkeypatch.setattr("omni123_hf.training.tracking.importlib.util.find_spec", lambda name: name)
        check_reporters(fine)
    monkeypatch.setattr("omni123_hf.training.tracking.importlib.util.find_spec", lambda name: None)
    for name, message in (("trackio", r"omni123-hf\[trackio\]"), (["tensorboard"], "needs the package tensorboard")):
        with pytest.raises(Omni123Error, match=message):
            check_reporters(name)
    recipe = tiny_recipe(pools_workspace, tmp_path / "run", steps=1)
    recipe.training["report_to"] = "blackboard"
    with pytest.raises(Omni123Error, match="'blackboard' does not exist"):
        get_stage("pretrain")(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, message", [({"tracking": "yes"}, "give true or false"), ({"peak_tflops": 0}, "options.peak_tflops is 0")]
)
def test_bad_options_are_refused(pools_workspace, tmp_path, options, message):
    with pytest.raises(Omni123Error, match=message):
        get_stage("pretrain")(tiny_recipe(pools_workspace, tmp_path / "run", steps=1, **options))
