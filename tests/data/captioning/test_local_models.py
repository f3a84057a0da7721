"""Models of this machine: sent by name, named by their content, loaded where they answer."""

import pickle
import shutil
from dataclasses import replace

import pytest
from preparation_assets import SMALL, FakeAsset
from scripted import chair_request, picture
from tiny_vlm import tiny_clip, tiny_llava

from omni123_hf.data.captioning.alignment import AlignmentFilter, ClipScorer, JudgeScorer
from omni123_hf.data.captioning.backends import BackendError, Message, Sampling
from omni123_hf.data.captioning.cache import JsonCache
from omni123_hf.data.captioning.conversation import ConversationSettings
from omni123_hf.data.captioning.given import GivenCaptioner
from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.captioning.local_models import LocalBackend, LocalClip, usable_device
from omni123_hf.data.captioning.schema import choice, record
from omni123_hf.data.captioning.transformers_backend import TransformersBackend
from omni123_hf.data.prepare_asset import prepare_asset
from omni123_hf.errors import Omni123Error, RejectedError


def save(folder, parts):
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "tiny-clip", tiny_clip())


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "tiny-vlm", tiny_llava())


def test_a_model_is_sent_by_name_and_scores_the_same(clip):
    scorer, images = LocalClip.open(clip), {"front": picture(), "top": picture(200)}
    sent = pickle.dumps(scorer)
    assert len(sent) < 1000 < (clip / "model.safetensors").stat().st_size
    arrived = pickle.loads(sent)
    assert arrived._scorer is not None and arrived.identity == scorer.identity
    expected = ClipScorer.from_pretrained(clip).score(images, "a red table")
    assert arrived.score(images, "a red table") == scorer.score(images, "a red table") == pytest.approx(expected)


def test_the_name_follows_the_content_and_no_folder(clip, tmp_path):
    name = LocalClip.open(clip).identity["model"]
    assert name.startswith("tiny-clip@") and "/" not in name
    copy = shutil.copytree(clip, tmp_path / "tiny-clip")
    (copy / "README.md").write_text("a card")
    assert LocalClip.open(copy).identity["model"] == name
    tiny_clip(seed=1)[0].save_pretrained(copy)
    assert LocalClip.open(copy).identity["model"] != name


def test_a_model_that_writes_is_sent_by_name_too(vlm):
    backend = LocalBackend.open(vlm)
    arrived = pickle.loads(pickle.dumps(backend))
    schema, ask = record(answer=choice(["yes", "no"])), chair_request()
    messages = [Message("user", (*ask.views.values(), "is it?"))]
    replies = [each.complete(messages, schema, Sampling(0, 0.0, 60)).text for each in (backend, arrived)]
    direct = TransformersBackend.from_pretrained(vlm).complete(messages, schema, Sampling(0, 0.0, 60)).text
    assert replies == [direct, direct] and arrived.model_id == backend.model_id
    assert LocalBackend.open(vlm, guided=False).model_id == f"{backend.model_id}+free"


def test_what_is_no_such_model_is_named(clip, tmp_path):
    with pytest.raises(BackendError, match="image-text-to-text"):
        LocalBackend.open(tmp_path)
    with pytest.raises(BackendError, match="image-text-to-text"):
        LocalBackend.open(clip)
    with pytest.raises(Omni123Error, match="cannot load"):
        LocalClip.open(tmp_path)
    with pytest.raises(Omni123Error, match="no device 'tpu'"):
        usable_device("tpu")


def given(scorer, threshold, folder) -> GivenCaptioner:
    return GivenCaptioner(AlignmentFilter(scorer, threshold), JsonCache(folder), view_size=32)


def test_words_that_an_asset_brings_are_kept_where_they_fit(clip, tmp_path):
    words = {"short": ["a ball"], "medium": ["a wooden chair with four legs"], "long": []}
    asset, scorer = FakeAsset("fake/0", captions=words), LocalClip.open(clip)
    record = prepare_asset(asset, SMALL, captioner=given(scorer, -1.0, tmp_path)).record
    fit = record.attributes["qa"]["alignment"]
    assert record.captions == words and record.category == "ball" and fit["threshold"] == -1.0
    assert fit["scorer"] == scorer.identity and [len(fit["scores"][level]) for level in words] == [1, 1, 0]
    (short,), (medium,) = fit["scores"]["short"], fit["scores"]["medium"]
    assert short != medium
    strict = given(scorer, (short + medium) / 2, tmp_path)
    scorer._scorer = None  # the scores are in the cache: no model is asked again
    kept = prepare_asset(asset, SMALL, captioner=strict).record.captions
    assert scorer._scorer is None
    assert kept == {name: texts if (name == "short") == (short > medium) else [] for name, texts in words.items()}
    with pytest.raises(RejectedError) as caught:
        prepare_asset(asset, SMALL, captioner=given(scorer, 1.0, tmp_path))
    assert caught.value.reason == "caption_misaligned"
    filled = prepare_asset(asset, replace(SMALL, captions="template"), captioner=given(scorer, -1.0, tmp_path)).record
    assert len(filled.attributes["qa"]["alignment"]["scores"]["long"]) == len(filled.captions["long"]) > 0
    assert filled.attributes["caption_source"] == "given+template"


def test_a_model_of_this_machine_judges(vlm, tmp_path):
    # Of a random model held to the schema any score may come.
    settings = ConversationSettings(temperature=0.0, max_tokens=1500)
    scorer = pickle.loads(pickle.dumps(JudgeScorer(Judge(LocalBackend.open(vlm), settings=settings))))
    asset = FakeAsset("fake/0", captions={"short": ["a ball"], "medium": [], "long": []})
    fit = prepare_asset(asset, SMALL, captioner=given(scorer, 0.0, tmp_path)).record.attributes["qa"]["alignment"]
    assert fit["scores"]["short"][0] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) and "tiny-vlm@" in fit["scorer"]["judge"]
