"""What a parametric object is: typed attributes, a program (category + values), coloured parts and their union."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import trimesh
from manifold3d import Manifold, OpType

from omni123_hf.data.parametric.palette import PALETTE, rgb
from omni123_hf.errors import Omni123Error


Value = str | int | float | bool
DUST = 1e-4  # share of the volume below which a loose piece of a union is rounding error
PartSpec = tuple[str, Manifold | list[Manifold], str]


@dataclass(frozen=True)
class Attribute:
    """One typed degree of freedom.

    `kind` is "choice" | "count" | "flag" | "size" | "color". `values` lists the allowed values; for "size" it is
    (lowest, highest). `noun` is the part that captions speak of ("" = the whole object); several attributes may share a
    noun, and one with "{}" takes the value in ("{} on top"). The choice "none" and the count 0 mean that the part is
    absent. `words` are the size classes of the lower and the upper third of the range.
    """

    name: str
    kind: str
    values: tuple[Any, ...]
    noun: str = ""
    weights: tuple[float, ...] | None = None
    words: tuple[str, str] = ("", "")
    visible_geometry: bool = True

    def sample(self, rng: np.random.Generator) -> Value:
        """Random value, a plain Python scalar."""
        if self.kind == "size":
            return round(float(rng.uniform(*self.values)), 3)
        weights = None if self.weights is None else np.asarray(self.weights) / sum(self.weights)
        return self.values[int(rng.choice(len(self.values), p=weights))]

    def check(self, category: str, value: Value) -> None:
        """Raise `Omni123Error` when `value` is not allowed."""
        if self.kind == "size":
            low, high = self.values
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
            allowed = f"a number from {low} to {high}"
        else:
            good = any(type(value) is type(v) and value == v for v in self.values)
            allowed = "one of: " + ", ".join(map(str, self.values))
        if not good:
            raise Omni123Error(f"attribute {self.name!r} of {category!r} cannot be {value!r}; use {allowed}")

    def size_class(self, value: float) -> str:
        """ "low"/"tall" style word for the outer thirds of the range, "" for the middle third."""
        low, high = self.values
        position = (value - low) / (high - low)
        return self.words[0] if position < 1 / 3 else self.words[1] if position > 2 / 3 else ""


def choice(name: str, values: str, noun: str = "", weights: Sequence[float] | None = None) -> Attribute:
    """Choice between words (space separated)."""
    return Attribute(name, "choice", tuple(values.split()), noun, tuple(weights) if weights else None)


def count(name: str, values: Sequence[int], noun: str = "", weights: Sequence[float] | None = None) -> Attribute:
    """Number of equal parts; `noun` (plural) defaults to the name."""
    return Attribute(name, "count", tuple(values), noun or name, tuple(weights) if weights else None)


def flag(name: str, noun: str = "", p: float = 0.5) -> Attribute:
    """Presence of a part with probability `p`; `noun` defaults to the name."""
    return Attribute(name, "flag", (False, True), noun or name.replace("_", " "), (1 - p, p))


def size(name: str, low: float, high: float, small: str, large: str, noun: str = "") -> Attribute:
    """Continuous measure with class words for its lower and upper third."""
    return Attribute(name, "size", (low, high), noun, words=(small, large))


def color(values: Sequence[str], noun: str = "", name: str = "") -> Attribute:
    """Palette colour of the whole object, or of the part `noun`."""
    name = name or (f"{noun.replace(' ', '_')}_color" if noun else "color")
    return Attribute(name, "color", tuple(values), noun, visible_geometry=False)


@dataclass(frozen=True)
class Program:
    """Everything that determines an object: a category and a value for each of its attributes."""

    category: str
    attributes: Mapping[str, Value]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {"category": self.category, "attributes": dict(self.attributes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Program:
        """Inverse of `to_dict`."""
        if "category" not in data or "attributes" not in data:
            raise Omni123Error("a program needs the keys 'category' and 'attributes'")
        return cls(data["category"], dict(data["attributes"]))

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, so that equal programs have equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    def replace(self, **changes: Value) -> Program:
        """The same program with some attributes changed."""
        return Program(self.category, {**self.attributes, **changes})


@dataclass(frozen=True)
class Category:
    """A kind of object: its attributes, one sentence about it (for long captions) and the function that builds it."""

    name: str
    attributes: dict[str, Attribute]
    summary: str
    builder: Callable[[Any], list[PartSpec]]
    synonyms: tuple[str, ...] = ()

    def validate(self, program: Program) -> None:
        """Raise `Omni123Error` on a missing, unknown or impossible attribute."""
        missing = self.attributes.keys() - program.attributes.keys()
        unknown = program.attributes.keys() - self.attributes.keys()
        if missing or unknown:
            problem = f"lacks {sorted(missing)}" if missing else f"has unknown {sorted(unknown)}"
            raise Omni123Error(f"program of {self.name!r} {problem}; it needs exactly: {', '.join(self.attributes)}")
        for name, attribute in self.attributes.items():
            attribute.check(self.name, program.attributes[name])


CATEGORIES: dict[str, Category] = {}


def category(
    name: str, summary: str, attributes: Sequence[Attribute], synonyms: Sequence[str] = ()
) -> Callable[[Callable[[Any], list[PartSpec]]], Callable[[Any], list[PartSpec]]]:
    """Register the decorated builder: it takes the values as a namespace and returns (part name, solids, colour)."""
    table = {attribute.name: attribute for attribute in attributes}
    if name in CATEGORIES or len(table) != len(attributes):
        raise Omni123Error(f"category {name!r} or one of its attributes is registered twice; rename one")

    def register(builder: Callable[[Any], list[PartSpec]]) -> Callable[[Any], list[PartSpec]]:
        CATEGORIES[name] = Category(name, table, summary, builder, tuple(synonyms))
        return builder

    return register


def get_category(name: str) -> Category:
    """Category by name; an unknown one raises `Omni123Error` with the list."""
    if name not in CATEGORIES:
        raise Omni123Error(f"unknown category {name!r}; use one of: {', '.join(sorted(CATEGORIES))}")
    return CATEGORIES[name]


def solid_to_mesh(solid: Manifold) -> trimesh.Trimesh:
    """Triangle mesh of a solid; vertices stay shared, so a closed solid gives a watertight mesh."""
    data = solid.to_mesh()
    return trimesh.Trimesh(np.asarray(data.vert_properties)[:, :3], np.asarray(data.tri_verts), process=False)


@dataclass(frozen=True)
class Part:
    """One named closed solid in one palette colour."""

    name: str
    solid: Manifold
    color: str

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The part as a mesh with face colours."""
        mesh = solid_to_mesh(self.solid)
        mesh.visual = trimesh.visual.ColorVisuals(
            mesh, face_colors=np.tile((*rgb(self.color), 255), (len(mesh.faces), 1))
        )
        return mesh


@dataclass(frozen=True)
class ParametricObject:
    """A built program: overlapping parts, not yet normalised (y up, front towards +z, standing near y = 0)."""

    program: Program
    parts: list[Part] = field(default_factory=list)

    def to_mesh(self) -> trimesh.Trimesh:
        """Watertight union with each face in its part's colour.

        `mesh.face_attributes["part"]` (F,) int16 indexes `mesh.metadata["parts"]`, the part names.
        """
        solid = Manifold.batch_boolean([part.solid for part in self.parts], OpType.Add)
        bodies = solid.decompose()
        if len(bodies) > 1:  # closed cavities between parts and numerical dust are no part of the object
            solid = Manifold.compose([body for body in bodies if body.volume() > DUST * solid.volume()])
        data = solid.to_mesh()
        part_of = {part.solid.original_id(): index for index, part in enumerate(self.parts)}
        lengths = np.diff(np.asarray(data.run_index)) // 3
        labels = np.repeat([part_of[int(original)] for original in data.run_original_id], lengths).astype(np.int16)
        mesh = trimesh.Trimesh(np.asarray(data.vert_properties)[:, :3], np.asarray(data.tri_verts), process=False)
        colors = np.array([(*rgb(part.color), 255) for part in self.parts], np.uint8)
        mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=colors[labels])
        mesh.face_attributes["part"] = labels
        mesh.metadata["parts"] = [part.name for part in self.parts]
        return mesh

    def captions(self, rng: np.random.Generator) -> dict[str, list[str]]:
        """Captions at three lengths, see `captions.captions`."""
        from omni123_hf.data.parametric.captions import captions  # captions reads the registry of this module

        return captions(self.program, rng)


def build_object(program: Program) -> ParametricObject:
    """Run the category's builder; every part becomes one closed solid with its own identity for the union."""
    kind = get_category(program.category)
    kind.validate(program)
    parts = []
    for name, solids, color_name in kind.builder(SimpleNamespace(**program.attributes)):
        solid = Manifold.batch_boolean(solids, OpType.Add) if isinstance(solids, list) else solids
        if solid.is_empty() or color_name not in PALETTE:
            raise Omni123Error(
                f"part {name!r} of {program.category!r} is empty or has no palette colour: {color_name!r}"
            )
        parts.append(Part(name, solid.as_original(), color_name))
    return ParametricObject(program, parts)
