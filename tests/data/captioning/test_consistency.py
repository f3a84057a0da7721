"""Checks without a model: what they catch, and what they must let pass."""

import pytest

from omni123_hf.data.captioning.consistency import check_caption, mentions
from omni123_hf.data.captioning.result import Metadata


FILL = "with four straight legs and a flat seat of warm brown oak wood"


@pytest.mark.parametrize(
    "phrase",
    ["an image of a chair", "this picture shows a chair", "a chair, front view,", "a chair on a white background",
     "a chair viewed from above", "in this render a chair", "a chair facing the camera", "from all angles a chair",
     "I see a chair", "a 3D rendering of a chair"],
)  # fmt: skip
def test_words_about_the_picture_are_found(phrase):
    assert any("not the picture" in error for error in check_caption(f"{phrase} {FILL}", "medium", "chair"))


@pytest.mark.parametrize(
    "phrase",
    ["a car with a rear view mirror and a chair", "a chair beside a picture frame", "an open-backed chair",
     "a chair with a viewfinder", "a camera chair", "a chair painted with imagery", "a security camera on a chair"],
)  # fmt: skip
def test_parts_of_objects_are_let_pass(phrase):
    assert check_caption(f"{phrase} {FILL}", "medium", "chair") == []


@pytest.mark.parametrize(
    ("caption", "level", "wrong"),
    [("a b c d e f", "short", "6 words, not 1 to 5"), ("a chair", "medium", "2 words, not 10 to 25"),
     ("chair " * 71, "long", "71 words")],
)  # fmt: skip
def test_lengths(caption, level, wrong):
    assert any(wrong in error for error in check_caption(caption, level, "chair"))


@pytest.mark.parametrize(
    ("caption", "subject", "found"),
    [("two boxes of wood", "box", True), ("kitchen knives", "knife", True), ("a berry", "berries", True),
     ("a chair", "dining chair", True), ("a chairlift", "chair", False), ("a table", "chair", False),
     ("glass", "glasses", True)],
)  # fmt: skip
def test_the_subject_is_named_in_singular_or_plural(caption, subject, found):
    assert mentions(caption, subject) is found


@pytest.mark.parametrize(
    ("words", "is_known"),
    [("90 cm high", True), ("0.9 m high", True), ("35 inches high", True), ("95 cm high", True), ("60 cm high", False),
     ("M8", True), ("size 8 mm", True), ("12 mm", False), ("four legs", True), ("3 kg", False)],
)  # fmt: skip
def test_measurements_need_the_metadata(words, is_known):
    metadata = Metadata("bolt M8 8 mm", size_cm=(40.0, 45.0, 90.0))
    errors = check_caption(f"a chair {words} {FILL}", "medium", "chair", metadata)
    assert (errors == []) is is_known
