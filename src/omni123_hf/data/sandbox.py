"""Run a function on many assets, each under limits of time, memory and output, in processes that may die.

A worker lives as long as its assets behave. One that crashes, hangs or asks for too much memory is killed, also inside
C code that Python's signals never reach, and a fresh one takes its place; its asset gets a `RejectedError` and no other
asset is lost. Each worker holds one asset at a time, so what killed it is never in doubt.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import psutil

from omni123_hf.errors import Omni123Error, RejectedError


Item = TypeVar("Item")
Result = TypeVar("Result")

# The kernel's own alarm ends a worker whose parent was killed and can no longer watch it.
ORPHAN_GRACE_SECONDS = 30.0
START_SECONDS = 120.0
# Beside the result itself.
_REPLY_ROOM = 4096


@dataclass(frozen=True)
class SandboxLimits:
    """What one asset may take.

    seconds: wall clock. memory_bytes: address space beyond what the worker held before the asset (Linux; elsewhere the
    system may not enforce it). output_bytes: the pickled result, and any single file that is written.
    """

    seconds: float = 60.0
    memory_bytes: int = 4 * 2**30
    output_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.seconds <= 0.0 or self.memory_bytes < 1 or self.output_bytes < 1:
            raise Omni123Error(f"every limit of a sandbox must be positive, got {self}")


class Sandbox:
    """A pool of `workers` processes that survives what its assets do to it.

    A context manager: leaving it ends the workers. `preload`: modules that the server of new workers imports once, so
    that a replacement takes milliseconds; they must not start threads when imported.
    """

    def __init__(
        self,
        workers: int = 1,
        limits: SandboxLimits | None = None,
        preload: tuple[str, ...] = ("omni123_hf.geometry.loading",),
    ) -> None:
        if workers < 1:
            raise Omni123Error(f"workers must be at least 1, got {workers}")
        self.limits = limits or SandboxLimits()
        self._count = workers
        # Neither a copy of this process (it may hold threads and their locks) nor the slow start of a new interpreter.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", *preload])
        self._workers: list[_Worker] = []

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and wait for them."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def map_unordered(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | RejectedError]]:
        """Pairs of item and `function(item)`, or the RejectedError that says why there is none, as they are done.

        Every item comes back exactly once. `items` is read one at a time as workers become free. Reasons: `timeout`,
        `out_of_memory`, `crashed`, `output_too_large`, `unpicklable_result`, `invalid` (an Omni123Error), `exception`
        (any other; the message names the place), or the function's own RejectedError.

        function and items must pickle. Raises Omni123Error when they do not or when a worker cannot even start. Leaving
        the iteration early (a break, Ctrl-C) kills the workers that are at work.
        """
        program = _pickled(function, "the function")
        queue = iter(items)
        exhausted = False
        done: list[tuple[Item, Result | RejectedError]] = []
        try:
            while True:
                idle = [worker for worker in self._workers if not worker.is_busy]
                while not exhausted and (idle or len(self._workers) < self._count):
                    try:
                        item = next(queue)
                    except StopIteration:
                        exhausted = True
                        break
                    payload = _pickled(item, f"the item {item!r:.200}")
                    worker = idle.pop() if idle else self._started()
                    while not worker.begin(program, item, payload):
                        # It died while idle: nothing was lost with it.
                        self._drop(worker)
                        worker = self._started()
                # Given out only now, so that the workers go on while the caller looks at them.
                yield from done
                done.clear()
                busy = [worker for worker in self._workers if worker.is_busy]
                if not busy:
                    return
                for worker in _finished(busy):
                    outcome = worker.outcome()
                    worker.is_busy = False
                    done.append((worker.item, outcome))
                    if isinstance(outcome, RejectedError) and outcome.reason in _FATAL:
                        self._drop(worker)
        finally:
            for worker in [worker for worker in self._workers if worker.is_busy]:
                self._drop(worker)

    def _started(self) -> _Worker:
        worker = _Worker(self._context, self.limits)
        self._workers.append(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)


# After these a worker is not to be trusted or not there any more.
_FATAL = ("timeout", "out_of_memory", "crashed")


class _Worker:
    """The parent's side of one process."""

    def __init__(self, context: Any, limits: SandboxLimits) -> None:
        self.limits = limits
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(other, limits), daemon=True)
        self.process.start()
        other.close()
        self.is_busy = False
        self.item: Any = None
        self.deadline = 0.0
        self._program: bytes | None = None

    def begin(self, program: bytes, item: Any, payload: bytes) -> bool:
        """Hand over an item; False when the process is gone. Raises Omni123Error when it cannot load the function."""
        try:
            if program is not self._program:
                self.connection.send_bytes(program)
                if not self.connection.poll(START_SECONDS):
                    raise Omni123Error(f"a worker could not load the function within {START_SECONDS:.0f} s")
                problem = self.connection.recv_bytes().decode()
                if problem:
                    raise Omni123Error(f"a worker cannot load the function: {problem}")
                self._program = program
            self.connection.send_bytes(b"")
            self.connection.send_bytes(payload)
        except (EOFError, OSError) as error:
            if self._program is None:
                self.process.join(5.0)
                raise Omni123Error(f"a worker ended while it loaded the function ({self._ending()})") from error
            return False
        self.item = item
        self.is_busy = True
        self.deadline = time.monotonic() + self.limits.seconds
        return True

    def outcome(self) -> Any:
        """The result of the item at work, or the RejectedError that took its place."""
        # A reply that came in before the process died counts.
        with suppress(EOFError, OSError):
            if self.connection.poll():
                return _unpacked(self.connection.recv_bytes())
        if not self.connection.closed and self.process.is_alive() and time.monotonic() >= self.deadline:
            return RejectedError("timeout", f"not finished within {self.limits.seconds:g} s; simplify this asset")
        self.process.join(5.0)
        if self.process.exitcode == -signal.SIGALRM:
            return RejectedError("timeout", f"not finished within {self.limits.seconds:g} s; simplify this asset")
        return RejectedError("crashed", f"the worker process was lost at this asset ({self._ending()})")

    def _ending(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit status {code}"

    def kill(self) -> None:
        """End the process and everything it started, and wait for it."""
        if self.process.pid is not None and self.process.is_alive():
            # The worker leads its own group; before it does, only it can be killed.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.join()
        self.connection.close()
        self.process.close()


def _finished(busy: list[_Worker]) -> list[_Worker]:
    """Those that replied, died or ran out of time; waits until there is one."""
    while True:
        patience = min(worker.deadline for worker in busy) - time.monotonic()
        sources = [source for worker in busy for source in (worker.connection, worker.process.sentinel)]
        ready = wait(sources, timeout=max(patience, 0.0))
        now = time.monotonic()
        found = [
            worker
            for worker in busy
            if worker.connection in ready or worker.process.sentinel in ready or now >= worker.deadline
        ]
        if found:
            return found


def _pickled(value: Any, what: str) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise Omni123Error(f"{what} cannot be sent to a worker process: {error}") from error


def _unpacked(reply: bytes) -> Any:
    try:
        kind, content = pickle.loads(reply)
    except Exception as error:
        return RejectedError("unpicklable_result", f"the result cannot be sent back: {str(error)[:300]}")
    return content if kind == "result" else RejectedError(*content)


def _serve(connection: Connection, limits: SandboxLimits) -> None:
    """A worker's life: an empty message announces an item, any other is a function."""
    # A group of its own: Ctrl-C reaches the parent only, and the parent can end what this process started.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    process = psutil.Process()
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            message = connection.recv_bytes()
            if message:
                function, problem = _loaded(message)
                connection.send_bytes(problem.encode())
                continue
            payload = connection.recv_bytes()
        except (EOFError, OSError):
            return
        assert function is not None
        reply = _limited(function, payload, limits, process)
        with suppress(BrokenPipeError):
            connection.send_bytes(reply)


def _loaded(program: bytes) -> tuple[Callable[[Any], Any] | None, str]:
    try:
        return pickle.loads(program), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"[:500]


def _limited(function: Callable[[Any], Any], payload: bytes, limits: SandboxLimits, process: psutil.Process) -> bytes:
    """The pickled reply to one item, with the limits in force while its function runs."""
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds + ORPHAN_GRACE_SECONDS)
    # Counted from what is held now, so that an asset never pays for those before it.
    _set_soft_limit(resource.RLIMIT_AS, process.memory_info().vms + limits.memory_bytes)
    _set_soft_limit(resource.RLIMIT_FSIZE, limits.output_bytes)
    try:
        reply = _answer(function, payload)
    except MemoryError:
        # The failed frames still hold what they built: the answer is made below, when they are gone.
        reply = b""
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    if not reply:
        detail = f"needs more than {limits.memory_bytes / 2**20:.0f} MiB; simplify this asset"
        return _refusal("out_of_memory", detail)
    if len(reply) > limits.output_bytes + _REPLY_ROOM:
        return _refusal("output_too_large", f"the result has {len(reply)} bytes, more than {limits.output_bytes}")
    return reply


def _answer(function: Callable[[Any], Any], payload: bytes) -> bytes:
    try:
        result = function(pickle.loads(payload))
    except MemoryError:
        raise
    except RejectedError as error:
        return _refusal(error.reason, str(error))
    except Omni123Error as error:
        return _refusal("invalid", str(error))
    except Exception as error:
        # Sent as text: an exception may hold what does not pickle.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        return _refusal("exception", f"{type(error).__name__}: {str(error)[:300]} ({where})")
    try:
        return pickle.dumps(("result", result))
    except MemoryError:
        raise
    except Exception as error:
        return _refusal("unpicklable_result", f"the result cannot be sent back: {str(error)[:300]}")


def _refusal(reason: str, detail: str) -> bytes:
    return pickle.dumps(("rejected", (reason, detail)))


def _set_soft_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
