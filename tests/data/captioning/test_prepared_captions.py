"""Captions by a model within data preparation: what the model sees and is told, and an endpoint that is busy."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from chat_server import chat_server, drips, says, sends, waits
from PIL import Image
from preparation_assets import SMALL, FakeAsset
from scripted import CAPTIONS, LONG, MEDIUM, SHORT, chair_captioner

from omni123_hf.data.asset_work import AssetWork
from omni123_hf.data.captioning.backends import BackendError
from omni123_hf.data.captioning.cache import JsonCache
from omni123_hf.data.captioning.conversation import ConversationCaptioner, ConversationSettings
from omni123_hf.data.captioning.deadline import seconds_left
from omni123_hf.data.captioning.grounding import grounding
from omni123_hf.data.captioning.openai_backend import EndpointSettings, OpenAIBackend
from omni123_hf.data.captioning.result import CaptionResult, Metadata, Provenance
from omni123_hf.data.captioning.runner import CachedCaptioner
from omni123_hf.data.prepare import prepare_dataset
from omni123_hf.data.prepare_asset import prepare_asset
from omni123_hf.data.prepare_shard import attempt
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.cameras import ALL_VIEWS


ANALYSIS = {
    "views": [{"view": name, "description": "A ball."} for name in ALL_VIEWS],
    **dict.fromkeys(("orientation", "appearance", "geometry", "function", "origin"), "A ball."),
}
BUSY = sends(503, b"busy", headers={"Retry-After": "60"})


@pytest.mark.slow
def test_a_busy_endpoint_stops_the_run_which_then_goes_on(tmp_path):
    config, assets = replace(SMALL, seconds_per_asset=4.0), [FakeAsset("fake/0")]
    with chat_server(BUSY) as server:
        captioner = CachedCaptioner(chair_captioner(OpenAIBackend(server.url, "m")), JsonCache(tmp_path / "cache"))
        with pytest.raises(Omni123Error, match="status 503: busy"):
            prepare_dataset(assets, tmp_path / "out", 1, config, False, captioner=captioner)
        assert not list((tmp_path / "out" / "shards").iterdir())
        assert not (tmp_path / "out" / "rejected.jsonl").exists() and not (tmp_path / "cache").exists()

        server.actions[:] = [says(ANALYSIS), says(CAPTIONS), says(SHORT)]
        store = prepare_dataset(assets, tmp_path / "out", 1, config, False, captioner=captioner)
    assert store.records[0].captions["medium"] == [MEDIUM]


@pytest.mark.parametrize(
    ("action", "said"),
    [(BUSY, "status 503: busy"), (waits(5.0, says("late")), "TimeoutError"), (waits(0.7, says("no JSON")), "less busy"),
     (drips(5.0), "not whole in time")],
    ids=["busy", "silent", "slow but sure", "drips"],
)  # fmt: skip
def test_an_endpoint_that_takes_too_long_is_no_fault_of_the_asset(action, said):
    config = replace(SMALL, seconds_per_asset=2.0)
    with chat_server(action) as server:
        start = time.monotonic()
        outcome = attempt(FakeAsset("fake/0"), AssetWork(config, chair_captioner(OpenAIBackend(server.url, "m"))))
        assert time.monotonic() - start < config.seconds_per_asset
    assert said in outcome.fatal and "run again" in outcome.fatal


def test_a_pause_beyond_the_deadline_is_not_begun():
    with chat_server(BUSY) as server:
        captioner = chair_captioner(OpenAIBackend(server.url, "m"))
        start = time.monotonic()
        with pytest.raises(BackendError, match=r"seconds_per_asset"):
            prepare_asset(FakeAsset("fake/0"), replace(SMALL, seconds_per_asset=30.0), captioner=captioner)
        assert time.monotonic() - start < 5.0 and len(server.requests) == 1


def test_an_asset_that_leaves_no_time_for_captions_is_to_blame_itself():
    with chat_server(BUSY) as server:
        captioner = chair_captioner(OpenAIBackend(server.url, "m"))
        with pytest.raises(RejectedError, match="left no time") as caught:
            prepare_asset(FakeAsset("fake/0"), replace(SMALL, seconds_per_asset=1e-3), captioner=captioner)
    assert caught.value.reason == "timeout" and not server.requests


class Looker:
    """Keeps what it is asked and how long it may take."""

    identity = {"model": "looker"}
    view_size = 384

    def caption(self, request):
        self.request, self.seconds = request, seconds_left()
        words = {"short": ["a ball"], "medium": [MEDIUM], "long": [LONG]}
        return CaptionResult(request.asset_id, words, "sphere", "ball", Provenance("conversation", "looker", "v1"))


def test_the_model_sees_large_views_and_the_store_keeps_small_ones():
    looker = Looker()
    prepared = prepare_asset(FakeAsset("fake/0"), SMALL, captioner=looker)
    assert {name: image.size for name, image in looker.request.views.items()} == dict.fromkeys(ALL_VIEWS, (384, 384))
    assert prepared.arrays["views"].shape[1:3] == (16, 16)
    # The same object under the same camera: shrunk, the large view is the stored one but for its edges.
    small = np.asarray(looker.request.views["front"].resize((16, 16), Image.Resampling.BOX), dtype=float)
    stored = prepared.arrays["views"][ALL_VIEWS.index("front")]
    inside = stored[..., 3] == 255
    assert inside.sum() > 100 and np.abs(small - stored[..., :3])[inside].mean() < 8.0
    assert 0 < looker.seconds < 0.8 * SMALL.seconds_per_asset
    assert seconds_left() == float("inf")


def test_the_size_of_the_views_is_a_setting_of_the_captioner(tmp_path):
    with chat_server(says("no JSON")) as server:
        settings = ConversationSettings(view_size=40, repairs=0)
        inner = ConversationCaptioner(OpenAIBackend(server.url, "m", EndpointSettings()), settings=settings)
        captioner = CachedCaptioner(inner, JsonCache(tmp_path))
        with pytest.raises(RejectedError, match="no JSON object"):
            prepare_asset(FakeAsset("fake/0"), SMALL, captioner=captioner)
        urls = re.findall(r"base64,([^\"]+)", json.dumps(server.requests[0][2]))
    assert [Image.open(io.BytesIO(base64.b64decode(url))).size for url in urls] == [(40, 40)] * 7
    assert captioner.identity["settings"]["view_size"] == 40
    with pytest.raises(Omni123Error, match="view_size"):
        ConversationSettings(view_size=8)


def test_the_model_is_told_what_the_source_knows():
    looker = Looker()
    attributes = {"tags": ["toy"], "size_cm": [20, 10.5, 30], "colors": ["red", "white"], "creator": "nobody"}
    prepare_asset(FakeAsset("fake/0", category="balls", attributes=attributes), SMALL, captioner=looker)
    assert looker.request.metadata == Metadata(
        "a ball", ("toy",), (20.0, 10.5, 30.0), {"category": "balls", "colors": "red, white"}
    )


def test_columns_and_programs_are_facts_and_noise_is_not():
    columns = {
        "material": "  oak\nwood ", "weight_kg": 4.5, "page": "https://example.org/1", "log": "x" * 301, "is_new": True,
        "size_cm": [45, 50, 90], "category": "other", "parts": {"a": 1}, "rooms": ["hall", "porch"],
    }  # fmt: skip
    attributes = {"columns": columns, "program": {"legs": 4, "style": "slatted"}, "scale": 3.0, "color": None}
    found = grounding("chair", "seat", attributes)
    assert found.size_cm == (45.0, 50.0, 90.0)
    assert found.facts == {
        "category": "seat", "style": "slatted", "material": "oak wood", "weight_kg": "4.5", "rooms": "hall, porch"
    }  # fmt: skip
    for size in ([0, 1, 2], [1, 2], "1x2x3", [1, 2, float("nan")], ["1", "2", "3"]):
        assert grounding("chair", "object", {"size_cm": size}) == Metadata("chair")
