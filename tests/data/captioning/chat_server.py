"""A local HTTP server that speaks the chat protocol and misbehaves on request, one action a request."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


Action = Callable[["ChatHandler"], None]


class ChatHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        server = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers), json.loads(self.rfile.read(length))))
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            action = server.actions.pop(0) if len(server.actions) > 1 else server.actions[0]
        try:
            action(self)
        finally:
            with server.lock:
                server.busy -= 1

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


def says(content: object, finish: str = "stop", refusal: str | None = None) -> Action:
    """A proper completion."""
    text = content if isinstance(content, str | None) else json.dumps(content)
    reply = {
        "choices": [{"message": {"role": "assistant", "content": text, "refusal": refusal}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return lambda handler: handler.send(200, json.dumps(reply).encode())


def sends(
    status: int, body: bytes = b"{}", headers: dict[str, str] | None = None, length: int | None = None
) -> Action:
    """Any answer; `length` may promise more than is sent, and the connection then closes."""

    def act(handler: ChatHandler) -> None:
        handler.send(status, body, headers, length)
        handler.close_connection = True

    return act


def drips(seconds: float) -> Action:
    """A body that never ends, a byte at a time."""

    def act(handler: ChatHandler) -> None:
        handler.send(200, b"", length=10_000)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass  # the client gave up, as it should

    return act


def waits(seconds: float, then: Action) -> Action:
    """Slow to begin."""

    def act(handler: ChatHandler) -> None:
        time.sleep(seconds)
        then(handler)

    return act


def dies(handler: ChatHandler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True
    handler.connection.close()


@contextmanager
def chat_server(*actions: Action) -> Iterator[ThreadingHTTPServer]:
    """The actions in turn, the last one for ever; `.requests` are what came in."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatHandler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # a client that gave up is part of the tests
    server.actions, server.requests, server.lock = list(actions), [], threading.Lock()
    server.busy = server.busiest = 0
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
