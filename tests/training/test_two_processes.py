"""Several processes: the same samples and losses as one, own random streams, common stops, exit codes, launch files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from tiny_runs import (
    Run,
    content,
    first_difference,
    make_workspace,
    read_log,
    stage_recipe,
    start_ranks,
    start_server,
    write_recipe,
)
from torch import nn
from torch.distributed.fsdp import fully_shard
from two_ranks import on_two_ranks

from omni123_hf.training.checkpoints import problem_of
from omni123_hf.training.failed_batch import load_failed_batch
from omni123_hf.training.processes import whole_weights


LAUNCH_FILES = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


def comparable(recipe):
    """The recipe made comparable with one of other ranks, whose sums are rounded in another order.

    Ranks have random streams of their own, so nothing may draw from them. And AdamW takes steps of the full rate from a
    gradient that is nothing but rounding (that of a key's bias is 0): an epsilon far above rounding leaves those where they are.
    """
    recipe["model"]["token_dropout"] = 0.0
    recipe["training"]["adam_epsilon"] = 1e-3
    return recipe


def codes(runs):
    return [run.code() for run in runs]


def samples(path):
    return [int(line) for line in path.read_text().split()]


def test_two_ranks_train_as_one_process_with_the_doubled_batch(workspace, tmp_path):
    common = {"logging_steps": 1, "save_steps": 100}
    traces = [tmp_path / f"trace{rank}" for rank in range(2)]
    two = comparable(stage_recipe("pretrain", workspace, tmp_path / "two", **common))
    runs = start_ranks(two, [{"trace": str(trace)} for trace in traces])
    assert codes(runs) == [0, 0], runs[0].output()
    one = comparable(stage_recipe("pretrain", workspace, tmp_path / "one", **common, per_device_train_batch_size=8))
    single = Run(one, {"trace": str(tmp_path / "trace")})
    assert single.code() == 0

    log = [[line for line in read_log(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    assert len(log[0]) == len(log[1]) == 10
    for first, second in zip(*log, strict=True):
        # The losses of every task and modality are means over both ranks, too.
        assert first.keys() == second.keys()
        assert second == pytest.approx(first, abs=1e-5)
    assert_close_weights(tmp_path / "one", tmp_path / "two")

    drawn = [samples(trace) for trace in traces]
    assert not set(drawn[0]) & set(drawn[1])
    assert sorted(drawn[0] + drawn[1]) == sorted(samples(tmp_path / "trace")) == list(range(160))
    # In every micro-batch of eight the first rank has the first four.
    assert drawn[0][:8] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_two_killed_ranks_go_on_to_the_bit_with_streams_of_their_own(workspace, tmp_path):
    whole = start_ranks(stage_recipe("pretrain", workspace, tmp_path / "whole"))
    recipe = stage_recipe("pretrain", workspace, tmp_path / "parts")
    killed = start_ranks(recipe, [{"kill_at_end": 6}, {"kill_at_end": 6}])
    assert codes(whole) == [0, 0] and codes(killed) == [-9, -9]
    again = start_ranks(recipe)
    assert codes(again) == [0, 0], again[0].output()
    for part in ("final", "checkpoint-10"):
        first, second = (content(tmp_path / name / part) for name in ("whole", "parts"))
        for found in (first, second):
            for name in ("complete.json", "training_args.bin", "recipe.json", "trainer_state.json", "progress_0.json"):
                found.pop(name, None)
        assert first_difference(first, second, part) is None
    assert first_difference(*(read_log(tmp_path / name) for name in ("whole", "parts"))) is None
    streams = [first[f"rng_state_{rank}.pth"]["cpu"] for rank in range(2)]
    assert not torch.equal(*streams)


def test_sigterm_to_one_rank_and_a_bad_step_on_one_rank_stop_both(workspace, tmp_path):
    recipe = stage_recipe("shape-tokenizer", workspace, tmp_path / "run")
    stopped = start_ranks(recipe, [{}, {"terminate": 6}])
    assert codes(stopped) == [143, 143], stopped[0].output()
    assert problem_of(tmp_path / "run" / "checkpoint-6") is None

    # Fewer processes go on with the same global batch: the same samples, if not the same bits.
    recipe["training"]["gradient_accumulation_steps"] = 4
    alone = Run(recipe)
    assert alone.code() == 2 and "samples_per_group" in alone.output()
    recipe["training"]["samples_per_group"] = 8
    alone = Run(recipe, {"trace": str(tmp_path / "trace")})
    assert alone.code() == 0, alone.output()
    assert samples(tmp_path / "trace") == list(range(6 * 16, 10 * 16))

    failing = stage_recipe("shape-tokenizer", workspace, tmp_path / "bad")
    runs = start_ranks(failing, [{}, {"spoil": 7}])
    assert codes(runs) == [2, 2], runs[0].output()
    for rank, run in enumerate(runs):
        assert "step 7 is not finite" in run.output() and "(loss on rank 1)" in run.output()
        failed = load_failed_batch(tmp_path / "bad" / f"failed_batch_rank{rank}.safetensors")
        assert failed.samples == [[96 + 4 * rank, 99 + 4 * rank], [104 + 4 * rank, 107 + 4 * rank]]
        assert [bool(np.isnan(loss)) for loss in failed.losses] == [rank == 1] * 2 and np.isnan(failed.grad_norm)
        assert failed.micro_batches[1]["points"].shape == (4, 32, 3)
    assert problem_of(tmp_path / "bad" / "checkpoint-4") is None


def test_ranks_with_different_recipes_are_stopped(workspace, tmp_path):
    recipe = stage_recipe("shape-tokenizer", workspace, tmp_path / "run")
    runs = start_ranks(recipe, [{}, {"seed": 4}])
    assert codes(runs) == [2, 2]
    assert "different recipes" in runs[1].output()


def shard_and_make_whole(rank, keep):
    torch.manual_seed(0)
    first = nn.Linear(6, 6)
    model = nn.Sequential(first, nn.Linear(6, 4), nn.Linear(4, 6), first)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    fully_shard(model[1])
    fully_shard(model)
    with torch.no_grad():
        model(torch.ones(2, 6))
    whole = None
    with whole_weights(model, keep=rank == keep):
        if rank == keep:
            state = model.state_dict()
            whole = all(torch.equal(state[name], value) for name, value in expected.items())
            whole = whole and model[0].weight is model[3].weight
    # Sharded again, and still in working order.
    loss = model(torch.ones(2, 6)).sum()
    loss.backward()
    return whole, float(loss.detach()), type(model[1].weight).__name__


def test_sharded_weights_are_whole_where_they_are_saved():
    start_server()
    first, second = on_two_ranks(shard_and_make_whole, 0, start="forkserver")
    assert first[0] is True and second[0] is None
    assert first[1] == second[1] and first[2] == second[2] == "DTensor"


def assert_close_weights(one, other):
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        weights = [load_file(folder / "final" / part / "model.safetensors") for folder in (one, other)]
        assert weights[0].keys() == weights[1].keys()
        for key in weights[0]:
            torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "shards"), [(1, 2), (2, 2)], ids=["fsdp2", "hsdp"])
def test_sharded_training_is_that_of_one_process_and_resumes_to_the_bit(workspace, tmp_path, replicas, shards):
    """FSDP2 through Trainer and accelerate on gloo ranks: the numbers, not the speed. See `shard_on_the_cpu`."""
    ranks = replicas * shards
    common = {"logging_steps": 1}

    def recipe(name, batch):
        return comparable(
            stage_recipe("pretrain", workspace, tmp_path / name, **common, per_device_train_batch_size=batch)
        )

    events = {"shard": (replicas, shards)}
    assert Run(recipe("one", 8)).code() == 0
    runs = start_ranks(recipe("whole", 8 // ranks), [events] * ranks, ranks)
    assert codes(runs) == [0] * ranks, runs[0].output()
    losses = [[line["loss"] for line in read_log(tmp_path / name) if "loss" in line] for name in ("one", "whole")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert_close_weights(tmp_path / "one", tmp_path / "whole")
    assert len(list((tmp_path / "whole" / "checkpoint-10" / "pytorch_model_fsdp_0").glob("*.distcp"))) >= shards

    killed = start_ranks(recipe("parts", 8 // ranks), [{**events, "kill_at_end": 6}] * ranks, ranks)
    assert codes(killed) == [-9] * ranks
    again = start_ranks(recipe("parts", 8 // ranks), [events] * ranks, ranks)
    assert codes(again) == [0] * ranks, again[0].output()
    assert first_difference(content(tmp_path / "whole" / "final"), content(tmp_path / "parts" / "final")) is None
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")


@pytest.mark.parametrize("name", ["cpu_two_ranks", "ddp", "fsdp2", "hsdp"])
def test_accelerate_reads_every_launch_file(name, monkeypatch):
    path = LAUNCH_FILES / f"{name}.yaml"
    config = load_config_from_file(str(path))
    command = ["--config_file", str(path), "-m", "omni123_hf.cli.main", "train", "pretrain", "--config", "r.yaml"]
    machines = ["--machine_rank", "0", "--main_process_ip", "10.0.0.1"] if config.num_machines > 1 else []
    arguments = launch.launch_command_parser().parse_args([*machines, *command])
    arguments, _, _ = launch._validate_launch_command(arguments)
    monkeypatch.setattr("accelerate.utils.launch.is_port_in_use", lambda port: False)
    environment = prepare_multi_gpu_env(arguments)
    assert arguments.training_script == "omni123_hf.cli.main" and arguments.module
    assert arguments.training_script_args[:2] == ["train", "pretrain"]
    assert (arguments.use_fsdp, arguments.multi_gpu) == (name in ("fsdp2", "hsdp"), name in ("cpu_two_ranks", "ddp"))
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    if not arguments.use_fsdp:
        return
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"
    assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "Omni123DualBlock,Omni123SingleBlock"
    assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    if name == "hsdp":
        sizes = [int(environment[f"PARALLELISM_CONFIG_DP_{part}_SIZE"]) for part in ("REPLICATE", "SHARD")]
        assert sizes == [32, 8] and config.num_processes == 256 == config.num_machines * 8


def launched(command, tmp_path, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_launchers_run_two_cpu_ranks_and_end_with_zero(launcher, workspace, tmp_path):
    path = write_recipe(stage_recipe("pretrain", workspace, tmp_path / "run"), tmp_path / "recipe.yaml")
    train = ["-m", "omni123_hf.cli.main", "train", "pretrain", "--config", str(path)]
    start = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        "accelerate": [
            "accelerate.commands.launch", "--main_process_port", "0", "--config_file", f"{LAUNCH_FILES}/cpu_two_ranks.yaml",
        ],
    }[launcher]  # fmt: skip
    for _ in range(3):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        done = launched([sys.executable, "-m", *start, *train], tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads((tmp_path / "run" / "environment.json").read_text())[0]["processes"] == 2
        assert done.stdout.count("eval_loss:") == 1


@pytest.mark.slow
def test_torchrun_passes_sigterm_on_and_waits_for_the_checkpoint(workspace, tmp_path):
    recipe = stage_recipe("pretrain", workspace, tmp_path / "run", max_steps=2000, save_steps=2000, logging_steps=1)
    path = write_recipe(recipe, tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    log = tmp_path / "run" / "log.jsonl"
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [*command, "-m", "omni123_hf.cli.main", "train", "pretrain", "--config", str(path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=output,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while not (log.exists() and log.read_text().count("\n") > 3) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    assert "stopped by SIGTERM after step" in (tmp_path / "output").read_text()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert problem_of(checkpoint) is None
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}


@pytest.mark.slow
def test_torchrun_passes_errors_on(workspace, tmp_path):
    recipe = stage_recipe("pretrain", workspace, tmp_path / "run", global_batch_size=12)
    path = write_recipe(recipe, tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = launched([*command, "-m", "omni123_hf.cli.main", "train", "pretrain", "--config", str(path)], tmp_path)
    assert done.returncode == 1 and "exitcode  : 2" in done.stderr
    assert "global_batch_size 12 is no multiple of 4 samples" in done.stderr
