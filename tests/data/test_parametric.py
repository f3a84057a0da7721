"""Every category builds closed, connected objects; captions and edits are truthful and of the promised length."""

import numpy as np
import pytest

from omni123_hf.data.parametric.base import CATEGORIES, Program
from omni123_hf.data.parametric.captions import COUNTS, LIMITS, captions
from omni123_hf.data.parametric.edits import KINDS, edit_phrase, edited_parts, new_value, sample_edit
from omni123_hf.data.parametric.palette import PALETTE, rgb
from omni123_hf.data.parametric.registry import HELDOUT_COMBINATIONS, build, is_heldout_combination, sample_program
from omni123_hf.errors import Omni123Error


NAMES = sorted(CATEGORIES)


def signature(program: Program) -> np.ndarray:
    """Size-free numbers that change with the geometry."""
    mesh = build(program).to_mesh()
    scale = mesh.extents.max()
    moments = np.sort(np.linalg.eigvalsh(mesh.moment_inertia)) / scale**5
    centre = (mesh.center_mass - mesh.bounds.mean(axis=0)) / scale
    return np.concatenate([mesh.extents / scale, [mesh.volume / scale**3, mesh.area / scale**2], moments, centre])


def test_there_are_enough_categories_and_attributes() -> None:
    visible = [sum(a.visible_geometry for a in c.attributes.values()) for c in CATEGORIES.values()]
    assert len(NAMES) >= 28
    assert np.mean(visible) >= 6
    assert all(any(a.kind == "color" for a in c.attributes.values()) for c in CATEGORIES.values())


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_closed_connected_and_coloured(name: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(6):
        thing = build(sample_program(name, rng))
        mesh = thing.to_mesh()
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
        assert mesh.body_count == 1, thing.program
        assert 20 <= len(mesh.faces) <= 3000
        used = {tuple(c) for c in mesh.visual.face_colors[:, :3].tolist()}
        assert used <= {rgb(part.color) for part in thing.parts}
        labels = mesh.face_attributes["part"]
        assert len(labels) == len(mesh.faces) and labels.max() < len(mesh.metadata["parts"])
        assert all(part.mesh.is_watertight for part in thing.parts)


@pytest.mark.parametrize("name", NAMES)
def test_each_visible_attribute_changes_the_geometry(name: str) -> None:
    rng = np.random.default_rng(5)
    for attribute in CATEGORIES[name].attributes.values():
        if not attribute.visible_geometry:
            continue
        for _ in range(12):  # some attributes act only where their part exists
            program = sample_program(name, rng)
            other = program.replace(**{attribute.name: new_value(attribute, program.attributes[attribute.name], rng)})
            if not np.allclose(signature(program), signature(other), atol=1e-5):
                break
        else:
            pytest.fail(f"{name}.{attribute.name} never changes the shape")


@pytest.mark.parametrize("name", NAMES)
def test_captions_have_the_promised_length(name: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        told = captions(sample_program(name, rng), rng)
        assert [len(told[k]) for k in ("short", "medium", "long")] == [3, 3, 2]
        for level, (low, high) in LIMITS.items():
            for text in told[level]:
                assert low <= len(text.split()) <= high, text
                assert "{" not in text and "  " not in text and "none" not in text.split()
                assert text.split()[-1].rstrip(".") not in ("with", "and", "a", "an", "no"), text


@pytest.mark.parametrize("name", NAMES)
def test_captions_name_only_own_colours_and_counts(name: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        program = sample_program(name, rng)
        kinds = {k: a.kind for k, a in CATEGORIES[name].attributes.items()}
        colors = {v for k, v in program.attributes.items() if kinds[k] == "color"}
        numbers = {COUNTS[int(v)] for k, v in program.attributes.items() if kinds[k] == "count"}
        for text in (text for group in captions(program, rng).values() for text in group):
            words = set(text.replace(".", " ").replace(",", " ").split())
            assert words & set(PALETTE) <= colors, text
            assert words & set(COUNTS[2:]) <= numbers, text


def test_captions_tell_the_truth() -> None:
    program = sample_program("table", np.random.default_rng(0)).replace(
        shape="round", legs=3, leg_shape="tapered", color="wooden", legs_color="metal", shelf=False
    )
    rng = np.random.default_rng(1)
    texts = [text for _ in range(40) for group in captions(program, rng).values() for text in group]
    assert any("three" in t and "legs" in t for t in texts) and any("round" in t for t in texts)
    assert any("with three legs" in t for t in texts)
    for text in texts:
        words = text.replace(".", " ").replace(",", " ").split()
        assert not {"square", "oval", "four", "six", "red", "blue"} & set(words), text
        assert "shelf" not in words or "no lower shelf" in text


def test_short_captions_mostly_differ() -> None:
    rng = np.random.default_rng(2)
    told = [captions(sample_program(name, rng), rng)["short"] for name in NAMES for _ in range(5)]
    assert np.mean([len(set(texts)) == 3 for texts in told]) > 0.9


def test_programs_are_deterministic_and_round_trip() -> None:
    for name in NAMES:
        one, two = (sample_program(name, np.random.default_rng(9)) for _ in range(2))
        again = Program.from_json(one.to_json())
        assert one.to_json() == two.to_json() == again.to_json() and again == one
    first, second = (build(sample_program("car", np.random.default_rng(2))).to_mesh() for _ in range(2))
    assert np.array_equal(first.vertices, second.vertices) and np.array_equal(first.faces, second.faces)


def test_heldout_combinations_have_a_small_mass() -> None:
    table = sample_program("table", np.random.default_rng(0))
    assert is_heldout_combination(table.replace(legs=3)) == "three-legged table"
    assert is_heldout_combination(table.replace(legs=4)) is None
    assert len({category for category, _ in HELDOUT_COMBINATIONS.values()}) >= 5
    rng = np.random.default_rng(4)
    for name, (category, conditions) in HELDOUT_COMBINATIONS.items():
        for key, allowed in conditions.items():
            assert set(allowed) <= set(CATEGORIES[category].attributes[key].values)
        hits = [is_heldout_combination(sample_program(category, rng)) == name for _ in range(1500)]
        assert 0.06 <= np.mean(hits) <= 0.17, name


def test_bad_programs_are_refused() -> None:
    table = sample_program("table", np.random.default_rng(0))
    with pytest.raises(Omni123Error, match="unknown category"):
        sample_program("dragon", np.random.default_rng(0))
    with pytest.raises(Omni123Error, match="legs"):
        build(table.replace(legs=17))
    with pytest.raises(Omni123Error, match="height"):
        build(table.replace(height=9.0))
    with pytest.raises(Omni123Error, match="unknown"):
        build(table.replace(wings=2))
    with pytest.raises(Omni123Error, match="lacks"):
        build(Program("table", {"legs": 4}))


@pytest.mark.parametrize("name", NAMES)
def test_edits_change_one_attribute(name: str) -> None:
    rng = np.random.default_rng(8)
    for _ in range(3):
        edit = sample_edit(sample_program(name, rng), rng)
        before, after = edit.source.attributes, edit.target.attributes
        assert [k for k in before if before[k] != after[k]] == [edit.attribute]
        assert edit.kind in KINDS and edited_parts(edit)
        assert 2 <= len(edit.instruction.split()) <= 14 and "{" not in edit.instruction
        assert build(edit.target).to_mesh().is_watertight


def test_edit_phrases() -> None:
    table = CATEGORIES["table"].attributes
    assert edit_phrase(table["shelf"], "table", False, True) == ("add", "add a lower shelf")
    assert edit_phrase(table["shelf"], "table", True, False) == ("remove", "remove the lower shelf")
    assert edit_phrase(table["legs"], "table", 4, 3) == ("replace", "change the number of legs from four to three")
    assert edit_phrase(table["height"], "table", 0.5, 0.9) == ("resize", "make the table taller")
    assert edit_phrase(table["legs_color"], "table", "red", "blue") == ("replace", "make the legs blue")
