"""Stage `lora`: low-rank adapters of the backbone for a new domain, with rehearsal of the old one (PEFT).

The base stays as it is: its text encoders, heads and embeddings are frozen, and only the adapters of the named projections
are trained (heads too, if asked). Half a gigabyte of base is not written with every checkpoint: those hold the adapters alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import Omni123Error
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.fingerprint import weights_fingerprint
from .collation import TaskCollator
from .initial_model import load_initial
from .lora_data import BaseCheckpoint, Domain
from .lora_trainer import NEW, OLD, DomainCollator, DomainSampler, LoraTrainer, trained_state
from .mixture import Subset, TaskTable, build_mixture, normalized
from .recipe import Recipe, stage_options
from .record_pools import check_pools
from .runner import CounterDataset, run, samples_in_run, training_arguments
from .task_samples import TaskSampler
from .text_conditioned import TextConditionedOmni123


# Queries and keys are one projection, except on the conditioning side of the last dual block, which has keys alone. The
# names hold for both streams. Never "all-linear", which would take a head.
TARGETS = ("qk_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HEADS = ("shape_head", "image_head")
TASKS = {"text-to-3d": 0.4, "text-to-image-to-3d": 0.3, "image-to-3d": 0.15, "text-to-image": 0.15}
OPTIONS: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "targets": list(TARGETS),
    "train_heads": False,
    "tasks": None,
    "regularization_share": 0.5,
    "distillation": 5.0,
    "caption_levels": {"short": 0.35, "medium": 0.5, "long": 0.15},
    "text_dropout": 0.0,
    "prefix_dropout": None,
    "image_view": "three_quarter",
    "loss_weighting": "token",
}
TRAINING: dict[str, Any] = {
    # Several micro-batches a step, so that most steps see both domains.
    "max_steps": 200,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 10,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "logging_steps": 20,
    "save_steps": 100,
}
MEASURED_BATCH, MOST_MEASURED = 16, 64


@dataclass(frozen=True)
class Adapter:
    """A trained adapter: its PEFT folder, losses of every task (`{"new": {"before": {...}, "after": {...}}}`), the
    fingerprint of its base, trained numbers, probabilities of the tasks, and the share of the batches that rehearsed."""

    folder: Path
    losses: dict[str, dict[str, dict[str, float]]]
    base_fingerprint: str
    trainable: int
    tasks: dict[str, float]
    rehearsal: float


def lora_options(recipe: Recipe) -> dict[str, Any]:
    """The recipe's `options` over the defaults. Raises `Omni123Error` for what cannot be."""
    options = stage_options(recipe, OPTIONS)
    for name in ("rank", "alpha"):
        if isinstance(options[name], bool) or not isinstance(options[name], int | float) or options[name] <= 0:
            raise Omni123Error(f"{name} is {options[name]!r}: give a positive number.")
    if int(options["rank"]) != options["rank"]:
        raise Omni123Error(f"rank is {options['rank']}: give a whole number.")
    if not 0 <= options["dropout"] < 1:
        raise Omni123Error(f"dropout is {options['dropout']}: it must lie in [0, 1).")
    if not 0 <= options["regularization_share"] < 1:
        raise Omni123Error(f"regularization_share is {options['regularization_share']}: it must lie in [0, 1).")
    if not options["distillation"] >= 0:
        raise Omni123Error(
            f"distillation is {options['distillation']}: it cannot be negative; 0 rehearses codes instead."
        )
    unknown = sorted(set(options["targets"]) - set(TARGETS))
    if unknown or not options["targets"]:
        raise Omni123Error(f"targets {options['targets']}: name some of {', '.join(TARGETS)}.")
    return options


def build_adapter(model: TextConditionedOmni123, options: dict[str, Any], base: BaseCheckpoint) -> None:
    """Freezes the whole model and puts adapters into its backbone, in place. Raises `Omni123Error` without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise Omni123Error(
            "training an adapter needs peft; install it with: pip install 'omni123-hf[train]'"
        ) from error
    model.requires_grad_(False)
    heads = [name for name in HEADS if getattr(model.transformer, name) is not None]
    config = LoraConfig(
        r=int(options["rank"]),
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules=list(options["targets"]),
        modules_to_save=heads if options["train_heads"] else None,
    )
    model.transformer = get_peft_model(model.transformer, config)  # type: ignore[assignment,arg-type]
    # peft notes where the base lies on this machine.
    config.base_model_name_or_path = base.name


def choose_tasks(given: dict[str, float] | None, config: Omni123Config) -> dict[str, float]:
    """The tasks that are mixed: those of the recipe, or the default ones as far as the base has images."""
    if given is not None:
        return normalized(given, "task probabilities")
    return dict(TASKS) if config.num_image_codes else {"text-to-3d": 1.0}


def train(recipe: Recipe, base: BaseCheckpoint, domain: Domain, old: Domain | None) -> Adapter:
    """Trains the adapter in `recipe.output_dir` (resumable) and writes it to `final/`, as PEFT reads it.

    `old` is rehearsed in `options.regularization_share` of the micro-batches. Losses are those of the held-out records of both
    domains, with the adapter switched off and on. Raises `Omni123Error` for a folder that was begun with other settings.
    """
    options = lora_options(recipe)
    share = options["regularization_share"] if old is not None and "train" in old.pool.splits else 0.0
    torch.manual_seed(recipe.seed)
    model, tokenizer, tokenizer_2 = load_initial(base.folder, {}, freeze_text_encoders=True)
    fingerprint = weights_fingerprint(model.transformer)
    config = model.transformer.config
    build_adapter(model, options, base)
    tasks = choose_tasks(options["tasks"], config)
    pools: dict[str, Any] = {NEW: domain.pool, **({OLD: old.pool} if old is not None else {})}
    check_pools(pools, base.tokenizers, config)
    mixture = {NEW: {"pool": NEW, "tasks": tasks, "probability": 1 - share}}
    if old is not None:
        mixture[OLD] = {"pool": OLD, "tasks": tasks, "probability": share}
    table = TaskTable(prefix_dropout=options["prefix_dropout"])
    subsets = build_mixture({"mixture": mixture}, pools, table)
    arguments = training_arguments(recipe)
    batch = arguments.per_device_train_batch_size
    common: dict[str, Any] = {
        "pools": pools,
        "table": table,
        "caption_levels": options["caption_levels"],
        "samples_per_group": batch,
        "seed": recipe.seed,
        "image_view": options["image_view"],
    }
    sampler = DomainSampler(
        subsets=[subset for subset in subsets if subset.probability],
        new_text_dropout=options["text_dropout"],
        **common,
    )
    collator = TaskCollator(config, tokenizer, tokenizer_2)
    measured = measured_batches({NEW: domain, **({OLD: old} if old is not None else {})}, subsets, common, collator)
    begin(recipe, base, {name: pool.content_hash for name, pool in pools.items()})
    trainer = LoraTrainer(
        model=model,
        args=arguments,
        train_dataset=CounterDataset(sampler, samples_in_run(arguments), recipe.seed),
        eval_dataset=CounterDataset(sampler, 1, recipe.seed),
        data_collator=DomainCollator(collator),
        validation_batches=measured,
        loss_weighting=options["loss_weighting"],
        distillation=options["distillation"],
    )
    adapted: Any = model.transformer

    def save(folder: Path) -> None:
        # Asked to decide by itself, peft would look for the base on the Hub.
        adapted.save_pretrained(folder, save_embedding_layers=False)

    # A new adapter adds nothing, and a checkpoint to resume from is not loaded yet: this is the base.
    before = trainer.evaluate()
    after = run(trainer, recipe, save)
    trainable = sum(value.numel() for value in trained_state(model).values())
    losses = {name: {"before": losses_of(before, name), "after": losses_of(after, name)} for name in pools}
    return Adapter(recipe.output_dir / "final", losses, fingerprint, trainable, tasks, share)


def measured_batches(
    domains: dict[str, Domain], subsets: list[Subset], common: dict[str, Any], collator: TaskCollator
) -> list[dict[str, Any]]:
    """The measured records of each domain for every task, without dropout; `task_name` of a batch is `domain/task`.

    They do not depend on the run's batch size. Batches weigh alike in a mean, so they are of one size.
    """
    batches = []
    for subset in subsets:
        domain = domains[subset.name]
        sampler = TaskSampler(subsets=[subset], split=domain.measured, dropout=False, **common)
        rows = domain.pool.indices(domain.measured)
        size = min(MEASURED_BATCH, len(rows))
        count = min(len(rows), MOST_MEASURED) // size * size
        rows = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
        for task in subset.tasks:
            for start in range(0, count, size):
                samples = [
                    sampler.sample(
                        domain.pool,
                        sampler.tasks[task],
                        "medium",
                        int(row),
                        np.random.default_rng((common["seed"], row)),
                    )
                    for row in rows[start : start + size]
                ]
                batches.append({**collator(samples), "task_name": f"{subset.name}/{task}"})
    return batches


def losses_of(metrics: dict[str, float], domain: str) -> dict[str, float]:
    prefix = f"eval_loss_{domain}/"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def begin(recipe: Recipe, base: BaseCheckpoint, data: dict[str, str]) -> None:
    """Notes what a run was begun with. Raises `Omni123Error` when the folder holds another run."""
    file = recipe.output_dir / "begun_with.json"
    facts = json.loads(
        json.dumps(
            {
                "base": base.revision,
                "data": data,
                "seed": recipe.seed,
                "options": {**OPTIONS, **recipe.options},
                "training": recipe.training,
            }
        )
    )
    if file.is_file():
        begun = json.loads(file.read_text())
        differing = sorted(key for key in facts if begun.get(key) != facts[key])
        if differing:
            raise Omni123Error(
                f"{recipe.output_dir} was begun with other {', '.join(differing)}: give another --out, or remove that folder."
            )
        return
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(file)
