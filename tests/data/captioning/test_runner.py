"""Many assets: the cache, a stopped run, an endpoint that goes away, concurrency; and templates."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted import ANALYSIS, CAPTIONS, SHORT, chair_captioner, chair_request, picture

from omni123_hf.data.assets import ParametricSpec, open_asset
from omni123_hf.data.captioning.alignment import AlignmentFilter
from omni123_hf.data.captioning.backends import BackendError, Completion
from omni123_hf.data.captioning.cache import JsonCache, write_json_atomic
from omni123_hf.data.captioning.consistency import check_result
from omni123_hf.data.captioning.conversation import CaptionRequest
from omni123_hf.data.captioning.result import CaptionResult, Metadata
from omni123_hf.data.captioning.runner import CachedCaptioner, Rejected, caption_assets
from omni123_hf.data.captioning.template import describe_metadata, template_captions
from omni123_hf.errors import Omni123Error, RejectedError


class AnsweringBackend:
    """Answers every stage by its schema; refuses assets named "forbidden"; dies after `lasts` calls."""

    model_id = "answering"

    def __init__(self, lasts: int = 10**6):
        self.calls, self.lasts, self.lock = 0, lasts, threading.Lock()

    def complete(self, messages, schema, sampling):
        with self.lock:
            self.calls += 1
            if self.calls > self.lasts:
                raise BackendError("gone")
        keys = schema["properties"]
        if "long" in keys and "forbidden" in messages[-1].parts[-1]:
            return Completion("no", "refusal")
        return Completion(json.dumps(ANALYSIS if "views" in keys else CAPTIONS if "long" in keys else SHORT))


def requests(count: int) -> list[CaptionRequest]:
    return [chair_request(f"a/{i}", Metadata("forbidden" if i == 2 else "chair")) for i in range(count)]


def test_a_rerun_costs_nothing_and_a_rejection_is_remembered(tmp_path):
    backend = AnsweringBackend()
    first = list(caption_assets(requests(5), CachedCaptioner(chair_captioner(backend), JsonCache(tmp_path)), 3))
    assert {r.asset_id for r in first if isinstance(r, CaptionResult)} == {"a/0", "a/1", "a/3", "a/4"}
    assert [r for r in first if isinstance(r, Rejected)] == [
        Rejected("a/2", "caption_refused", "the model declined: 'no'")
    ]
    calls = backend.calls
    again = list(caption_assets(requests(5), CachedCaptioner(chair_captioner(backend), JsonCache(tmp_path)), 3))
    assert backend.calls == calls
    assert sorted(again, key=lambda r: r.asset_id) == sorted(first, key=lambda r: r.asset_id)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]


def test_a_run_that_lost_its_endpoint_goes_on(tmp_path):
    with pytest.raises(BackendError, match="gone"):
        list(
            caption_assets(requests(2), CachedCaptioner(chair_captioner(AnsweringBackend(4)), JsonCache(tmp_path)), 1)
        )
    backend = AnsweringBackend()
    results = list(caption_assets(requests(2), CachedCaptioner(chair_captioner(backend), JsonCache(tmp_path)), 1))
    assert len(results) == 2 and backend.calls == 3  # one asset of three stages was left to do


def test_whatever_decides_the_captions_names_the_cache_entry(tmp_path):
    backend = AnsweringBackend()
    captioner = CachedCaptioner(chair_captioner(backend), JsonCache(tmp_path))
    base = chair_request("x")
    for request in (
        base,
        chair_request("y"),
        chair_request("x", Metadata("seat")),
        CaptionRequest("x", {**base.views, "top": picture(1)}),
    ):
        captioner.caption(request)
    assert backend.calls == 12
    backend.model_id = "another"
    captioner.caption(base)
    assert backend.calls == 15
    captioner.caption(base)
    assert backend.calls == 15


def test_a_damaged_entry_is_named(tmp_path):
    captioner = CachedCaptioner(chair_captioner(AnsweringBackend()), JsonCache(tmp_path))
    captioner.caption(chair_request())
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text('{"inputs": {')
    with pytest.raises(Omni123Error, match="damaged; remove it"):
        captioner.caption(chair_request())


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "x.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_json_atomic(path, ["x" * 1000, i]), range(64)))
    assert json.loads(path.read_text())[0] == "x" * 1000 and list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError):
        write_json_atomic(path, {1, 2})
    assert list(tmp_path.iterdir()) == [path]


class Rater:
    """Gives every caption the same score and counts how often it is asked."""

    def __init__(self, name: str, value: float):
        self.identity, self.value, self.calls = {"scorer": name}, value, 0

    def score(self, images, caption):
        self.calls += 1
        return self.value


def test_scores_are_kept_with_the_captions_and_belong_to_their_scorer(tmp_path):
    backend, first, second = AnsweringBackend(), Rater("first", 0.5), Rater("second", 0.9)

    def cached(rater: Rater, threshold: float) -> CachedCaptioner:
        return CachedCaptioner(chair_captioner(backend), JsonCache(tmp_path), AlignmentFilter(rater, threshold))

    result = cached(first, 0.4).caption(chair_request())
    captions = sum(map(len, result.captions.values()))
    assert first.calls == captions and result.alignment["medium"] == [0.5]
    assert cached(first, 0.3).caption(chair_request()) == result
    with pytest.raises(RejectedError, match="below 0.6"):
        cached(first, 0.6).caption(chair_request())
    assert first.calls == captions, "another threshold asks for no score"
    assert cached(second, 0.6).caption(chair_request()).alignment["medium"] == [0.9]
    assert second.calls == captions and backend.calls == 3, "another scorer asks for scores and no conversation"
    identities = [cached(*each).identity for each in ((first, 0.4), (first, 0.6), (second, 0.6))]
    assert len({json.dumps(identity) for identity in identities}) == 3


def test_misaligned_assets_are_rejected_and_bad_settings_refused(tmp_path):
    cached = CachedCaptioner(
        chair_captioner(AnsweringBackend()), JsonCache(tmp_path), AlignmentFilter(Rater("never", 0.0), 0.5)
    )
    results = caption_assets(requests(1), cached, 1)
    assert [r.reason for r in results] == ["caption_misaligned"]
    with pytest.raises(Omni123Error, match="workers"):
        list(caption_assets([], cached, 0))


@pytest.mark.parametrize("category", ["chair", "mug", "rocket"])
def test_template_captions_describe_the_object_that_is_prepared(category):
    spec = ParametricSpec(category, 5)
    result = template_captions(spec)
    assert result.captions == open_asset(spec).captions
    assert (result.category, result.provenance.captioner) == (category, "template")
    assert not [error for error in check_result(result) if "words, not" in error]


def test_metadata_alone_give_three_lengths():
    result = describe_metadata("x", Metadata("Oak  Wardrobe", size_cm=(100.0, 60.0, 200.0)))
    assert result.subject == "oak wardrobe" and "100 cm" in result.captions["long"][0] + result.captions["medium"][0]
    assert check_result(result) == [] or all("background" in error for error in check_result(result))
    with pytest.raises(Omni123Error, match="need a name"):
        describe_metadata("x", Metadata())


def test_only_rejections_are_kept(tmp_path):
    cache = JsonCache(tmp_path)
    with pytest.raises(KeyError):
        cache.get_or_make({"a": 1}, lambda: {}["x"])
    assert not list(tmp_path.rglob("*.json"))

    def reject():
        raise RejectedError("why", "because")

    for _ in range(2):
        with pytest.raises(RejectedError, match="because") as error:
            cache.get_or_make({"a": 1}, reject)
        assert error.value.reason == "why"
        reject = None  # the second time nothing is made
