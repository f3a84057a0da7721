"""The plan of an autoregressive stage: what `autoregressive.train` would check and build, and what it would cost."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration
from ..modeling.parameter_tables import parameter_table
from ..modeling.tasks import Task
from .autoregressive import (
    AR_STAGES,
    OPTIONS,
    TOKENIZER_CLASSES,
    TOKENIZER_NAMES,
    check_beginning,
    read_options,
    tokenizer_folders,
)
from .flops import TokenCounts, backbone_flops, count_task, encoder_flops
from .mixture import Subset, TaskTable, build_mixture
from .plan import Findings, Plan, PlanSettings, check_training, micro_batches, recomputes, uses_bf16
from .plan_memory import MicroBatch, train_memory
from .plan_model import PlannedModel, planned_model, with_six_views
from .plan_pools import PlannedPool, check_sizes_known, planned_pools
from .recipe import Recipe
from .record_pools import RecordPool, check_pools
from .sample_options import SampleOptions
from .task_samples import TaskSampler


def fill(plan: Plan, recipe: Recipe, settings: PlanSettings, earlier: Mapping[str, Recipe]) -> None:
    """Fills the sections of a plan; stops at what a refusal makes unknown."""
    findings, stage = plan.findings, AR_STAGES[recipe.stage]
    options = findings.attempt(read_options, recipe)
    findings.attempt(check_training, recipe)
    findings.attempt(check_beginning, recipe, stage)
    planned = findings.attempt(planned_model, recipe, OPTIONS, earlier)
    if options is None or planned is None:
        return
    findings.assumptions += planned.notes
    if stage.new_views if options["new_view_embeddings"] is None else options["new_view_embeddings"]:
        with_six_views(planned.config)
    model, encoders = planned.on_meta()
    for encoder in encoders:
        encoder.requires_grad_(not options["freeze_text_encoders"])
    plan.parameters = count_parameters(model, encoders)

    folders = tokenizers_here(recipe, findings)
    pools = findings.attempt(
        planned_pools, recipe.data, code_counts(folders, planned.config), planned.config, findings
    )
    if pools is None:
        return
    check_tokenizers(recipe, model, folders, pools, findings)
    table = findings.attempt(TaskTable.from_options, options)
    if table is None:
        return

    def mixture() -> list[Subset]:
        check_sizes_known(options, pools)
        return build_mixture(options, pools, table)

    subsets = findings.attempt(mixture)
    if subsets is None:
        return
    check_sampling(recipe, options, pools, subsets, table, findings)
    batches = findings.attempt(micro_batches, recipe.training, settings.devices)
    if batches is None or "max_steps" not in recipe.training:
        return
    add_tokens(plan, planned, subsets, table, batches, settings, recipe, encoders)
    batch = largest_batch(planned, subsets, table, options["batching"], batches[0])
    add_memory(plan, model, encoders, batch, settings, recipe.training)


def count_parameters(model: Omni123ForConditionalGeneration, encoders: list[Any]) -> dict[str, Any]:
    """Counts by model and part, and how many of all are trained."""
    table: dict[str, Any] = {"backbone": parameter_table(model)}
    for number, encoder in zip(("", "_2"), encoders, strict=False):
        table[f"text_encoder{number}"] = sum(parameter.numel() for parameter in encoder.parameters())
    every = [parameter for module in (model, *encoders) for parameter in module.parameters()]
    table["trainable"] = sum(parameter.numel() for parameter in every if parameter.requires_grad)
    table["frozen"] = sum(parameter.numel() for parameter in every) - table["trainable"]
    return table


def tokenizers_here(recipe: Recipe, findings: Findings) -> dict[str, Path]:
    """Those folders of tokenizers that exist; the others are noted."""
    checkpoint = recipe.data.get("checkpoint")
    if checkpoint is not None and not Path(checkpoint).is_dir():
        findings.missing.append(f"{checkpoint} (tokenizers)")
        return {name: Path(recipe.data[name]) for name in TOKENIZER_NAMES if Path(recipe.data.get(name, "")).is_dir()}
    folders = findings.attempt(tokenizer_folders, recipe.data) or {}
    findings.missing += [f"{folder} ({name})" for name, folder in folders.items() if not folder.is_dir()]
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def code_counts(folders: Mapping[str, Path], config: Omni123Config) -> dict[str, int]:
    """Sizes of the vocabularies, of the model where a tokenizer is not here."""
    counts = {"shape": config.num_shape_codes, "image": config.num_image_codes}
    for name, model_class in TOKENIZER_CLASSES.items():
        if name in folders:
            counts[name.removesuffix("_tokenizer")] = model_class.config_class.from_pretrained(folders[name]).num_codes
    return counts


def check_tokenizers(
    recipe: Recipe,
    model: Omni123ForConditionalGeneration,
    folders: Mapping[str, Path],
    pools: Mapping[str, RecordPool],
    findings: Findings,
) -> None:
    """Whether code vectors fit a new model, and pools the tokenizers, as far as both are here."""
    if "from_pretrained" not in recipe.model:
        for name, model_class in TOKENIZER_CLASSES.items():
            if name in folders:
                config = model_class.config_class.from_pretrained(folders[name])
                codes = torch.empty(config.num_codes, config.code_dim, device="meta")
                findings.attempt(model.set_code_tables, **{name.removesuffix("_tokenizer"): codes})
    here = {name: pool for name, pool in pools.items() if not isinstance(pool, PlannedPool)}
    hashable = {name: folder for name, folder in folders.items() if any(folder.glob("*.safetensors"))}
    named = set(TOKENIZER_NAMES) & set(recipe.data) if "checkpoint" not in recipe.data else set(folders)
    if here and named <= set(hashable):
        findings.attempt(check_pools, here, hashable, model.config)
    elif here:
        findings.missing.append("some of the tokenizers' weights, so whether they wrote the pools was not compared")


def check_sampling(
    recipe: Recipe,
    options: Mapping[str, Any],
    pools: Mapping[str, RecordPool],
    subsets: list[Subset],
    table: TaskTable,
    findings: Findings,
) -> None:
    """Builds the samplers of training and validation, as far as pools are here, and reads the options of sample pictures."""
    here = all(not isinstance(pools[subset.pool], PlannedPool) for subset in subsets)
    for split in ("train", "validation"):
        findings.attempt(
            TaskSampler,
            pools,
            subsets,
            table,
            options["caption_levels"],
            recipe.training.get("per_device_train_batch_size", 8),
            recipe.seed,
            split=split,
            batching=options["batching"],
            image_view=options["image_view"],
            source_shares=options["source_shares"] if here else None,
        )
    findings.attempt(SampleOptions.read, options["samples"], [name for subset in subsets for name in subset.tasks])


def add_tokens(
    plan: Plan,
    planned: PlannedModel,
    subsets: list[Subset],
    table: TaskTable,
    batches: tuple[int, int],
    settings: PlanSettings,
    recipe: Recipe,
    encoders: list[Any],
) -> None:
    """Tokens and operations: of a sample of each task, and in expectation of a sample, a step and the run."""
    config = planned.config
    trained = [(encoder.config, any(p.requires_grad for p in encoder.parameters())) for encoder in encoders]
    mean = TokenCounts()
    for subset in subsets:
        for name, share in subset.tasks.items():
            counts = mean_counts(table.variants(name), config, planned.text_lengths)
            mean = mean + counts.scaled(subset.probability * share)
            plan.tasks.append(
                {
                    "subset": subset.name,
                    "task": name,
                    "probability": subset.probability * share,
                    "generation_tokens": counts.generation,
                    "conditioning_tokens": counts.text,
                    "target_tokens": counts.targets,
                    "operations": backbone_flops(config, counts)["total"] + encoder_flops(trained, config, counts),
                }
            )
    batch, accumulation = batches
    samples = batch * accumulation * settings.devices
    steps = recipe.training["max_steps"]
    for section, factor in (("step", samples), ("run", samples * steps)):
        counts = mean.scaled(factor)
        numbers = {
            "samples": counts.samples,
            "generation_tokens": counts.generation,
            "conditioning_tokens": counts.text,
            "target_tokens": counts.targets,
        }
        setattr(plan, section, numbers)
    plan.step |= {"micro_batch": batch, "micro_batches": accumulation}
    plan.run["steps"] = steps
    plan.operations = operations(config, mean, trained, plan)
    plan.findings.assumptions.append(
        f"texts fill their tokenizers' lengths ({' and '.join(map(str, planned.text_lengths))} tokens): conditioning tokens and "
        "their operations are upper limits"
    )


def mean_counts(variants: list[Task], config: Omni123Config, text_lengths: tuple[int, int]) -> TokenCounts:
    """Counts of a sample in expectation: a run draws the variants of a task with equal probability."""
    mean = TokenCounts()
    for task in variants:
        mean = mean + count_task(task, config, *text_lengths).scaled(1 / len(variants))
    return mean


def operations(config: Omni123Config, mean: TokenCounts, trained: list[Any], plan: Plan) -> dict[str, float]:
    """Training FLOPs a token, a sample, a step and in all, with the share of attention."""
    parts = backbone_flops(config, mean)
    encoders = encoder_flops(trained, config, mean)
    sample = parts["total"] + encoders
    generation = parts["generation stream"] + parts["attention"] + parts["heads"]
    return {
        "per_generation_token": generation / mean.generation,
        "per_conditioning_token": parts["conditioning stream"] / mean.text,
        "attention_share": parts["attention"] / sample,
        "text_encoders_share": encoders / sample,
        "per_sample": sample,
        "per_step": sample * plan.step["samples"],
        "total": sample * plan.run["samples"],
    }


def largest_batch(
    planned: PlannedModel, subsets: list[Subset], table: TaskTable, batching: str, rows: int
) -> MicroBatch:
    """The micro-batch that needs most memory: all samples of the longest task."""
    config, text = planned.config, sum(planned.text_lengths) + int(planned.config.use_bbox)
    counts = [count_task(table(name), config, *planned.text_lengths) for subset in subsets for name in subset.tasks]
    longest = max(int(count.generation) for count in counts)
    packed = rows if batching == "packed" else 1
    return MicroBatch(
        rows=rows // packed,
        text=packed * text,
        generation=packed * longest,
        shape_targets=rows * int(max(count.shape_targets for count in counts)),
        image_targets=rows * int(max(count.image_targets for count in counts)),
        text_rows=rows,
        text_lengths=planned.text_lengths,
    )


def add_memory(
    plan: Plan,
    model: Omni123ForConditionalGeneration,
    encoders: list[Any],
    batch: MicroBatch,
    settings: PlanSettings,
    training: Mapping[str, Any],
) -> None:
    bf16 = uses_bf16(training)
    kept, recomputed = train_memory(model, encoders, batch, settings.devices, settings.sharding, bf16)
    plan.memory = {"keeping_activations": kept, "recomputing_activations": recomputed}
    plan.memory |= {
        "recipe": "recomputing_activations" if recomputes(training) else "keeping_activations",
        "shard": settings.sharding,
        "largest_micro_batch": asdict(batch),
        "precision": "bf16 autocast, float32 weights" if bf16 else "float32",
    }
    plan.findings.assumptions.append(
        "memory leaves out what the CUDA context, communication and a fragmented allocator take; activations are those of the "
        "longest task"
    )
