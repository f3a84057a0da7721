"""Runs a function on two gloo ranks of this machine."""

import os
import queue
import socket
from collections.abc import Callable
from typing import Any

import torch


def run_rank(rank: int, port: int, results: Any, function: Callable, arguments: tuple) -> None:
    # A forked process hangs in OpenMP when its parent has used several threads.
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"
    )
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    # Numbers and lists, not tensors: a tensor in the queue would live in the memory of a process that ends.
    results.put((rank, function(rank, *arguments)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def on_two_ranks(function: Callable, *arguments: Any, start: str = "fork") -> list[Any]:
    """Results (plain Python data) of `function(rank, *arguments)` on two gloo ranks.

    `start="spawn"` where the ranks run backward, which a fork of a process that did so refuses.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context(start)
    results = context.Queue()
    ranks = [context.Process(target=run_rank, args=(rank, port, results, function, arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    answers: dict[int, Any] = {}
    while len(answers) < 2:
        try:
            answers.update([results.get(timeout=1)])
        except queue.Empty:
            failed = [process.exitcode for process in ranks if process.exitcode]
            if failed:
                for process in ranks:
                    process.terminate()
                raise AssertionError(f"a rank ended with exit code {failed[0]}") from None
    for process in ranks:
        process.join(timeout=60)
        assert process.exitcode == 0
    return [answers[0], answers[1]]
