"""Training arguments: batches over processes, devices, and refusals of what would not do what it says."""

import itertools

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler

from omni123_hf.errors import Omni123Error
from omni123_hf.training.arguments import (
    global_batch_size,
    micro_batch_samples,
    samples_in_run,
    samples_per_group,
    shards_weights,
    training_arguments,
)
from omni123_hf.training.recipe import Recipe


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name in ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def make(tmp_path, **training):
    return Recipe("pretrain", tmp_path, training={"max_steps": 5, "per_device_train_batch_size": 4, **training})


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without CUDA")
def test_the_cpu_trains_in_float32_and_the_log_hides_no_nan(tmp_path):
    arguments = training_arguments(make(tmp_path, bf16=True, torch_compile=True))
    assert arguments.use_cpu and not arguments.bf16 and arguments.torch_compile
    assert not arguments.logging_nan_inf_filter


def test_the_global_batch_gives_the_accumulation_on_any_number_of_processes(tmp_path, monkeypatch):
    recipe = make(tmp_path, global_batch_size=32)
    arguments = training_arguments(recipe)
    assert arguments.gradient_accumulation_steps == 8
    assert global_batch_size(arguments) == 32 and samples_in_run(arguments) == 160
    from omni123_hf.training.arguments import accumulation_steps

    fields = {"per_device_train_batch_size": 4}
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert accumulation_steps(recipe, fields) == 1
    monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(Omni123Error, match=r"32 is no multiple of 4 samples .* × 16 processes"):
        accumulation_steps(recipe, fields)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"global_batch_size": 6}, "no multiple of 4 samples"),
        ({"global_batch_size": 2}, "no multiple"),
        ({"global_batch_size": "many"}, "whole number"),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 4}, "makes gradient_accumulation_steps 2 here"),
        ({"samples_per_group": 6}, "a multiple of per_device_train_batch_size"),
        ({"gradient_checkpointing": True}, "activation_checkpointing: true"),
        ({"activation_checkpointing": "yes"}, "give true or false"),
        ({"allow_new_schedule": 1}, "give true or false"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
        ({"train_sampling_strategy": "random"}, "must be sequential"),
        ({"auto_find_batch_size": True}, "which samples a step sees"),
        ({"ignore_data_skip": True}, "which samples a step sees"),
        ({"enable_jit_checkpoint": True}, "SIGTERM always saves"),
        ({"deepspeed": "ds.json"}, "DeepSpeed is not supported"),
        ({"fsdp": True, "use_cpu": True}, "FSDP needs CUDA"),
    ],
)
def test_what_would_not_do_what_it_says_is_refused(tmp_path, training, message):
    with pytest.raises(Omni123Error, match=message):
        training_arguments(make(tmp_path, **training))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "silently run as plain data parallelism"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "float32 only"),
        ("PARALLELISM_CONFIG_TP_SIZE", "2", "only dp_replicate and dp_shard"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
    ],
)
def test_what_the_launcher_asks_for_in_vain_is_refused(tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Omni123Error, match=message):
        training_arguments(make(tmp_path, use_cpu=True))


def test_a_way_of_loading_that_accelerate_cannot_do_is_refused(tmp_path, monkeypatch):
    from omni123_hf.training.arguments import check_launch

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_launch({}, on_cpu=False)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(Omni123Error, match="code tables"):
        check_launch({}, on_cpu=False)


def test_sharding_is_seen_whoever_asks_for_it(tmp_path, monkeypatch):
    arguments = training_arguments(make(tmp_path))
    assert not shards_weights(arguments)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert shards_weights(arguments)


@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(1, 4, 2), (2, 4, 1), (2, 2, 3), (4, 3, 2)])
def test_accelerate_deals_samples_as_the_numbers_say(tmp_path, monkeypatch, processes, batch, accumulation):
    """Against accelerate's own sharding of Trainer's sampler: same samples in a step for any division of it."""
    arguments = training_arguments(
        make(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    )
    monkeypatch.setattr(type(arguments), "world_size", processes)
    total = samples_in_run(arguments)
    assert total == 5 * processes * batch * accumulation
    seen = [set() for _ in range(5)]
    for rank in range(processes):
        monkeypatch.setattr(type(arguments), "process_index", rank)
        shard = BatchSamplerShard(BatchSampler(SequentialSampler(range(total)), batch, False), processes, rank)
        dealt = iter(shard)
        for step in range(5):
            for number, indices in enumerate(itertools.islice(dealt, accumulation)):
                assert indices == list(micro_batch_samples(arguments, step, number))
                seen[step].update(indices)
        assert next(dealt, None) is None
    per_step = processes * batch * accumulation
    assert seen == [set(range(step * per_step, (step + 1) * per_step)) for step in range(5)]


def test_all_processes_share_a_group_unless_the_recipe_says_otherwise(tmp_path, monkeypatch):
    recipe, fixed = make(tmp_path), make(tmp_path, samples_per_group=8)
    arguments = training_arguments(recipe)
    assert samples_per_group(recipe, arguments) == 4
    monkeypatch.setattr(type(arguments), "world_size", 16)
    assert samples_per_group(recipe, arguments) == 64
    assert samples_per_group(fixed, arguments) == 8
