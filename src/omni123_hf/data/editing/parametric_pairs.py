"""Pairs from our own generator: one attribute of a program changes, so both shapes, the words and the region are exact.

Sources are the generator's ordinary objects (`data.assets.ParametricSpec`), so an object keeps its split in every data
set. A target is an object too: it may never be held out more strictly than the source it is made from, otherwise
training pairs would show held-out objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from manifold3d import Manifold, Mesh, OpType

from omni123_hf.data.assets import PARAMETRIC_ATTRIBUTION, PARAMETRIC_LICENCE, ParametricSpec, asset_rng
from omni123_hf.data.editing.frames import pair_frame, placed
from omni123_hf.data.editing.instructions import instruction_levels
from omni123_hf.data.editing.pair_specs import OpenedPair
from omni123_hf.data.editing.records import EditPair, EditSide
from omni123_hf.data.editing.regions import MAX_BOXES, PADDING, EditRegion, RegionBox, make_box
from omni123_hf.data.parametric.base import Attribute, ParametricObject, Program, Value
from omni123_hf.data.parametric.captions import is_absent
from omni123_hf.data.parametric.edits import KINDS, Edit, edit_phrase, new_value
from omni123_hf.data.parametric.registry import CATEGORIES, build, is_heldout_combination, sample_program
from omni123_hf.data.splits import SPLITS, split_of
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.normalization import NormalizationTransform


# Changed volume below this share of both shapes together is lost in the tokens: such an edit would teach copying.
MIN_CHANGED_SHARE = 0.002
ATTEMPTS = 60
PART_TOLERANCE = 1e-7
CAVITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ParametricPairSpec:
    """One pair, named by category, kind of edit and number; it is drawn where it is prepared.

    The pair's inverse is `pair.inverse()`. Sources are the objects with seeds `first_object` to `first_object + objects - 1` of the category.
    """

    category: str
    kind: str
    number: int
    objects: int = 200
    first_object: int = 0
    split_seed: int = 0

    @property
    def id(self) -> str:
        """`edit/parametric/{category}/{kind}/{number:06d}`."""
        return f"edit/parametric/{self.category}/{self.kind}/{self.number:06d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def open(self) -> OpenedPair:
        """Draw programs until an edit of the kind changes the shape and keeps the splits apart, and build both sides.

        Raises RejectedError when none of 60 attempts does.
        """
        rng = asset_rng("edit", self.id)
        for attempt in range(ATTEMPTS):
            # Neighbouring numbers start at different objects, so a small set has many of them.
            spec = ParametricSpec(self.category, self.first_object + (self.number + attempt) % self.objects)
            source = sample_program(self.category, asset_rng("program", spec.id))
            edit = draw_edit(source, self.kind, rng)
            if edit is None or not splits_agree(edit, self.split_seed):
                continue
            change = measure(edit)
            if change.share >= MIN_CHANGED_SHARE:
                return self._opened(spec, edit, change, rng)
        raise RejectedError(
            "no_such_edit", f"{ATTEMPTS} objects of {self.category!r} gave no usable edit of kind {self.kind!r}"
        )

    def _opened(self, spec: ParametricSpec, edit: Edit, change: Change, rng: np.random.Generator) -> OpenedPair:
        attribute = CATEGORIES[self.category].attributes[edit.attribute]
        before, after = (program.attributes[edit.attribute] for program in (edit.source, edit.target))
        _, inverse_words = edit_phrase(attribute, self.category, after, before)
        # A sentence that promises to leave all other parts alone must be true.
        local = len({box.name for box in change.region.boxes}) == 1
        pair = EditPair(
            id=self.id,
            object_id=spec.id,
            source=EditSide(spec.id, "program", edit.source.to_dict()),
            target=EditSide(
                f"parametric/{self.category}/{program_name(edit.target)}", "program", edit.target.to_dict()
            ),
            instructions=instruction_levels(edit.instruction, self.category, local, rng),
            inverse_instructions=instruction_levels(inverse_words, self.category, local, rng),
            edit_type=edit.kind,
            generator_chain=("omni123-hf parametric",),
            licence=PARAMETRIC_LICENCE,
            attribution=PARAMETRIC_ATTRIBUTION,
            split=object_split(edit.source, self.split_seed),
            region=change.region,
            changed_share=round(change.share, 6),
            attributes={
                "attribute": edit.attribute,
                "from": before,
                "to": after,
                "center": list(change.frame.center),
                "scale": change.frame.scale,
            },
        )
        return OpenedPair(
            pair,
            self.category,
            placed(change.source_mesh, change.frame),
            placed(change.target_mesh, change.frame),
            change.source.captions(rng),
            change.target.captions(rng),
        )


def parametric_pairs(
    count: int,
    categories: Sequence[str] | None = None,
    kinds: Sequence[str] = KINDS,
    objects: int = 200,
    first_object: int = 0,
    split_seed: int = 0,
    first: int = 0,
) -> list[ParametricPairSpec]:
    """`count` specs that take turns over the kinds, and within a kind over the categories that have such an edit.

    first: how many to pass over, so that a second set goes on where one of `first` pairs of the same kinds ended. Raises `Omni123Error` for an unknown category or kind, and when no category has an edit of a kind.
    """
    names = sorted(CATEGORIES) if categories is None else list(categories)
    unknown = sorted(set(names) - set(CATEGORIES)) + sorted(set(kinds) - set(KINDS))
    if unknown or not names or not kinds:
        raise Omni123Error(f"unknown or no categories or kinds {unknown}; kinds are {', '.join(KINDS)}")
    if count < 1 or objects < 1 or first_object < 0 or first < 0:
        raise Omni123Error("need count >= 1, objects >= 1, first_object >= 0 and first >= 0")
    able = {kind: [name for name in names if has_kind(name, kind)] for kind in kinds}
    if not all(able.values()):
        raise Omni123Error(f"none of {', '.join(names)} has an edit of kind {next(k for k in kinds if not able[k])!r}")
    specs = []
    for index in range(first, first + count):
        kind, turn = kinds[index % len(kinds)], index // len(kinds)
        category, number = able[kind][turn % len(able[kind])], turn // len(able[kind])
        specs.append(ParametricPairSpec(category, kind, number, objects, first_object, split_seed))
    return specs


def has_kind(category: str, kind: str) -> bool:
    """Whether some attribute of the category that shows in the shape allows an edit of the kind."""
    for attribute in CATEGORIES[category].attributes.values():
        olds: Sequence[Value] = attribute.values[:1] if attribute.kind == "size" else attribute.values
        if attribute.visible_geometry and any(True for old in olds for _ in new_values(attribute, old, kind)):
            return True
    return False


def new_values(attribute: Attribute, old: Value, kind: str) -> Iterator[Value | None]:
    """Values that make an edit of `kind` out of `old`; None stands for "draw a size"."""
    if attribute.kind == "size":
        if kind == "resize":
            yield None
        return
    for new in attribute.values:
        gone, comes = is_absent(attribute, new), is_absent(attribute, old)
        found = (
            "replace"
            if not gone and not comes
            else "add"
            if comes and not gone
            else "remove"
            if gone and not comes
            else ""
        )
        if new != old and found == kind:
            yield new


def draw_edit(program: Program, kind: str, rng: np.random.Generator) -> Edit | None:
    """A random edit of `kind` of an attribute that shows in the shape, None when this program has none."""
    options = [
        (attribute, value)
        for attribute in CATEGORIES[program.category].attributes.values()
        if attribute.visible_geometry
        for value in new_values(attribute, program.attributes[attribute.name], kind)
    ]
    if not options:
        return None
    attribute, new = options[int(rng.integers(len(options)))]
    old = program.attributes[attribute.name]
    new = new_value(attribute, old, rng) if new is None else new
    named, instruction = edit_phrase(attribute, program.category, old, new)
    return Edit(named, instruction, program, program.replace(**{attribute.name: new}), attribute.name)


def object_split(program: Program, seed: int = 0) -> str:
    """The split of a program as an object, the same as in every data set of the generator."""
    return "heldout_combination" if is_heldout_combination(program) else split_of(program.to_json(), seed)


def splits_agree(edit: Edit, seed: int = 0) -> bool:
    """Whether the target is at most as strictly held out as the source, whose split the pair takes."""
    source, target = (SPLITS.index(object_split(program, seed)) for program in (edit.source, edit.target))
    return target <= source


def program_name(program: Program) -> str:
    """A short name that equal programs share."""
    return "program-" + hashlib.sha256(program.to_json().encode()).hexdigest()[:16]


@dataclass
class Change:
    """Both built objects, their common frame, and where and how much they differ."""

    source: ParametricObject
    target: ParametricObject
    source_mesh: trimesh.Trimesh
    target_mesh: trimesh.Trimesh
    frame: NormalizationTransform
    region: EditRegion
    share: float


def measure(edit: Edit) -> Change:
    """Build both sides; the region is the boxes of what differs, part by part, in the common frame."""
    source, target = build(edit.source), build(edit.target)
    source_mesh, target_mesh = source.to_mesh(), target.to_mesh()
    before, after = _solid(source_mesh), _solid(target_mesh)
    shift = _anchor(source, target, before, after)
    after = after.translate(shift)
    target_mesh.apply_translation(shift)
    frame = pair_frame(source_mesh, target_mesh)
    together = (before + after).volume()
    boxes: list[RegionBox] = []
    for name in dict.fromkeys(part.name for part in (*source.parts, *target.parts)):
        changed = _difference(_part(source, name), _part(target, name).translate(shift))
        if changed.volume() > PART_TOLERANCE * together:
            boxes += _boxes(name, changed, frame)
    difference = _difference(before, after)
    if boxes:
        # What lies in no changed part: a cavity that the edit closes becomes solid, one that it opens becomes empty.
        rest = difference - Manifold.batch_boolean([_block(box, frame) for box in boxes], OpType.Add)
        for body in rest.decompose():
            if body.volume() > CAVITY_TOLERANCE * together:
                boxes += _boxes("cavity", body, frame)
    share = max(difference.volume(), 0.0) / together if boxes else 0.0
    return Change(source, target, source_mesh, target_mesh, frame, EditRegion(tuple(boxes), exact=True), share)


def _anchor(
    source: ParametricObject, target: ParametricObject, before: Manifold, after: Manifold
) -> tuple[float, float, float]:
    """Shift of the target that keeps what is not edited in its place.

    Objects stand on the floor, so new legs lift all the rest, and the whole object would count as changed. The largest
    part whose size stays the same tells the shift; it is taken when it leaves clearly less to change.
    """
    kept: list[tuple[float, np.ndarray]] = []
    for name in {part.name for part in source.parts} & {part.name for part in target.parts}:
        old, new = _part(source, name), _part(target, name)
        old_box, new_box = (np.array(solid.bounding_box()).reshape(2, 3) for solid in (old, new))
        if np.allclose(np.diff(old_box, axis=0), np.diff(new_box, axis=0), atol=1e-6):
            kept.append((old.volume(), old_box[0] - new_box[0]))
    if not kept:
        return (0.0, 0.0, 0.0)
    x, y, z = max(kept, key=lambda entry: entry[0])[1].tolist()
    moved = _difference(before, after.translate((x, y, z))).volume()
    return (x, y, z) if moved < 0.9 * _difference(before, after).volume() else (0.0, 0.0, 0.0)


def _part(thing: ParametricObject, name: str) -> Manifold:
    return Manifold.batch_boolean([part.solid for part in thing.parts if part.name == name], OpType.Add)


def _difference(one: Manifold, other: Manifold) -> Manifold:
    return (one - other) + (other - one)


def _solid(mesh: trimesh.Trimesh) -> Manifold:
    return Manifold(Mesh(np.asarray(mesh.vertices, dtype=np.float32), np.asarray(mesh.faces, dtype=np.uint32)))


def _boxes(name: str, changed: Manifold, frame: NormalizationTransform) -> list[RegionBox]:
    """A padded box in the frame for each connected body, or one for all when there are many."""
    bodies = changed.decompose()
    found = []
    for body in bodies if len(bodies) <= MAX_BOXES else [changed]:
        corners = np.array(body.bounding_box(), dtype=np.float64).reshape(2, 3)
        low, high = frame.apply(corners)
        found.append(make_box(name, low - PADDING, high + PADDING))
    return found


def _block(box: RegionBox, frame: NormalizationTransform) -> Manifold:
    low, high = frame.invert(np.array([box.low, box.high]))
    return Manifold.cube(tuple(high - low)).translate(tuple(low))
