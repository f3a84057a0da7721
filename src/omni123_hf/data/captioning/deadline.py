"""Until when answers are of use: set by who waits for captions, kept by the backends.

The deadline belongs to the running thread and not to a request, so that a scorer's questions keep it as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from omni123_hf.data.captioning.backends import BackendError


_deadline: ContextVar[float] = ContextVar("answer_deadline", default=math.inf)


@contextmanager
def answers_until(deadline: float) -> Iterator[None]:
    """Within it a backend gives no answer after `deadline` (of `time.monotonic`) but raises `BackendError`."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Time left for answers; infinite without a deadline, not positive after it."""
    return _deadline.get() - time.monotonic()


def out_of_time(model_id: str, last: str = "") -> BackendError:
    """What a backend raises when the time is over. last: what went wrong before, if anything did."""
    reason = f" (last: {last})" if last else ""
    return BackendError(
        f"{model_id} gave no captions in the time of one asset{reason}; run again when it is less busy, "
        "or give each asset more time (seconds_per_asset)"
    )
