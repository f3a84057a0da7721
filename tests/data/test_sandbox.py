"""Assets that crash, hang, hoard and interrupt: each gets its reason, and every other one its result."""

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest

from omni123_hf.data.sandbox import Sandbox, SandboxLimits
from omni123_hf.errors import Omni123Error, RejectedError


# Long enough for memory to be hoarded beside other tests.
LIMITS = SandboxLimits(seconds=4.0, memory_bytes=300 * 2**20, output_bytes=2**20)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("stays here")


class UnpicklableError(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.lock = threading.Lock()


class BreaksOnArrival:
    def __reduce__(self):
        return int, ("no number",)


def misbehave(item):
    """What the name in `item` says; anything else gives the item and the process that handled it."""
    match item:
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(60)
        case "spin":
            while True:
                pass
        case "c code":
            # One call into C that takes minutes and never looks at a signal.
            sum(itertools.repeat(0, 10**11))
        case "hoard":
            return np.ones(200_000_000).sum()
        case "hoard slowly":
            kept = []
            while True:
                kept.append(bytearray(10**6))
        case "raise":
            raise KeyError("missing")
        case "odd exception":
            raise UnpicklableError("first", "second")
        case "bad input":
            raise Omni123Error("not usable; export it again")
        case "refuse":
            raise RejectedError("too_thin", "no volume")
        case "odd result":
            return Unpicklable()
        case "broken result":
            return BreaksOnArrival()
        case "large result":
            return bytes(3 * 2**20)
        case "large file":
            with tempfile.TemporaryFile() as file:
                file.write(bytes(3 * 2**20))
                file.flush()
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return "went on"
    return item, os.getpid()


REASONS = {
    "exit": "crashed", "segfault": "crashed", "kill": "crashed", "sleep": "timeout", "c code": "timeout",
    "hoard": "out_of_memory", "hoard slowly": "out_of_memory", "raise": "exception", "odd exception": "exception",
    "bad input": "invalid", "refuse": "too_thin", "odd result": "unpicklable_result", "large file": "exception",
    "broken result": "unpicklable_result", "large result": "output_too_large",
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2, limits=LIMITS, preload=("numpy",)) as sandbox:
        yield sandbox


def test_every_kind_of_trouble(sandbox):
    items = [item for index, name in enumerate(REASONS) for item in (name, index)]
    results = list(sandbox.map_unordered(misbehave, items))
    assert sorted(map(str, (item for item, _ in results))) == sorted(map(str, items)), "each item exactly once"
    for item, result in results:
        if item in REASONS:
            assert isinstance(result, RejectedError), (item, result)
            assert result.reason == REASONS[item], (item, result.reason, str(result))
        else:
            assert result[0] == item
    details = {item: str(result) for item, result in results if item in REASONS}
    assert "SIGSEGV" in details["segfault"] and "SIGKILL" in details["kill"] and "status 3" in details["exit"]
    assert "KeyError" in details["raise"] and "test_sandbox.py:" in details["raise"]
    assert details["bad input"] == "not usable; export it again"


def test_a_worker_is_replaced_only_when_it_is_lost():
    with Sandbox(workers=1, limits=LIMITS, preload=("numpy",)) as sandbox:
        results = dict(sandbox.map_unordered(misbehave, [0, "raise", 1, "odd result", 2, "interrupt", "exit", 3, 4]))
    assert results["interrupt"] == "went on", "Ctrl-C is the parent's business"
    assert results[0][1] == results[1][1] == results[2][1] != results[3][1] == results[4][1]


def test_a_killed_idle_worker_loses_nothing(sandbox):
    first = dict(sandbox.map_unordered(misbehave, [1, 2]))
    for pid in {pid for _, pid in first.values()}:
        os.kill(pid, signal.SIGKILL)
    assert [result[0] for _, result in sandbox.map_unordered(misbehave, [3])] == [3]


def test_items_are_read_as_they_are_needed(sandbox):
    asked = []

    def items():
        for number in range(1000):
            asked.append(number)
            yield number

    for count, _ in enumerate(sandbox.map_unordered(misbehave, items()), start=1):
        if count == 5:
            break
    assert len(asked) < 20


def test_leaving_early_kills_what_is_at_work():
    with Sandbox(workers=2, limits=SandboxLimits(seconds=60), preload=("numpy",)) as sandbox:
        results = sandbox.map_unordered(misbehave, [0, "sleep", "spin"])
        next(results)
        processes = [psutil.Process(worker.process.pid) for worker in sandbox._workers]
        assert len(processes) == 2
        results.close()
        assert not any(process.is_running() and process.status() != "zombie" for process in processes)
    assert not sandbox._workers


def test_interrupt_leaves_no_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time
        from omni123_hf.data.sandbox import Sandbox, SandboxLimits

        def hang(item):
            print("working", flush=True)
            time.sleep(60)

        if __name__ == "__main__":
            try:
                with Sandbox(workers=2, limits=SandboxLimits(seconds=60), preload=()) as sandbox:
                    list(sandbox.map_unordered(hang, range(4)))
            except KeyboardInterrupt:
                print("stopped", flush=True)
        """)
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout.readline() == "working\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    os.killpg(parent.pid, signal.SIGINT)
    output, _ = parent.communicate(timeout=90)
    assert "stopped" in output
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_what_cannot_be_sent_is_named(sandbox):
    with pytest.raises(Omni123Error, match="the function cannot be sent"):
        list(sandbox.map_unordered(lambda item: item, [1]))
    with pytest.raises(Omni123Error, match="the item"):
        list(sandbox.map_unordered(misbehave, [Unpicklable()]))
    with pytest.raises(Omni123Error, match="cannot load the function"):
        list(sandbox.map_unordered(BreaksOnArrival(), [1]))
    with pytest.raises(Omni123Error, match="must be positive"):
        SandboxLimits(seconds=0)
    assert list(sandbox.map_unordered(misbehave, [])) == []
