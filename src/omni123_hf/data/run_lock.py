"""Keeps two runs out of one folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omni123_hf.errors import Omni123Error


LOCK = ".lock"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Holds a lock on `folder`, which ends with the process, however that ends. Raises `Omni123Error` when another run
    holds it."""
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Omni123Error(f"another run is preparing {folder}; wait for it, or choose another folder") from error
        yield
