"""Samples of any task for a model of a few thousand weights, without pools."""

import numpy as np

from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.modeling.tasks import get_task
from omni123_hf.training.task_samples import TaskSample


def tiny_config(**changes) -> Omni123Config:
    sizes = {
        "num_shape_codes": 32, "num_image_codes": 48, "num_shape_tokens": 8, "num_image_tokens": 16, "hidden_size": 32,
        "num_dual_layers": 3, "num_single_layers": 1, "num_attention_heads": 2, "shape_code_dim": 4, "image_code_dim": 6,
        "text_embed_dim": 16, "text_embed_dim_2": 24, "token_dropout": 0.0, "loss_chunk_size": 0,
    }  # fmt: skip
    return Omni123Config(**{**sizes, **changes})


def sample(name: str, config: Omni123Config, text: str = "a red box", seed: int = 0) -> TaskSample:
    rng = np.random.default_rng(seed)
    sizes = {
        "shape": (config.num_shape_codes, config.num_shape_tokens),
        "image": (config.num_image_codes, config.num_image_tokens),
    }
    task = get_task(name)
    parts = {
        part.name: number % 6 if part.kind == "view" else rng.integers(0, *sizes[part.kind])
        for number, part in enumerate(task.segments)
    }
    return TaskSample(task, text, parts, False, False)
