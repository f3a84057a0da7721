"""From a recipe's `training` section to `TrainingArguments`: batches over processes, devices, and what cannot work.

Keys of the section that are ours, beside every field of `TrainingArguments`:

- `global_batch_size`: samples of one optimiser step over all processes; gives `gradient_accumulation_steps`.
- `samples_per_group`: how many consecutive samples share what a stage draws once a micro-batch (task, caption level).
- `activation_checkpointing`: true recomputes activations in backward, under one name for every version of transformers.
- `allow_new_schedule`: true lets a resumed run change `max_steps` and the learning rate schedule (`run_description.py`).
"""

import os
from typing import Any

import torch
from transformers import TrainingArguments

from ..errors import Omni123Error
from .recipe import Recipe


OWN_KEYS = ("global_batch_size", "samples_per_group", "activation_checkpointing", "allow_new_schedule")
# Accelerate's launcher speaks through the environment.
OTHER_PARALLELISM = ("PARALLELISM_CONFIG_TP_SIZE", "PARALLELISM_CONFIG_CP_SIZE", "PARALLELISM_CONFIG_SP_SIZE")


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on", "y", "t")


def number_of_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def shards_weights(arguments: TrainingArguments) -> bool:
    """Whether FSDP splits the weights, asked for by the recipe or by `accelerate launch`."""
    return bool(arguments.fsdp) or switched_on("ACCELERATE_USE_FSDP")


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """`TrainingArguments` of a recipe: bf16 on CUDA devices that have it, float32 on the CPU; samples in counter order.

    Raises `Omni123Error` for what `Trainer` would do otherwise than asked, without a word.
    """
    fields: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "logging_steps": 50,
        "save_steps": 500,
        "save_total_limit": 2,
        "report_to": "none",
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "disable_tqdm": False,
        # It hides NaN from the log and reads the loss of every micro-batch back from the device; such runs stop anyway.
        "logging_nan_inf_filter": False,
        **{key: value for key, value in recipe.training.items() if key not in OWN_KEYS},
    }
    if "max_steps" not in fields:
        raise Omni123Error("the recipe's training section needs max_steps.")
    check_keys(fields, recipe)
    on_cpu = switched_on("ACCELERATE_USE_CPU") or fields.get("use_cpu", False) or not torch.cuda.is_available()
    check_launch(fields, on_cpu)
    if on_cpu:
        fields["bf16"] = fields["fp16"] = False
        fields["use_cpu"] = True
        fields.setdefault("dataloader_pin_memory", False)
    else:
        fields.setdefault("bf16", torch.cuda.is_bf16_supported())
    if number_of_processes() > 1:
        # A rank's task may leave one head without a gradient in a step.
        fields.setdefault("ddp_find_unused_parameters", True)
        if on_cpu:
            fields.setdefault("ddp_backend", "gloo")
    if "global_batch_size" in recipe.training:
        fields["gradient_accumulation_steps"] = accumulation_steps(recipe, fields)
    try:
        arguments = TrainingArguments(output_dir=str(recipe.output_dir), seed=recipe.seed, **fields)
    except (TypeError, ValueError) as error:
        raise Omni123Error(f"the recipe's training section is no set of TrainingArguments: {error}") from error
    if arguments.n_gpu > 1:
        raise Omni123Error(
            f"one process sees {arguments.n_gpu} CUDA devices: start one for each (torchrun --nproc_per_node "
            f"{arguments.n_gpu}, or accelerate launch), or show it one with CUDA_VISIBLE_DEVICES=0."
        )
    samples_per_group(recipe, arguments)
    return arguments


def check_keys(fields: dict[str, Any], recipe: Recipe) -> None:
    """Refuses keys of the training section that would be lost or work against another one."""
    for key in ("gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        if key in fields:
            raise Omni123Error(
                f"training.{key} is not read: activation_checkpointing: true means the same in every version of transformers."
            )
    for key in ("activation_checkpointing", "allow_new_schedule"):
        if not isinstance(recipe.training.get(key, False), bool):
            raise Omni123Error(f"training.{key} is {recipe.training[key]!r}: give true or false.")
    loader = fields.get("accelerator_config") or {}
    if not isinstance(loader, dict) or loader.get("split_batches") or loader.get("dispatch_batches"):
        raise Omni123Error(
            "training.accelerator_config must be a mapping without split_batches and dispatch_batches: samples are dealt to "
            "processes by their number."
        )
    if fields["train_sampling_strategy"] != "sequential":
        raise Omni123Error("training.train_sampling_strategy must be sequential: samples are drawn by their number.")
    for key in ("auto_find_batch_size", "ignore_data_skip"):
        if fields.get(key):
            raise Omni123Error(f"training.{key} would change which samples a step sees: leave it out.")
    if fields.get("enable_jit_checkpoint"):
        raise Omni123Error(
            "training.enable_jit_checkpoint is not needed: SIGTERM always saves first (docs/training.md)."
        )


def check_launch(fields: dict[str, Any], on_cpu: bool) -> None:
    """Refuses ways of starting that this code cannot train or save correctly."""
    if fields.get("deepspeed") or switched_on("ACCELERATE_USE_DEEPSPEED"):
        raise Omni123Error("DeepSpeed is not supported: shard with FSDP (recipes/accelerate/fsdp2.yaml).")
    beside = [name for name in OTHER_PARALLELISM if int(os.environ.get(name, "1")) > 1]
    if beside:
        raise Omni123Error(f"{beside[0]} is above 1: only dp_replicate and dp_shard are supported.")
    fsdp_config = fields.get("fsdp_config") or {}
    sharded = bool(fields.get("fsdp")) or switched_on("ACCELERATE_USE_FSDP")
    if sharded and on_cpu:
        raise Omni123Error(
            "FSDP needs CUDA devices; on the CPU it would silently run as plain data parallelism: use "
            "recipes/accelerate/cpu_two_ranks.yaml or torchrun there."
        )
    if sharded and (switched_on("FSDP_CPU_RAM_EFFICIENT_LOADING") or fsdp_config.get("cpu_ram_efficient_loading")):
        raise Omni123Error(
            "fsdp_cpu_ram_efficient_loading cannot spread a model that has buffers (code tables): set it to false."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if on_cpu and precision != "no":
        raise Omni123Error(
            f"accelerate asks for {precision} on the CPU, which trains in float32 only: set it to 'no'."
        )


def accumulation_steps(recipe: Recipe, fields: dict[str, Any]) -> int:
    """Micro-batches of a step from `global_batch_size`, the batch of each process and the number of processes."""
    total, batch = recipe.training["global_batch_size"], fields.get("per_device_train_batch_size", 8)
    processes = number_of_processes()
    for name, value in (("global_batch_size", total), ("per_device_train_batch_size", batch)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Omni123Error(f"training.{name} is {value!r}: give a whole number above 0.")
    steps, rest = divmod(total, batch * processes)
    if rest or not steps:
        raise Omni123Error(
            f"global_batch_size {total} is no multiple of {batch} samples (per_device_train_batch_size) × {processes} "
            f"process{'es' if processes > 1 else ''}: change one of them."
        )
    given = fields.get("gradient_accumulation_steps", steps)
    if given != steps:
        raise Omni123Error(
            f"global_batch_size {total} makes gradient_accumulation_steps {steps} here, the recipe says {given}: leave one out."
        )
    return steps


def global_batch_size(arguments: TrainingArguments) -> int:
    """Samples of one optimiser step over all processes."""
    per_process = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return per_process * max(arguments.world_size, 1)


def samples_in_run(arguments: TrainingArguments) -> int:
    """Number of samples that all processes together consume in the run."""
    return global_batch_size(arguments) * arguments.max_steps


def samples_per_group(recipe: Recipe, arguments: TrainingArguments) -> int:
    """Samples that share what a stage draws once a micro-batch: sample k belongs to group `k // samples_per_group`.

    The default is one micro-batch of all processes together, so W processes with batch b draw as one process with batch
    W·b. A recipe's `training.samples_per_group` fixes it for any number of processes; smaller groups mix more tasks into
    one step. Raises `Omni123Error` where a micro-batch would fall into two groups.
    """
    batch = arguments.per_device_train_batch_size
    group = recipe.training.get("samples_per_group", batch * max(arguments.world_size, 1))
    if not isinstance(group, int) or isinstance(group, bool) or group < 1 or group % batch:
        raise Omni123Error(
            f"training.samples_per_group is {group!r}: give a multiple of per_device_train_batch_size ({batch})."
        )
    return group


def micro_batch_samples(arguments: TrainingArguments, step: int, micro_batch: int) -> range:
    """Running numbers of the samples that this process sees in a micro-batch of optimiser step `step` (both from 0).

    Trainer's sequential sampler cuts the samples into batches, and accelerate deals them to the processes in turn, so a
    step sees the same `global_batch_size` samples however they are divided.
    """
    processes, batch = max(arguments.world_size, 1), arguments.per_device_train_batch_size
    number = step * arguments.gradient_accumulation_steps + micro_batch
    start = (number * processes + arguments.process_index) * batch
    return range(start, start + batch)
