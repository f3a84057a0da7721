"""Each of the 13 tasks alone learns eight records by heart, and greedy generation gives their tokens back exactly.

The whole path is the real one: the task's stage trains, its `final/` folder is loaded, and a generation plan is walked.
"""

import numpy as np
import pytest
import torch
from tiny_pools import save_tokenizers, tiny_recipe, write_pools

from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.modeling import TASKS, generation_plan, get_task
from omni123_hf.training.collation import TaskCollator
from omni123_hf.training.initial_model import load_initial
from omni123_hf.training.mixture import Subset, TaskTable
from omni123_hf.training.stages import get_stage
from omni123_hf.training.task_samples import TaskSampler


RECORDS = 8
STAGES = {"pretraining": "pretrain", "continued": "continued", "sft": "sft", "edit": "edit"}
# Each record is shown from three sides: where pictures are targets there are 24, and a sample shows one to three of them.
STEPS, BATCH = {0: 85, 1: 120, 2: 95, 3: 90}, 16
CHAIN = {"num_images": 2, "num_extra_images": 1}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Eight records to train on; codes are random, so nothing but memory can give them back."""
    folder = tmp_path_factory.mktemp("overfit")
    write_pools(folder / "shards", save_tokenizers(folder), 10, ("three_quarter", "front", "back", "left"))
    return folder


def recipe_for(workspace, out, stage, task, steps, model=None):
    options = {
        "mixture": {"only": {"pool": "edits" if task == "edit-3d" else "pairs", "tasks": [task]}},
        "caption_levels": {"medium": 1.0},
        "text_dropout": 0.0,
        "prefix_dropout": 0.0,
        "validation_batches": 1,
        **CHAIN,
    }
    recipe = tiny_recipe(workspace, out, stage, steps, model, **options)
    if model is None:
        recipe.model["hidden_size"] = 64
    recipe.training |= {
        "per_device_train_batch_size": BATCH,
        "learning_rate": 5e-3,
        "warmup_steps": 5,
        "adam_beta2": 0.95,
    }
    return recipe


@pytest.fixture(scope="module")
def initial(workspace, tmp_path_factory):
    """Later stages need a model to go on from; one step has taught it nothing."""
    out = tmp_path_factory.mktemp("initial")
    get_stage("pretrain")(recipe_for(workspace, out, "pretrain", "text-to-3d", 1))
    return out / "final"


def learned_samples(workspace, name):
    """One sample of every training record, without dropout; views are drawn as in training."""
    pool = TrainingPool.open(workspace / "shards", "edits" if name == "edit-3d" else "pairs")
    table = TaskTable(**CHAIN)
    sampler = TaskSampler(
        {pool.name: pool}, [Subset("only", pool.name, {name: 1.0}, 1.0)], table, {"medium": 1.0}, 1, 0, dropout=False
    )
    rows = pool.indices("train")
    assert len(rows) == RECORDS
    return [sampler.sample(pool, table(name), "medium", int(row), np.random.default_rng(int(row))) for row in rows]


@torch.no_grad()
@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_alone_is_learned_by_heart(workspace, initial, tmp_path, name):
    stage = STAGES[TASKS[name].stage]
    model = None if stage == "pretrain" else {"from_pretrained": str(initial)}
    steps = STEPS[
        sum(segment.kind == "view" and not segment.is_prefix for segment in get_task(name, **CHAIN).segments)
    ]
    with torch.enable_grad():
        get_stage(stage)(recipe_for(workspace, tmp_path, stage, name, steps, model))

    trained, tokenizer, tokenizer_2 = load_initial(tmp_path / "final", {}, True)
    trained.eval()
    config = trained.transformer.config
    samples = learned_samples(workspace, name)
    assert len({sample.text for sample in samples}) == RECORDS
    inputs = TaskCollator(config, tokenizer, tokenizer_2)(samples)
    assert inputs.pop("task_name") == name
    assert float(trained(**inputs).loss) < 0.05

    task = samples[0].task
    parts = {key: np.stack([sample.parts[key] for sample in samples]) for key in samples[0].parts}
    given = {s.name: parts[s.name] for s in task.segments if s.is_prefix or s.kind == "view"}
    text = trained.encode_text(**{key: value for key, value in inputs.items() if key.startswith("text_")})
    codes = trained.transformer.generate_plan(generation_plan(task, config, given), **text, guidance_scale=1.0)
    assert set(codes) == {segment.name for segment in task.targets}
    for segment in task.targets:
        assert np.array_equal(codes[segment.name].numpy(), parts[segment.name]), segment.name
