"""The door of the room: all categories, sampling, building and the held-out attribute combinations."""

from __future__ import annotations

import numpy as np

from omni123_hf.data.parametric import (
    animals,
    buildings,
    furniture,
    household,
    nature,
    seating,
    tools,
    vehicles,
    vessels,
)
from omni123_hf.data.parametric.base import CATEGORIES, ParametricObject, Program, build_object, get_category


FAMILIES = (furniture, seating, household, vessels, vehicles, buildings, nature, animals, tools)

# Whole combinations that training never sees (any mixture of values per row); they measure composition.
HELDOUT_COMBINATIONS: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {
    "three-legged table": ("table", {"legs": (3,)}),
    "round armchair without cushion": ("chair", {"seat": ("round",), "armrests": (True,), "cushion": (False,)}),
    "one-seat sofa with footrest": ("sofa", {"seats": (1,), "chaise": (True,)}),
    "tapered mug with saucer": ("mug", {"body": ("tapered",), "saucer": (True,)}),
    "purple bottle": ("bottle", {"color": ("purple",)}),
    "convertible with spoiler": ("car", {"type": ("convertible",), "spoiler": (True,)}),
    "round-nosed rocket with four boosters": ("rocket", {"nose": ("round",), "boosters": (4,)}),
    "flat-roofed house with garage": ("house", {"roof": ("flat",), "garage": (True,)}),
    "cone-shaped tree with roots": ("tree", {"crown": ("cone-shaped",), "roots": (True,)}),
}


def sample_program(category: str, rng: np.random.Generator) -> Program:
    """Random program of a category; attributes are drawn independently, in their declared order."""
    kind = get_category(category)
    return Program(category, {name: attribute.sample(rng) for name, attribute in kind.attributes.items()})


def build(program: Program) -> ParametricObject:
    """Parts of a program; an invalid program raises `Omni123Error`. Deterministic."""
    return build_object(program)


def is_heldout_combination(program: Program) -> str | None:
    """Name of the held-out combination that the program falls into, or None."""
    for name, (category, conditions) in HELDOUT_COMBINATIONS.items():
        if category == program.category and all(program.attributes[k] in v for k, v in conditions.items()):
            return name
    return None


__all__ = ["CATEGORIES", "FAMILIES", "HELDOUT_COMBINATIONS", "build", "is_heldout_combination", "sample_program"]
