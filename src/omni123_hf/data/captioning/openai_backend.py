"""Any endpoint that speaks the OpenAI chat protocol (`/chat/completions`): vLLM, SGLang, llama.cpp, hosted services.

Only the standard library: the protocol is one POST. What can pass by itself (429, 5xx, a broken or slow connection, a
reply that is not JSON) is tried again with growing pauses; what cannot (another 4xx) stops the run with the
endpoint's words.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from omni123_hf.data.captioning.backends import BackendError, Completion, Message, Sampling
from omni123_hf.data.captioning.deadline import out_of_time, seconds_left
from omni123_hf.data.captioning.schema import Schema


RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FINISHES: dict[str, Literal["stop", "length", "refusal"]] = {"length": "length", "content_filter": "refusal"}


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is called.

    api_key_variable: environment variable of the key; without one in it no key is sent (local servers).
    response_format: "json_schema" where the endpoint enforces schemas, "json_object", or "none"; the prompt holds the
    schema in any case. seconds: for one whole reply. attempts: tries of one request. first_pause, longest_pause:
    seconds between tries, doubling; the endpoint's own Retry-After counts up to the longest. concurrency: requests at
    a time. max_reply_bytes: a longer body is cut and counts as a reply that is too long. image_side: longer images are
    shrunk.
    """

    api_key_variable: str = "OPENAI_API_KEY"
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    seconds: float = 300.0
    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 60.0
    concurrency: int = 8
    max_reply_bytes: int = 1_000_000
    image_side: int = 1024


class OpenAIBackend:
    """`base_url` ends before `/chat/completions`, for example `http://localhost:8000/v1`."""

    def __init__(self, base_url: str, model: str, settings: EndpointSettings | None = None):
        address = urllib.parse.urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise BackendError(
                f"the endpoint must be an http or https address such as http://localhost:8000/v1; got {base_url!r}"
            )
        if address.username or address.password:
            raise BackendError(
                "leave the user and password out of the endpoint's address; put the key in the environment"
            )
        self.settings = settings or EndpointSettings()
        self.model = model
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._slots = threading.BoundedSemaphore(self.settings.concurrency)
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __reduce__(self) -> tuple[type[OpenAIBackend], tuple[Any, ...]]:
        # A captioner is sent to worker processes; each makes its own connections.
        return OpenAIBackend, (self._url.removesuffix("/chat/completions"), self.model, self.settings)

    @property
    def model_id(self) -> str:
        """Host and model: the same name may be another model elsewhere."""
        return f"{urllib.parse.urlsplit(self._url).netloc}/{self.model}"

    def complete(self, messages: list[Message], schema: Schema, sampling: Sampling) -> Completion:
        """One reply. Raises `BackendError` when every try failed, or at once when another try cannot help.

        Tries and pauses end at the deadline of `deadline.answers_until`.
        """
        body = json.dumps(self._body(messages, schema, sampling)).encode()
        failure = ""
        for attempt in range(self.settings.attempts):
            patience = min(self.settings.seconds, seconds_left())
            if patience <= 0:
                raise out_of_time(self._url, failure)
            try:
                with self._slots:
                    return _completion(self._post(body, patience))
            except _Transient as error:
                failure = str(error)
                if attempt + 1 < self.settings.attempts:
                    pause = self._pause(attempt, error.retry_after)
                    if pause >= seconds_left():
                        raise out_of_time(self._url, failure) from error
                    time.sleep(pause)
        raise BackendError(
            f"the endpoint {self._url} gave no reply in {self.settings.attempts} tries (last: {failure}); "
            "run again to go on when it is back"
        )

    def _body(self, messages: list[Message], schema: Schema, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": self._content(m)} for m in messages],
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
        }
        if self.settings.response_format == "json_schema":
            named = {"name": "answer", "strict": True, "schema": _without_lengths(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self.settings.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def _content(self, message: Message) -> str | list[dict[str, Any]]:
        if all(isinstance(part, str) for part in message.parts):
            return "\n".join(str(part) for part in message.parts)
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part, self.settings.image_side)}}
            for part in message.parts
        ]

    def _post(self, body: bytes, patience: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.settings.api_key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        deadline = time.monotonic() + patience
        try:
            with self._opener.open(request, timeout=patience) as response:
                content = self._read(response, deadline)
        except urllib.error.HTTPError as error:
            said = _said(error)
            if error.code in RETRIED_STATUS:
                raise _Transient(f"status {error.code}: {said}", error.headers.get("Retry-After")) from error
            raise BackendError(self._advice(error.code, said)) from error
        except (OSError, http.client.HTTPException) as error:
            # A refused or broken connection, a name that is not found, a time-out.
            raise _Transient(f"{type(error).__name__}: {error}") from error
        if content is None:
            return {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}
        try:
            reply = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Transient(f"the reply is not JSON: {content[:80]!r}") from error
        if not isinstance(reply, dict):
            raise _Transient(f"the reply is no JSON object: {content[:80]!r}")
        return reply

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes | None:
        """The body, or None when it is too long. A socket's time-out holds for each read only, hence the deadline."""
        content = bytearray()
        while piece := response.read1(65536):
            content += piece
            if len(content) > self.settings.max_reply_bytes:
                return None
            if time.monotonic() > deadline:
                raise TimeoutError("the reply was not whole in time")
        # Where a server dies in the middle read1 ends quietly; half a JSON text does not parse.
        return bytes(content)

    def _pause(self, attempt: int, retry_after: str | None) -> float:
        pause = self.settings.first_pause * 2**attempt * random.uniform(0.5, 1.0)
        if retry_after and retry_after.strip().isdigit():
            pause = max(pause, float(retry_after))
        return min(pause, self.settings.longest_pause)

    def _advice(self, status: int, said: str) -> str:
        advice = "check the address and the model's name"
        if status in (401, 403):
            advice = f"put a valid key in the environment variable {self.settings.api_key_variable}"
        elif status in (400, 422) and self.settings.response_format == "json_schema":
            advice = 'if it does not know schemas, set response_format to "json_object" or "none"'
        elif status == 413:
            advice = "send smaller or fewer views (image_side)"
        return f"the endpoint {self._url} answered with status {status} ({said}); {advice}"


class _Transient(Exception):
    def __init__(self, message: str, retry_after: str | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host; it ends as an HTTP error with its status."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def data_url(image: Image.Image, longest_side: int) -> str:
    """A PNG data URL, shrunk to `longest_side` where it is larger."""
    picture = image.convert("RGB")
    if max(picture.size) > longest_side:
        picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _completion(reply: dict[str, Any]) -> Completion:
    try:
        first = reply["choices"][0]
        message = first["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = FINISHES.get(first.get("finish_reason") or "stop", "stop")
        usage = reply.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise _Transient(f"the reply has another form than the protocol's: {str(reply)[:80]}") from error
    if refusal:
        return Completion(str(refusal), "refusal", *tokens)
    return Completion(content if isinstance(content, str) else "", finish, *tokens)


def _without_lengths(schema: Schema) -> Schema:
    """The schema without the lengths of its texts, which some endpoints refuse; they are checked here."""
    if schema["type"] == "object":
        inner = {name: _without_lengths(value) for name, value in schema["properties"].items()}
        return schema | {"properties": inner}
    if schema["type"] == "array":
        return schema | {"items": _without_lengths(schema["items"])}
    return {key: value for key, value in schema.items() if key not in ("minLength", "maxLength")}


def _said(error: urllib.error.HTTPError) -> str:
    """The start of an error's body on one line."""
    try:
        return " ".join(error.read(400).decode("utf-8", "replace").split())[:200] or error.reason
    except (OSError, http.client.HTTPException):
        return str(error.reason)
