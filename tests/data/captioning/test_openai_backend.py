"""The chat protocol against a real HTTP server on this machine: what is sent, what is retried, what stops the run."""

import base64
import io
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_server import chat_server, dies, drips, says, sends, waits
from PIL import Image
from scripted import ANALYSIS, CAPTIONS, LONG, SHORT, chair_captioner, chair_request, picture

from omni123_hf.data.captioning.backends import BackendError, Message, Sampling
from omni123_hf.data.captioning.openai_backend import EndpointSettings, OpenAIBackend
from omni123_hf.data.captioning.schema import array, record, text
from omni123_hf.errors import RejectedError


SCHEMA = record(names=array(text(1, 20), 1, 3))
QUICK = {"first_pause": 0.01, "longest_pause": 0.05, "seconds": 5.0, "attempts": 3}


def backend(server, **settings) -> OpenAIBackend:
    return OpenAIBackend(server.url, "model", EndpointSettings(**QUICK | settings))


def ask(endpoint: OpenAIBackend, image: Image.Image | None = None):
    parts = ("what?",) if image is None else ("front:", image)
    return endpoint.complete([Message("user", parts)], SCHEMA, Sampling(5, 0.5, 99))


def test_a_request_carries_images_schema_sampling_and_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    with chat_server(says("hello")) as server:
        endpoint = backend(server, api_key_variable="MY_KEY", image_side=16)
        completion = ask(endpoint, picture(size=64))
        assert (completion.text, completion.finish) == ("hello", "stop")
        assert (completion.prompt_tokens, completion.completion_tokens) == (7, 3)
        path, headers, body = server.requests[0]
        assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret-key"
        assert (body["model"], body["seed"], body["temperature"], body["max_tokens"]) == ("model", 5, 0.5, 99)
        label, image = body["messages"][0]["content"]
        assert label == {"type": "text", "text": "front:"}
        prefix, data = image["image_url"]["url"].split(",")
        assert prefix == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (16, 16)
        sent = body["response_format"]["json_schema"]
        assert sent["strict"] and sent["schema"]["properties"]["names"]["items"] == {"type": "string"}
        assert sent["schema"]["properties"]["names"]["maxItems"] == 3

        monkeypatch.delenv("MY_KEY")
        ask(backend(server, api_key_variable="MY_KEY", response_format="none"))
        assert "Authorization" not in server.requests[1][1] and "response_format" not in server.requests[1][2]
        assert server.requests[1][2]["messages"] == [{"role": "user", "content": "what?"}]


@pytest.mark.parametrize(
    "trouble",
    [
        sends(429, headers={"Retry-After": "0"}),
        sends(503, b"busy"),
        sends(200, b"<html>proxy error</html>"),
        sends(200, b"[1, 2]"),
        sends(200, b'{"choices": []}'),
        sends(200, b'{"choices": [{"message": "hi"}]}'),
        sends(200, b'{"choices"', length=5000),
        sends(200, b"[" * 100_000),
        dies,
    ],
    ids=["429", "503", "html", "list", "no choice", "odd choice", "cut body", "nested", "dies"],
)
def test_what_can_pass_is_tried_again(trouble):
    with chat_server(trouble, trouble, says("ok")) as server:
        assert ask(backend(server)).text == "ok"
        assert len(server.requests) == 3


def test_a_dead_endpoint_stops_the_run_after_bounded_tries():
    with chat_server(sends(500, b"out of memory")) as server:
        endpoint = backend(server)
        with pytest.raises(BackendError, match="no reply in 3 tries .*status 500: out of memory"):
            ask(endpoint)
        assert len(server.requests) == 3
    with pytest.raises(BackendError, match="no reply in 3 tries"):
        ask(endpoint)


@pytest.mark.parametrize("slow", [drips(5.0), waits(1.5, says("late"))], ids=["drips", "waits"])
def test_a_slow_reply_is_given_up(slow):
    with chat_server(slow, says("ok")) as server:
        start = time.monotonic()
        assert ask(backend(server, seconds=0.3)).text == "ok"
        assert time.monotonic() - start < 1.4


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "environment variable OPENAI_API_KEY"), (400, 'response_format to "json_object"'), (404, "model's name")],
)
def test_what_cannot_pass_stops_at_once_with_advice_and_without_the_key(status, advice, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with chat_server(sends(status, b"no\nway")) as server:
        with pytest.raises(BackendError, match=advice) as error:
            ask(backend(server))
        assert len(server.requests) == 1
        assert "no way" in str(error.value) and "secret-key" not in str(error.value)


def test_the_key_does_not_follow_a_redirect(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with chat_server(says("stolen")) as other, chat_server(sends(302, headers={"Location": other.url})) as server:
        with pytest.raises(BackendError, match="status 302"):
            ask(backend(server))
        assert not other.requests


def test_a_body_without_end_is_cut_and_asked_again_in_the_conversation():
    endless = says("x" * 3_000_000)
    with chat_server(endless, says(ANALYSIS), says(CAPTIONS), says(SHORT)) as server:
        result = chair_captioner(backend(server)).caption(chair_request())
        assert result.provenance.repairs == 1
        assert "cut off" in str(server.requests[1][2]["messages"][-1]["content"])


def test_a_conversation_survives_what_endpoints_do():
    actions = [
        sends(429), says(ANALYSIS), says('{"subject": '), says({"subject": "chair"}), says(CAPTIONS),
        says('{"short": ["a"', "length"), says(SHORT),
    ]  # fmt: skip
    with chat_server(*actions) as server:
        result = chair_captioner(backend(server)).caption(chair_request())
        assert result.captions["long"] == [LONG] and result.provenance.repairs == 3
        assert len(server.requests) == 7
        assert server.url.split("/")[2] in result.provenance.model  # the host is part of the model's name


@pytest.mark.parametrize("refusal", [says(None, refusal="I will not."), says("", "content_filter")])
def test_a_refusal_rejects_the_asset(refusal):
    with chat_server(refusal) as server, pytest.raises(RejectedError) as rejected:
        chair_captioner(backend(server)).caption(chair_request())
    assert rejected.value.reason == "caption_refused"


def test_an_endpoint_that_never_gives_the_schema_rejects_the_asset():
    with chat_server(says({"wrong": "schema"})) as server, pytest.raises(RejectedError, match="lacks 'views'"):
        chair_captioner(backend(server)).caption(chair_request())


def test_no_more_requests_at_a_time_than_allowed():
    with chat_server(waits(0.05, says("ok"))) as server:
        endpoint = backend(server, concurrency=2)
        with ThreadPoolExecutor(8) as pool:
            assert [c.text for c in pool.map(lambda _: ask(endpoint), range(8))] == ["ok"] * 8
        assert server.busiest == 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000", "http://user:pw@host/v1", ""])
def test_other_addresses_are_refused(url):
    with pytest.raises(BackendError, match="endpoint"):
        OpenAIBackend(url, "model")


def test_a_backend_can_be_sent_to_a_worker():
    with chat_server(says("ok")) as server:
        sent = pickle.loads(pickle.dumps(backend(server, concurrency=3)))
        assert ask(sent).text == "ok" and sent.settings.concurrency == 3
        assert sent.model_id == backend(server).model_id
