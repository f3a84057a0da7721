"""Prompts: where they come from, what is taken out of them, what is refused and why."""

import json
from collections import Counter

import pytest
from scripted import ScriptedBackend

from omni123_hf.data.captioning.cache import JsonCache
from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.synthesis.curation import CurationRules, JudgeSingleObject, PromptCurator
from omni123_hf.data.synthesis.near_duplicates import NearDuplicates
from omni123_hf.data.synthesis.prompts import Prompt, parametric_prompts, read_prompts
from omni123_hf.errors import Omni123Error, RejectedError


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A Red Fire Truck, 4k wallpaper, cinematic, trending on ArtStation", "a red fire truck"),
        ("highly detailed  ornate   teapot with a spout, octane render, 8k", "an ornate teapot with a spout"),
        ("a (steampunk:1.3) clock, art by Greg Rutkowski and Artgerm --ar 16:9", "a steampunk clock"),
        ("photo of an old leather armchair, worn seat, sharp focus", "an old leather armchair, worn seat"),
        ("This is a 3D model of a small wooden boat.", "a small wooden boat"),
        ("two-handled clay jug", "a two-handled clay jug"),
        ("glasses with round lenses", "glasses with round lenses"),
        ("a robot in the style of studio ghibli", "a robot"),
        ("a smooth, symmetrical vase", "a smooth, symmetrical vase"),
    ],
)  # fmt: skip
def test_style_markup_and_openings_are_taken_out(raw, clean):
    curator = PromptCurator()
    assert curator.normalise(raw) == clean
    assert curator.normalise(clean) == clean  # a second pass changes nothing


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("a city street at night with people", "prompt_scene"),
        ("a knight standing in a field", "prompt_scene"),
        ("portrait of a queen", "prompt_scene"),
        ("nude statue", "prompt_banned"),
        ("4k, cinematic, masterpiece", "prompt_style_only"),
        ("красная машина", "prompt_not_text"),
        ("   ", "prompt_not_text"),
        ("12345 67 !!!", "prompt_not_text"),
        ("a " + "very " * 50 + "old chair", "prompt_too_long"),
    ],
)
def test_refusals_have_reasons(raw, reason):
    with pytest.raises(RejectedError) as error:
        PromptCurator().normalise(raw)
    assert error.value.reason == reason


def test_duplicates_and_near_duplicates_are_found_among_many():
    base = "a tall wooden bookcase with five shelves, two doors and a curved top in dark oak"
    texts = [base, base.upper(), base.replace("dark", "light"), f"{base}, 4k", "a red apple", "an apple of red glass"]
    kept, rejected = PromptCurator(CurationRules(near=0.75)).curate([Prompt(t, "test", "CC0-1.0") for t in texts])
    assert [p.text for p in kept] == [base, "a red apple", "an apple of red glass"]
    assert [r.reason for r in rejected] == ["prompt_duplicate", "prompt_near_duplicate", "prompt_duplicate"]
    near = NearDuplicates(0.8)
    assert near.add("") is None and near.add("!") == ""


def test_prompts_of_our_generator_pass_the_rules_and_hold_no_heldout_combination():
    prompts = parametric_prompts(120, seed=3)
    assert [p.text for p in parametric_prompts(120, seed=3)] == [p.text for p in prompts]
    assert len({p.category for p in prompts}) > 30
    kept, rejected = PromptCurator().curate(prompts)
    assert len(kept) >= 110, Counter(r.reason for r in rejected)
    assert not any("background" in p.text or p.text.startswith("a 3d model") for p in kept)
    tables = parametric_prompts(40, seed=1, categories=["table"])
    assert not any(p.extra["program"]["legs"] == 3 for p in tables)


def test_a_classifier_has_the_last_word():
    backend = ScriptedBackend({"reason": "one", "single_object": "yes"}, {"reason": "two", "single_object": "no"})
    prompts = [Prompt(text, "test", "CC0-1.0") for text in ("a red chair", "a cat and a dog")]
    kept, rejected = PromptCurator(is_single_object=JudgeSingleObject(Judge(backend))).curate(prompts)
    assert [p.text for p in kept] == ["a red chair"] and rejected[0].reason == "prompt_not_single_object"


def test_a_classifier_is_paid_once(tmp_path):
    backend = ScriptedBackend({"reason": "two", "single_object": "no"})
    judge = JudgeSingleObject(Judge(backend), JsonCache(tmp_path))
    assert [judge("a cat and a dog"), judge("a cat and a dog")] == [False, False] and len(backend.asked) == 1


def test_json_lines_bring_what_they_know(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"text": "a red\n chair", "license": "MIT", "category": "chair", "captions": {"short": "red chair"}},
        {"prompt": "a lamp", "source": "mine", "uid": 3},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_prompts(file, "file", "unknown")
    captions = {"short": ["red chair"], "medium": [], "long": []}
    assert first == Prompt("a red chair", "file", "MIT", "chair", {"captions": captions})
    assert second == Prompt("a lamp", "mine", "unknown", "", {"columns": {"uid": 3}})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"), ("[]", "line 2 must be a JSON object"), ("{}", "prompt must be text"),
        ('{"prompt": 3}', "prompt must be text"), ('{"prompt": "x", "category": []}', "category must be text"),
        ('{"prompt": "x", "captions": "y"}', "captions must map"),
        ('{"prompt": "x", "captions": {"short": []}}', "captions must map"),
        ('{"prompt": "x", "captions": {"tiny": ["y"]}}', "captions must map"),
        ('{"prompt": "x", "captions": {"short": [" "]}}', "captions must map"),
    ],
)  # fmt: skip
def test_a_json_line_that_is_no_prompt_is_named(tmp_path, line, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a lamp"}}\n{line}\n')
    with pytest.raises(Omni123Error, match=message):
        read_prompts(file, "file", "unknown")


def test_lists_in_files(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\n\na red chair\n  a blue lamp \n")
    assert [(p.text, p.licence) for p in read_prompts(file, "mine", "CC0-1.0")] == [
        ("a red chair", "CC0-1.0"),
        ("a blue lamp", "CC0-1.0"),
    ]
    file.write_text("# nothing\n")
    with pytest.raises(Omni123Error, match="no prompt"):
        read_prompts(file, "mine", "CC0-1.0")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Omni123Error, match="UTF-8"):
        read_prompts(file, "mine", "CC0-1.0")
    with pytest.raises(Omni123Error, match="categories"):
        parametric_prompts(3, categories=["unicorn"])
