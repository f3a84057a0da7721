"""Three stages in one conversation: what is asked, what is accepted, what is asked again, what is refused."""

import json
import shutil

import pytest
from PIL import Image
from scripted import ANALYSIS, CAPTIONS, LONG, MEDIUM, SHORT, VIEWS, ScriptedBackend, chair_captioner, chair_request

from omni123_hf.data.captioning.backends import Completion
from omni123_hf.data.captioning.conversation import (
    QUOTED_CHARACTERS,
    CaptionRequest,
    ConversationSettings,
)
from omni123_hf.data.captioning.prompts import PROMPT_FOLDER, PromptSet
from omni123_hf.data.captioning.result import WORD_LIMITS, CaptionResult, Metadata
from omni123_hf.errors import Omni123Error, RejectedError


def text_of(message) -> str:
    return "\n".join(part for part in message.parts if isinstance(part, str))


def test_one_conversation_gives_captions_at_three_lengths_with_their_origin():
    backend = ScriptedBackend(ANALYSIS, CAPTIONS, SHORT)
    captioner = chair_captioner(backend)
    result = captioner.caption(chair_request())

    assert result.captions == {"short": SHORT["short"], "medium": [MEDIUM], "long": [LONG]}
    assert (result.category, result.subject) == ("furniture", "chair")
    assert set(result.view_notes) == set(VIEWS) and result.analysis["function"] == "Sitting."
    assert result.provenance.prompt_version == captioner.prompts.version
    assert (result.provenance.prompt_tokens, result.provenance.completion_tokens, result.provenance.repairs) == (
        300,
        30,
        0,
    )
    assert CaptionResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result

    messages = backend.asked[-1][0]
    assert [m.role for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    pictures = [part for message in messages for part in message.parts if isinstance(part, Image.Image)]
    assert len(pictures) == len(VIEWS)  # sent once, and still part of the last stage's context
    assert messages[1].parts[:4:2] == ("front:", "top:")


def test_examples_of_stage_three_come_from_the_category_and_differ_between_assets():
    shown = []
    for asset in ("a", "b", "a"):
        backend = ScriptedBackend(ANALYSIS, CAPTIONS, SHORT)
        chair_captioner(backend).caption(chair_request(asset))
        lines = text_of(backend.asked[-1][0][-1]).split("\n")
        shown.append([line[2:] for line in lines if line.startswith("- ")])
    furniture = PromptSet.load().examples["furniture"]
    assert all(len(examples) == 4 and set(examples) <= set(furniture) for examples in shown)
    assert shown[0] == shown[2] != shown[1]


def test_metadata_stand_in_stage_two_as_data_and_license_measurements():
    metadata = Metadata("oak chair", ("kitchen",), (45.0, 50.0, 90.0))
    sized = CAPTIONS | {"medium": [MEDIUM.replace("tall", "90 cm tall")]}
    backend = ScriptedBackend(ANALYSIS, sized, SHORT)
    contradictions = [{"metadata": "oak", "seen": "painted blue", "kept": "renders"}]
    sized["contradictions"] = contradictions
    result = chair_captioner(backend).caption(chair_request(metadata=metadata))
    assert result.contradictions == contradictions
    question = text_of(backend.asked[1][0][-1])
    assert '"name": "oak chair"' in question and '"height": 90.0' in question
    assert "oak chair" not in text_of(backend.asked[0][0][1])  # the eye comes first, unbiased

    backend = ScriptedBackend(ANALYSIS, sized, CAPTIONS, SHORT)
    result = chair_captioner(backend).caption(chair_request())
    assert result.provenance.repairs == 1 and "'90 cm'" in text_of(backend.asked[2][0][-1])


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("Here you are: {not json", "not valid JSON"),
        ("I would rather talk about the weather.", "no JSON object"),
        ("[" * 5000 + "{" * 50000, "not valid JSON|nested too deeply"),
        ('{"subject": NaN}', "NaN is not JSON"),
        (CAPTIONS | {"category": "throne"}, "must be one of"),
        (CAPTIONS | {"mood": "happy"}, "unknown key 'mood'"),
        ({k: v for k, v in CAPTIONS.items() if k != "long"}, "lacks 'long'"),
        (CAPTIONS | {"medium": ["A chair."]}, "has 2 words, not 10 to 25"),
        (CAPTIONS | {"medium": [7]}, "must be of type string"),
        (CAPTIONS | {"medium": [MEDIUM.replace("A wooden", "An image of a wooden")]}, "says 'image of'"),
        (CAPTIONS | {"medium": [MEDIUM.replace("chair", "table")]}, "does not name the subject"),
        (CAPTIONS | {"medium": [MEDIUM * 10_000]}, "characters, not"),
        (Completion('{"contradictions": [', "length"), "cut off"),
    ],
)
def test_a_bad_answer_is_quoted_its_error_once_and_then_forgotten(bad, complaint):
    backend = ScriptedBackend(ANALYSIS, bad, CAPTIONS, SHORT)
    result = chair_captioner(backend).caption(chair_request())
    assert result.captions["medium"] == [MEDIUM] and result.provenance.repairs == 1
    repair = backend.asked[2][0]
    assert [m.role for m in repair[-2:]] == ["assistant", "user"]
    assert any(part in text_of(repair[-1]) for part in complaint.split("|"))
    assert len(text_of(repair[-2])) <= QUOTED_CHARACTERS and len(text_of(repair[-1])) < 2000
    assert backend.asked[2][2].seed != backend.asked[1][2].seed
    assert [m.role for m in backend.asked[3][0]] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_repair_turns_are_bounded_and_refusals_are_final():
    backend = ScriptedBackend(ANALYSIS, *["nonsense"] * 5)
    with pytest.raises(RejectedError, match="after 2 repair turns") as rejected:
        chair_captioner(backend).caption(chair_request())
    assert rejected.value.reason == "caption_invalid" and len(backend.asked) == 4

    backend = ScriptedBackend(Completion("I cannot help with that.", "refusal"))
    with pytest.raises(RejectedError, match="cannot help") as rejected:
        chair_captioner(backend).caption(chair_request())
    assert rejected.value.reason == "caption_refused" and len(backend.asked) == 1


def test_each_view_is_described_once_and_short_captions_differ():
    twice = ANALYSIS | {"views": [ANALYSIS["views"][0]] * 2}
    same = {"short": ["wooden chair", "Wooden  chair", "chair"]}
    backend = ScriptedBackend(twice, ANALYSIS, CAPTIONS, same, SHORT)
    assert chair_captioner(backend).caption(chair_request()).provenance.repairs == 2
    assert "describes 'top' 0 times" in text_of(backend.asked[1][0][-1])
    assert "is given 2 times" in text_of(backend.asked[4][0][-1])


def test_an_answer_is_found_behind_thoughts_and_in_a_code_fence():
    wrapped = f'<think>maybe {{"long": 1}}?</think>Sure:\n```json\n{json.dumps(CAPTIONS, indent=2)}\n```\nDone.'
    result = chair_captioner(ScriptedBackend(ANALYSIS, wrapped, SHORT)).caption(chair_request())
    assert result.captions["long"] == [LONG] and result.provenance.repairs == 0


def test_no_views_are_an_error_of_the_caller():
    with pytest.raises(Omni123Error, match="no views"):
        chair_captioner(ScriptedBackend()).caption(CaptionRequest("x", {}))


def test_prompts_are_versioned_by_their_content(tmp_path):
    folder = tmp_path / "v1"
    shutil.copytree(PROMPT_FOLDER, folder)
    same, default = PromptSet.load(folder), PromptSet.load()
    assert same.version == default.version and same.version.startswith("v1-")
    (folder / "system.txt").write_text("Describe $thing.")
    changed = PromptSet.load(folder)
    assert changed.version != default.version
    with pytest.raises(Omni123Error, match="'system' asks for a value"):
        changed.write("system")
    (folder / "short.txt").unlink()
    with pytest.raises(Omni123Error, match="not complete"):
        PromptSet.load(folder)


def test_every_example_is_a_short_caption():
    low, high = WORD_LIMITS["short"]
    examples = PromptSet.load().examples
    assert all(low <= len(text.split()) <= high for texts in examples.values() for text in texts)
    assert min(len(texts) for texts in examples.values()) >= ConversationSettings().examples
