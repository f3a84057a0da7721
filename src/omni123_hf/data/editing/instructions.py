"""Longer wordings of a short instruction, by templates: the same edit, its object named, and what must stay."""

from __future__ import annotations

import numpy as np

from omni123_hf.data.parametric.captions import article


LOCAL_FORMS = (
    "Take this {noun} and {edit}. Everything else stays as it is.",
    "Start from the given {noun}: {edit}, and leave all other parts in their place.",
    "The shape is {a_noun}. Please {edit} without changing the rest of the model.",
    "Edit the {noun}: {edit}. Keep the remaining parts and the overall position unchanged.",
)
# One part may push its neighbours: there a promise that nothing else changes would be untrue.
WIDER_FORMS = (
    "Take this {noun} and {edit}. Move the parts that are joined to it as needed and keep their shape.",
    "Start from the given {noun}: {edit}, so that all its parts still fit together.",
    "The shape is {a_noun}. Please {edit}, and keep its style and its other details.",
    "Edit the {noun}: {edit}. Parts that are not concerned keep their shape.",
)


def instruction_levels(short: str, noun: str, local: bool, rng: np.random.Generator) -> dict[str, list[str]]:
    """`{"short": [short], "long": [one or two sentences around it]}` of an edit such as "add a lower shelf".

    noun: the object ("table"). local: no part but the one that the instruction names changes.
    """
    forms = LOCAL_FORMS if local else WIDER_FORMS
    long = forms[int(rng.integers(len(forms)))].format(noun=noun, a_noun=article(noun), edit=short)
    return {"short": [short], "long": [long]}
