"""Scores of a real (tiny, random) CLIP, the filter over them, and ratings of a judge."""

import json

import pytest
import torch
from scripted import ANALYSIS, CAPTIONS, LONG, MEDIUM, SHORT, ScriptedBackend, chair_captioner, chair_request, picture
from tiny_vlm import tiny_clip

from omni123_hf.data.captioning.alignment import AlignmentFilter, ClipScorer, JudgeScorer
from omni123_hf.data.captioning.conversation import ConversationSettings
from omni123_hf.data.captioning.judge import Judge
from omni123_hf.errors import Omni123Error, RejectedError


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return ClipScorer(*tiny_clip(), "tiny-clip")


@pytest.fixture
def result():
    return chair_captioner(ScriptedBackend(ANALYSIS, CAPTIONS, SHORT)).caption(chair_request())


def test_the_score_is_the_cosine_of_the_model(scorer):
    image, caption = picture(200), "a wooden chair"
    inputs = scorer.processor(text=[caption], images=[image], return_tensors="pt")
    with torch.no_grad():
        output = scorer.model(**inputs)
        expected = float(output.logits_per_image / scorer.model.logit_scale.exp())
    assert scorer.score({"front": image}, caption) == pytest.approx(expected, abs=1e-5)


def test_the_better_half_of_the_views_counts(scorer):
    images = {str(shade): picture(shade) for shade in (0, 80, 160, 255)}
    single = sorted((scorer.score({"x": image}, "a red table") for image in images.values()), reverse=True)
    assert single[0] != single[-1]
    assert scorer.score(images, "a red table") == pytest.approx(sum(single[:2]) / 2, abs=1e-5)


def test_a_caption_beyond_the_length_is_scored_by_its_sentences(scorer):
    first, second = "a wooden chair with four legs.", "a red table lamp."
    image = {"front": picture()}
    mean = (scorer.score(image, first) + scorer.score(image, second)) / 2
    assert len(scorer.processor.tokenizer(f"{first} {second}")["input_ids"]) > 12
    assert scorer.score(image, f"{first} {second}") == pytest.approx(mean, abs=1e-5)


def test_a_saved_clip_loads_and_another_model_is_refused(scorer, tmp_path):
    scorer.model.save_pretrained(tmp_path)
    scorer.processor.save_pretrained(tmp_path)
    image = {"front": picture()}
    assert ClipScorer.from_pretrained(tmp_path).score(image, "chair") == pytest.approx(scorer.score(image, "chair"))
    assert ClipScorer.from_pretrained(tmp_path).identity == {"scorer": "clip-1", "model": str(tmp_path)}
    with pytest.raises(Omni123Error, match="cannot load"):
        ClipScorer.from_pretrained(tmp_path / "none")
    with pytest.raises(Omni123Error, match="at least one image"):
        scorer.score({}, "chair")


class ScoreByLength:
    def score(self, images, caption: str) -> float:
        return float(len(caption.split()))


def test_captions_below_the_threshold_go_and_the_last_one_takes_the_asset_with_it(result):
    kept = AlignmentFilter(ScoreByLength(), 10.0).apply(result, {})
    assert kept.captions == {"short": [], "medium": [MEDIUM], "long": [LONG]}
    assert kept.alignment["medium"] == [len(MEDIUM.split())]
    with pytest.raises(RejectedError, match="below 100") as rejected:
        AlignmentFilter(ScoreByLength(), 100.0).apply(result, {})
    assert rejected.value.reason == "caption_misaligned"


def test_a_judge_rates_after_it_gave_its_reason():
    backend = ScriptedBackend({"reason": "all fits", "score": 9}, {"reason": "all fits", "score": 4})
    assert JudgeScorer(Judge(backend)).score({"front": picture()}, MEDIUM) == 0.8
    messages, schema, sampling = backend.asked[1]
    assert list(schema["properties"]) == ["reason", "score"] and sampling.temperature == 0
    assert "not within 0 to 5" in messages[-1].parts[0] and MEDIUM in messages[1].parts[-1]


def test_what_decides_a_score_is_in_the_identity(scorer):
    judges = [Judge(ScriptedBackend()), Judge(ScriptedBackend(), settings=ConversationSettings(temperature=0.5))]
    judges[0].backend.model_id = "another"
    identities = [scorer.identity, *(JudgeScorer(judge).identity for judge in (*judges, Judge(ScriptedBackend())))]
    assert all(json.loads(json.dumps(identity)) == identity for identity in identities)
    assert len({json.dumps(identity) for identity in identities}) == 4
    assert AlignmentFilter(scorer, 0.2).identity == {"scorer": scorer.identity, "threshold": 0.2}
