"""Edits as program changes: one attribute changes, so source, target, instruction and edited parts are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni123_hf.data.parametric.base import Attribute, Program, Value, build_object, get_category
from omni123_hf.data.parametric.captions import article, is_absent, is_plural, singular, word_of
from omni123_hf.errors import Omni123Error


KINDS = ("add", "remove", "replace", "resize")
COMPARATIVES = {
    "big": "bigger",
    "fat": "fatter",
    "flat": "flatter",
    "slim": "slimmer",
    "thin": "thinner",
    "wide": "wider",
}
MINIMUM_RESIZE = 0.3  # part of the range; a smaller change would hardly be seen


@dataclass(frozen=True)
class Edit:
    """`kind` is one of `KINDS`; `source` and `target` differ in the attribute `attribute` only."""

    kind: str
    instruction: str
    source: Program
    target: Program
    attribute: str


def comparative(word: str) -> str:
    """ "tall" -> "taller"."""
    return COMPARATIVES.get(word, f"{word}r" if word.endswith("e") else f"{word}er")


def edit_phrase(attribute: Attribute, category: str, old: Value, new: Value) -> tuple[str, str]:
    """(kind, instruction) of the change of one attribute from `old` to `new`."""
    noun = attribute.noun.replace("{}", "").strip()
    if "{}" in attribute.noun and attribute.kind == "color":
        noun = attribute.name.removesuffix("_color")
    whole = noun or category
    if attribute.kind == "size":
        larger = float(new) > float(old)
        word = comparative(attribute.words[1 if larger else 0])
        return "resize", f"make the {whole} {word}"
    if attribute.kind == "color":
        return "replace", f"make the {whole} {new}"
    added, removed = is_absent(attribute, old), is_absent(attribute, new)
    if added or removed:
        value = old if removed else new
        word = word_of(attribute, value)
        name = attribute.noun.format(word) if "{}" in attribute.noun else " ".join([word, noun]).strip()
        if attribute.kind == "count" and value == 1:
            name = f"one {singular(noun)}"
        if removed:
            return "remove", f"remove the {noun if '{}' not in attribute.noun else name}"
        counted = attribute.kind == "count" or is_plural(name)
        return "add", f"add {name if counted else article(name)}"
    if attribute.kind == "count":
        return "replace", f"change the number of {noun} from {word_of(attribute, old)} to {word_of(attribute, new)}"
    if "{}" in attribute.noun:
        before, after = (attribute.noun.format(word_of(attribute, value)) for value in (old, new))
        return "replace", f"replace the {before} with {after if is_plural(after) else article(after)}"
    return "replace", f"make the {whole} {word_of(attribute, new)}"


def new_value(attribute: Attribute, old: Value, rng: np.random.Generator) -> Value:
    """A clearly different value of the attribute."""
    for _ in range(100):
        value = attribute.sample(rng)
        if attribute.kind == "size":
            low, high = attribute.values
            if abs(float(value) - float(old)) >= MINIMUM_RESIZE * (high - low):
                return value
        elif value != old:
            return value
    raise Omni123Error(f"attribute {attribute.name!r} has no second value; give it at least two")


def edited_parts(edit: Edit) -> set[str]:
    """Names of the parts that differ between source and target (added, removed, recoloured, moved or reshaped)."""
    before, after = (
        {
            part.name: (part.color, round(part.solid.volume(), 6), tuple(np.round(part.solid.bounding_box(), 6)))
            for part in build_object(program).parts
        }
        for program in (edit.source, edit.target)
    )
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def sample_edit(program: Program, rng: np.random.Generator) -> Edit:
    """Random one-attribute edit that changes at least one part of the built object."""
    table = list(get_category(program.category).attributes.values())
    for index in rng.permutation(len(table)):
        attribute = table[int(index)]
        old = program.attributes[attribute.name]
        new = new_value(attribute, old, rng)
        kind, instruction = edit_phrase(attribute, program.category, old, new)
        edit = Edit(kind, instruction, program, program.replace(**{attribute.name: new}), attribute.name)
        if edited_parts(edit):
            return edit
    raise Omni123Error(f"no attribute of {program.category!r} changes this program; check its builder")
