"""The stages by name: the command line and the recipes read this table."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from ..errors import Omni123Error
from .recipe import Recipe
from .tracking import check_reporters


# The four autoregressive ones are one trainer (`autoregressive.AR_STAGES` tells them apart).
AUTOREGRESSIVE = ("pretrain", "continued", "sft", "edit")
STAGES = {
    "shape-tokenizer": "shape_tokenizer",
    "image-vae": "image_vae",
    "image-tokenizer": "image_tokenizer",
    "tokenize": "tokenize",
    **dict.fromkeys(AUTOREGRESSIVE, "autoregressive"),
}


def get_stage(name: str) -> Callable[[Recipe], dict[str, float]]:
    """The `train(recipe)` function of a stage. Raises `Omni123Error` for an unknown name, and before training for a tracker
    that is not installed."""
    if name not in STAGES:
        raise Omni123Error(f"unknown stage {name!r}: choose one of {', '.join(sorted(STAGES))}.")
    module = import_module(f".{STAGES[name]}", __package__)
    train = partial(module.train, stage=module.AR_STAGES[name]) if name in AUTOREGRESSIVE else module.train

    def checked(recipe: Recipe) -> dict[str, float]:
        check_reporters(recipe.training.get("report_to"))
        return train(recipe)

    return checked
