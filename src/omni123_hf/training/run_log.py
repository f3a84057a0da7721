"""`log.jsonl`, a log that can be committed: one line for each logged dictionary, none twice after a resume."""

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .checkpoints import fsync


class JsonLinesLog(TrainerCallback):
    """Appends every logged dictionary to `log.jsonl`, with step and seconds.

    `kept_bytes`: length of the log when the checkpoint was written that the run resumes from (0: a new run); what stands
    behind is of steps that are done again. Numbers have eight significant digits.
    """

    def __init__(self, path: Path, kept_bytes: int = 0):
        self.path, self.kept_bytes = path, kept_bytes
        self.start = time.time()
        self.offset = 0.0
        self.last: tuple[int, dict[str, Any]] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.time()
        if not state.is_world_process_zero:
            return
        with self.path.open("a+b") as file:
            file.truncate(min(self.kept_bytes, file.tell()))
        lines = whole_lines(self.path)
        self.offset = lines[-1]["seconds"] if lines else 0.0

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        seconds = round(self.offset + time.time() - self.start, 1)
        values = {key: float(f"{value:.8g}") if isinstance(value, float) else value for key, value in logs.items()}
        # The last step may be evaluated by its schedule and again as the end of the run: one line is enough.
        if (state.global_step, values) == self.last:
            return
        self.last = (state.global_step, values)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, "seconds": seconds, **values}) + "\n")

    def bytes(self) -> int:
        """Length of the log, forced to the disk."""
        if not self.path.exists():
            return 0
        fsync(self.path)
        return self.path.stat().st_size


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a kill has cut off is left out."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
