"""Runs that are killed, stopped, starved of disk or changed: each goes on to the bit, or says in one line why it does not."""

import json
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from tiny_runs import Run, content, first_difference, make_workspace, read_log, stage_recipe

from omni123_hf.errors import Omni123Error
from omni123_hf.training.checkpoints import problem_of
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.stages import get_stage


STAGES = ["shape-tokenizer", "image-vae", "image-tokenizer", "pretrain"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def undisturbed(workspace, tmp_path_factory):
    """Output folders of undisturbed runs by stage, each run when it is first asked for."""
    folder, done = tmp_path_factory.mktemp("undisturbed"), {}

    def get(stage):
        if stage not in done:
            run = Run(stage_recipe(stage, workspace, folder / stage))
            assert run.code() == 0, run.output()
            done[stage] = folder / stage
        return done[stage]

    return get


def assert_same_run(a, b):
    """Weights, optimiser, scheduler, random states, log and figures of two finished runs are equal to the bit."""
    for part in ("final", "checkpoint-10"):
        first, second = content(a / part), content(b / part)
        for found in (first, second):
            # They hold the path of the output folder, and sizes of files that do.
            for name in ("complete.json", "training_args.bin", "recipe.json", "trainer_state.json", "progress_0.json"):
                found.pop(name, None)
        assert len(first) > 1
        assert first_difference(first, second, part) is None
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(first)
    assert first_difference(read_log(a), read_log(b)) is None
    assert json.loads((a / "metrics.json").read_text()) == json.loads((b / "metrics.json").read_text())


def kill_and_go_on(stage, seed, workspace, undisturbed, output):
    rng = np.random.default_rng((seed, zlib.crc32(stage.encode())))
    moment = str(rng.choice(["kill_after_backward", "kill_at_end", "kill_while_writing"]))
    # Beyond the first checkpoint, where there is something to go on from; with a seed above 0 anywhere.
    step = int(rng.choice([4, 8, 10][seed == 0 :])) if "writing" in moment else int(rng.integers(1 if seed else 5, 11))
    recipe = stage_recipe(stage, workspace, output)
    killed = Run(recipe, {moment: step})
    assert killed.code() == -9, killed.output()
    assert not (output / "final").exists()
    again = Run(recipe)
    assert again.code() == 0, again.output()
    assert ("removed" in again.output()) == (moment == "kill_while_writing")
    assert not list(output.glob("writing-*"))
    assert_same_run(undisturbed(stage), output)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_a_random_moment_ends_as_an_undisturbed_one(stage, workspace, undisturbed, tmp_path):
    kill_and_go_on(stage, 0, workspace, undisturbed, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("stage", STAGES)
def test_more_killed_runs(stage, seed, workspace, undisturbed, tmp_path):
    kill_and_go_on(stage, seed, workspace, undisturbed, tmp_path / "run")


def test_sigterm_writes_a_checkpoint_of_the_current_step_first(workspace, undisturbed, tmp_path):
    recipe = stage_recipe("pretrain", workspace, tmp_path / "run")
    stopped = Run(recipe, {"terminate": 6})
    assert stopped.code() == 143
    assert "stopped by SIGTERM after step 6; checkpoint-6 is written" in stopped.output()
    assert problem_of(tmp_path / "run" / "checkpoint-6") is None
    # Started again and stopped again, when all steps are done and the final model is not.
    assert Run(recipe, {"terminate_late": 10}).code() == 143
    assert not (tmp_path / "run" / "final").exists()
    assert Run(recipe).code() == 0
    assert_same_run(undisturbed("pretrain"), tmp_path / "run")


def test_a_full_disk_leaves_the_previous_checkpoint(workspace, undisturbed, tmp_path):
    recipe = stage_recipe("pretrain", workspace, tmp_path / "run")
    full = Run(recipe, {"fill_disk": 7})
    assert full.code() == 2
    (line,) = [line for line in full.output().splitlines() if line.startswith("error:")]
    assert "checkpoint-8" in line and "earlier checkpoints are intact" in line
    assert "Traceback" not in full.output()
    assert problem_of(tmp_path / "run" / "checkpoint-4") is None
    assert not list((tmp_path / "run").glob("*-8"))
    assert Run(recipe).code() == 0
    assert_same_run(undisturbed("pretrain"), tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes, which can be enlarged."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_with_room_for_one_checkpoint_keeps_that_one(workspace, undisturbed, small_disk):
    recipe = stage_recipe("pretrain", workspace, small_disk / "run")
    full = Run(recipe)
    full.log = small_disk.parent / "output"
    assert full.code() == 2
    assert problem_of(small_disk / "run" / "checkpoint-4") is None
    assert not list((small_disk / "run").glob("*-8"))
    subprocess.run(["mount", "-o", "remount,size=20M", str(small_disk)], check=True)
    assert Run(recipe).code() == 0
    assert_same_run(undisturbed("pretrain"), small_disk / "run")


@pytest.fixture(scope="module")
def five_steps(workspace, tmp_path_factory):
    """A run of the shape stage with a checkpoint at step 5, in this process. Read only."""
    folder = tmp_path_factory.mktemp("five") / "run"
    train(workspace, folder)
    return folder


def train(workspace, folder, options=None, **training):
    recipe = stage_recipe("shape-tokenizer", workspace, folder, **{"max_steps": 5, **training})
    recipe["options"] |= {"self_distillation": False, **(options or {})}
    return get_stage("shape-tokenizer")(as_recipe(recipe))


def as_recipe(raw):
    from pathlib import Path

    return Recipe(**{**raw, "output_dir": Path(raw["output_dir"])})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-4}, "training.learning_rate (0.003 → 0.0001)"),
        ({"per_device_train_batch_size": 8}, "training.global_batch_size (8 → 16)"),
        ({"max_steps": 9}, "training.max_steps (5 → 9)"),
        ({"options": {"points": 16}}, "options.points (32 → 16)"),
        ({"options": {"points": 16}, "max_steps": 9}, "options.points (32 → 16), training.max_steps (5 → 9)"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(workspace, five_steps, tmp_path, change, named):
    folder = tmp_path / "run"
    shutil.copytree(five_steps, folder)
    with pytest.raises(Omni123Error) as caught:
        train(workspace, folder, **change)
    assert named in str(caught.value) and "another output_dir" in str(caught.value)
    # Nothing of the run was touched.
    assert first_difference(content(five_steps), content(folder)) is None


def test_other_data_are_refused_and_moved_data_are_not(workspace, five_steps, tmp_path):
    shutil.copytree(five_steps, tmp_path / "run")
    shutil.copytree(workspace / "data", tmp_path / "moved")
    raw = stage_recipe("shape-tokenizer", workspace, tmp_path / "run", max_steps=5)
    raw["options"]["self_distillation"] = False
    raw["data"]["root"] = str(tmp_path / "moved")
    get_stage("shape-tokenizer")(as_recipe(raw))
    summary = json.loads((tmp_path / "moved" / "dataset.json").read_text())
    (tmp_path / "moved" / "dataset.json").write_text(json.dumps({**summary, "content_hash": "0" * 64}))
    with pytest.raises(Omni123Error, match="data.data_hash"):
        get_stage("shape-tokenizer")(as_recipe(raw))


def test_a_longer_schedule_is_followed_when_it_is_asked_for(workspace, five_steps, tmp_path):
    shutil.copytree(five_steps, tmp_path / "run")
    # What writes and watches the run may change without asking.
    train(workspace, tmp_path / "run", max_steps=9, allow_new_schedule=True, logging_steps=1, save_steps=2)
    log = {line["step"]: line for line in read_log(tmp_path / "run") if "loss" in line}
    assert list(log) == [3, 6, 7, 8, 9]
    # The line of a step tells the rate that step was done with: of a cosine over nine steps.
    for step in (6, 9):
        assert log[step]["learning_rate"] == pytest.approx(0.003 * (1 + np.cos(np.pi * (step - 1) / 9)) / 2, rel=1e-4)
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(starts) == 2 and starts[1]["versions"]["torch"] and starts[1]["processes"] == 1
