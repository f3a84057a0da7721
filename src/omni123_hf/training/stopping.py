"""The two reasons to stop in the middle of a run: SIGTERM, after a checkpoint, and numbers that are not finite.

Both are decided at the end of a step by all processes together, in one exchange over the CPU.
"""

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ..errors import Omni123Error
from .arguments import micro_batch_samples
from .checkpoints import checkpoint_folder, is_write_error
from .failed_batch import FailedBatch, failed_batch_path, save_failed_batch
from .processes import Processes


SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class StopRequest:
    """Whether SIGTERM has come; inside `listening()` the signal only sets this."""

    def __init__(self) -> None:
        self.received = False

    def _receive(self, number: int, frame: Any) -> None:
        self.received = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        # Python hands signals to the main thread only; a run inside of another thread is its caller's to stop.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@dataclass
class StepRecord:
    """Inputs and numbers of one optimiser step; `values` are `[losses..., gradient norm]`, perhaps still on their way."""

    step: int
    micro_batches: list[dict[str, Any]] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    values: torch.Tensor | None = None
    arrived: Any = None

    def send(self, grad_norm: Any) -> None:
        """Starts copying the numbers to the CPU, without waiting for them."""
        device = self.losses[0].device
        if not torch.is_tensor(grad_norm):
            grad_norm = torch.tensor(grad_norm, dtype=torch.float32)
        elif hasattr(grad_norm, "full_tensor"):
            grad_norm = grad_norm.full_tensor()
        values = torch.stack([*(loss.detach().float() for loss in self.losses), grad_norm.detach().float().to(device)])
        if device.type == "cuda":
            self.values = torch.empty(values.shape, pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.values = values.cpu()

    def numbers(self) -> list[float]:
        assert self.values is not None
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


class StepGuard(TrainerCallback):
    """Ends a run at the end of a step: with a checkpoint after SIGTERM, with the batch saved after NaN or infinity.

    On the CPU the numbers of a step are looked at when it ends. On CUDA they are looked at one step later, when they have
    been copied while the next step was being queued, so the device never waits; before anything is logged, validated or
    saved they are awaited, so nothing that is not finite reaches a checkpoint.
    """

    def __init__(self, output_dir: Path, processes: Processes, norm_counts: bool):
        self.output_dir, self.processes, self.norm_counts = output_dir, processes, norm_counts
        self.stop = StopRequest()
        self.current: StepRecord | None = None
        self.unread: StepRecord | None = None
        self.stopping = False

    def add_micro_batch(self, step: int, inputs: dict[str, Any], loss: torch.Tensor) -> None:
        if self.current is None:
            self.current = StepRecord(step)
        self.current.micro_batches.append(inputs)
        self.current.losses.append(loss)

    def add_grad_norm(self, grad_norm: Any) -> None:
        if self.current is not None:
            # A loss scaler expects infinite gradients now and then, and skips the step itself.
            self.current.send(grad_norm if self.norm_counts else 0.0)

    def on_step_end(self, args, state, control, **kwargs):
        record, self.current = self.current, None
        due = [record] if self.unread is None else [self.unread, record]
        wait = args.device.type != "cuda" or any(
            (control.should_log, control.should_save, control.should_evaluate, control.should_training_stop)
        )
        self.unread = None if wait else due.pop()
        bad = next((entry for entry in due if entry and not all(map(math.isfinite, entry.numbers()))), None)
        stop, failed = self.processes.largest(self.stop.received, bad.step + 1 if bad else 0)
        if failed:
            self.refuse(args, next(entry for entry in due if entry and entry.step + 1 == failed))
        if stop:
            self.stopping = True
            control.should_save = True
            control.should_training_stop = True
        return control

    def refuse(self, args: Any, record: StepRecord) -> None:
        """Saves the step's batch on every rank and raises the same error everywhere."""
        *losses, grad_norm = record.numbers()
        samples = [micro_batch_samples(args, record.step, number) for number in range(len(losses))]
        failed = FailedBatch(
            step=record.step + 1,
            rank=self.processes.rank,
            losses=losses,
            grad_norm=grad_norm,
            samples=[[part.start, part.stop - 1] for part in samples],
            micro_batches=record.micro_batches,
        )
        path = failed_batch_path(self.output_dir, self.processes.rank)
        kept = f"its batch is {path} (omni123_hf.training.failed_batch.load_failed_batch reads it)"
        try:
            save_failed_batch(path, failed)
        except Exception as error:
            if not is_write_error(error):
                raise
            kept = f"its batch could not be saved ({error})"
        bad = [rank for rank, own in enumerate(self.processes.gather(losses)) if not all(map(math.isfinite, own))]
        where = f" on rank {', '.join(map(str, bad))}" if bad and self.processes.count > 1 else ""
        raise Omni123Error(
            f"step {failed.step} is not finite: loss {', '.join(f'{loss:g}' for loss in losses)}, gradient norm {grad_norm:g}"
            f"{' (loss' + where + ')' if where else ''}; {kept}. Earlier checkpoints are intact: start again with a lower "
            "learning_rate in another output_dir, or look at the batch."
        )

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            self.leave(state.global_step)

    def leave_if_asked(self, step: int) -> None:
        """Leaves after the last step, when SIGTERM came too late for `on_step_end` and everything is saved."""
        (stop,) = self.processes.largest(self.stop.received)
        if stop and checkpoint_folder(self.output_dir, step).exists():
            self.leave(step)

    def leave(self, step: int) -> None:
        if self.processes.rank == 0:
            print(
                f"stopped by SIGTERM after step {step}; checkpoint-{step} is written, the same command goes on from it.",
                file=sys.stderr,
            )
        raise SystemExit(SIGTERM_EXIT_CODE)
