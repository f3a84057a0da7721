"""Lock files: one process at a time. The lock ends with the process, however that ends; the file goes when it is done."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omni123_hf.errors import Omni123Error


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock on the file `path`. Held by another process: wait for it, or raise `Omni123Error`."""
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file since it was opened here: then it locks nothing.
            if path.is_file() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            file.close()
        except BlockingIOError as error:
            file.close()
            raise Omni123Error(
                f"another run is writing {path.parent} ({path.name}); wait for it, or give another --out"
            ) from error
        except BaseException:
            file.close()
            raise
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
